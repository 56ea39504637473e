# SPDX-License-Identifier: Apache-2.0
"""Runs a function in PID, mount and network namespaces of its own.

The function's process is PID 1 there: when it ends, however it ends, the kernel kills every
process that it started, and bridge, taps and mounts go with the namespaces."""
import ctypes
import os
import signal
import subprocess
import sys
import traceback

from .paths import LabError

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def _unshare(flags):
    if _libc.unshare(flags) != 0:
        raise LabError(f"the lab needs root and namespaces: {os.strerror(ctypes.get_errno())}")


def _prctl_death(number):
    _libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def _enter():
    _unshare(CLONE_NEWNS | CLONE_NEWNET)
    for command in ("mount --make-rprivate /", "mount -t proc proc /proc", "ip link set lo up"):
        subprocess.run(command.split(), check=True)


class Detach:
    """Given to the function: `Detach()(status)` lets the caller's program end while the function
    goes on in the background (a lab that was asked to stay)."""

    def __init__(self, fd):
        self._fd = fd

    def __call__(self, status=0):
        _prctl_death(0)
        os.write(self._fd, bytes([status]))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)


def _child(function, detach_fd):
    status = 70
    try:
        os.setsid()  # Ctrl-C reaches us through the parent only
        _prctl_death(signal.SIGKILL)

        def stop(_number, _frame):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise KeyboardInterrupt

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        _enter()
        status = function(Detach(detach_fd)) or 0
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(function):
    """Runs function(detach) in its namespaces; returns its exit status."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root: run it with sudo")
    read_fd, write_fd = os.pipe()
    _unshare(CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        _child(function, write_fd)
    os.close(write_fd)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda n, _f: os.kill(pid, signal.SIGTERM if n != signal.SIGINT
                                                    else signal.SIGINT))
    # One byte means that the child stays in the background; end of file, that it is ending.
    said = os.read(read_fd, 1)
    if said:
        return said[0]
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) & 0x7F if os.WIFSIGNALED(status) \
        else os.WEXITSTATUS(status)
