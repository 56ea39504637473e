# SPDX-License-Identifier: Apache-2.0
"""Boot by stock SeaBIOS: boot sectors of our own, boot order, resets, moves; firmware that is none."""
import os
import subprocess
import socket

from cases_input import refused, write
from process import Vmm, guest, wait_until

BIOS = "/usr/share/seabios/bios-256k.bin"
UEFI = "/usr/share/OVMF/OVMF_CODE_4M.fd"

# Reads the disk's second sector by the BIOS and prints it by the BIOS.
PRINT = bytes.fromhex("31c0 8ed8 8ec0 8ed0 bc007c b80102 bb007e b90200 b600 cd13 be007e"
                      "ac 84c0 7409 b40e bb0700 cd10 ebf2")
# Resets by port 0xcf9, but for the second time (a byte of the clock chip's memory tells).
RESET_ONCE = bytes.fromhex("b050 e670 e471 3c01 740c b001 e671 baf90c b006 ee f4 ebfd")
POWER_OFF = bytes.fromhex("ba0406 b80034 ef f4 ebfd")
WAIT_FOR_KEY = bytes.fromhex("31c0 cd16")


def disk(folder, name, text, code=PRINT + POWER_OFF):
    sector = code.ljust(510, b"\0") + b"\x55\xaa"
    return write(folder, name, sector + (text + " and more\r\n").encode().ljust(512, b"\0") + bytes(1 << 20))


