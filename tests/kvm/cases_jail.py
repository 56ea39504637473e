# SPDX-License-Identifier: Apache-2.0
"""The jail (docs/jail.md): what a VMM that a guest has taken over can reach, and what a running VMM looks like from
outside."""
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time

from cases_storage import NEEDED, daemons, image_make, rounds_run
from process import BUILD, Vmm, guest, wait_until

PROBE = os.path.join(BUILD, "tests/kvm/jail_probe")
STORAGE_PROBE = os.path.join(BUILD, "tests/kvm/storage_probe")
STORAGE_OWN = {"own-image", "own-backing", "own-socket", "own-thread"}
OWN = {"own-disk", "own-thread", "own-ring", "own-socket-by-broker"}
# Without the filters: a new process or code in memory harm nobody outside; a new ring opens nothing, as there is nothing to open.
HARMLESS = {"new-process", "memory-as-code", "listener-connects", "listener-fast-open", "signal-all", "user-namespace",
            "groups", "bpf", "perf", "keyring"}


def probe(*words):
    done = subprocess.run([PROBE, *words], capture_output=True, text=True, timeout=120)
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith("why:")]
    assert done.returncode == 0 and len(lines) > 40, (done.returncode, done.stdout, done.stderr)
    return {name: what for what, name in lines}


def test_a_taken_vmm_reaches_only_what_is_its_own(folder):
    if os.geteuid() != 0:
        return
    found = probe()
    reached = {name for name, what in found.items() if what == "REACHED"}
    assert reached == OWN, f"reached {sorted(reached)}"
    assert "BROKEN" not in found.values(), found
    killed = {name for name, what in found.items() if what == "killed"}
    assert {"mount", "run-program", "bpf", "tcp", "broker-unknown", "broker-more"} <= killed, found


def test_without_the_filters_the_rest_still_holds(folder):
    if os.geteuid() != 0:
        return
    found = probe("off")
    reached = {name for name, what in found.items() if what == "REACHED"}
    assert OWN <= reached <= OWN | HARMLESS, f"reached {sorted(reached - OWN - HARMLESS)}"


def test_a_taken_launcher_starts_and_mounts_nothing(folder):
    if os.geteuid() != 0:
        return
    found = probe("launcher")
    reached = {name for name, what in found.items() if what == "REACHED"}
    by_name = {"open-file", "open-above-root", "open-proc", "open-device", "unix-socket", "unix-socket-abstract"}
    assert reached <= by_name | {"signal-outside", "signal-all", "more-files", "listener-connects"}, sorted(reached)
    assert "BROKEN" not in found.values(), found
    killed = {name for name, what in found.items() if what == "killed"}
    assert {"run-program", "mount", "trace-outside", "kernel-module", "bpf", "mount-namespace", "become-root"} <= killed, found


def storage_probe(*words):
    done = subprocess.run([STORAGE_PROBE, *words], capture_output=True, text=True, timeout=120)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    if done.returncode == 77:
        return None  # no root, or a build with sanitizers
    assert done.returncode == 0 and len(lines) > 40, (done.returncode, done.stdout, done.stderr)
    return {line[1]: line[0] for line in lines}


def test_a_taken_storage_daemon_reaches_only_its_image(folder):
    found = storage_probe()
    if found is None:
        return
    assert {name for name, what in found.items() if what == "REACHED"} == STORAGE_OWN, found
    assert "BROKEN" not in found.values(), found
    killed = {name for name, what in found.items() if what == "killed"}
    assert {"mount", "trace", "module", "bpf", "root", "user-namespace", "handle"} <= killed, found


def test_a_taken_storage_daemon_of_a_server_reaches_the_network_too(folder):
    found = storage_probe("network")
    if found is None:
        return
    assert {name for name, what in found.items() if what == "REACHED"} == STORAGE_OWN | {"tcp", "netlink", "unix-abstract"}, found


def test_without_its_filter_a_storage_daemon_is_still_jailed(folder):
    found = storage_probe("off")
    if found is None:
        return
    harmless = {"user-namespace", "new-process", "run-program", "run-by-descriptor", "ring", "key", "vsock", "netlink", "alg", "bpf",
                "perf", "signal-all"}
    reached = {name for name, what in found.items() if what == "REACHED"}
    assert STORAGE_OWN <= reached <= STORAGE_OWN | harmless, sorted(reached - STORAGE_OWN - harmless)


