# SPDX-License-Identifier: Apache-2.0
"""Disks behind a storage daemon (qcow2, LUKS, NBD...), with the guest of cases_disk.py: what it was told is never lost."""
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import time

from cases_disk import BLOCKS, acked, assert_disk_holds, assert_no_wrong, refused
from process import LEASE, Vmm, boottime_ns, field, guest, wait_until

DAEMON = "/usr/bin/qemu-storage-daemon"
NEEDED = shutil.which("qemu-img") and os.path.exists(DAEMON)


def img(*words):
    subprocess.run(["qemu-img", *words], check=True, capture_output=True)


def image_make(folder, name="disk.qcow2", size="4M", form="qcow2", *words):
    path = os.path.join(folder, name)
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *words, path, size], check=True, capture_output=True,
                   cwd=os.path.dirname(path))
    return path


def assert_image_holds(folder, path, last, form="qcow2"):
    if form == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", path], check=True)
    raw = os.path.join(folder, "content")
    img("convert", "-U", "-f", form, "-O", "raw", path, raw)
    assert_disk_holds(raw, last)


def daemons(vm):
    """The storage daemons of a VM."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            with open(path, encoding="ascii") as file:
                name, rest = file.read().rsplit(")", 1)
            if "qemu-storage" in name and int(rest.split()[1]) == vm.process.pid:
                found.append(int(name.split()[0]))
    return found


def log(vm):
    """What the VMM has said so far."""
    os.set_blocking(vm.process.stderr.fileno(), False)
    with contextlib.suppress(BlockingIOError):
        vm.said = getattr(vm, "said", "") + os.read(vm.process.stderr.fileno(), 1 << 16).decode()
    return getattr(vm, "said", "")


def rounds_run(folder, disk, rounds=2):
    vm = Vmm(folder, guest("block"), "--disk", disk, cmdline=f"rounds={rounds}")
    status, said = vm.ended(60)
    assert status == 0, said
    assert_no_wrong(vm.text())
    assert f"verified {rounds * BLOCKS - 1}\n" in vm.text(), vm.text()[-300:]


def test_qcow2_keeps_what_was_acknowledged(folder):
    path = image_make(folder)
    rounds_run(folder, f"{path},format=qcow2")
    assert_image_holds(folder, path, 2 * BLOCKS - 1)


def test_qcow2_with_backing_file_leaves_it_alone(folder):
    base = image_make(folder, "base.qcow2")
    rounds_run(folder, f"{base},format=qcow2", 1)
    with open(base, "rb") as file:
        before = file.read()
    top = image_make(folder, "top.qcow2", "4M", "qcow2", "-b", base, "-F", "qcow2")
    vm = Vmm(folder, guest("block"), "--disk", f"{top},format=qcow2,direct", name="top",
             cmdline=f"rounds=1 from={BLOCKS}")
    assert vm.ended(60)[0] == 0
    assert f"verified {BLOCKS - 1}\n" in vm.text() and f"verified {2 * BLOCKS - 1}\n" in vm.text(), vm.text()[-300:]
    with open(base, "rb") as file:
        assert file.read() == before, "the backing file was written"


def test_other_formats_keep_what_was_acknowledged(folder):
    for form in ("vmdk", "vdi", "vhdx"):
        path = image_make(folder, f"disk.{form}", "4M", form)
        rounds_run(folder, f"{path},format={form}", 1)
        assert_image_holds(folder, path, BLOCKS - 1, form)


def test_luks_needs_its_key(folder):
    key, wrong = os.path.join(folder, "key"), os.path.join(folder, "wrong")
    for path, text in ((key, "secret"), (wrong, "guess")):
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    path = os.path.join(folder, "disk.luks")
    img("create", "-q", "-f", "luks", "--object", f"secret,id=k,file={key}", "-o", "key-secret=k,iter-time=100", path, "4M")
    rounds_run(folder, f"{path},format=luks,key={key}", 1)
    assert "needs key=FILE" in refused(folder, "--disk", f"{path},format=luks")
    assert "does not open disk" in refused(folder, "--disk", f"{path},format=luks,key={wrong}")
    assert "can't be read" in refused(folder, "--disk", f"{path},format=luks,key={folder}/nowhere")


def test_nbd_keeps_what_was_acknowledged(folder):
    path, socket = os.path.join(folder, "disk"), os.path.join(folder, "nbd.sock")
    with open(path, "wb") as file:
        file.truncate(4 << 20)
    if shutil.which("qemu-nbd") is None:
        return
    with subprocess.Popen(["qemu-nbd", "-t", "-f", "raw", "-k", socket, "-x", "one", path]) as server:
        try:
            wait_until(lambda: os.path.exists(socket), 10, "the server")
            rounds_run(folder, f"nbd+unix:///one?socket={socket}", 1)
        finally:
            server.kill()
    assert_disk_holds(path, BLOCKS - 1)
    assert "Connection refused" in refused(folder, "--disk", f"nbd+unix:///one?socket={socket}")


def test_moves_of_a_qcow2_lose_nothing(folder):
    path = image_make(folder)
    machines = [Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", name="hop0")]
    try:
        machines[0].__enter__().wait_text("ack ")
        for hop in range(1, 4):
            source = machines[-1]
            target = Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", "--incoming", "tcp:127.0.0.1:0",
                         name=f"hop{hop}")
            machines.append(target)
            target.__enter__()
            done = source.command("migrate", target.command("status")["incoming_uri"])
            assert done["status"] == "completed", done
            target.wait_text("ack ")
        machines[-1].command("pause")
        text = "".join(vm.text() for vm in machines)
        assert_no_wrong(text)
        numbers = [int(n) for n in re.findall(r"ack (\d+)\n", text)]
        assert numbers == list(range(15, numbers[-1] + 1, 16)), "an acknowledgement is missing or doubled"
    finally:
        for vm in machines:
            vm.__exit__()
    assert_image_holds(folder, path, acked(text))


def test_move_to_another_image_fails_and_the_guest_stays(folder):
    path, other = image_make(folder), image_make(folder, "other.qcow2", "8M")
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", name="source") as source, \
            Vmm(folder, guest("block"), "--disk", f"{other},format=qcow2", "--incoming", "tcp:127.0.0.1:0",
                name="target") as target:
        source.wait_text("ack ")
        line = source.command("migrate", target.command("status")["incoming_uri"], fails=True)
        assert "is it the same disk?" in line, line
        stood = source.text()
        wait_until(lambda: acked(source.text()) > acked(stood), 10, "the source goes on")
        assert "is in use" in refused(folder, "--disk", f"{path},format=qcow2"), "the source has lost its lock"


def test_killed_daemon_is_replaced_and_nothing_is_lost(folder):
    path = image_make(folder)
    # All clusters are there: a flush leaves nothing in the daemon that could be lost.
    rounds_run(folder, f"{path},format=qcow2", 1)
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", cmdline=f"from={BLOCKS}") as vm:
        vm.wait_text("ack ")
        resets = 0
        for _ in range(3):
            stood = vm.text()
            os.kill(wait_until(lambda: daemons(vm), 10, "a daemon")[0], signal.SIGKILL)
            wait_until(lambda: acked(vm.text()) != acked(stood) or log(vm).count("guest is reset") > resets, 10,
                       "the guest goes on")
            resets = log(vm).count("guest is reset")
        assert "its storage daemon has died" in log(vm), log(vm)
        assert "its storage daemon is back" in log(vm), log(vm)
        if resets == 0:
            assert_no_wrong(vm.text())


def test_lost_lease_stops_a_daemons_writes(folder):
    path = image_make(folder)
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", "--vm-id", "7", "--epoch", "1", "--ha") as vm:
        client = vm.client()
        for _ in range(3):
            stood, deadline = vm.text(), 0
            while acked(vm.text()) <= acked(stood):
                deadline = boottime_ns() + 500_000_000
                assert client.order(LEASE, field(1, deadline), vm_id=7, epoch=1)[0] == 0
                time.sleep(0.1)
            wait_until(lambda: vm.command("status")["state"] == "frozen", 5, "the freeze")
            written = os.stat(path).st_mtime_ns
            time.sleep(0.1)
            assert os.stat(path).st_mtime_ns == written, "the disk was written without a lease"
            offset = time.time_ns() - boottime_ns()
            assert written - offset < deadline + 20_000_000, "the disk was written after the deadline"
        assert_no_wrong(vm.text())
        last = acked(vm.text())
        vm.command("quit")
        assert os.stat(path).st_mtime_ns == written, "the disk was written at the end, without a lease"
    assert_image_holds(folder, path, last)


def test_hung_daemon_does_not_keep_a_vm_from_freezing(folder):
    path = image_make(folder)
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", "--vm-id", "7", "--epoch", "1", "--ha") as vm:
        client = vm.client()
        assert client.order(LEASE, field(1, boottime_ns() + 3_000_000_000), vm_id=7, epoch=1)[0] == 0
        vm.wait_text("ack ")
        hung = daemons(vm)[0]
        os.kill(hung, signal.SIGSTOP)
        wait_until(lambda: vm.command("status")["state"] == "frozen", 10, "the freeze")
        assert not os.path.exists(f"/proc/{hung}"), "the daemon that hung is still there"
        assert "it is killed" in log(vm), log(vm)


def test_killed_vmm_takes_its_daemon_along(folder):
    path = image_make(folder)
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", name="first") as vm:
        wait_until(lambda: acked(vm.text()) > BLOCKS // 2, 30, "some acknowledgements")
        mine = daemons(vm)
        os.kill(vm.process.pid, signal.SIGKILL)
        last = acked(vm.text())
    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in mine), 5, "the daemon's end")
    assert_image_holds(folder, path, last)


def test_a_killed_launcher_leaves_nothing_for_long(folder):
    """The folder of a storage daemon without a jail goes when the next such VM makes its own; those of VMs that run stay."""
    def folders(vm):
        return glob.glob(f"/run/drover-storage-{vm.process.pid}-*") + glob.glob(f"/tmp/drover-storage-{vm.process.pid}-*")

    def start(name):
        path = image_make(folder, f"{name}.qcow2")
        return Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2", "--no-jail", name=name)

    with start("one") as lost:
        lost.wait_text("ack ")
        assert len(folders(lost)) == 1
        os.kill(lost.process.pid, signal.SIGKILL)
        lost.process.wait()
        with start("two") as vm:
            vm.wait_text("ack ")
            assert folders(lost) == [] and len(folders(vm)) == 1
            with start("three") as other:
                other.wait_text("ack ")
                assert len(folders(vm)) == 1, "a running VM's folder was taken away"
        assert folders(vm) == []


def test_a_jailed_daemon_leaves_nothing_on_the_host(folder):
    if os.geteuid() != 0:
        return
    path = image_make(folder)
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2") as vm:
        vm.wait_text("ack ")
        assert glob.glob(f"/run/drover-storage-{vm.process.pid}-*") == []


def test_backing_files_are_found_by_relative_names_links_and_in_chains(folder):
    os.mkdir(os.path.join(folder, "base"))
    os.mkdir(os.path.join(folder, "disks"))
    raw = os.path.join(folder, "base/zero.raw")
    with open(raw, "wb") as file:
        file.truncate(4 << 20)
    os.symlink(raw, os.path.join(folder, "base/link"))
    image_make(folder, "base/one.qcow2", "4M", "qcow2", "-b", "link", "-F", "raw")
    image_make(folder, "disks/three.qcow2", "4M", "qcow2", "-b", "../base/one.qcow2", "-F", "qcow2")
    top = image_make(folder, "disks/top.qcow2", "4M", "qcow2", "-b", "json:" + json.dumps(
        {"driver": "qcow2", "file": {"driver": "file", "filename": f"{folder}/disks/three.qcow2"}}), "-F", "qcow2")
    rounds_run(folder, f"{top},format=qcow2", 1)
    here = os.getcwd()
    os.chdir(folder)
    try:
        rounds_run(folder, "disks/three.qcow2,format=qcow2", 1)
    finally:
        os.chdir(here)
    flat = image_make(folder, "disks/flat.vmdk", "4M", "vmdk", "-o", "subformat=monolithicFlat")
    rounds_run(folder, f"{flat},format=vmdk", 1)


def test_images_that_are_not_what_they_claim_are_refused(folder):
    path = image_make(folder)
    raw = os.path.join(folder, "raw")
    with open(raw, "wb") as file:
        file.truncate(1 << 20)
    assert "add ,format=qcow2" in refused(folder, "--disk", path)
    assert "give format=raw" in refused(folder, "--disk", f"{raw},format=qcow2")
    assert "give format=qcow2" in refused(folder, "--disk", f"{path},format=vmdk")
    assert "nowhere" in refused(folder, "--disk", f"{folder}/nowhere,format=qcow2")
    with Vmm(folder, guest("block"), "--disk", f"{path},format=qcow2") as vm:
        vm.wait_text("ack ")
        assert "is in use by another VM" in refused(folder, "--disk", f"{path},format=qcow2")
    lost = image_make(folder, "lost.qcow2", "4M", "qcow2", "-u", "-b", f"{folder}/gone", "-F", "qcow2")
    assert "backing file" in refused(folder, "--disk", f"{lost},format=qcow2")
    with open(path, "r+b") as file:
        file.seek(72)
        file.write((2).to_bytes(8, "big"))  # the header's mark of corruption
    assert f"qemu-img check -f qcow2 {path}" in refused(folder, "--disk", f"{path},format=qcow2")
    path = image_make(folder, "table.qcow2")
    with open(path, "r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 8)  # where its table of clusters is
    assert f"qemu-img check -f qcow2 {path}" in refused(folder, "--disk", f"{path},format=qcow2")
    line = refused(folder, "--disk", f"{folder}/whole.qcow2,format=qcow2", "--mergeable")
    assert "leave out --mergeable" in line, line
    assert "can't be reached" in refused(folder, "--disk", f"{raw},iops=5000,bps=1M")


if not NEEDED:
    for name in [name for name in globals() if name.startswith("test_")]:
        del globals()[name]
    print(f"skip: disks behind a storage daemon: no {DAEMON} or qemu-img")