class Terminal:
    """A client of a serial port's socket."""

    def __init__(self, path):
        wait_until(lambda: os.path.exists(path), 10, path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.socket.setblocking(False)
        self.text = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def wait(self, says, seconds):
        def heard():
            try:
                self.text += self.socket.recv(65536).decode("latin-1")
            except BlockingIOError:
                pass
            return says in self.text
        wait_until(heard, seconds, f"{says!r} in {self.text!r}")


def missing(path):
    if not os.path.exists(path):
        print(f"skip: there is no {path}")
        return True
    return False


def test_bios_boots_a_disk_and_obeys_the_order(folder):
    if missing(BIOS):
        return
    one, two = disk(folder, "one", "disk one here"), disk(folder, "two", "disk two here")
    for order, says in ((",", "disk one here"), (",boot=1", "disk two here")):
        vm = Vmm(folder, None, "--firmware", "bios", "--disk", one + ",ro",
                 "--disk", two + ",ro" + order.rstrip(","))
        assert vm.ended(30)[0] == 0
        assert says in vm.text() and "SeaBIOS" in vm.text(), vm.text()


def test_bios_boots_again_after_a_reset_with_all_processors(folder):
    if missing(BIOS):
        return
    path = disk(folder, "disk", "said twice", code=PRINT + RESET_ONCE + POWER_OFF)
    log = os.path.join(folder, "log")
    vm = Vmm(folder, None, "--firmware", BIOS, "--firmware-log", log, "--disk", path + ",ro", cpus=3,
             memory="3G")
    assert vm.ended(60)[0] == 0
    assert vm.text().count("said twice") == 2, vm.text()
    with open(log, encoding="latin-1") as file:
        text = file.read()
    assert text.count("Found 3 cpu(s)") == 2, text
    assert "addr 0x0000000100000000 len 0x0000000040000000 [RAM]" in text, text
    assert "table(50434146)=" in text and "(via xsdt)" in text, text


def test_a_vm_moves_while_the_bios_waits(folder):
    if missing(BIOS):
        return
    path = disk(folder, "disk", "arrived", code=WAIT_FOR_KEY + PRINT + POWER_OFF)
    words = ["--firmware", "bios", "--disk", path]
    serials = ["unix:" + os.path.join(folder, name) for name in ("a.tty", "b.tty")]
    with Vmm(folder, None, *words, name="a", serial=serials[0]) as source, \
            Terminal(folder + "/a.tty") as there:
        there.wait("Booting from Hard Disk", 30)
        with Vmm(folder, None, *words, "--incoming", "tcp:127.0.0.1:0", name="b", serial=serials[1]) as target, \
                Terminal(folder + "/b.tty") as here:
            done = source.command("migrate", target.command("status")["incoming_uri"])
            assert done["status"] == "completed", done
            here.socket.sendall(b" ")
            here.wait("arrived", 30)
            assert target.ended(30)[0] == 0


def test_another_firmware_is_refused_and_the_guest_stays(folder):
    if missing(BIOS):
        return
    path = disk(folder, "disk", "", code=WAIT_FOR_KEY)
    with Vmm(folder, None, "--firmware", "bios", "--disk", path, name="a") as source:
        with Vmm(folder, None, "--firmware", "/usr/share/seabios/bios.bin", "--disk", path, "--incoming",
                 "tcp:127.0.0.1:0", name="b") as target:
            uri = target.command("status")["incoming_uri"]
            assert "give the same --firmware" in source.command("migrate", uri, fails=True)
            assert source.command("status")["state"] == "running"


def test_firmware_that_is_none_is_refused(folder):
    refused(folder, "--firmware", "/nowhere/bios.bin", says="(Debian package seabios)")
    refused(folder, "--firmware", folder, says="is not a file")
    refused(folder, "--firmware", write(folder, "empty", b""), says="bytes, which no BIOS image has")
    refused(folder, "--firmware", write(folder, "text", b"hello\n" * 43691), says="no BIOS image has")
    refused(folder, "--firmware", write(folder, "zeros", bytes(256 << 10)), says="is no firmware image")
    bzimage = write(folder, "bzImage", bytes(0x202) + b"HdrS" + bytes(300 << 10))
    refused(folder, "--firmware", bzimage, says="give it with --kernel")
    refused(folder, "--firmware", guest("hello"), says="give it with --kernel")
    if not missing(BIOS):
        refused(folder, "--firmware", "bios", "--vars", folder + "/vars", says="leave it out")
        refused(folder, "--firmware", "bios", "--uuid", "1234", says="--uuid 1234")
    if not missing(UEFI):
        refused(folder, "--firmware", UEFI.replace("4M", "4M.ms"), says="OVMF_CODE_4M.fd")
        refused(folder, "--firmware", UEFI.replace("CODE", "VARS"), says="code alone")
        refused(folder, "--firmware", "uefi", "--vars", write(folder, "v", bytes(540672)), says="is no store of UEFI")
        refused(folder, "--firmware", "uefi", "--vars", write(folder, "w", bytes(100)),
                says=f"--vars {folder}/w has 100 bytes, which no store of UEFI")
        refused(folder, "--firmware", "uefi", "--vars", folder, says=f"--vars {folder} is a directory")
        refused(folder, "--firmware", "uefi", "--vars", folder + "/no/such", says="--vars")


def test_variables_on_a_block_device_are_made_and_kept(folder):
    """A device is larger than the store; what lies behind it is not touched."""
    if missing(UEFI):
        return
    path = write(folder, "device", bytes(1 << 20))
    made = subprocess.run(["losetup", "-f", "--show", path], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return  # this machine has no loop devices to give
    device = made.stdout.strip()
    try:
        for _ in range(2):
            with Vmm(folder, None, "--paused", "--firmware", "uefi", "--vars", device, name="a") as vm:
                assert vm.command("status")["state"] == "paused"
                refused(folder, "--firmware", "uefi", "--vars", device, says="--vars")
                vm.command("quit")
                assert vm.ended(30)[0] == 0
            with open(path, "rb") as file:
                content = file.read()
            assert content[40:44] == b"_FVH" and content[540672:] == bytes((1 << 20) - 540672)
        with open(device, "r+b") as file:
            file.write(b"something else".ljust(4096))
        refused(folder, "--firmware", "uefi", "--vars", device, says=f"--vars {device} is no store of UEFI")
    finally:
        subprocess.run(["losetup", "-d", device], check=False)
