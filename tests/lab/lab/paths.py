# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps its things, and how the leftovers of dead runs are found and removed."""
import fcntl
import os
import shutil
import sys
import time

LAB_DIR = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TOP_DIR = os.path.dirname(os.path.dirname(LAB_DIR))


class LabError(Exception):
    """Something that the user of the lab can read in one line."""


def cache_dir():
    path = os.environ.get("DROVER_LAB_CACHE", "/var/cache/drover-lab")
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def run_root():
    path = os.environ.get("DROVER_LAB_RUN", "/run/drover-lab")
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def build_dir():
    """The folder with droverd, drover and drover-vmm; DROVER_LAB_BUILD names another."""
    separate = os.path.join(TOP_DIR, "build")
    default = separate if os.path.isdir(separate) else TOP_DIR
    return os.path.abspath(os.environ.get("DROVER_LAB_BUILD", default))


def accelerated():
    """True where the processor offers nested virtualization to the lab's hosts."""
    forced = os.environ.get("DROVER_LAB_ACCEL")
    if forced:
        return forced == "kvm"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
        flags = next((line for line in f if line.startswith("flags")), "").split()
    return ("vmx" in flags or "svm" in flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def note(text):
    """Progress, for a person: on stderr, with seconds since the program started."""
    print(f"[{time.monotonic() - _START:6.1f}] {text}", file=sys.stderr, flush=True)


_START = time.monotonic()


def lock_file(path, wait=True):
    """An exclusive lock that ends with this process; None when held and not waiting."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


class RunDir:
    """One run's folders: `state` (sockets, logs) and `disks` (sparse images, outside of /run,
    which is a small tmpfs on most machines). They live as long as the lock is held."""

    def __init__(self, run_id=None):
        remove_dead_runs()
        self.id = run_id or time.strftime("%H%M%S-") + os.urandom(2).hex()
        self.state = os.path.join(run_root(), self.id)
        self.disks = os.path.join(disks_root(), self.id)
        guard = _guard()
        self._locks = []
        for folder in (self.state, self.disks):
            os.makedirs(folder, mode=0o700)
            self._locks.append(lock_file(os.path.join(folder, "lock")))
        os.close(guard)

    def remove(self):
        for folder in (self.disks, self.state):
            shutil.rmtree(folder, ignore_errors=True)
        for lock in self._locks:
            os.close(lock)


def disks_root():
    path = os.path.join(cache_dir(), "runs")
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def _guard():
    """Held while run folders come and go, so that none is seen without its lock."""
    return lock_file(os.path.join(cache_dir(), "runs.lock"))


def _is_dead(folder):
    if not os.path.isdir(folder):
        return False
    fd = lock_file(os.path.join(folder, "lock"), wait=False)
    if fd is None:
        return False
    os.close(fd)
    return True


def live_runs():
    """Ids of the runs whose process is still there."""
    return [run_id for run_id in sorted(os.listdir(run_root()))
            if os.path.isdir(os.path.join(run_root(), run_id))
            and not _is_dead(os.path.join(run_root(), run_id))]


def remove_dead_runs():
    """Removes what killed runs left. Processes, taps and mounts end with a run's namespaces;
    only files can stay behind."""
    guard = _guard()
    for root in (run_root(), disks_root()):
        for run_id in os.listdir(root):
            if _is_dead(os.path.join(root, run_id)):
                shutil.rmtree(os.path.join(root, run_id), ignore_errors=True)
    os.close(guard)
