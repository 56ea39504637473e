# SPDX-License-Identifier: Apache-2.0
"""CD-ROM drives, with the guest that reads all blocks of the first one by AHCI and MSI, round and round, and judges
each (tests/guests/cdrom.c)."""
import os
import struct
import subprocess
import time

from process import VMM, Vmm, guest, wait_until

BLOCK = 2048
BLOCKS = 3000


def iso_make(folder, name="image.iso", blocks=BLOCKS):
    """Block 16 is an ISO's; each one after it holds its own number in each word."""
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(bytes(16 * BLOCK))
        file.write((b"\x01CD001\x01" + bytes(BLOCK))[:BLOCK])
        for block in range(17, blocks):
            file.write(struct.pack("<Q", block) * (BLOCK // 8))
    return path


def assert_no_wrong(text):
    assert "WRONG" not in text and "FAILED" not in text, text[-300:]


def rounds_run(folder, cmdline):
    with Vmm(folder, guest("cdrom"), "--cdrom", iso_make(folder), cmdline=cmdline) as vm:
        status, said = vm.ended(120)
        assert status == 0, said
        assert_no_wrong(vm.text())
        assert f"blocks {BLOCKS}\n" in vm.text() and "verified 1\n" in vm.text(), vm.text()[-300:]


def test_cdrom_is_read_whole_by_ahci(folder):
    rounds_run(folder, "rounds=2")


def test_cdrom_is_read_in_pieces_larger_than_its_buffer(folder):
    rounds_run(folder, "rounds=2 depth=32")


def test_cdrom_controller_can_be_reset_in_flight(folder):
    rounds_run(folder, "rounds=2 depth=32 reset")


def test_cdrom_stands_still_while_paused_and_goes_on(folder):
    with Vmm(folder, guest("cdrom"), "--cdrom", iso_make(folder)) as vm:
        vm.wait_text("read ")
        for _ in range(5):
            vm.command("pause")
            stood = vm.text()
            time.sleep(0.05)
            assert vm.text() == stood, "the guest ran while paused"
            vm.command("resume")
            wait_until(lambda: len(vm.text()) > len(stood), 10, "more blocks")
        assert_no_wrong(vm.text())


def test_moves_while_a_cdrom_is_read(folder):
    path = iso_make(folder)
    machines = [Vmm(folder, guest("cdrom"), "--cdrom", path, name="hop0")]
    try:
        machines[0].__enter__().wait_text("read ")
        for hop in range(1, 5):
            target = Vmm(folder, guest("cdrom"), "--cdrom", path, "--incoming", "tcp:127.0.0.1:0",
                         name=f"hop{hop}")
            machines.append(target)
            target.__enter__()
            uri = target.command("status")["incoming_uri"]
            assert machines[-2].command("migrate", uri)["status"] == "completed"
            target.wait_text("read ")
        assert_no_wrong("".join(vm.text() for vm in machines))
    finally:
        for vm in machines:
            vm.__exit__()


def refused(folder, *words):
    done = subprocess.run([VMM, "--name", "bad", "--memory", "64M", "--cpus", "1", "--serial", "none",
                           "--kernel", guest("cdrom"), "--control", os.path.join(folder, "bad.sock"),
                           *words], capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and len(done.stderr.strip().split("\n")) == 1, done.stderr
    return done.stderr


def test_cdroms_that_are_none_are_refused(folder):
    path, short, empty, other = (os.path.join(folder, name) for name in ("x", "short", "empty", "other"))
    for name, size in ((short, 5000), (empty, 0), (other, 1 << 20)):
        with open(name, "wb") as file:
            file.truncate(size)
    assert "does not exist" in refused(folder, "--cdrom", path)
    assert "is a directory" in refused(folder, "--cdrom", folder)
    assert "only 5000 bytes" in refused(folder, "--cdrom", short)
    assert "is empty" in refused(folder, "--cdrom", empty)
    assert "is no ISO image" in refused(folder, "--cdrom", other)
    assert "no boot record" in refused(folder, "--cdrom", iso_make(folder) + ",boot=1")
    assert "only boot=N" in refused(folder, "--cdrom", other + ",ro")


def test_move_to_another_image_is_refused_and_the_guest_stays(folder):
    with Vmm(folder, guest("cdrom"), "--cdrom", iso_make(folder), name="source") as source, \
            Vmm(folder, guest("cdrom"), "--cdrom", iso_make(folder, "other.iso", 2000),
                "--incoming", "tcp:127.0.0.1:0", name="target") as target:
        source.wait_text("read ")
        line = source.command("migrate", target.command("status")["incoming_uri"], fails=True)
        assert "is it the same image?" in line, line
        stood = source.text()
        wait_until(lambda: len(source.text()) > len(stood), 10, "the source goes on")
        assert_no_wrong(source.text())
