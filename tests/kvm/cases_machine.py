# SPDX-License-Identifier: Apache-2.0
"""The machine: boot, power, resets, interrupts, several processors, serial, moves."""
import os
import re
import socket
import stat
import time

from process import Vmm, guest, wait_until


def ticks(text):
    """[(line, ms, count of the second processor)] of the timer guest's whole lines."""
    return [tuple(map(int, m)) for m in re.findall(r"tick (\d+) ms (\d+) ap (\d+)\n", text)]


def test_guest_boots_by_pvh_and_powers_off(folder):
    vm = Vmm(folder, guest("hello"))
    status, said = vm.ended()
    assert status == 0, said
    assert vm.text() == "hello\nhello by one instruction\nmemory 67108864\n", vm.text()
    assert "the guest powered off" in said, said
    assert not os.path.exists(vm.control), "its control socket is left"


def test_each_way_of_reset_boots_a_fresh_kernel(folder):
    vm = Vmm(folder, guest("reset"))
    status, said = vm.ended()
    assert status == 0, said
    assert vm.text() == "".join(f"life {i} fresh\n" for i in range(4)), vm.text()


def test_resets_with_two_processors(folder):
    vm = Vmm(folder, guest("reset"), cpus=2)
    assert vm.ended()[0] == 0
    assert vm.text().count("fresh") == 4, vm.text()


def test_timer_interrupts_and_second_processor(folder):
    vm = Vmm(folder, guest("timer"), cpus=2, cmdline="cpus=2 ticks=8")
    assert vm.ended()[0] == 0
    seen = ticks(vm.text())
    assert len(seen) == 8 and "BACK" not in vm.text(), vm.text()
    assert seen[-1][1] >= 700, seen
    assert all(b[2] > a[2] for a, b in zip(seen, seen[1:])), "the second processor stands"


def test_memory_above_the_hole(folder):
    vm = Vmm(folder, guest("hello"), memory="4G")
    assert vm.ended()[0] == 0
    assert f"memory {2 << 30}" in vm.text(), vm.text()


def test_pause_stops_the_guest_and_resume_goes_on(folder):
    with Vmm(folder, guest("timer"), cpus=2, cmdline="cpus=2") as vm:
        vm.wait_text("tick 3 ", 20)
        assert vm.command("pause")["state"] == "paused"
        before = vm.text()
        time.sleep(0.4)
        assert vm.text() == before, "it printed while it was paused"
        assert vm.command("pause")["state"] == "paused", "a second pause is fine"
        assert vm.command("resume")["state"] == "running"
        wait_until(lambda: len(ticks(vm.text())) > len(ticks(before)) + 3, 20, "new ticks")
        assert "BACK" not in vm.text()


def test_started_paused(folder):
    with Vmm(folder, guest("hello"), "--paused") as vm:
        time.sleep(0.2)
        assert vm.command("status")["state"] == "paused" and vm.text() == ""
        vm.command("resume")
        assert vm.ended()[0] == 0 and vm.text().startswith("hello")


def test_quit_ends_the_process(folder):
    with Vmm(folder, guest("timer")) as vm:
        vm.wait_text("tick 1 ", 20)
        assert vm.command("quit")["state"] == "stopped"
        assert vm.ended(5)[0] == 0


def test_status_tells_the_machine(folder):
    with Vmm(folder, guest("timer"), name="two", cpus=2, memory="48M") as vm:
        status = vm.command("status")
        assert (status["name"], status["state"], status["cpus"], status["memory_bytes"]) == \
            ("two", "running", 2, 48 << 20), status
        with open(f"/proc/{status['pid']}/status", encoding="ascii") as file:
            parent = next(int(line.split()[1]) for line in file if line.startswith("PPid:"))
        jailed = os.geteuid() == 0
        assert vm.process.pid == (parent if jailed else status["pid"])
        assert stat.S_IMODE(os.stat(vm.control).st_mode) == 0o600


def read_some(connection, seconds):
    connection.settimeout(seconds)
    data = b""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            got = connection.recv(65536)
        except TimeoutError:
            break
        if not got:
            break
        data += got
    return data


def serial_connect(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


def test_serial_socket_echoes_and_keeps_what_was_said(folder):
    path = os.path.join(folder, "console")
    with Vmm(folder, guest("hello"), cmdline="wait", serial="unix:" + path):
        first = serial_connect(path)
        assert b"memory" in read_some(first, 0.5)
        typed = bytes(range(48, 123)) * 4
        first.sendall(typed)
        assert read_some(first, 1) == typed
        late = serial_connect(path)
        assert read_some(late, 0.5).endswith(typed), "no scroll-back for a new client"
        first.close()
        late.close()


def test_serial_client_that_never_reads_holds_up_nobody(folder):
    path = os.path.join(folder, "console")
    with Vmm(folder, guest("dirtier"), cmdline="mib=1", serial="unix:" + path):
        lazy = serial_connect(path)
        busy = serial_connect(path)
        got = read_some(busy, 3)
        passes = [int(n) for n in re.findall(rb"pass (\d+)\n", got)]
        assert len(passes) > 5 and passes[-1] > passes[0], len(passes)
        lazy.close()
        busy.close()


def test_move_under_writes_loses_nothing(folder):
    cmdline = "mib=8 fill=16 rate=10000"
    with Vmm(folder, guest("dirtier"), name="a", cmdline=cmdline) as source:
        source.wait_text("pass 3\n", 20)
        with Vmm(folder, guest("dirtier"), "--incoming", "tcp:127.0.0.1:0", name="b",
                 cmdline=cmdline) as target:
            uri = target.command("status")["incoming_uri"]
            done = source.command("migrate", uri)
            assert done["status"] == "completed" and done["downtime_ms"] < 3000, done
            assert source.command("status")["state"] == "handed-over"
            assert target.command("status")["state"] == "running"
            last = int(re.findall(r"pass (\d+)\n", source.text())[-1])
            target.wait_text(f"pass {last + 20}\n", 30)
            assert "LOST" not in source.text() + target.text()


def test_clocks_go_on_over_a_move(folder):
    with Vmm(folder, guest("timer"), name="a", cpus=2, cmdline="cpus=2") as source:
        source.wait_text("tick 5 ", 20)
        with Vmm(folder, guest("timer"), "--incoming", "tcp:127.0.0.1:0", name="b", cpus=2) as target:
            source.command("migrate", target.command("status")["incoming_uri"])
            wait_until(lambda: len(ticks(target.text())) >= 5, 30, "ticks on the target")
            lines = ticks(source.text() + target.text())
            assert "BACK" not in source.text() + target.text()
            steps = [b[1] - a[1] for a, b in zip(lines, lines[1:])]
            assert all(0 < step < 5000 for step in steps), steps
            assert all(b[2] > a[2] for a, b in zip(lines, lines[1:])), "the second processor stands"


def test_another_machine_is_refused_and_the_guest_stays(folder):
    with Vmm(folder, guest("timer"), name="a", memory="64M") as source:
        with Vmm(folder, guest("timer"), "--incoming", "tcp:127.0.0.1:0", name="b", memory="80M") as target:
            line = source.command("migrate", target.command("status")["incoming_uri"], fails=True)
            assert "--memory" in line, line
        assert source.command("status")["state"] == "running"
        before = len(ticks(source.text()))
        wait_until(lambda: len(ticks(source.text())) > before + 2, 20, "ticks on the source")
