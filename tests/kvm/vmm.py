# SPDX-License-Identifier: Apache-2.0
"""drover-vmm processes on this machine's /dev/kvm, for tests and benchmarks."""
import json
import os
import re
import socket
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("DROVER_BUILD", os.path.join(TOP, "build"))
PROGRAM = os.path.join(BUILD, "drover-vmm")
GUEST = os.path.join(BUILD, "tests/guests/checker.elf")
BEAT = re.compile(rb"beat (\d+) writes (\d+) checked (\d+) errors (\d+) gap_us (\d+) late_us (\d+)")


class Failure(Exception):
    """What a test found wrong, in one line."""


def tsc_khz():
    """The TSC's rate, near enough to tell milliseconds."""
    start, ticks = time.monotonic_ns(), None
    with open("/proc/cpuinfo", encoding="ascii") as info:
        for line in info:
            if line.startswith("cpu MHz"):
                ticks = int(float(line.split(":")[1]) * 1000)
                break
    return ticks or max(1, start and 2000000)


def reason_to_skip():
    """Why small guests can't run here, or None."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "no usable /dev/kvm"
    for path in (PROGRAM, GUEST):
        if not os.path.exists(path):
            return f"{path} is not built"
    return None


class Vmm:
    """One drover-vmm. Ends with the `with` block, however that ends."""

    def __init__(self, folder, name, *words, kernel=GUEST, cmdline="", memory="128M", cpus=1, disks=()):
        self.name, self.control_path = name, os.path.join(folder, f"{name}.sock")
        self.serial_path = os.path.join(folder, f"{name}.serial")
        self.log_path = os.path.join(folder, f"{name}.log")
        command = [PROGRAM, "--name", "guest", "--memory", memory, "--cpus", str(cpus),
                   "--control", self.control_path, "--serial", f"file:{self.serial_path}"]
        command += ["--kernel", kernel, "--cmdline", cmdline]
        for disk in disks:
            command += ["--disk", disk]
        command += words
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.wait_for(self.listens, 10, "its control socket")

    def listens(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.control_path) == 0

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as log:
            return log.read().strip()

    def wait_for(self, condition, seconds, what):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition():
                return
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}: {self.log()}")
            time.sleep(0.01)
        raise Failure(f"{self.name}: no sign of {what} within {seconds} s; log: {self.log()}")

    def control(self, *words, check=True, timeout=120):
        done = subprocess.run([PROGRAM, "control", self.control_path, *words], capture_output=True,
                              timeout=timeout, check=False)
        if check and done.returncode != 0:
            raise Failure(f"control {self.name} {' '.join(words)}: {done.stderr.decode().strip()}"
                          f" {done.stdout.decode().strip()}")
        return json.loads(done.stdout) if done.stdout.strip() else {"stderr": done.stderr.decode()}

    def status(self):
        return self.control("status")

    def serial(self):
        if not os.path.exists(self.serial_path):
            return b""
        with open(self.serial_path, "rb") as serial:
            return serial.read()

    def beats(self):
        """(number, writes, checked, errors, gap_us, late_us) of each line that the dirtying guest printed here."""
        return [tuple(map(int, found)) for found in BEAT.findall(self.serial())]

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Machines:
    """A folder for a test's VMMs, and their end."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="drover-kvm-")
        self.all = []
        return self

    def start(self, name, *words, **options):
        vmm = Vmm(self.folder.name, name, *words, **options)
        self.all.append(vmm)
        return vmm

    def __exit__(self, *unused):
        for vmm in self.all:
            vmm.end()
        self.folder.cleanup()