def landlock():
    """Whether this kernel has it: landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION)."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0


def test_a_device_as_backing_file_is_read_only_too(folder):
    base = os.path.join(folder, "base")
    with open(base, "wb") as file:
        file.truncate(4 << 20)
    if os.geteuid() != 0 or not shutil.which("losetup") or not landlock():
        return
    made = subprocess.run(["losetup", "-f", "--show", base], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return  # a machine without loop devices
    device = made.stdout.strip()
    try:
        done = subprocess.run([STORAGE_PROBE, "backing", device], capture_output=True, text=True, timeout=60)
        if done.returncode != 77:
            assert {line for line in done.stdout.splitlines() if "backing" in line} == {
                "REACHED own-backing", "refused backing-write Permission denied"}, (done.stdout, done.stderr)
            assert "REACHED own-image" in done.stdout, done.stdout
        if NEEDED:
            top = image_make(folder, "top.qcow2", "4M", "qcow2", "-b", device, "-F", "raw")
            rounds_run(folder, f"{top},format=qcow2", 1)
            with open(base, "rb") as file:
                assert file.read().strip(b"\0") == b"", "the backing device was written"
    finally:
        subprocess.run(["losetup", "-d", device], check=False)


def fields(pid, thread=None):
    path = f"/proc/{pid}/task/{thread}/status" if thread else f"/proc/{pid}/status"
    with open(path, encoding="ascii") as status:
        return dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)


def test_a_running_vmm_is_in_its_jail(folder):
    if os.geteuid() != 0:
        return
    disk = os.path.join(folder, "disk")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    with Vmm(folder, guest("timer"), "--disk", disk, "--user", "65432", serial=f"unix:{folder}/serial") as vm:
        pid = vm.pid()
        status = fields(pid)
        assert status["Uid"].split() == ["65432"] * 4 and status["Gid"].split() == ["65432"] * 4, status
        assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 0, (name, status[name])
        for thread in os.listdir(f"/proc/{pid}/task"):
            assert fields(pid, thread)["Seccomp"] == "2", f"thread {fields(pid, thread)['Name']} has no filter"
        assert fields(vm.process.pid)["Seccomp"] == "2", "the launcher has no filter"
        for space in ("mnt", "net", "pid", "ipc", "uts", "cgroup"):
            assert os.readlink(f"/proc/{pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}"), space
        assert status["NSpid"].split() == [str(pid), "1"]
        assert os.listdir(f"/proc/{pid}/root/") == []
        with open(f"/proc/{pid}/mountinfo", encoding="ascii") as mounts:
            mounts = mounts.read().splitlines()
        assert len(mounts) == 1 and " ro,nosuid,nodev,noexec" in mounts[0], mounts
        with open(f"/proc/{pid}/limits", encoding="ascii") as limits:
            assert any(line.split()[:5] == ["Max", "core", "file", "size", "0"] for line in limits)
        opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert disk in opened and not any(os.path.isdir(name) for name in opened), opened
        assert os.stat(f"/proc/{pid}/mem").st_uid == 0, "it may be dumped and traced"


def test_a_running_storage_daemon_is_in_its_jail(folder):
    if os.geteuid() != 0 or not NEEDED:
        return
    base = image_make(folder, "base.qcow2")
    image_make(folder, "beside.qcow2")
    top = image_make(folder, "top.qcow2", "4M", "qcow2", "-b", "base.qcow2", "-F", "qcow2")
    with Vmm(folder, guest("block"), "--disk", f"{top},format=qcow2") as vm:
        vm.wait_text("ack ")
        pid = daemons(vm)[0]
        with open(f"/proc/{vm.process.pid}/task/{vm.process.pid}/children", encoding="ascii") as children:
            family = {fields(child)["Name"]: child for child in children.read().split()}
        assert set(family) == {"drover-vmm", "drover-starter", "qemu-storage-da"}, family
        starter = family["drover-starter"]
        assert len(os.listdir(f"/proc/{starter}/fd")) == 4, "it has more than its standard streams and its launcher"
        status = fields(pid)
        assert status["Uid"].split() == [str(0x70000000 + vm.process.pid)] * 4 == status["Gid"].split(), status
        assert status["Groups"].strip() == "" and status["NoNewPrivs"] == "1"
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(status[name], 16) == 2, (name, status[name])  # CAP_DAC_OVERRIDE
        for thread in os.listdir(f"/proc/{pid}/task"):
            assert fields(pid, thread)["Seccomp"] == "2", "a thread without a filter"
        for space in ("mnt", "net", "pid", "ipc", "uts", "cgroup"):
            names = {os.readlink(f"/proc/{of}/ns/{space}") for of in (pid, vm.pid(), "self")}
            assert len(names) == 3, f"namespace {space} is shared"
        assert status["NSpid"].split() == [str(pid), "1"]
        with open(f"/proc/{pid}/mountinfo", encoding="ascii") as mounts:
            mounts = {line.split()[4]: line.split()[5].split(",") for line in mounts}
        writable = {place for place, flags in mounts.items() if "rw" in flags}
        assert writable == {top, "/drover"}, mounts
        assert base in mounts and not any("beside" in place for place in mounts), mounts
        assert all("nosuid" in flags for flags in mounts.values()), mounts
        assert os.listdir(f"/proc/{pid}/root{folder}") in (["base.qcow2", "top.qcow2"], ["top.qcow2", "base.qcow2"])
        assert os.path.isfile(f"/proc/{pid}/root/usr/bin/qemu-storage-daemon")
        assert os.listdir(f"/proc/{pid}/root/usr/bin") == ["qemu-storage-daemon"]
        opened = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        assert top in opened and not any(os.path.isdir(name) for name in opened), opened
        os.kill(vm.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(os.path.exists(f"/proc/{child}") for child in family.values()), 5, "all are gone with the launcher")


def test_a_vm_that_may_use_rdma_enters_its_jail_with_and_without_a_device(folder):
    with Vmm(folder, guest("timer"), "--rdma") as vm:
        assert vm.command("status")["state"] == "running", vm.command("status")
    with Vmm(folder, guest("timer"), "--incoming", "handed:192.0.2.1:7400", "--incoming-rdma", "127.0.0.1:0") as vm:
        status = vm.command("status")
        assert (status["state"], status["incoming_uri"]) == ("incoming", "handed:192.0.2.1:7400"), status


def test_each_vm_has_a_user_of_its_own(folder):
    if os.geteuid() != 0:
        return
    with Vmm(folder, guest("timer"), name="one") as one, Vmm(folder, guest("timer"), name="two") as two:
        users = [int(fields(vm.pid())["Uid"].split()[0]) for vm in (one, two)]
        assert users == [0x70000000 + one.pid(), 0x70000000 + two.pid()], users


def test_a_killed_launcher_takes_its_vmm_along(folder):
    with Vmm(folder, guest("timer")) as vm:
        vm.wait_text("tick 1")
        pid = vm.pid()
        vm.process.send_signal(signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), 5, "the VMM is gone")


def test_a_killed_vmm_ends_its_launcher_by_the_same_signal(folder):
    with Vmm(folder, guest("timer"), serial=f"unix:{folder}/serial") as vm:
        wait_until(lambda: vm.command("status")["state"] == "running", 5, "it runs")
        os.kill(vm.pid(), signal.SIGKILL)
        assert vm.ended(5)[0] == -signal.SIGKILL
        assert not os.path.exists(f"{folder}/serial") or os.geteuid() != 0, "its sockets are left"


def test_the_user_is_judged(folder):
    if os.geteuid() != 0:
        return
    for user, says in (("0", "give a number"), ("root", "is root"), ("no-such-user-here", "no such user")):
        vm = Vmm(folder, guest("timer"), "--user", user)
        status, said = vm.ended(10)
        assert status == 1 and says in said and said.count("\n") == 1, said


def test_a_closed_serial_client_and_signals_do_not_upset_the_jail(folder):
    with Vmm(folder, guest("timer"), serial=f"unix:{folder}/serial") as vm:
        for _ in range(5):
            client = socket.socket(socket.AF_UNIX)
            client.connect(f"{folder}/serial")
            client.recv(16)
            client.close()
        vm.command("pause")
        vm.command("resume")
        time.sleep(0.1)
        vm.process.send_signal(signal.SIGTERM)
        status, said = vm.ended(10)
        assert status == 0 and "signal 15" in said, said
