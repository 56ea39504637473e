# SPDX-License-Identifier: Apache-2.0
"""One host of the lab: its power, its cable, its clock, and commands in it."""
import hashlib
import os
import shlex
import signal
import subprocess
import threading
import time

from . import agent, net, paths, qemu
from .paths import LabError

DATA_DISK_BYTES = 4 << 30
# A watchdog's reset is the emulator's fault if that got no time for so long.
STARVED_S = 2.0

# What can be said of VMs that stand still: which of their threads run, where the others wait, and what KVM counts meanwhile.
VM_STATE = """mountpoint -q /sys/kernel/debug || mount -t debugfs debugfs /sys/kernel/debug
count() { cat /proc/uptime; grep -E 'LOC|RES|CAL' /proc/interrupts; cd /sys/kernel/debug/kvm
grep -H . [0-9]*-*/* 2>/dev/null | grep -v ':0$' | grep -vE 'mmu|pages|remote'; grep -H . [0-9]*-*/vcpu*/* 2>/dev/null; cd /; }
count; sleep 2; echo; count; echo
for pid in $(pgrep -x drover-vmm) $(pgrep -f 'drover-vmm --name' | sort -u); do for task in /proc/$pid/task/*; do
echo "$task $(cat $task/comm $task/wchan 2>/dev/null | tr '\\n' ' ') $(cut -d' ' -f3,14,15 $task/stat)"; done; done | sort -u
grep -A12 -E 'cpu: |kvm|apic_timer' /proc/timer_list | head -n 150
for socket in /run/*.control /run/drover/vms/*/control.sock; do [ -S $socket ] && timeout 5 drover-vmm control $socket status; done
true
"""


