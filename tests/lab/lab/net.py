# SPDX-License-Identifier: Apache-2.0
"""The lab's network, inside its own namespace.

    host's tap -- small bridge == veth pair == main bridge (10.77.0.1, the lab itself)

The small bridge per host gives each direction a bridge port towards which nothing is sent while
it is cut; so the lab needs no packet filter of the kernel, which many lack."""
import subprocess

BRIDGE = "lab0"
ADDRESS = "10.77.0.1"
PREFIX = 24
DIRECTIONS = ("in", "out")


def _ip(text):
    subprocess.run(["ip", *text.split()], check=True)


def _bridge(name):
    _ip(f"link add {name} type bridge stp_state 0 forward_delay 0 mcast_snooping 0")
    _ip(f"link set {name} up")


def _sysctl(name, value):
    with open(f"/proc/sys/net/{name}", "w", encoding="ascii") as f:
        f.write(value)


def create():
    _sysctl("ipv6/conf/default/disable_ipv6", "1")
    # Only the main bridge answers for the lab's address: an answer from a host's own small
    # bridge would lead its packets around the place where they are dropped.
    _sysctl("ipv4/conf/all/arp_ignore", "1")
    _bridge(BRIDGE)
    _ip(f"addr add {ADDRESS}/{PREFIX} dev {BRIDGE}")


class Port:
    """The cable of one host."""

    def __init__(self, number):
        self.tap = f"tap{number}"
        self._near, self._far = f"near{number}", f"far{number}"
        bridge = f"port{number}"
        _bridge(bridge)
        _ip(f"tuntap add dev {self.tap} mode tap")
        _ip(f"link add {self._near} type veth peer name {self._far}")
        for name, master in ((self.tap, bridge), (self._near, bridge), (self._far, BRIDGE)):
            _ip(f"link set {name} master {master}")
            _ip(f"link set {name} up")

    def _device(self, direction):
        return {"in": self.tap, "out": self._near}[direction]

    def cut(self, direction="both"):
        """Loses all that goes to the host ('in'), comes from it ('out'), or 'both'."""
        for one in DIRECTIONS if direction == "both" else (direction,):
            self._let_through(self._device(one), "off")

    def restore(self):
        for one in DIRECTIONS:
            self._let_through(self._device(one), "on")

    @staticmethod
    def _let_through(device, state):
        # A bridge sends to a port only what it learned to be there or floods: allow neither.
        subprocess.run(["bridge", "link", "set", "dev", device, "learning", state, "flood", state,
                        "mcast_flood", state, "bcast_flood", state], check=True)
        _ip(f"link set {device} type bridge_slave fdb_flush")
