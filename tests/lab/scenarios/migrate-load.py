# SPDX-License-Identifier: Apache-2.0
"""A guest that writes to its memory and to its disk all the time moves 20 times, back and forth between two hosts, while a TCP
connection streams: it never breaks, no byte of it, no page and no record is lost."""
import os
import statistics

from lab import records

# Each takes a quarter of a minute in emulated hosts: deploy/check is content with fewer.
MOVES = int(os.environ.get("DROVER_LAB_MOVES", "20"))
WRITERS, HELD_MIB = 2, 8


def guest_call(s, guest, line):
    answer = records.Client(guest.address, 10, 60).call(line)
    s.check(answer == "OK 0", f"the guest answers '{line}' with '{answer}'")


def check_writers(s, writers, count):
    for writer in writers:
        s.check(writer.wait_count(count, 60), f"{writer.name_} writes no records after the move")


def run(s):
    guest = s.create_vm(cpus=1)
    boot = records.status(guest.address)["boot"]
    guest_call(s, guest, f"FILL {HELD_MIB}")
    guest_call(s, guest, "LOAD 8 1000")
    stream = records.Stream(guest.address)
    # Beside the guest's own writer, those that never rest: each record is durable before the next one is asked for.
    s.writers = [records.Writer(guest.address, f"load{n}", 0) for n in range(WRITERS)]
    writers = [guest.writer, *s.writers]
    there = guest.host
    here = next(h for h in s.lab.hosts if h is not there)
    downtimes, totals, gaps = [], [], []
    for number in range(MOVES):
        stream.reset_gap()
        s.cluster.ask("vm", "migrate", guest.name, "--to", here.name, "--max-downtime", "2000", timeout=300)
        vm = s.cluster.wait_vm(guest.name, lambda vm, host=here: vm["host"] == host.name, 60)
        check_writers(s, writers, 5)
        s.check(stream.broken == "", f"the connection broke in move {number + 1}: {stream.broken}")
        downtimes.append(float(vm["last_migration"]["downtime_ms"]))
        totals.append(float(vm["last_migration"]["total_ms"]))
        gaps.append(stream.largest_gap_s * 1000)
        s.say(f"move {number + 1} to {here.name}: {totals[-1]:.0f} ms, pause {downtimes[-1]:.1f} ms")
        here, there = there, here
    guest_call(s, guest, "CHECK")
    for name, values in (("downtime_ms", downtimes), ("total_ms", totals), ("stream_gap_ms", gaps)):
        s.figure(name, statistics.median(values))
        s.figure(name + "_longest", max(values))
    s.figure("stream_lines", stream.lines)
    s.check(stream.stop() == "", f"the connection broke: {stream.broken}")
    for writer in writers:
        s.check(writer.connections == 1, f"{writer.name_} had to connect again")
    s.check(records.status(guest.address)["boot"] == boot, "the VM was started anew")
    s.check_records(guest, *s.writers)
    s.check_no_resets()


def end(s):
    for writer in getattr(s, "writers", []):
        writer.stop()
