# SPDX-License-Identifier: Apache-2.0
"""Snapshots of running guests, and guests that come back from them: with all their memory, disks as they were, and clocks
that never go back. A snapshot that can't be made harms nobody; one that is damaged is refused in one line."""
import os
import re
import shutil
import subprocess
import time

from cases_disk import assert_no_wrong, disk_make
from process import VMM, Vmm, boottime_ns, field, guest, wait_until

BEAT = re.compile(r"beat (\d+) writes (\d+) checked (\d+) errors (\d+) ")
DIRTY = "used=8 hot=2 rate=2000 khz=2000000"


def beats(vm):
    return [tuple(map(int, found)) for found in BEAT.findall(vm.text())]


def wait_beats(vm, count):
    """`count` more; none of them may have found a page that lost a write."""
    before = len(beats(vm))
    wait_until(lambda: len(beats(vm)) >= before + count, 30, "beats of the guest")
    assert beats(vm)[-1][3] == 0, beats(vm)[-1]


def restored(folder, snapshot, *options, name="two", **more):
    return Vmm(folder, guest("checker"), "--incoming", "file:" + snapshot, *options, name=name, cmdline=DIRTY, **more)


def dirtier(folder, *options, **more):
    return Vmm(folder, guest("checker"), *options, cmdline=DIRTY, **more)


def refused(folder, snapshot, *options, name="two", **more):
    """The one line in which a restore is refused."""
    status, said = restored(folder, snapshot, *options, name=name, **more).ended()
    assert status == 1 and said.count("\n") == 1, f"{status} {said}"
    return said


def taken(folder, *options, **more):
    """A folder with a snapshot of the guest that checks its memory."""
    snapshot = os.path.join(folder, "snapshot")
    with dirtier(folder, *options, **more) as vm:
        wait_beats(vm, 2)
        vm.command("snapshot", snapshot)
        vm.command("quit")
    return snapshot


def test_snapshot_of_running_guest_comes_back_whole(folder):
    snapshot = os.path.join(folder, "snapshot")
    with dirtier(folder) as vm:
        wait_beats(vm, 2)
        before = beats(vm)[-1]
        figures = vm.command("snapshot", snapshot)
        after = beats(vm)[-1]
        assert figures["status"] == "completed" and figures["pages_written"] >= 2048, figures
        assert figures["bytes_remaining"] == 0 and figures["rounds"] >= 2, figures
        wait_beats(vm, 2)  # it runs on
        vm.command("quit")
    assert sorted(os.listdir(snapshot)) == ["manifest", "memory", "pages", "state"]
    memory = os.stat(os.path.join(snapshot, "memory"))
    assert memory.st_size == 64 << 20 and memory.st_blocks * 512 < 16 << 20, memory
    with restored(folder, snapshot) as vm:
        wait_beats(vm, 3)
        assert before[0] < beats(vm)[0][0] <= after[0] + 1, f"{before} {after} {beats(vm)[:2]}"
    with restored(folder, snapshot, name="three") as vm:
        wait_beats(vm, 2)  # as often as one likes


def test_restored_guest_moves_on(folder):
    snapshot = taken(folder)
    with restored(folder, snapshot) as vm:
        with Vmm(folder, guest("checker"), "--incoming", "tcp:127.0.0.1:0", name="three", cmdline=DIRTY) as target:
            # At once: the move waits for the memory by itself.
            uri = target.command("status")["incoming_uri"]
            assert vm.command("migrate", uri)["status"] == "completed"
            wait_beats(target, 3)
            again = os.path.join(folder, "again")
            assert target.command("snapshot", again)["status"] == "completed"
            target.command("quit")
    with restored(folder, again, name="four") as vm:
        wait_beats(vm, 2)


def test_paused_guest_comes_back_paused(folder):
    snapshot = os.path.join(folder, "snapshot")
    with dirtier(folder) as vm:
        wait_beats(vm, 2)
        vm.command("pause")
        vm.command("snapshot", snapshot)
        assert vm.command("status")["state"] == "paused"
        vm.command("quit")
    with restored(folder, snapshot) as vm:
        assert vm.command("status")["state"] == "paused"
        time.sleep(0.3)
        assert not beats(vm), vm.text()
        vm.command("resume")
        wait_beats(vm, 2)


def test_preallocated_memory_is_restored_before_the_guest_runs(folder):
    snapshot = taken(folder)
    with restored(folder, snapshot, "--prealloc") as vm:
        wait_beats(vm, 2)
        vm.command("quit")
        assert "memory=is here" in vm.ended()[1]