class Result:
    """What a command left."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


class Host:
    """Made by cluster.Lab. A machine that resets itself is started again, as real ones are,
    and counted in `resets`; one whose power was cut stays off until power_on()."""

    def __init__(self, lab, number, cpus, memory_mib):
        self.lab, self.number, self.cpus, self.memory_mib = lab, number, cpus, memory_mib
        self.name = f"h{number}"
        self.address = f"10.77.0.{10 + number}"
        self.mac = f"52:54:00:77:00:{10 + number:02x}"
        self.machine_id = hashlib.sha256(f"{lab.run.id}/{self.name}".encode()).hexdigest()[:32]
        self.state_dir = os.path.join(lab.run.state, self.name)
        os.makedirs(self.state_dir)
        self.data_disk = os.path.join(lab.run.disks, f"{self.name}-data.raw")
        self.port = net.Port(number)
        self.resets, self.emulator_faults, self.history = 0, 0, []
        self._machine = self._agent = None
        self._powered, self._lock = False, threading.RLock()
        self.is_cut = self._stalled = False
        self.wipe()

    def wipe(self):
        """An empty data disk, as on a new host. Only while the power is off."""
        if os.path.exists(self.data_disk):
            os.unlink(self.data_disk)
        with open(self.data_disk, "wb") as f:
            f.truncate(DATA_DISK_BYTES)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=1", self.data_disk],
                       check=True)

    def _say(self, what):
        self.history.append((time.monotonic(), what))

    # Power.

    def power_on(self):
        with self._lock:
            if self._powered:
                return
            self._stalled = False
            self._powered = True
            self._start()

    def _start(self):
        self._say("power on")
        self._machine = qemu.Machine(self, self._ended)
        self._agent = agent.Agent(os.path.join(self.state_dir, "agent.sock"))

    def _ended(self, machine):
        with self._lock:
            if machine is not self._machine:
                return
            self._agent.close()
            self._machine = self._agent = None
            if not self._powered:
                return
            fault = machine.reason == "guest-reset" and self._triple_fault()
            stall_s = machine.stall_s()
            starved = machine.reason == "watchdog" and stall_s >= STARVED_S and not paths.accelerated()
            self.emulator_faults += fault or starved
            self._say(f"machine ended: {machine.reason or 'no reason given'}"
                      + (", a triple fault of its processor" if fault else "")
                      + (f", its emulator stood still for {stall_s:.1f} s" if stall_s >= 1 else ""))
            if machine.reason in ("guest-reset", "watchdog", "guest-panic"):
                self.resets += 1
                self._start()
            else:
                self._powered = False

    def _triple_fault(self):
        """Debian's kernel does not do that by itself: the emulator went wrong."""
        try:
            with open(os.path.join(self.state_dir, "cpu.log"), encoding="ascii", errors="replace") as f:
                return "Triple fault" in f.read()
        except OSError:
            return False

    def power_cut(self):
        """At once, as if the cable was pulled."""
        with self._lock:
            machine, self._powered = self._machine, False
            self._machine = None
            self._say("power cut")
            if machine:
                machine.signal(signal.SIGKILL)
                machine.process.wait()
                self._agent.close()
                self._agent = None

    @property
    def is_on(self):
        return self._powered

    def wait_ready(self, timeout=120):
        """Until commands can be run in it and its set-up is done."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            current = self._agent
            if current and current.ready.wait(0.1):
                left = max(1, end - time.monotonic())
                self.run("while ! ip addr show drover0 2>/dev/null | grep -q 'inet '; "
                         "do sleep 0.1; done", timeout=left)
                # The times of events are compared with ours.
                self.run(f"date -s @{time.time():.3f}")
                return
            if not self._powered:
                break
            time.sleep(0.02)
        raise LabError(f"{self.name} is not ready: see {self.state_dir}/console.log")

    # Faults.

    def link_cut(self, direction="both"):
        self._say(f"link cut: {direction}")
        self.is_cut = True
        self.port.cut(direction)
        if direction == "both":
            self._machine.link(False)

    def link_restore(self):
        self._say("link restored")
        self.is_cut = False
        self.port.restore()
        if self._machine:
            self._machine.link(True)

    def stall(self):
        """Its processors stop; its clock goes on, and jumps when they go on."""
        self._say("stall")
        self._stalled = True
        self._machine.signal(signal.SIGSTOP)

    def unstall(self):
        self._say("unstall")
        self._stalled = False
        self._machine.signal(signal.SIGCONT)

    def heal(self):
        """Undoes all faults, and switches it on."""
        if self._stalled and self._machine:
            self.unstall()
        if self.is_cut:
            self.link_restore()
        self.power_on()

    # Commands.

    def spawn(self, command):
        current = self._agent
        if current is None:
            raise LabError(f"{self.name} is off")
        return current.start(command)

    def run(self, command, timeout=60, check=True, stdin=None):
        """Runs a shell command (or an argument list) to its end."""
        job = self.spawn(command)
        if stdin:
            job.feed(stdin)
        job.close_input()
        output = {"O": [], "E": []}
        for kind, data in job.chunks(timeout):
            output[kind].append(data)
        out, err = (b"".join(output[kind]).decode(errors="replace") for kind in "OE")
        if job.status is None:
            raise LabError(f"{self.name} went away during: {job.command}")
        if check and job.status != 0:
            raise LabError(f"{self.name}: exit {job.status} of '{job.command}': {err.strip()}")
        return Result(job.status, out, err)

    def put(self, path, target):
        """Copies a file of this machine into the host, with its mode."""
        with open(path, "rb") as f:
            data = f.read()
        mode = os.stat(path).st_mode & 0o777
        target = shlex.quote(target)
        self.run(f"cat > {target}.lab && chmod {mode:o} {target}.lab && mv {target}.lab {target}",
                 timeout=300, stdin=data)

    def get(self, source, path):
        job = self.spawn(["cat", source])
        job.close_input()
        with open(path, "wb") as f:
            for kind, data in job.chunks(300):
                if kind == "O":
                    f.write(data)
        if job.status != 0:
            raise LabError(f"{self.name}: cannot read {source}")

    def collect(self, folder):
        """Consoles and journals, and what the host itself can still tell."""
        target = os.path.join(folder, self.name)
        os.makedirs(target, exist_ok=True)
        names = ["console.log", "journal.log", "qemu.log", "cpu.log", "registers.log"]
        for name in names + [n for n in os.listdir(self.state_dir) if n.startswith("vm-")]:
            source = os.path.join(self.state_dir, name)
            if os.path.exists(source):
                with open(source, "rb") as f, open(os.path.join(target, name), "wb") as out:
                    out.write(f.read())
        with open(os.path.join(target, "history.txt"), "w", encoding="utf-8") as f:
            f.writelines(f"{when:.3f} {what}\n" for when, what in self.history)
        for name, command in (("state.txt", "ps -eo pid,ppid,stat,etimes,args; ip -br addr; "
                                            "dmesg | tail -n 40"),
                              ("vms.txt", VM_STATE),
                              ("vmms.log", "tail -n +1 $(find /run/drover -name '*.log' | sort) /dev/null"),
                              ("events.json", "drover events --json --limit 1000")):
            try:
                with open(os.path.join(target, name), "w", encoding="utf-8") as f:
                    f.write(self.run(command, timeout=30, check=False).out)
            except LabError as error:
                paths.note(f"collect {name}: {str(error)[:80]!r}")
