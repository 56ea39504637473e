# SPDX-License-Identifier: Apache-2.0
"""A guest that writes faster than its move is allowed to be sent moves by post-copy. The link between the two hosts is cut in the
middle and comes back: the guest goes on, and no page, no record and no connection is lost. Then its source's host loses its power in
the middle: the VM comes back as if it had crashed, with all its records."""
import time

from lab import records

HELD_MIB, SLOW = 24, "4M"
PATIENCE_S = 180  # the guest stands as long as the link is cut, at most


def call(s, guest, line):
    answer = records.Client(guest.address, 10, 120).call(line)
    s.check(answer == "OK 0", f"the guest answers '{line}' with '{answer}'")


def away_from_leader(s, guest):
    """Its host, and the one that does not lead either: what is cut between the two upsets nobody else."""
    leader = s.cluster.leader()
    if guest.host is leader:
        other = next(h for h in s.lab.hosts if h is not leader)
        s.cluster.ask("vm", "migrate", guest.name, "--to", other.name, timeout=300)
    source = guest.host
    return source, next(h for h in s.lab.hosts if h is not source and h is not leader)


def into_post_copy(s, guest):
    """Until the guest runs on the target and lacks memory that is on the source: both, and the last event before."""
    for _ in range(3):
        source, target = away_from_leader(s, guest)
        after, vm = s.cluster.last_event(), s.cluster.vm(guest.name)
        socket = f"/run/drover/vms/{vm['id']}.{vm['epoch']}/control.sock"
        s.say(f"drover vm migrate {guest.name} --to {target.name} --post-copy now")
        s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, "--post-copy", "now", "--no-wait")
        begun = source.run(
            f"for i in $(seq 300); do drover-vmm control {socket} migrate-limit {SLOW} && break; sleep 0.1; done; "
            f"for i in $(seq 2000); do said=$(drover-vmm control {socket} status) || exit 2; "
            "echo \"$said\" | grep -q '\"status\": \"postcopy\"' && exit 0; sleep 0.1; done; exit 1",
            timeout=400, check=False).status == 0
        if begun:
            return source, target, after
        s.cluster.wait_vm(guest.name, lambda vm: not vm["migration"] and not vm["postcopy"], 120)
        s.say("it was over too soon")
    s.check(False, "no move got into post-copy")


def block(one, other, add=True):
    """Nothing goes between these two; both still reach the third."""
    for here, there in ((one, other), (other, one)):
        here.run(f"ip route {'add' if add else 'del'} blackhole {there.address}/32", check=add)


def kinds(s, after, name):
    return [event["kind"] for event in s.cluster.events(after) if event.get("vm") == name]


def link_is_cut(s, guest):
    boot = records.status(guest.address)["boot"]
    stream = records.Stream(guest.address)
    usual, guest.writer.patience_s = guest.writer.patience_s, PATIENCE_S
    source, target, after = into_post_copy(s, guest)
    s.say(f"link cut: {source.name} - {target.name}")
    block(source, target)
    try:
        cut = time.monotonic()
        vm = s.cluster.wait_vm(guest.name, lambda vm: vm["postcopy"] and vm["postcopy"]["interrupted"], 120)
        s.figure("cut_noticed_s", time.monotonic() - cut)
        s.check(vm["host"] == target.name and vm["postcopy"]["source"] == source.name, f"{vm['host']}, {vm['postcopy']}")
        s.figure("left_megabytes", vm["postcopy"]["bytes_remaining"] / 1e6)
    finally:
        block(source, target, False)
    mended = time.monotonic()
    vm = s.cluster.wait_vm(guest.name, lambda vm: not vm["postcopy"], 240)
    s.figure("mended_to_complete_s", time.monotonic() - mended)
    s.check(vm["host"] == target.name, f"{vm['host']} has it")
    s.check("migration.complete" in kinds(s, after, guest.name), f"events: {kinds(s, after, guest.name)}")
    s.check(guest.writer.wait_count(20, 120), "no records are written after the cut")
    call(s, guest, "CHECK")
    s.check(records.status(guest.address)["boot"] == boot, "the VM was started anew")
    s.check(stream.stop() == "", f"the connection broke: {stream.broken}")
    s.check(guest.writer.connections == 1, "the writer had to connect again")
    guest.writer.patience_s = usual
    s.figure("downtime_ms", float(vm["last_migration"]["downtime_ms"]))


def source_is_lost(s, guest):
    boot = records.status(guest.address)["boot"]
    source, target, after = into_post_copy(s, guest)
    s.cluster.wait_vm(guest.name, lambda vm: vm["host"] == target.name, 60)
    s.say(f"power cut: {source.name}")
    fault = time.monotonic()
    source.power_cut()
    end = time.monotonic() + 60 + 8 * s.lease_s
    while time.monotonic() < end and "migration.lost" not in kinds(s, after, guest.name):
        time.sleep(0.5)
    told = kinds(s, after, guest.name)
    s.check("migration.source_lost" in told and "migration.lost" in told, f"events: {told}")
    s.figure("power_cut_to_given_up_s", time.monotonic() - fault)
    vm = s.cluster.wait_vm(guest.name, lambda vm: not vm["postcopy"], 120)
    s.check(guest.writer.wait_count(20, 150), "no records are written after the VM was started again")
    s.figure("power_cut_to_records_s", time.monotonic() - fault)
    s.check(vm["host"] == target.name, f"{vm['host']} has it")
    s.check(records.status(guest.address)["boot"] != boot, "the guest runs on without its memory")
    source.power_on()
    source.wait_ready()
    s.cluster.wait_nodes_up(60 + 4 * s.lease_s)


def run(s):
    guest = s.create_vm(cpus=1)
    call(s, guest, f"FILL {HELD_MIB}")
    call(s, guest, "LOAD 24 2000")
    link_is_cut(s, guest)
    source_is_lost(s, guest)
    s.check_records(guest)
    s.check_no_resets()


def end(s):
    for one in s.lab.hosts:
        one.run("ip route show type blackhole | while read -r _ where _; do ip route del blackhole $where; done; true", check=False)