def test_guest_with_two_processors_and_timer_comes_back(folder):
    snapshot = os.path.join(folder, "snapshot")
    line = "cpus=2 ticks=1000"
    with Vmm(folder, guest("timer"), cpus=2, cmdline=line) as vm:
        vm.wait_text("tick 3 ")
        vm.command("snapshot", snapshot)
        vm.command("quit")
        last = int(re.findall(r"tick (\d+) ms", vm.text())[-1])
    with Vmm(folder, guest("timer"), "--incoming", "file:" + snapshot, name="two", cpus=2, cmdline=line) as vm:
        vm.wait_text(f"tick {last + 5} ")
        ticks = [tuple(map(int, found)) for found in re.findall(r"tick (\d+) ms (\d+) ap (\d+)\n", vm.text())]
        assert all(a[1] <= b[1] and a[2] < b[2] for a, b in zip(ticks, ticks[1:])), ticks


def block_snapshot(folder):
    """(disk, snapshot) of the guest that writes blocks, made while it wrote: with the disk of that moment."""
    disk, snapshot = disk_make(folder), os.path.join(folder, "snapshot")
    with Vmm(folder, guest("block"), "--disk", disk) as vm:
        vm.wait_text("verified")
        vm.command("pause")  # or the disk would go on beyond the snapshot
        vm.command("snapshot", snapshot)
        vm.command("quit")
    return disk, snapshot


def block_restored(folder, disk, snapshot, force=""):
    return Vmm(folder, guest("block"), "--incoming", "file:" + snapshot + force, "--disk", disk, name="two")


def test_guest_with_disk_comes_back_if_the_disk_is_as_it_was(folder):
    disk, snapshot = block_snapshot(folder)
    with block_restored(folder, disk, snapshot) as vm:
        vm.command("resume")
        wait_until(lambda: vm.text().count("verified") >= 2, 30, "blocks that are read back")
        assert_no_wrong(vm.text())
    # That guest has written: the snapshot does not fit the disk any more.
    status, said = block_restored(folder, disk, snapshot).ended()
    assert status == 1 and "was written since the snapshot" in said and said.count("\n") == 1, said
    with block_restored(folder, disk, snapshot, ",force") as vm:
        assert vm.command("status")["state"] == "paused"


def test_running_guest_whose_disk_goes_on_is_refused(folder):
    disk, snapshot = disk_make(folder), os.path.join(folder, "snapshot")
    with Vmm(folder, guest("block"), "--disk", disk) as vm:
        vm.wait_text("verified")
        vm.command("snapshot", snapshot)
        # While that one has the disk.
        status, said = block_restored(folder, disk, snapshot).ended()
        assert status == 1 and "in use by another VM" in said, said
        vm.wait_text("ack")
    status, said = block_restored(folder, disk, snapshot).ended()
    assert status == 1 and "was written since the snapshot" in said, said
    with open(disk, "ab") as file:
        file.write(bytes(1 << 20))
    status, said = block_restored(folder, disk, snapshot).ended()
    assert status == 1 and "is it the same disk" in said, said
    # A guest with fewer disks than it had.
    status, said = Vmm(folder, guest("block"), "--incoming", "file:" + snapshot, name="two").ended()
    assert status == 1 and "--disk" in said or "disks" in said, said


def test_full_disk_leaves_the_guest_unharmed(folder):
    small = os.path.join(folder, "small")
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", small], capture_output=True, check=False).returncode:
        print("  (can't mount a small file system: not tried)")
        return
    try:
        with dirtier(folder) as vm:
            wait_beats(vm, 2)
            snapshot = os.path.join(small, "snapshot")
            said = vm.command("snapshot", snapshot, fails=True)
            assert "No space left" in said and said.count("\n") == 1, said
            assert os.listdir(snapshot) == ["INCOMPLETE"], os.listdir(snapshot)
            wait_beats(vm, 2)
            assert "never completed" in refused(folder, snapshot)
            # It can be tried again, where there is room.
            assert vm.command("snapshot", os.path.join(folder, "roomy"))["status"] == "completed"
            assert vm.command("status")["state"] == "running"
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_killed_client_leaves_an_incomplete_folder(folder):
    snapshot = os.path.join(folder, "snapshot")
    with dirtier(folder) as vm:
        wait_beats(vm, 1)
        with subprocess.Popen([VMM, "control", vm.control, "snapshot", snapshot], stdout=subprocess.DEVNULL) as client:
            wait_until(lambda: os.path.exists(os.path.join(snapshot, "memory")), 10, "the memory's file")
            client.kill()
        if not os.path.exists(os.path.join(snapshot, "manifest")):
            assert "never completed" in refused(folder, snapshot)
        wait_until(lambda: vm.command("status").get("snapshot", {}).get("status") != "runs", 10, "its end")
        wait_beats(vm, 2)
        # The same folder may be used again.
        if not os.path.exists(os.path.join(snapshot, "manifest")):
            vm.command("snapshot", snapshot)
        vm.command("quit")
    with restored(folder, snapshot) as vm:
        wait_beats(vm, 1)


