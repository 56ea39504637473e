# SPDX-License-Identifier: Apache-2.0
"""A running VM moves to each other host while one TCP connection streams and records are written:
the connection survives, no record is lost or doubled."""
import statistics

from lab import records


def run(s):
    guest = s.create_vm(cpus=2)
    boot = records.status(guest.address)["boot"]
    records.Client(guest.address, 10).call("LOAD 32 2000")
    stream = records.Stream(guest.address)
    downtimes, totals, gaps = [], [], []
    for _ in range(2):
        source = guest.host
        target = next(h for h in s.lab.hosts if h is not source)
        stream.reset_gap()
        s.say(f"drover vm migrate {guest.name} --to {target.name}")
        s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, timeout=300)
        vm = s.cluster.wait_vm(guest.name, lambda vm: vm["host"] == target.name, 60)
        s.check(guest.writer.wait_count(50, 60), "no records are written after the move")
        gaps.append(stream.largest_gap_s * 1000)
        downtimes.append(float(vm["last_migration"]["downtime_ms"]))
        s.check(downtimes[-1] > 0, f"the move has no figures: {vm['last_migration']}")
        totals.append(float(vm["last_migration"]["total_ms"]))
    s.check(stream.stop() == "", f"the connection broke: {stream.broken}")
    s.check(guest.writer.connections == 1, "the writer had to connect again")
    s.check(records.status(guest.address)["boot"] == boot, "the VM was started anew")
    s.figure("downtime_ms", statistics.median(downtimes))
    s.figure("total_ms", statistics.median(totals))
    s.figure("stream_gap_ms", statistics.median(gaps))
    s.figure("stream_lines", stream.lines)
    s.check_records(guest)
    s.check_no_resets()
