# SPDX-License-Identifier: Apache-2.0
"""The one setting that scales the cluster's times to slow hosts."""
import os

from . import paths

LEASE_DEFAULT_MS = 5000


def time_scale():
    """How much longer than on real hosts everything may take."""
    return float(os.environ.get("DROVER_LAB_TIME_SCALE", "1" if paths.accelerated() else "2"))


def lease_ms():
    return int(LEASE_DEFAULT_MS * time_scale())


def droverd_conf():
    """The same file on all hosts: name and address come from each host's own."""
    return ("# Made by the lab.\n"
            "bridge = drover0\n"
            "memory-reserve = 320M\n"
            f"lease-ms = {lease_ms()}\n")
