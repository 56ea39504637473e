# SPDX-License-Identifier: Apache-2.0
"""Soft-RoCE devices in the lab's hosts."""
import re
import socket
import subprocess


def wide_frames(lab, mtu=9000):
    """Soft-RoCE makes a packet of each frame, so that narrow ones take their time."""
    # Not by /sys/class/net, which shows the network namespace that it was mounted in.
    for _, name in socket.if_nameindex():
        if re.fullmatch(r"(tap|near|far|port)[0-9]+|lab0", name):
            subprocess.run(["ip", "link", "set", name, "mtu", str(mtu)], check=True)
    for host in lab.hosts:
        if host.is_on:
            host.run(f"ip link set eth0 mtu {mtu} && ip link set drover0 mtu {mtu}")


def device(host, there):
    """A soft-RoCE device on the host's bridge, or none."""
    host.run("modprobe rdma_ucm && modprobe rdma_rxe")
    if there:
        host.run("rdma link show | grep -q rxe0 || rdma link add rxe0 type rxe netdev drover0")
    else:
        host.run("if rdma link show | grep -q rxe0; then rdma link delete rxe0; fi")
