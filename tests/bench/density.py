# SPDX-License-Identifier: Apache-2.0
"""Many small guests beside one another: each is started, answers a byte on its serial port, and is stopped, when all others are
there. Time and memory of a VM must not grow from the first to the last. DROVER_BENCH_DENSITY: how many (500); fewer when this
machine's memory, of which a share stays for others, does not hold them."""
import os
import socket
import statistics
import subprocess
import tempfile
import time

import compare
import vmm

MEMORY = "16M"
COUNT = int(os.environ.get("DROVER_BENCH_DENSITY", "500"))
LEAST = 500
PEERS = 8        # that many QEMUs tell what one costs
SAMPLE = 50      # the first and the last
SPARE = 0.25     # of the machine's memory is left alone
GROWTH_MAX = 1.5  # of the medians, last over first


def meminfo(name):
    with open("/proc/meminfo", encoding="ascii") as info:
        for line in info:
            if line.startswith(name + ":"):
                return int(line.split()[1])
    raise vmm.Failure(f"no {name} in /proc/meminfo")


class Small:
    """One VM, whose serial port is a socket."""

    def __init__(self, words, path):
        self.path, began = path, time.monotonic()
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.serial = socket.socket(socket.AF_UNIX)
        self.serial.settimeout(60)
        while True:
            try:
                self.serial.connect(path)
                break
            except OSError as error:
                if self.process.poll() is not None:
                    raise vmm.Failure(f"it ended: {self.process.stderr.read()[-300:]!r}") from error
                if time.monotonic() > began + 60:
                    raise vmm.Failure("no serial socket within 60 s") from error
                time.sleep(0.0005)
        self.answer()
        self.start_ms = (time.monotonic() - began) * 1000

    def answer(self):
        """ms until a byte came back; the guest may not be there yet, so it is sent until it does."""
        began = time.monotonic()
        self.serial.settimeout(0.25)
        while time.monotonic() < began + 60:
            self.serial.sendall(b"?")
            try:
                data = self.serial.recv(4096)
                while b"?" not in data:
                    data = self.serial.recv(4096)
                return (time.monotonic() - began) * 1000
            except TimeoutError:
                continue
        raise vmm.Failure("a guest does not answer within 60 s")

    def mib(self):
        """Its memory, the guest's included; of what it shares with others, its part."""
        kib = 0
        for pid in compare.family(self.process.pid):
            with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
                kib += sum(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
        return kib / 1024

    def end(self):
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.serial.close()
            self.process.stderr.close()


def drover_words(folder, number):
    path = os.path.join(folder, f"{number}.serial")
    words = [vmm.PROGRAM, "--name", f"small-{number}", "--memory", MEMORY, "--cpus", "1", "--kernel",
             compare.guest("echo.elf"), "--control", os.path.join(folder, f"{number}.sock"), "--serial", f"unix:{path}"]
    return words, path


def peer_words(program, machine, folder, number):
    path = os.path.join(folder, f"{number}.serial")
    return compare.qemu_words(program, machine, MEMORY, "-kernel", compare.guest("echo.elf"),
                              "-serial", f"unix:{path},server=on,wait=off"), path


def crowd(words_of, count, say):
    """Lists of `count` VMs' ms and MiB, and how long each took to stop when all were told to at once."""
    figures = {"start_ms": []}
    spare, all_vms = meminfo("MemTotal") * SPARE, []
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        try:
            while len(all_vms) < count and meminfo("MemAvailable") > spare:
                all_vms.append(Small(*words_of(folder, len(all_vms))))
                figures["start_ms"].append(all_vms[-1].start_ms)
                if len(all_vms) % 100 == 0:
                    say(f"  {len(all_vms)} VMs run")
            figures["answer_ms"] = [small.answer() for small in all_vms]
            figures["mib"] = [small.mib() for small in all_vms]
        finally:
            began = time.monotonic()
            for small in all_vms:
                small.process.terminate()
            for small in all_vms:
                small.end()
            figures["stop_ms"] = [(time.monotonic() - began) * 1000 / max(1, len(all_vms))]
    return figures


def run(runs, say):
    reason = compare.reason_to_skip("echo.elf")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    found = crowd(drover_words, COUNT if runs > 1 else min(COUNT, 60), say)
    count = len(found["start_ms"])
    result = {"vms": count}
    peers = {name: crowd(lambda folder, number, one=one: peer_words(*one, folder, number), PEERS, say)
             for name, one in compare.peers(("microvm",)).items()}
    missed = [] if count >= min(LEAST, COUNT) or runs == 1 else [f"{count} VMs, goal {LEAST}"]
    sample = min(SAMPLE, count // 3)
    for key, values in found.items():
        best = min(statistics.median(peer[key]) for peer in peers.values())
        result[key] = compare.triple(statistics.median(values), best)
        first, last = statistics.median(values[:sample]), statistics.median(values[-sample:])
        result[f"{key}_first"], result[f"{key}_last"] = round(first, 3), round(last, 3)
        say(f"  {key:10} drover {result[key]['drover']:8.2f}  peer {best:8.2f}  first {first:8.2f}  last {last:8.2f}")
        if key in ("start_ms", "mib") and last > first * GROWTH_MAX:
            missed.append(f"{key} grows from {first:.2f} to {last:.2f}")
    result.update(result["mib"])
    result["missed"], result["whole"] = missed, not missed
    for line in missed:
        say(f"  missed: {line}")
    return result
