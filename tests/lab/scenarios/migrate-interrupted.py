# SPDX-License-Identifier: Apache-2.0
"""What can happen in the middle of a move happens: the target's cable is pulled, either side's drover-vmm or droverd is killed,
the target's is stopped or runs out of memory, its disks are full, somebody cancels. After each, the VM runs on exactly one host
and, unless it was its own drover-vmm that was killed, is the guest that it was: its pages, its connection, its records."""
import time

from lab import records

HELD_MIB = 32
VMMS = "pgrep -f '[d]rover-vmm --name {} '"


class Move:
    """One that is under way: some of the guest's memory is over there, and some is not."""

    def __init__(self, s, guest):
        self.s, self.guest, self.name = s, guest, guest.name
        s.cluster.wait_nodes_up(60 + 4 * s.lease_s)
        vm = s.cluster.vm(self.name)
        self.source = s.lab.host(vm["host"])
        self.target = next(h for h in s.lab.hosts if h is not self.source)
        self.socket = f"/run/drover/vms/{vm['id']}.{vm['epoch']}/control.sock"
        self.after = s.cluster.last_event()

    def begin(self):
        self.s.cluster.ask("vm", "migrate", self.name, "--to", self.target.name, "--no-wait")

    def wait_middle(self):
        """Some 10 MB have gone; False: it ended before that was seen."""
        return self.source.run(
            f"for i in $(seq 600); do said=$(drover-vmm control {self.socket} status) || exit 2; "
            "echo \"$said\" | grep -qE '\"status\": \"precopy\".*\"bytes_sent\": [0-9]{8,}' && exit 0; sleep 0.05; done; exit 1",
            timeout=120, check=False).status == 0

    def wait_over(self):
        """Until the cluster knows how it ended: the text of its end, or None when the guest has moved."""
        vm = self.s.cluster.wait_vm(self.name, lambda vm: not vm["migration"], 90 + 6 * self.s.lease_s)
        ends = [e for e in self.s.cluster.events(self.after)
                if e["kind"] in ("migration.done", "migration.aborted") and e["vm"] == self.name]
        self.s.check(len(ends) == 1, f"the move has these ends: {ends}")
        moved = ends[0]["kind"] == "migration.done"
        wanted = self.target if moved else self.source
        self.s.check(vm["host"] == wanted.name, f"{vm['host']} has the VM after: {ends[0]['text']}")
        return None if moved else ends[0]["text"]

    def vmms(self, host):
        return host.run(VMMS.format(self.name), check=False).out.split()


# Each of these is given a move that has not begun, and returns when it is over and the fault is mended.

def cable(move):
    move.begin()
    middle = move.wait_middle()
    move.target.link_cut()
    text = move.wait_over()
    move.target.link_restore()
    return middle, text


def target_killed(move):
    move.begin()
    middle = move.wait_middle()
    move.target.run("kill -9 $(" + VMMS.format(move.name) + ")", check=False)
    return middle, move.wait_over()


def target_stopped(move):
    """For as long as it exists: its agent must get rid of it."""
    move.begin()
    middle = move.wait_middle()
    move.target.run("kill -STOP $(" + VMMS.format(move.name) + ")", check=False)
    return middle, move.wait_over()


def target_without_memory(move):
    move.begin()
    middle = move.wait_middle()
    move.target.run(f"for group in /sys/fs/cgroup/drover/{move.name}*; do echo 8M > $group/memory.max; done", check=False)
    text = move.wait_over()
    killed = move.target.run("dmesg | grep -c 'Memory cgroup out of memory'", check=False).out.strip()
    move.s.check(int(killed or 0) > 0, "the target had memory enough")
    return middle, text


def target_runtime_full(move):
    """No room for what the agent and the VMM write in /run."""
    move.target.run("mount -o remount,size=$(df -k --output=used /run | tail -n 1 | tr -d ' ')k /run")
    try:
        move.begin()
        return True, move.wait_over()
    finally:
        move.target.run("mount -o remount,size=20% /run")


def cancelled(move):
    move.begin()
    middle = move.wait_middle()
    move.s.cluster.ask("vm", "cancel", move.name)
    return middle, move.wait_over()


def agent_killed(move, host):
    move.begin()
    middle = move.wait_middle()
    host.run("systemctl kill -s KILL --kill-whom=main droverd")
    return middle, move.wait_over()


