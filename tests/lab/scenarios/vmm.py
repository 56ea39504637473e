# SPDX-License-Identifier: Apache-2.0
"""drover-vmm alone, without a cluster, as its contract says: a stock kernel boots on one host, moves
to another while a connection streams, and shuts down at its power button."""
import json
import time

from lab import drover, records

CLUSTER = False
ADDRESS, CONTROL = "10.77.0.109", "/run/vmm.sock"


def start(host, *more):
    """drover-vmm in the background, with a tap on the host's bridge."""
    host.run("ip tuntap add dev vmtap mode tap && ip link set vmtap master drover0 up")
    words = ["drover-vmm", "--name", "alone", "--memory", drover.GUEST_MEMORY, "--cpus", "2",
             "--kernel", drover.KERNEL, "--initrd", drover.INITRD,
             "--cmdline", f"console=ttyS0 quiet panic=-1 lab.address={ADDRESS}/24",
             "--disk", "/dev/disk/by-id/virtio-shared3", "--net", "tap=vmtap,mac=52:54:00:00:09:09",
             "--serial", "file:/run/vmm-console.log", "--control", CONTROL, *more]
    return host.spawn(words)


def control(host, *words, timeout=120):
    return json.loads(host.run(["drover-vmm", "control", CONTROL, *words], timeout=timeout).out)


def figures(s, host, stream):
    """Waits for the end of the source's migration; the figures it reports."""
    end = time.monotonic() + 120
    status = {}
    while time.monotonic() < end:
        status = control(host, "status")
        migration = status.get("migration") or {}
        if migration.get("status") in ("completed", "failed", "cancelled"):
            break
        time.sleep(0.2)
    s.check(status.get("migration", {}).get("status") == "completed", f"migration: {status}")
    for name in ("total_ms", "downtime_ms", "bytes_sent", "rounds"):
        s.figure(name, status["migration"][name])
    s.figure("stream_gap_ms", stream.largest_gap_s * 1000)


def run(s):
    source, target = s.lab.hosts[:2]
    s.lab.wipe_shared_disk(3)
    began = time.monotonic()
    job = start(source)
    status = records.wait_answer(ADDRESS, 90)
    if not status:
        s.say(source.run("tail -n 3 /run/vmm-console.log; true").out)
        if not s.lab.hosts[0].run("pgrep drover-vmm", check=False).out:
            s.say("".join(data.decode() for _, data in job.chunks(5)))
    s.check(status is not None, "the guest does not answer within 90 s")
    s.figure("start_to_answer_s", time.monotonic() - began)
    s.check((status["cpus"], status["disks"], status["nics"]) == (2, 1, 1), f"it sees {status}")

    writer, stream = records.Writer(ADDRESS), records.Stream(ADDRESS)
    s.check(writer.wait_count(50, 30), "50 records are not written within 30 s")
    start(target, "--incoming", f"tcp:{target.address}:9000")
    target.run(f"for i in $(seq 100); do [ -S {CONTROL} ] && exit 0; sleep 0.1; done; exit 1")
    stream.reset_gap()
    source.run(["drover-vmm", "control", CONTROL, "migrate", f"tcp:{target.address}:9000"],
               timeout=180)
    figures(s, source, stream)
    s.check(writer.wait_count(50, 60), "no records are written after the move")
    s.check(stream.stop() == "" and writer.connections == 1, f"it broke: {stream.broken}")
    count = len(writer.answer_times)
    after = records.wait_answer(ADDRESS, 20)
    s.check(after is not None, "it takes no new connection; its old one brought "
            f"{len(writer.answer_times) - count} more records")
    s.check(after["boot"] == status["boot"], "it is another guest")
    writer.stop()
    control(target, "stop")
    target.run("for i in $(seq 300); do pgrep drover-vmm || exit 0; sleep 0.1; done; exit 1")
    problems = records.check_disk(s.lab.shared_disk(3), writer.acknowledged)
    s.check(not problems, "; ".join(problems))
    s.figure("records_acknowledged", len(writer.acknowledged))


def end(s):
    for host in s.lab.hosts[:2]:
        host.run(f"drover-vmm control {CONTROL} quit; ip link del vmtap; rm -f {CONTROL}; true")
