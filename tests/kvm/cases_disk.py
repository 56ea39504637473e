# SPDX-License-Identifier: Apache-2.0
"""Disks, with the guest that writes numbered blocks, flushes, says which are stable ("ack N"), and reads
all back (tests/guests/block.c): nothing that it was told is ever lost, whatever happens to its VMM."""
import os
import re
import signal
import struct
import subprocess
import time

from process import LEASE, VMM, Vmm, boottime_ns, field, guest, wait_until

BLOCK = 4096
BLOCKS = 512


def disk_make(folder, size=4 << 20):
    # Not in memory: direct I/O and flushes are to be real.
    path = os.path.join(folder, "disk")
    with open(path, "wb") as file:
        file.truncate(size)
    return path


def acked(text):
    numbers = re.findall(r"ack (\d+)\n", text)
    return int(numbers[-1]) if numbers else -1


def assert_no_wrong(text):
    assert "WRONG" not in text and "FAILED" not in text, text[-300:]


def assert_disk_holds(path, last):
    """Each block holds the last acknowledged number that belongs to it, or a later one."""
    with open(path, "rb") as file:
        data = file.read()
    for block in range(min(BLOCKS, last + 1)):
        words = struct.unpack_from("<512Q", data, block * BLOCK)
        least = last - (last - block) % BLOCKS
        assert all(word >= least and word % BLOCKS == block for word in (words[0], words[-1])), \
            f"block {block}: {words[0]}..{words[-1]}, acknowledged {least}"


def blocks_run(folder, option):
    path = disk_make(folder)
    vm = Vmm(folder, guest("block"), "--disk", path + option, cmdline="rounds=2")
    status, said = vm.ended(60)
    assert status == 0, said
    assert_no_wrong(vm.text())
    assert f"verified {2 * BLOCKS - 1}\n" in vm.text(), vm.text()[-300:]
    assert_disk_holds(path, 2 * BLOCKS - 1)


def test_disk_keeps_what_was_acknowledged(folder):
    blocks_run(folder, "")


def test_direct_disk_keeps_what_was_acknowledged(folder):
    blocks_run(folder, ",direct")


def test_pauses_under_disk_load_lose_nothing(folder):
    path = disk_make(folder)
    with Vmm(folder, guest("block"), "--disk", path) as vm:
        vm.wait_text("ack ")
        for _ in range(10):
            vm.command("pause")
            time.sleep(0.01)
            before, stood = os.stat(path).st_mtime_ns, vm.text()
            time.sleep(0.05)
            assert os.stat(path).st_mtime_ns == before, "the disk was written while paused"
            assert vm.text() == stood, "the guest ran while paused"
            vm.command("resume")
            wait_until(lambda: acked(vm.text()) > acked(stood), 10, "the next acknowledgement")
        vm.wait_text(f"verified {BLOCKS - 1}\n", 30)
        assert_no_wrong(vm.text())


def test_lost_lease_stops_disk_writes_and_a_new_one_goes_on(folder):
    path = disk_make(folder)
    with Vmm(folder, guest("block"), "--disk", path, "--vm-id", "7", "--epoch", "1", "--ha") as vm:
        client = vm.client()
        for _ in range(3):
            stood, deadline = vm.text(), 0
            while acked(vm.text()) <= acked(stood):
                # Renewed until something was written under it, however slow this machine is.
                deadline = boottime_ns() + 500_000_000
                assert client.order(LEASE, field(1, deadline), vm_id=7, epoch=1)[0] == 0
                time.sleep(0.1)
            wait_until(lambda: vm.command("status")["state"] == "frozen", 5, "the freeze")
            written = os.stat(path).st_mtime_ns
            time.sleep(0.1)
            assert os.stat(path).st_mtime_ns == written, "the disk was written without a lease"
            # mtime is wall time; the two clocks' difference is taken now.
            offset = time.time_ns() - boottime_ns()
            assert written - offset < deadline + 20_000_000, "the disk was written after the deadline"
        assert_no_wrong(vm.text())
        assert_disk_holds(path, acked(vm.text()))


def test_moves_under_disk_load_lose_nothing(folder):
    path = disk_make(folder)
    machines = [Vmm(folder, guest("block"), "--disk", path, name="hop0")]
    try:
        machines[0].__enter__().wait_text("ack ")
        for hop in range(1, 5):
            source = machines[-1]
            target = Vmm(folder, guest("block"), "--disk", path, "--incoming", "tcp:127.0.0.1:0",
                         name=f"hop{hop}")
            machines.append(target)
            target.__enter__()
            uri = target.command("status")["incoming_uri"]
            assert source.command("migrate", uri)["status"] == "completed"
            before = sum(len(vm.text()) for vm in machines[:-1])
            target.wait_text("ack ")
            assert sum(len(vm.text()) for vm in machines[:-1]) == before, "the source still runs"
        machines[-1].command("pause")
        text = "".join(vm.text() for vm in machines)
        assert_no_wrong(text)
        assert_disk_holds(path, acked(text))
        numbers = [int(n) for n in re.findall(r"ack (\d+)\n", text)]
        assert numbers == list(range(15, numbers[-1] + 1, 16)), "an acknowledgement is missing or doubled"
    finally:
        for vm in machines:
            vm.__exit__()


def test_killed_vmm_loses_nothing_acknowledged_and_frees_the_disk(folder):
    path = disk_make(folder)
    with Vmm(folder, guest("block"), "--disk", path, name="first") as vm:
        wait_until(lambda: acked(vm.text()) > BLOCKS // 2, 30, "some acknowledgements")
        os.kill(vm.process.pid, signal.SIGKILL)
        last = acked(vm.text())
    assert_disk_holds(path, last)
    with Vmm(folder, guest("block"), "--disk", path, name="second") as vm:
        vm.wait_text("ack ")


def refused(folder, *words):
    done = subprocess.run([VMM, "--name", "bad", "--memory", "64M", "--cpus", "1", "--serial", "none",
                           "--kernel", guest("block"), "--control", os.path.join(folder, "bad.sock"),
                           *words], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and len(done.stderr.strip().split("\n")) == 1, done.stderr
    return done.stderr


def test_disk_in_use_is_refused(folder):
    path = disk_make(folder)
    with Vmm(folder, guest("block"), "--disk", path) as vm:
        assert f"disk {path} is in use by another VM" in refused(folder, "--disk", path)
        assert f"disk {path} is in use by another VM" in refused(folder, "--disk", path + ",ro")
        vm.wait_text("ack ")


def test_disks_that_are_none_are_refused(folder):
    assert "does not exist" in refused(folder, "--disk", os.path.join(folder, "nowhere"))
    assert "is a directory" in refused(folder, "--disk", folder)
    assert "no multiple of 512" in refused(folder, "--disk", disk_make(folder, 1000))
    assert "does not exist" in refused(folder, "--net", "tap=nowhere0")


def test_move_to_another_disk_is_refused_and_the_guest_stays(folder):
    path, other = disk_make(folder), os.path.join(folder, "other")
    with open(other, "wb") as file:
        file.truncate(8 << 20)
    with Vmm(folder, guest("block"), "--disk", path, name="source") as source, \
            Vmm(folder, guest("block"), "--disk", other, "--incoming", "tcp:127.0.0.1:0",
                name="target") as target:
        source.wait_text("ack ")
        line = source.command("migrate", target.command("status")["incoming_uri"], fails=True)
        assert "is it the same disk?" in line, line
        stood = source.text()
        wait_until(lambda: acked(source.text()) > acked(stood), 10, "the source goes on")
        assert "is in use" in refused(folder, "--disk", path), "the source has lost its lock"
