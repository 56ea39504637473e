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
        self.disks = os.path.join(cache_dir(), "runs", self.id)
        os.makedirs(self.state, mode=0o700)
        self._lock = lock_file(os.path.join(self.state, "lock"))
        os.makedirs(self.disks, mode=0o700)

    def remove(self):
        shutil.rmtree(self.disks, ignore_errors=True)
        shutil.rmtree(self.state, ignore_errors=True)
        os.close(self._lock)


def live_runs():
    """Ids of the runs whose process is still there."""
    alive = []
    for run_id in sorted(os.listdir(run_root())):
        lock = os.path.join(run_root(), run_id, "lock")
        if os.path.exists(lock):
            fd = lock_file(lock, wait=False)
            if fd is None:
                alive.append(run_id)
            else:
                os.close(fd)
    return alive


def remove_dead_runs():
    """Removes what killed runs left. Processes, taps and mounts end with a run's namespaces;
    only files can stay behind."""
    guard = lock_file(os.path.join(cache_dir(), "runs.lock"))
    alive = live_runs()
    for root in (run_root(), os.path.join(cache_dir(), "runs")):
        for run_id in os.listdir(root) if os.path.isdir(root) else []:
            path = os.path.join(root, run_id)
            # A folder without a lock may be a run that is just starting.
            fresh = time.time() - os.stat(path).st_mtime < 60 and \
                not os.path.exists(os.path.join(run_root(), run_id, "lock"))
            if run_id not in alive and not fresh:
                shutil.rmtree(path, ignore_errors=True)
    os.close(guard)
