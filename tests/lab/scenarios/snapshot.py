# SPDX-License-Identifier: Apache-2.0
"""A stock guest is snapshotted while it serves, once more while it stands, is switched off, comes back from the folder as if
nothing had been, and moves to another host: no record that it acknowledged is lost, and its connections live through the move."""
import json
import time

from lab import drover, records

CLUSTER = False
ADDRESS, CONTROL = "10.77.0.109", "/run/vmm.sock"
FOLDER = "/var/lib/drover/snapshot"


def tap(host):
    host.run("ip link show vmtap >/dev/null 2>&1 || "
             "{ ip tuntap add dev vmtap mode tap && ip link set vmtap master drover0 up; }")


def start(host, *more):
    """drover-vmm in the background; returns when its control socket answers."""
    tap(host)
    words = ["drover-vmm", "--name", "alone", "--memory", drover.GUEST_MEMORY, "--cpus", "2",
             "--kernel", drover.KERNEL, "--initrd", drover.INITRD,
             "--cmdline", f"console=ttyS0 quiet panic=-1 lab.address={ADDRESS}/24",
             "--disk", "/dev/disk/by-id/virtio-shared3", "--net", "tap=vmtap,mac=52:54:00:00:09:09",
             "--serial", "file:/run/vmm-console.log", "--control", CONTROL, *more]
    job = host.spawn(words)
    host.run(f"for i in $(seq 300); do drover-vmm control {CONTROL} status >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1",
             check=False)
    return job


def control(host, *words, timeout=180):
    return json.loads(host.run(["drover-vmm", "control", CONTROL, *words], timeout=timeout).out)


def moved(s, source, target):
    start(target, "--incoming", f"tcp:{target.address}:9000")
    source.run(["drover-vmm", "control", CONTROL, "migrate", f"tcp:{target.address}:9000"], timeout=180)
    end = time.monotonic() + 60
    while time.monotonic() < end and control(target, "status")["state"] != "running":
        time.sleep(0.2)
    s.check(control(target, "status")["state"] == "running", "it does not run on the other host")


def run(s):
    source, target = s.lab.hosts[:2]
    s.lab.wipe_shared_disk(3)
    source.run(f"rm -rf {FOLDER} {FOLDER}-running")
    job = start(source)
    status = records.wait_answer(ADDRESS, 120)
    if not status:
        s.say(source.run("tail -n 3 /run/vmm-console.log; true").out)
        s.say("".join(data.decode() for _, data in job.chunks(5)))
    s.check(status is not None, "the guest does not answer within 120 s")
    writer = records.Writer(ADDRESS)
    s.check(writer.wait_count(50, 60), "50 records are not written within 60 s")

    figures = control(source, "snapshot", FOLDER + "-running")
    s.check(figures["status"] == "completed", f"snapshot: {figures}")
    for name in ("total_ms", "pause_ms", "bytes_written", "rounds"):
        s.figure("running_" + name, figures[name])
    s.check(writer.wait_count(30, 60), "no records are written after the snapshot")
    # Its disk has gone on, and is a block device: not without a person's word.
    said = source.run(["drover-vmm", "--name", "again", "--memory", drover.GUEST_MEMORY, "--cpus", "2", "--kernel",
                       drover.KERNEL, "--disk", "/dev/disk/by-id/virtio-shared3", "--net", "tap=vmtap", "--serial", "none",
                       "--control", "/run/again.sock", "--incoming", f"file:{FOLDER}-running"], check=False)
    s.check(said.status == 1 and len(said.err.strip().splitlines()) <= 2, f"a second one: {said.status} {said.err}")

    control(source, "pause")
    figures = control(source, "snapshot", FOLDER)
    control(source, "quit")
    source.run("for i in $(seq 100); do pgrep -x drover-vmm || exit 0; sleep 0.1; done; exit 1")
    count = len(writer.answer_times)
    off = time.monotonic()
    start(source, "--incoming", f"file:{FOLDER},force")
    began = time.monotonic()
    control(source, "resume")
    s.check(writer.wait_count(20, 60), "it writes no records after it came back")
    s.figure("resume_to_records_s", time.monotonic() - began)
    s.figure("off_s", began - off)
    again = records.wait_answer(ADDRESS, 60)
    s.check(again is not None and again["boot"] == status["boot"], f"it is another guest: {again}")
    s.say(f"{len(writer.answer_times) - count} records since it came back")

    # While it was off its peer may have lost patience.
    connections = writer.connections
    moved(s, source, target)
    s.check(writer.wait_count(30, 60), "no records are written after the move")
    s.check(writer.connections == connections, "the connection broke in the move")
    after = records.wait_answer(ADDRESS, 60)
    s.check(after is not None and after["boot"] == status["boot"], "it is another guest after the move")
    writer.stop()
    control(target, "stop")
    target.run("for i in $(seq 300); do pgrep -x drover-vmm || exit 0; sleep 0.1; done; exit 1")
    problems = records.check_disk(s.lab.shared_disk(3), writer.acknowledged)
    s.check(not problems, "; ".join(problems))
    s.figure("records_acknowledged", len(writer.acknowledged))


def end(s):
    for host in s.lab.hosts[:2]:
        host.run(f"drover-vmm control {CONTROL} quit; ip link del vmtap; rm -rf {CONTROL} {FOLDER} {FOLDER}-running; true")
