# SPDX-License-Identifier: Apache-2.0
"""Bad input: one line that says what to do, exit status not 0, nothing lost."""
import os
import shutil
import socket
import struct
import subprocess

import process
from process import VMM, Vmm, frame, guest


def refused(folder, *words, says, memory="64M", kernel=None, control=None):
    done = subprocess.run([VMM, "--name", "bad", "--memory", memory, "--cpus", "1", "--control",
                           control or os.path.join(folder, "bad.sock"), "--serial", "none",
                           *(["--kernel", kernel] if kernel else []), *words],
                          capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    lines = done.stderr.strip().split("\n")
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    assert len(lines) == 1 and says in lines[0], done.stderr
    assert not os.path.exists(os.path.join(folder, "bad.sock"))


def write(folder, name, data):
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def bzimage(size):
    """The head of a 64-bit bzImage that announces 1 MiB of code, cut to `size` bytes."""
    data = bytearray(1 << 20)
    data[0x1f1] = 1
    data[0x1fe:0x200] = b"\x55\xaa"
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, 0x20f)
    struct.pack_into("<I", data, 0x1f4, (1 << 20) // 16)
    struct.pack_into("<H", data, 0x236, 1)
    struct.pack_into("<I", data, 0x238, 2047)
    struct.pack_into("<Q", data, 0x258, 1 << 24)
    struct.pack_into("<I", data, 0x260, 1 << 26)
    return bytes(data[:size])


def test_kernels_that_are_none(folder):
    refused(folder, kernel="/nowhere/vmlinuz", says="cannot open /nowhere/vmlinuz")
    refused(folder, kernel=folder, says="is not a file")
    refused(folder, kernel=write(folder, "empty", b""), says="is empty")
    refused(folder, kernel=write(folder, "text", b"hello\n" * 1000), says="no kernel")
    refused(folder, kernel="/bin/true", says="PVH entry")
    refused(folder, kernel=write(folder, "short", bzimage(70000)), says="truncated")
    refused(folder, kernel=write(folder, "head", bzimage(0x300)), says="truncated")


def test_damaged_elf_files(folder):
    with open(guest("hello"), "rb") as file:
        data = file.read()
    for size in (8, 63, 100, 0x1000, 0x1200):
        refused(folder, kernel=write(folder, "cut", data[:size]), says="cut")
    many = bytearray(data)
    struct.pack_into("<H", many, 0x38, 65535)
    refused(folder, kernel=write(folder, "many", many), says="program headers")
    high = bytearray(data)
    struct.pack_into("<Q", high, 0x40 + 24, 1 << 40)
    refused(folder, kernel=write(folder, "high", high), says="--memory")
    far = bytearray(data)
    struct.pack_into("<Q", far, 0x40 + 8, (1 << 64) - 4096)
    refused(folder, kernel=write(folder, "far", far), says="truncated")


def test_initrd_cmdline_and_memory_that_do_not_fit(folder):
    big = write(folder, "big", b"")
    os.truncate(big, 63 << 20)
    refused(folder, "--initrd", big, kernel=guest("dirtier"), says="--memory")
    refused(folder, "--initrd", "/nowhere", kernel=guest("hello"), says="--initrd")
    refused(folder, "--cmdline", "x" * 5000, kernel=guest("hello"), says="command line")
    refused(folder, kernel=guest("hello"), memory="100T", says="MiB available")
    refused(folder, kernel=guest("hello"), memory="0", says="--memory 0")
    refused(folder, kernel=guest("hello"), memory="12X", says="--memory 12X")


def test_options_that_make_no_sense(folder):
    refused(folder, says="--kernel FILE or --firmware KIND is missing")
    refused(folder, "--nonsense", kernel=guest("hello"), says="--nonsense")
    refused(folder, "--disk", "/nowhere.raw", kernel=guest("hello"), says="/nowhere.raw")
    refused(folder, "--disk", "x,fast", kernel=guest("hello"), says="what is \"fast\"")
    refused(folder, "--net", "bridge=x", kernel=guest("hello"), says="tap=NAME")
    refused(folder, "--ha", kernel=guest("hello"), says="--vm-id")
    refused(folder, "--serial", "tcp:1", kernel=guest("hello"), says="stdio, none, file:PATH")
    refused(folder, "--cpus", "0", kernel=guest("hello"), says="--cpus 0")
    refused(folder, "--cpus", "65", kernel=guest("hello"), says="--cpus 65")
    refused(folder, kernel=guest("hello"), control="/" + "x" * 200, says="shorter")


def test_help_and_version(_):
    for words, says in ((["--help"], "--memory SIZE"), (["--version"], "drover-vmm 0"),
                        (["control", "--help"], "migrate tcp:HOST:PORT")):
        done = subprocess.run([VMM, *words], capture_output=True, text=True, timeout=10)
        assert done.returncode == 0 and says in done.stdout, done


def test_a_host_without_kvm(folder):
    if shutil.which("unshare") is None or os.geteuid() != 0:
        return
    command = f"mount --bind /dev/null /dev/kvm && exec {VMM} --name n --memory 64M --cpus 1 " \
              f"--kernel {guest('hello')} --control {folder}/n.sock --serial none"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], capture_output=True, text=True,
                          timeout=20)
    assert done.returncode == 1 and "/dev/kvm" in done.stderr and done.stderr.count("\n") == 1, done


