# SPDX-License-Identifier: Apache-2.0
"""A stock guest moves between two hosts over TCP and over RDMA (soft-RoCE), one beside the other; without a device on either
side it moves over TCP and says so; and the link is lost before the connection, during the rounds and in the handover: the
guest runs on exactly one side each time, and no record is lost."""
import json
import time

from lab import drover, records
from lab.paths import LabError
from lab.rdma import device, wide_frames

CLUSTER = False
ADDRESS, CONTROL, PORT = "10.77.0.109", "/run/vmm.sock", 9000
PATIENCE_MS = 3000
FINAL = ("completed", "failed", "cancelled", "unknown")


def start(host, *more):
    """drover-vmm in the background; returns when its control socket answers."""
    host.run("ip link show vmtap >/dev/null 2>&1 || "
             "{ ip tuntap add dev vmtap mode tap && ip link set vmtap master drover0 up; }")
    words = ["drover-vmm", "--name", "alone", "--memory", drover.GUEST_MEMORY, "--cpus", "1",
             "--kernel", drover.KERNEL, "--initrd", drover.INITRD,
             "--cmdline", f"console=ttyS0 quiet panic=-1 lab.address={ADDRESS}/24",
             "--disk", "/dev/disk/by-id/virtio-shared3", "--net", "tap=vmtap,mac=52:54:00:00:09:09",
             "--serial", "file:/run/vmm-console.log", "--control", CONTROL,
             "--patience", str(PATIENCE_MS), *more]
    host.run(f"for i in $(seq 300); do pgrep -x drover-vmm >/dev/null || exit 0; sleep 0.1; done; exit 1")
    job = host.spawn(words)
    host.run(f"for i in $(seq 300); do drover-vmm control {CONTROL} status >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1",
             timeout=90)
    return job


def control(host, *words, timeout=240, check=True):
    result = host.run(["drover-vmm", "control", CONTROL, *words], timeout=timeout, check=check)
    return json.loads(result.out) if result.out.strip() else {}


def state(host):
    """"" when nothing is there, or nothing that answers."""
    try:
        return control(host, "status", timeout=20, check=False).get("state", "")
    except (LabError, ValueError):
        return ""


def busy_s(host):
    """Seconds that the host's processors were busy since it started."""
    words = host.run("head -n 1 /proc/stat").out.split()
    return sum(int(words[i]) for i in (1, 2, 3, 6, 7)) / 100


def wait_end(s, source, timeout=180):
    end, migration = time.monotonic() + timeout, {}
    while time.monotonic() < end:
        migration = control(source, "status").get("migration") or {}
        if migration.get("status") in FINAL:
            return migration
        time.sleep(0.3)
    s.check(False, f"the move does not end: {migration}")
    return migration


def move(s, source, target, scheme, name=None):
    """Must succeed; returns what the source says of it. Its figures go by `name`."""
    uri = f"{scheme}:{target.address}:{PORT}"
    start(target, "--incoming", uri, *(["--rdma"] if scheme == "tcp" else []))
    before = busy_s(source) + busy_s(target)
    source.run(["drover-vmm", "control", CONTROL, "migrate", uri, "--max-downtime", "1500"], timeout=300)
    migration = wait_end(s, source)
    busy = busy_s(source) + busy_s(target) - before
    s.check(migration.get("status") == "completed", f"{uri}: {migration}")
    s.say(f"{uri}: {migration['total_ms']} ms, pause {migration['downtime_ms']} ms, notice '{migration['notice']}'")
    if name:
        s.figure(f"{name}_total_ms", migration["total_ms"])
        s.figure(f"{name}_downtime_ms", migration["downtime_ms"])
        s.figure(f"{name}_bytes_sent", migration["bytes_sent"])
        s.figure(f"{name}_host_cpu_s", busy)
        s.figure(f"{name}_mb_per_s", migration["bytes_sent"] / 1e3 / max(1, migration["total_ms"]))
    wait_alone(s, target, source)
    return migration


def wait_alone(s, running, other):
    """Until the guest runs on one host, and nothing of it is left on the other."""
    end = time.monotonic() + 60
    while time.monotonic() < end and not (state(running) == "running" and state(other) == ""):
        time.sleep(0.3)
    states = state(running), state(other)
    s.check(states == ("running", ""), f"{running.name} and {other.name} say {states}")


def check_writes(s, writer, what):
    s.check(writer.wait_count(20, 90), f"no records are written after: {what}")


def lose_before(s, source, target, writer):
    """The target can't be reached when the order comes."""
    start(target, "--incoming", f"rdma:{target.address}:{PORT}")
    target.link_cut()
    source.run(["drover-vmm", "control", CONTROL, "migrate", f"rdma:{target.address}:{PORT}"], timeout=120, check=False)
    migration = wait_end(s, source)
    s.check(migration["status"] == "failed", f"before the connection: {migration}")
    target.link_restore()
    control(target, "quit", check=False)
    wait_alone(s, source, target)
    check_writes(s, writer, "a link that was lost before the connection")


