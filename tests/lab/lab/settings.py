# SPDX-License-Identifier: Apache-2.0
"""The one setting that scales the cluster's times to slow hosts."""
import math
import os

from . import paths

LEASE_DEFAULT_MS = 5000
# Three emulated hosts come up in 13 to 15 s where two processors have nothing else to do.
QUIET_START_S, SCALE, SCALE_MAX = 16.0, 3, 12

_busy = {"factor": 1.0}


def hosts_came_up(seconds):
    """Emulated hosts get what processor time is left: where that is little, one that has just started a VM stands still for
    longer than its watchdog waits. Counts for clusters that are formed from now on."""
    _busy["factor"] = max(1.0, seconds / QUIET_START_S)


def time_scale():
    """How much longer than on real hosts everything may take."""
    if "DROVER_LAB_TIME_SCALE" in os.environ:
        return float(os.environ["DROVER_LAB_TIME_SCALE"])
    return 1.0 if paths.accelerated() else float(min(SCALE_MAX, math.ceil(SCALE * _busy["factor"])))


def host_cpus():
    """Of each host. The emulator runs each processor in a thread of its own, and what one writes into code that the other
    runs goes wrong at times (README.md): an emulated host has one."""
    return int(os.environ.get("DROVER_LAB_CPUS", 2 if paths.accelerated() else 1))


def lease_ms():
    return int(LEASE_DEFAULT_MS * time_scale())


def droverd_conf():
    """The same file on all hosts: name and address come from each host's own."""
    return ("# Made by the lab.\n"
            "bridge = drover0\n"
            "memory-reserve = 320M\n"
            f"lease-ms = {lease_ms()}\n")
