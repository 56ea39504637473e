# SPDX-License-Identifier: Apache-2.0
"""kill -9 of droverd, at rest and in the middle of a migration, on the source and on the target: it
finds its VM again, and the VM never notices."""
import time

from lab import records
from lab.paths import LabError


def kill_agent(host):
    host.run("systemctl kill -s KILL --kill-whom=main droverd")


def check_harmless(s, guest, boot, stream):
    s.check(guest.writer.wait_count(30, 60), "no records are written after the crash")
    s.check(stream.broken == "", f"the connection broke: {stream.broken}")
    s.check(records.status(guest.address)["boot"] == boot, "the VM was started anew")


def crash_at_rest(s, guest, boot, stream):
    host = guest.host
    vmm = host.run("pgrep -f '[d]rover-vmm.*--name'").out.split()
    s.say(f"kill -9 droverd on {host.name}, at rest")
    began = time.monotonic()
    kill_agent(host)
    s.cluster.wait_nodes_up(60)
    s.cluster.wait_vm(guest.name, lambda vm: vm["host"] == host.name, 60)
    s.figure("agent_back_s", time.monotonic() - began)
    s.check(host.run("pgrep -f '[d]rover-vmm.*--name'").out.split() == vmm, "the VMM is another one")
    check_harmless(s, guest, boot, stream)


def crash_in_migration(s, guest, boot, stream, role):
    source = guest.host
    target = next(h for h in s.lab.hosts if h is not source)
    s.say(f"kill -9 droverd on {source.name if role == 'source' else target.name}, "
          f"the {role} of a migration")
    other = next(h for h in s.lab.hosts if h not in (source, target))
    job = other.spawn(["drover", "vm", "migrate", guest.name, "--to", target.name, "--json"])
    end = time.monotonic() + 30
    while time.monotonic() < end and not s.cluster.vm(guest.name)["migration"]:
        time.sleep(0.02)
    kill_agent(source if role == "source" else target)
    try:
        for _ in job.chunks(180):
            pass
    except LabError:
        pass
    s.cluster.wait_nodes_up(60)
    vm = s.cluster.wait_vm(guest.name, lambda vm: not vm["migration"], 120)
    s.figure(f"{role}_crash_ended_on", "target" if vm["host"] == target.name else "source")
    check_harmless(s, guest, boot, stream)


def run(s):
    guest = s.create_vm(cpus=2)
    boot = records.status(guest.address)["boot"]
    records.Client(guest.address, 10).call("LOAD 48 4000")
    stream = records.Stream(guest.address)
    crash_at_rest(s, guest, boot, stream)
    for role in ("source", "target"):
        crash_in_migration(s, guest, boot, stream, role)
    s.figure("stream_gap_ms", stream.largest_gap_s * 1000)
    s.check(stream.stop() == "", f"the connection broke: {stream.broken}")
    s.check_records(guest)
    s.check_no_resets()
