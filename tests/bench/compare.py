# SPDX-License-Identifier: Apache-2.0
"""What the small benchmarks share: contenders run in turn, medians, and Drover against the best peer."""
import os
import select
import statistics
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kvm"))
import qemu
import vmm

GUESTS = os.path.join(vmm.BUILD, "tests/guests")
DROVER = "drover"
# The leanest that each kind of machine allows.
MACHINES = {"q35": "q35", "microvm": "microvm,acpi=off,pit=off,pic=off,rtc=off,auto-kernel-cmdline=off"}


def guest(name):
    return os.path.join(GUESTS, name)


def peers(machines=tuple(MACHINES)):
    """name -> (program, machine) of each peer."""
    return {f"qemu {version.split()[-1]} {machine}": (program, machine)
            for version, program in qemu.programs().items() for machine in machines}


def qemu_words(program, machine, memory, *more):
    return [program, "-accel", "kvm", "-cpu", "host", "-machine", MACHINES[machine], "-m", memory, "-smp", "1",
            "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", *more]


def drover_words(folder, memory, kernel, *more):
    return [vmm.PROGRAM, "--name", "bench", "--memory", memory, "--cpus", "1", "--kernel", kernel,
            "--control", os.path.join(folder, "control.sock"), *more]


def family(pid):
    """The process and all that it started."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
            for child in children.read().split():
                found += family(int(child))
    return found


def gone(pid, seconds=10):
    """Waits until a process that is ending has let go of what it had open: a VMM ends a moment after its killed launcher."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return
        except OSError:
            return
        time.sleep(0.001)


class Process:
    """A VM whose serial port is its standard output; killed at the end of the `with`."""

    def __init__(self, words):
        self.began = time.monotonic()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)
        self.data = b""

    def wait(self, text, seconds=30):
        """When all of `text` had arrived, on the clock of `began`."""
        end = time.monotonic() + seconds
        while text not in self.data:
            ready = select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]
            now = time.monotonic()
            got = os.read(self.process.stdout.fileno(), 65536) if ready else b""
            if not got:
                self.process.kill()
                raise vmm.Failure(f"no {text!r} from {self.process.args[0]}: "
                                  f"{self.data[-200:]!r} {self.process.stderr.read()[-300:]!r}")
            self.data += got
        return now

    def cpu_ns(self):
        """What all threads of the VM have run for so far: it holds on a busy machine, too."""
        total = 0
        for pid in family(self.process.pid):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as times:
                    total += int(times.read().split()[0])
        return total

    def __enter__(self):
        return self

    def __exit__(self, *_):
        all_of_it = family(self.process.pid) if self.process.poll() is None else []
        self.process.kill()
        self.process.communicate()
        for pid in all_of_it:
            gone(pid)


def medians(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def interleave(contenders, runs, say):
    """name -> medians of the figures that each contender returned; one warm-up round is not counted."""
    results = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, run in contenders.items():
            figures = run()
            if number > 0:
                results[name].append(figures)
    table = {name: medians(found) for name, found in results.items()}
    for name, figures in table.items():
        say(f"  {name:26} " + "  ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    return table


def triple(drover, peer):
    return {"drover": round(drover, 4), "peer": round(peer, 4), "ratio": round(drover / peer, 4) if peer else None}


def ratios(table):
    """A triple for each figure: Drover against the best peer that has it."""
    drover = table[DROVER]
    result = {}
    for key, value in drover.items():
        found = [figures[key] for name, figures in table.items() if name != DROVER and key in figures]
        if found:
            result[key] = triple(value, min(found))
    return result


def reason_to_skip(*guests):
    reason = vmm.reason_to_skip()
    for name in guests:
        if not reason and not os.path.exists(guest(name)):
            reason = f"{guest(name)} is not built"
    return reason or (None if qemu.programs() else "no qemu-system-x86_64 to compare with")


def judge(result, main, goals, say):
    """Fills in the main figure; `goals`: figure -> the ratio that it may have."""
    result.update(result[main])
    missed = [f"{key}: ratio {result[key]['ratio']}, goal {goal}" for key, goal in goals.items()
              if result[key]["ratio"] > goal]
    result["whole"] = not missed
    result["missed"] = missed
    for line in missed:
        say(f"  missed: {line}")
    return result