def source_agent_killed(move):
    return agent_killed(move, move.source)


def target_agent_killed(move):
    return agent_killed(move, move.target)


def target_disk_full(move):
    """Where its agent keeps the cluster's log."""
    move.begin()
    middle = move.wait_middle()
    move.target.run("fallocate -l $(df --output=avail -B 1 /var/lib/drover | tail -n 1) /var/lib/drover/lab-full; "
                    "dd if=/dev/zero bs=4k of=/var/lib/drover/lab-rest 2>/dev/null; sync", timeout=120)
    try:
        return middle, move.wait_over()
    finally:
        move.target.run("rm -f /var/lib/drover/lab-full /var/lib/drover/lab-rest")


# True: such a move can't succeed.
FAULTS = [(cancelled, True), (target_killed, True), (target_without_memory, True), (target_runtime_full, True),
          (target_disk_full, False), (source_agent_killed, False), (target_agent_killed, False), (target_stopped, True),
          (cable, True)]


def check_one_place(s, guest):
    """One host has a drover-vmm of it: that which the cluster names."""
    end, counts = time.monotonic() + 60, None
    while time.monotonic() < end:
        owner = guest.host
        counts = {host.name: len(host.run(VMMS.format(guest.name), check=False).out.split()) for host in s.lab.hosts}
        if [name for name, count in counts.items() if count] == [owner.name]:
            return
        time.sleep(0.5)
    s.check(False, f"{owner.name} should have the VM; its processes: {counts}")


def interrupt(s, guest, fault, must_fail):
    name, text, began = fault.__name__, None, time.monotonic()
    for _ in range(3):  # it may be over before the fault comes
        move = Move(s, guest)
        s.say(f"{name}: {move.source.name} to {move.target.name}")
        middle, text = fault(move)
        if middle and (text or not must_fail):
            break
        s.say(f"{name}: it was over too soon")
    else:
        s.check(False, f"{name}: no move was interrupted")
    s.figure(name, text or "moved")
    s.figure(name + "_s", time.monotonic() - began)
    s.say(f"{name}: {text or 'moved'}")


def check_unharmed(s, guest, boot, stream, name):
    s.check(guest.writer.wait_count(20, 60), f"{name}: no records are written")
    check_one_place(s, guest)
    s.check(records.status(guest.address)["boot"] == boot, f"{name}: the VM was started anew")
    s.check(stream.broken == "", f"{name}: the connection broke: {stream.broken}")
    answer = records.Client(guest.address, 10, 60).call("CHECK")
    s.check(answer == "OK 0", f"{name}: pages of the guest are wrong: {answer}")


def kill_source(s, guest, boot):
    """What it had in memory is gone, with its connections; it is started again, once, with all its records."""
    for _ in range(3):
        move = Move(s, guest)
        move.begin()
        if move.wait_middle():
            break
        move.wait_over()
    s.say(f"source_killed: {move.source.name}")
    move.source.run("kill -9 $(" + VMMS.format(guest.name) + ")", check=False)
    fault = time.monotonic()
    vm = s.cluster.wait_vm(guest.name, lambda vm: not vm["migration"], 90 + 6 * s.lease_s)
    s.check(guest.writer.wait_count(20, 120), "source_killed: no records are written")
    s.figure("source_killed", f"runs on its {'source' if vm['host'] == move.source.name else 'target'}")
    s.figure("source_killed_s", time.monotonic() - fault)
    s.check(records.status(guest.address)["boot"] != boot, "source_killed: the guest that was killed still runs")
    check_one_place(s, guest)


def run(s):
    guest = s.create_vm(cpus=1)
    boot = records.status(guest.address)["boot"]
    for line in (f"FILL {HELD_MIB}", "LOAD 8 500"):
        answer = records.Client(guest.address, 10, 60).call(line)
        s.check(answer == "OK 0", f"the guest answers '{line}' with '{answer}'")
    stream = records.Stream(guest.address)
    for fault, must_fail in FAULTS:
        interrupt(s, guest, fault, must_fail)
        check_unharmed(s, guest, boot, stream, fault.__name__)
    s.check(guest.writer.connections == 1, "the writer had to connect again")
    s.check(stream.stop() == "", f"the connection broke: {stream.broken}")
    kill_source(s, guest, boot)
    s.check_records(guest)
    s.check_no_resets()
