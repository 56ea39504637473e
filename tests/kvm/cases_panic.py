# SPDX-License-Identifier: Apache-2.0
"""A guest that crashes and says so (tests/guests/crash.c), and what --on-panic makes of it."""
import time

from process import Vmm, guest, wait_until


def test_crashed_guest_stops_its_vm_by_default(folder):
    vm = Vmm(folder, guest("crash"))
    status, said = vm.ended()
    assert status == 1, said
    assert "the guest's kernel has crashed" in said, said
    assert vm.text() == "life 0\n", vm.text()


def test_crashed_guest_is_reset(folder):
    vm = Vmm(folder, guest("crash"), "--on-panic", "reset")
    status, said = vm.ended()
    assert status == 0, said
    assert said.count("the guest's kernel has crashed") == 2, said
    assert vm.text().replace("survived\n", "") == "life 0\nlife 1\nlife 2\nwell\n", vm.text()


def test_crashed_guest_stands_still_moves_so_and_goes_on(folder):
    with Vmm(folder, guest("crash"), "--on-panic", "pause", cmdline="beat", name="source") as vm, \
            Vmm(folder, guest("crash"), "--on-panic", "pause", "--incoming", "tcp:127.0.0.1:0",
                name="target") as target:
        wait_until(lambda: vm.command("status")["guest_panicked"], 10, "the crash")
        status = vm.command("status")
        assert status["state"] == "paused" and not status["paused_wanted"], status
        assert status["guest_panics"] == 1, status
        text = vm.text()
        time.sleep(0.1)
        assert vm.text() == text and "beat" not in text, text
        assert vm.command("migrate", target.command("status")["incoming_uri"])["status"] == "completed"
        status = target.command("status")
        assert status["state"] == "paused" and status["guest_panicked"], status
        time.sleep(0.1)
        assert "beat" not in target.text(), target.text()
        target.command("resume")
        target.wait_text("beat\n")
        assert target.command("status")["state"] == "running"


def test_crashed_guest_is_only_told(folder):
    with Vmm(folder, guest("crash"), "--on-panic", "ignore", cmdline="beat") as vm:
        vm.wait_text("survived\nbeat\n")
        status = vm.command("status")
        assert status["state"] == "running" and status["guest_panicked"], status


def test_crash_kernel_is_left_alone(folder):
    vm = Vmm(folder, guest("crash"), cmdline="loaded lives=1")
    status, said = vm.ended()
    assert status == 0, said
    assert "its crash kernel takes over" in said, said
    assert vm.text() == "life 0\nsaving the dump\nlife 1\nwell\n", vm.text()