def test_a_socket_that_answers_is_not_taken_and_a_stale_one_is(folder):
    with Vmm(folder, guest("timer")) as vm:
        refused(folder, kernel=guest("hello"), control=vm.control, says="another program answers")
        assert vm.command("status")["state"] == "running"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(vm.control)
    stale.close()
    assert Vmm(folder, guest("hello")).ended()[0] == 0
    keep = write(folder, "file", b"precious")
    refused(folder, kernel=guest("hello"), control=keep, says="no socket")
    with open(keep, "rb") as file:
        assert file.read() == b"precious"


def test_wrong_orders_leave_the_vm_running(folder):
    with Vmm(folder, guest("timer")) as vm:
        for words, says in ((["statsu"], "unknown order"), (["pause", "now"], 'what is "now"'), ([], "order"),
                            (["migrate"], "tcp:HOST:PORT"), (["migrate", "tcp:127.0.0.1:99999"], "0 to 65535"),
                            (["migrate", "tcp:127.0.0.1:1"], "is the target waiting there"),
                            (["migrate", "tcp:127.0.0.1:1", "--bogus"], "--bogus"),
                            (["cancel"], "no move"), (["snapshot"], "directory")):
            done = subprocess.run([VMM, "control", vm.control, *words], capture_output=True, text=True, timeout=20)
            assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and says in done.stderr, (words, done)
        assert vm.command("status")["state"] == "running"
    done = subprocess.run([VMM, "control", "/nowhere.sock", "status"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1 and "does its VM run?" in done.stderr, done


def test_malformed_frames_close_only_their_client(folder):
    with Vmm(folder, guest("timer")) as vm:
        good = vm.client()
        bad_frames = (b"GET / HTTP/1.1\r\n\r\n", frame(b"x", magic=1), frame(b"abc", crc=1),
                      frame(b"", size=1 << 30), frame(b"\xff" * 40), frame(process.field(2, b"")),
                      frame(b""), os.urandom(4096))
        for data in bad_frames:
            client = vm.client()
            client.socket.sendall(data)
            assert client.closed_by_peer(), data[:32]
        half = vm.client()
        half.socket.sendall(frame(b"abcdef")[:18])
        error, _, status = good.order(process.STATUS)
        assert error == 0 and status[4] == process.RUNNING
        error, line, _ = good.order(99)
        assert error < 0 and "does not know" in line
        half.socket.close()


def test_clients_come_and_go(folder):
    with Vmm(folder, guest("timer")) as vm:
        for _ in range(3):
            clients = [vm.client() for _ in range(15)]
            for client in clients:
                assert client.order(process.STATUS)[0] == 0
            for client in clients:
                client.socket.close()
        leaver = vm.client()
        leaver.send_order(process.PAUSE)
        leaver.socket.close()
        vm.command("resume")
        assert vm.command("status")["state"] in ("running", "paused")


def test_requests_are_answered_in_order(folder):
    with Vmm(folder, guest("timer")) as vm:
        client = vm.client()
        orders = [process.PAUSE, process.STATUS, process.RESUME, process.STATUS]
        for order in orders:
            client.send_order(order)
        replies = [client.receive()[1] for _ in orders]
        assert [reply[1] for reply in replies] == [1, 2, 3, 4]
        states = [process.parse(reply[4])[4] for reply in replies]
        assert states == [process.PAUSED, process.PAUSED, process.RUNNING, process.RUNNING], states
