# SPDX-License-Identifier: Apache-2.0
"""A host with eight VMs is drained for its maintenance: all of them leave while they write, those that go quickly first and few at
once, and nobody loses anything: no record, no page, no lease, no leader."""
import re
import shlex
import time

from lab import paths

MEMORY_MIB = 1536
SMALL, SMALL_MIB = 6, 96
BEAT = re.compile(r"beat (\d+) writes (\d+) checked (\d+) errors (\d+) ")


class Checker:
    """A small guest that writes to its memory and checks every page of it."""

    def __init__(self, s, number, used_mib, hot_mib):
        self.s, self.name = s, f"small{number}"
        self.used_mib = used_mib
        cmdline = f"used={used_mib} hot={hot_mib} rate=500 khz=2000000 rest=1"
        s.cluster.ask("vm", "create", self.name, "--memory", f"{SMALL_MIB}M", "--cpus", "1",
                      "--kernel", "/opt/drover/guest/checker.elf", "--cmdline", cmdline)
        s.cluster.wait_vm(self.name, lambda vm: True, 60)

    def beats(self):
        """What it said on its serial port since it is where it is."""
        host = self.s.cluster.vm_host(self.name)
        said = host.run(f"timeout 2 drover vm console {shlex.quote(self.name)} --lines 50 </dev/null", check=False, timeout=30).out
        return [tuple(map(int, found)) for found in BEAT.findall(said)]

    def check_alive(self):
        end, beats = time.monotonic() + 60, []
        while time.monotonic() < end and not beats:
            beats = self.beats()
        self.s.check(beats, f"{self.name} says nothing")
        self.s.check(all(beat[3] == 0 for beat in beats), f"{self.name} found pages that lost a write: {beats[-1]}")
        return beats[-1]

    def end(self):
        self.s.cluster.ask("vm", "kill", self.name)
        self.s.cluster.wait_vm(self.name, lambda vm: True, 60, state="stopped")
        self.s.cluster.ask("vm", "delete", self.name)


def moves(events):
    """(names in the order in which they began, how many were under way at most)."""
    began, under_way, most = [], set(), 0
    for event in events:
        if event["kind"] == "migration.begun":
            began.append(event["vm"])
            under_way.add(event["vm"])
            most = max(most, len(under_way))
        elif event["kind"] in ("migration.done", "migration.aborted"):
            under_way.discard(event["vm"])
    return began, most


def run(s):
    first, *others = s.lab.hosts
    for host in others:  # so that all VMs begin on the first
        s.cluster.ask("node", "drain", host.name)
    guests = [s.create_vm(f"vm{number}", cpus=1, number=number) for number in (1, 2)]
    s.small = []
    for number in range(SMALL):
        s.small.append(Checker(s, number, 4 + 8 * number, 1))
    before = [checker.check_alive() for checker in s.small]
    for host in others:
        s.cluster.ask("node", "undrain", host.name)
    after = s.cluster.last_event()
    leader = s.cluster.leader().name
    s.say(f"drover node drain {first.name}")
    began = time.monotonic()
    s.cluster.ask("node", "drain", first.name, timeout=400)
    s.figure("drain_s", time.monotonic() - began)
    events = s.cluster.events(after)
    order, most = moves(events)
    s.figure("order", order)
    s.figure("most_at_once", most)
    s.check(sorted(set(order)) == sorted([g.name for g in guests] + [c.name for c in s.small]), f"these began to move: {order}")
    aborted = [e["text"] for e in events if e["kind"] == "migration.aborted"]
    # The drain tries those again; on real hosts nothing makes it.
    s.figure("moves_tried_again", len(aborted))
    s.check(not aborted or not paths.accelerated() and all("converge" in text for text in aborted), f"moves failed: {aborted}")
    s.check(1 < most <= 4, f"{most} moved at once")
    upset = [e["text"] for e in events if e["kind"] in ("leader.elected", "vm.frozen", "host.suspect", "host.dead")]
    s.check(not upset, f"the cluster was upset: {upset}")
    s.check(s.cluster.leader().name == leader, "another host leads")
    for guest in guests:
        s.check(guest.host is not first, f"{guest.name} is still there")
        s.check(guest.writer.wait_count(20, 60), f"{guest.name} takes no records")
        s.check(guest.writer.connections == 1, f"the writer of {guest.name} had to connect again")
    for checker, beat in zip(s.small, before):
        s.check(checker.check_alive()[0] > beat[0], f"{checker.name} was started anew")
    pauses = [float(s.cluster.vm(name)["last_migration"]["downtime_ms"]) for name in order]
    s.figure("downtime_ms_longest", max(pauses))
    for guest in guests:
        s.check_records(guest)
    s.check_no_resets()


def end(s):
    s.cluster.ask("node", "undrain", s.lab.hosts[0].name)
    for checker in getattr(s, "small", []):
        checker.end()