def test_snapshot_is_not_overwritten(folder):
    snapshot = taken(folder)
    before = os.stat(os.path.join(snapshot, "memory")).st_mtime_ns
    with dirtier(folder) as vm:
        said = vm.command("snapshot", snapshot, fails=True)
        assert "holds a snapshot already" in said and said.count("\n") == 1, said
        assert "Not a directory" in vm.command("snapshot", vm.serial, fails=True)
        assert "No such file" in vm.command("snapshot", os.path.join(folder, "no", "where"), fails=True)
        vm.command("snapshot", fails=True)
    assert os.stat(os.path.join(snapshot, "memory")).st_mtime_ns == before


def spoil(snapshot, name, at, copy):
    """A copy of the snapshot with one byte of a file changed."""
    shutil.copytree(snapshot, copy)
    with open(os.path.join(copy, name), "r+b") as file:
        file.seek(at, os.SEEK_SET if at >= 0 else os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 0x55]))
    return copy


def test_damaged_snapshots_are_refused(folder):
    snapshot = taken(folder)
    for name in ("manifest", "pages", "state"):
        size = os.path.getsize(os.path.join(snapshot, name))
        for at in (0, size // 2, size - 1):
            said = refused(folder, spoil(snapshot, name, at, os.path.join(folder, f"bad-{name}-{at}")))
            assert "damaged" in said or "malformed" in said or "does not know" in said, said
        cut = os.path.join(folder, "cut-" + name)
        shutil.copytree(snapshot, cut)
        os.truncate(os.path.join(cut, name), size // 2)
        refused(folder, cut)
        os.unlink(os.path.join(cut, name))
        assert f'no readable file "{name}"' in refused(folder, cut)
        os.mkfifo(os.path.join(cut, name))
        assert f'no readable file "{name}"' in refused(folder, cut)
    cut = os.path.join(folder, "cut-memory")
    shutil.copytree(snapshot, cut)
    os.truncate(os.path.join(cut, "memory"), 4096)
    assert "cut short" in refused(folder, cut)


def test_damaged_page_never_reaches_the_guest(folder):
    snapshot = taken(folder)
    with open(os.path.join(snapshot, "pages"), "rb") as file:
        pages = file.read()
    present = [page for page in range(len(pages) // 4) if pages[4 * page:4 * page + 4] != bytes(4)]
    for name, options in (("lazy", ()), ("eager", ("--prealloc",))):
        bad = spoil(snapshot, "memory", present[-1] * 4096 + 100, os.path.join(folder, name))
        status, said = restored(folder, bad, *options, name=name).ended()
        assert status == 1 and f"page {present[-1]} of the snapshot is not as it was saved" in said, said


def test_other_machine_is_refused(folder):
    snapshot = taken(folder)
    assert "--memory" in refused(folder, snapshot, memory="128M")
    assert "vCPUs" in refused(folder, snapshot, cpus=2)
    disk = disk_make(folder)
    assert "disks" in refused(folder, snapshot, "--disk", disk)
    assert "can't open it" in refused(folder, os.path.join(folder, "nowhere"))
    assert "no readable file" in refused(folder, folder)
    assert "give file:DIR" in refused(folder, "")


def test_snapshot_of_a_clusters_vm_is_restored_only_by_hand(folder):
    snapshot = os.path.join(folder, "snapshot")
    ids = ("--vm-id", "7", "--epoch", "3")
    with dirtier(folder, "--ha", *ids) as vm:
        assert "frozen by its lease" in vm.command("snapshot", snapshot, fails=True)
        client = vm.client()
        client.lease(boottime_ns() + 60 * 10 ** 9, vm_id=7, epoch=3)
        wait_beats(vm, 2)
        vm.command("snapshot", snapshot)
        vm.command("quit")
    assert "VM 7 of a cluster" in refused(folder, snapshot)
    assert "leave out --vm-id" in refused(folder, snapshot + ",force", *ids)
    with restored(folder, snapshot + ",force") as vm:
        wait_beats(vm, 2)


def test_order_without_files_is_refused(folder):
    with dirtier(folder) as vm:
        error, text, _ = vm.client().order(19, field(1, b"/tmp"))
        assert error != 0 and "files must come with the order" in text, text
