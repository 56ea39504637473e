# SPDX-License-Identifier: Apache-2.0
"""A stock guest with a disk and a network under load runs in its jail, is paused and resumed, has clients on its serial port,
and moves to another host: no system call is refused to it, and from outside it looks as docs/jail.md says."""
import json
import re
import time

from lab import drover, records

CLUSTER = False
ADDRESS, CONTROL, SERIAL = "10.77.0.110", "/run/jail.control", "/run/jail.serial"
NAMESPACES = ("mnt", "net", "pid", "ipc", "uts", "cgroup")


def start(host, *more):
    host.run("ip link show jailtap >/dev/null 2>&1 || "
             "{ ip tuntap add dev jailtap mode tap && ip link set jailtap master drover0 up; }")
    host.run("dmesg -C")
    job = host.spawn(
        ["drover-vmm", "--name", "jailed", "--memory", drover.GUEST_MEMORY, "--cpus", "2", "--kernel", drover.KERNEL,
         "--initrd", drover.INITRD, "--cmdline", f"console=ttyS0 quiet panic=-1 lab.address={ADDRESS}/24",
         "--disk", "/dev/disk/by-id/virtio-shared3", "--net", "tap=jailtap,mac=52:54:00:00:0a:0a",
         "--serial", f"unix:{SERIAL}", "--control", CONTROL, *more])
    host.run(f"for i in $(seq 300); do drover-vmm control {CONTROL} status >/dev/null 2>&1 && exit 0; sleep 0.1; done; exit 1",
             check=False)
    return job


def control(host, *words):
    return json.loads(host.run(["drover-vmm", "control", CONTROL, *words], timeout=180).out)


def check_jailed(s, host):
    """By what the host's kernel says of the process."""
    pid = control(host, "status")["pid"]
    text = host.run(f"cat /proc/{pid}/status").out
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    user = str(0x70000000 + pid)
    s.check(fields["Uid"].split() == [user] * 4 and fields["Gid"].split() == [user] * 4, f"user {fields['Uid']}")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        s.check(int(fields[name], 16) == 0, f"{name} {fields[name]}")
    s.check(fields["NoNewPrivs"].strip() == "1" and fields["NSpid"].split()[-1] == "1", "privileges, or its pid")
    filters = host.run(f"grep -h ^Seccomp: /proc/{pid}/task/*/status").out.split()[1::2]
    s.check(len(filters) >= 4 and set(filters) == {"2"}, f"filters of its threads: {filters}")
    for name in NAMESPACES:
        same = host.run(f"[ $(readlink /proc/{pid}/ns/{name}) = $(readlink /proc/1/ns/{name}) ]", check=False).status == 0
        s.check(not same, f"namespace {name} is the host's")
    s.check(host.run(f"ls -A /proc/{pid}/root/").out.strip() == "", "its root is not empty")
    mounts = host.run(f"cat /proc/{pid}/mountinfo").out.splitlines()
    s.check(len(mounts) == 1 and " ro,nosuid,nodev,noexec" in mounts[0], f"mounts {mounts}")
    folders = host.run(f"for f in /proc/{pid}/fd/*; do [ -d $f ] && readlink $f; done; true").out
    s.check(folders.strip() == "", f"open folders: {folders}")
    s.check(host.run(f"cat /proc/{pid}/net/dev").out.count(":") == 1, "it sees other interfaces than its own loopback")


def check_no_kill(s, host):
    log = host.run("dmesg").out
    s.check(not re.search(r"type=1326|seccomp|SECCOMP", log), f"a refused system call: {log[-400:]}")


def run(s):
    source, target = s.lab.hosts[:2]
    s.lab.wipe_shared_disk(3)
    start(source)
    s.check(records.wait_answer(ADDRESS, 150) is not None, "the guest does not answer within 150 s")
    check_jailed(s, source)
    writer = records.Writer(ADDRESS)
    s.check(writer.wait_count(50, 60), "50 records are not written within 60 s")
    for _ in range(3):
        source.run(f"timeout 1 socat -u UNIX-CONNECT:{SERIAL} - | head -c 200", check=False)
    for _ in range(5):
        control(source, "pause")
        control(source, "resume")
    s.check(writer.wait_count(30, 60), "no records after pause and resume")
    start(target, "--incoming", f"tcp:{target.address}:9000")
    source.run(["drover-vmm", "control", CONTROL, "migrate", f"tcp:{target.address}:9000"], timeout=180)
    end = time.monotonic() + 60
    while time.monotonic() < end and control(target, "status")["state"] != "running":
        time.sleep(0.2)
    check_jailed(s, target)
    s.check(writer.wait_count(30, 60), "no records after the move")
    s.check(writer.connections == 1, "the connection broke")
    for host in (source, target):
        check_no_kill(s, host)
    writer.stop()
    target.run(["drover-vmm", "control", CONTROL, "quit"], check=False)
    time.sleep(2)
    s.check(target.run(f"ls {SERIAL} {CONTROL}", check=False).status != 0, "its sockets are left")
    problems = records.check_disk(s.lab.shared_disk(3), writer.acknowledged)
    s.check(not problems, "; ".join(problems))
    s.figure("records_acknowledged", len(writer.acknowledged))
    s.check_no_resets()


def end(s):
    for host in s.lab.hosts[:2]:
        host.run(f"[ -S {CONTROL} ] && timeout 5 drover-vmm control {CONTROL} quit >/dev/null; ip link del jailtap; true", check=False)
