# SPDX-License-Identifier: Apache-2.0
"""A VM moves between two hosts: what goes over the cable is TLS, and no text of the guest's memory shows in it. By the
kernels of both hosts, by one kernel and one relay of droverd's, and by two relays. Before that, what tests/unit/test_moves
says of TLS in the kernel: not every machine that runs the unit tests has it, these hosts have."""
from lab import records, unit, wire

# In each Linux kernel's memory, so in the guest's; the hosts send theirs once, to see that it would be found.
TEXT = "debian-kernel@lists.debian.org"
AGENT_PORT = 7400
HIDDEN = "/run/lab-tls.ko"
UNIT_CASES = ["test_bytes_arrive_both_ways_through_the_kernel", "test_kernel_and_relay_understand_each_other"]


def hide_module(host):
    """As a kernel that was built without it."""
    host.run(f"modprobe -r tls; mv $(modinfo -n tls) {HIDDEN}")


def show_module(host):
    host.run(f"[ ! -e {HIDDEN} ] || mv {HIDDEN} /lib/modules/$(uname -r)/kernel/net/tls/tls.ko")


def used(host, since):
    """What encrypted the connections of moves that stand since that line of the log."""
    lines = host.run("journalctl -u droverd -o cat --no-pager").out.splitlines()
    found = [line.split("encrypted_by=")[1].strip() for line in lines[since:] if "encrypted_by=" in line]
    return found, len(lines)


def check_would_be_seen(s, host, other):
    with wire.Wire(host, TEXT) as cable:
        host.run(f"bash -c 'cat /proc/version > /dev/tcp/{other.address}/{AGENT_PORT}'")
        host.run("sleep 0.5")
    s.check(sum(cable.seen["text_bytes"].values()) > 0, f"the listener does not find a text that was sent: {cable.seen}")


def check_move(s, guest, source, target, wanted):
    since = {host: used(host, 0)[1] for host in (source, target)}
    with wire.Wire(source, TEXT) as cable:
        s.say(f"drover vm migrate {guest.name} --to {target.name}")
        s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, timeout=300)
    vm = s.cluster.wait_vm(guest.name, lambda vm: vm["host"] == target.name, 60)
    s.check(guest.writer.wait_count(20, 60), "no records are written after the move")
    key = f"{source.address} {target.address} {AGENT_PORT}"
    seen = cable.seen
    sent = seen["bytes"].get(key, 0)
    s.check(sent > 8 << 20, f"the guest's memory did not go over the agents' port: {seen}")
    s.check(seen["tls_records"].get(key, 0) > 100, f"it does not look like TLS: {seen}")
    between = [k for k in seen["text_bytes"] if k.startswith(f"{source.address} {target.address} ")]
    s.check(not between, f"the guest's memory shows on the cable: {seen}")
    for host, by in zip((source, target), wanted):
        found, _ = used(host, since[host])
        s.check(found and all(one == by for one in found), f"{host.name} encrypted by {found}, not by the {by}")
    by = vm["last_migration"]["encryption"]
    s.check((by["source"], by["target"]) == tuple(wanted), f"last_migration says that it was encrypted by {by}")
    name = "-".join(wanted)
    s.figure(f"{name}_downtime_ms", float(vm["last_migration"]["downtime_ms"]))
    s.figure(f"{name}_total_ms", float(vm["last_migration"]["total_ms"]))
    s.figure(f"{name}_megabytes_seen", sent / 1e6)
    s.figure(f"{name}_frames_lost", seen["lost_frames"])


def run(s):
    unit.check_cases(s, s.lab.hosts[0], "test_moves", "kernel-tls", UNIT_CASES)
    guest = s.create_vm(cpus=1)
    records.Client(guest.address, 10).call("LOAD 16 500")
    source = guest.host
    target = next(h for h in s.lab.hosts if h is not source)
    check_would_be_seen(s, source, target)
    try:
        check_move(s, guest, source, target, ("kernel", "kernel"))
        hide_module(target)
        check_move(s, guest, target, source, ("relay", "kernel"))
        hide_module(source)
        check_move(s, guest, source, target, ("relay", "relay"))
    finally:
        show_module(source)
        show_module(target)
    s.check(guest.writer.connections == 1, "the writer had to connect again")
    s.check_records(guest)
    s.check_no_resets()