def lose_in_rounds(s, source, target, writer):
    """In the middle of a round that is slow enough."""
    start(target, "--incoming", f"rdma:{target.address}:{PORT}")
    job = source.spawn(["drover-vmm", "control", CONTROL, "migrate", f"rdma:{target.address}:{PORT}",
                        "--bandwidth", "2M"])
    end = time.monotonic() + 60
    while time.monotonic() < end and control(source, "status").get("migration", {}).get("bytes_sent", 0) < 4 << 20:
        time.sleep(0.2)
    target.link_cut()
    cut = time.monotonic()
    migration = wait_end(s, source)
    s.check(migration["status"] == "failed", f"during the rounds: {migration}")
    s.figure("lost_in_rounds_noticed_s", time.monotonic() - cut)
    job.kill()
    target.link_restore()
    control(target, "quit", check=False)
    wait_alone(s, source, target)
    check_writes(s, writer, "a link that was lost during the rounds")


def lose_in_handover(s, source, target, writer):
    """The source's link goes down as soon as it says that it hands over, which takes seconds, as the guest wrote to much until
    then. Returns where the guest is."""
    records.Client(ADDRESS, 10).call("LOAD 16 4000")
    start(target, "--incoming", f"rdma:{target.address}:{PORT}")
    job = source.spawn(f"(while [ ! -e /run/over ] && ! drover-vmm control {CONTROL} status | grep -q '\"status\": \"handover\"'; do :; done; "
                       "ip link set eth0 down; touch /run/lost) 2>/dev/null & "
                       f"drover-vmm control {CONTROL} migrate rdma:{target.address}:{PORT} --max-downtime 20000; wait")
    end = time.monotonic() + 180
    while time.monotonic() < end and source.run("test -e /run/lost", check=False).status != 0:
        if (control(source, "status").get("migration") or {}).get("status") in FINAL:
            break
        time.sleep(0.3)
    migration = wait_end(s, source)
    time.sleep(1)
    source.run("touch /run/over; sleep 1; ip link set eth0 up; rm -f /run/lost /run/over")
    job.kill()
    s.say(f"handover: {migration['status']} {migration.get('error', '')}")
    s.figure("lost_in_handover", migration["status"])
    end = time.monotonic() + 60
    while time.monotonic() < end and state(target) == "incoming":
        time.sleep(0.3)  # it still waits for a go that will not come
    arrived = state(target) == "running"
    if migration["status"] == "unknown" and not arrived:
        control(source, "reclaim")
    elif migration["status"] == "unknown":
        control(source, "quit", check=False)
    else:
        s.check(arrived == (migration["status"] == "completed"),
                f"the source says {migration['status']}, the target {state(target)}")
    here, there = (target, source) if arrived else (source, target)
    wait_alone(s, here, there)
    check_writes(s, writer, "a link that was lost in the handover")
    return here, there


def run(s):
    one, two = s.lab.hosts[:2]
    s.lab.wipe_shared_disk(3)
    wide_frames(s.lab)
    for host in (one, two):
        device(host, True)
    start(one, "--rdma")
    status = records.wait_answer(ADDRESS, 120)
    s.check(status is not None, "the guest does not answer within 120 s")
    writer = records.Writer(ADDRESS)
    s.check(writer.wait_count(20, 60), "20 records are not written within 60 s")

    over_tcp = move(s, one, two, "tcp", "tcp")
    over_rdma = move(s, two, one, "rdma", "rdma")
    s.check(over_rdma["notice"] == "" and over_tcp["notice"] == "", f"a notice: {over_tcp} {over_rdma}")
    s.check(over_rdma["bytes_placed"] > over_rdma["bytes_sent"] / 2, f"little was placed: {over_rdma}")
    s.figure("rdma_bytes_placed", over_rdma["bytes_placed"])
    check_writes(s, writer, "moves over TCP and RDMA")

    lose_before(s, one, two, writer)
    lose_in_rounds(s, one, two, writer)
    here, there = one, two

    device(there, False)
    fallen = move(s, here, there, "rdma")
    s.check(fallen["notice"].startswith("over TCP"), f"the target has no device, and no word of it: {fallen}")
    device(there, True)
    here, there = there, here
    fallen = move(s, here, there, "rdma")
    s.check("no RDMA device" in fallen["notice"], f"the source had no device, and no word of it: {fallen}")
    here, there = there, here
    check_writes(s, writer, "moves that fell back to TCP")
    here, there = lose_in_handover(s, here, there, writer)

    after = records.wait_answer(ADDRESS, 30)
    s.check(after is not None and after["boot"] == status["boot"], f"it is another guest: {after}")
    writer.stop()
    control(here, "stop")
    here.run("for i in $(seq 300); do pgrep -x drover-vmm || exit 0; sleep 0.1; done; exit 1")
    problems = records.check_disk(s.lab.shared_disk(3), writer.acknowledged)
    s.check(not problems, "; ".join(problems))
    s.figure("records_acknowledged", len(writer.acknowledged))


def end(s):
    for host in s.lab.hosts[:2]:
        host.link_restore()
        host.run(f"ip link set eth0 up; drover-vmm control {CONTROL} quit; ip link del vmtap; rm -f {CONTROL}; true")
