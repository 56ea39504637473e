# SPDX-License-Identifier: Apache-2.0
"""Guests of earlier releases, as they were recorded (tests/golden/README.md), arrive here and go on; what can't be taken is
refused by name, before its memory or after."""
import lzma
import os
import re
import socket
import struct
import subprocess
import zlib

from process import Vmm, guest, wait_until

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../golden")
MAGIC, HEADER, MIGRATION = b"DRVR", 16, 3
REFUSE, READY, GO, DONE, ABORT = 3, 9, 10, 11, 12
BEAT = re.compile(r"beat (\d+) writes (\d+) checked (\d+) errors (\d+) ")


def recorded(name):
    """(all before the go, the go)"""
    with lzma.open(os.path.join(GOLDEN, name)) as file:
        data = file.read()
    at = data.rindex(MAGIC)
    assert struct.unpack(">H", data[at + HEADER:at + HEADER + 2])[0] == GO, "the last message is not the go"
    return data[:at], data[at:]


def message(link):
    """(type, payload) of the next one."""
    def exactly(size):
        data = b""
        while len(data) < size:
            got = link.recv(size - len(data))
            assert got, "the target closed the connection"
            data += got
        return data
    header = exactly(HEADER)
    assert header[:4] == MAGIC
    payload = exactly(struct.unpack(">I", header[8:12])[0])
    return struct.unpack(">H", payload[:2])[0], payload


def wait_message(link, *types):
    while True:
        kind, payload = message(link)
        if kind in types:
            return kind, payload


def replay(vm, before, go):
    """What the target said last: DONE, REFUSE or ABORT with its reason."""
    uri = vm.command("status")["incoming_uri"]
    link = socket.create_connection(("127.0.0.1", int(uri.rsplit(":", 1)[1])), 10)
    with link:
        try:
            link.sendall(before)
        except ConnectionError:
            pass  # it has refused already, and says why
        kind, payload = wait_message(link, READY, REFUSE, ABORT)
        if kind == READY:
            link.sendall(go)
            kind, payload = wait_message(link, DONE, ABORT)
        return kind, payload.decode(errors="replace")


class Taps:
    """Of nobody, for guests that have a network."""

    def __enter__(self):
        subprocess.run(["ip", "tuntap", "add", "golden0", "mode", "tap"], check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "link", "del", "golden0"], check=True)


def target(folder, *options, cpus=2):
    disk = os.path.join(folder, "disk.raw")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    return Vmm(folder, guest("checker"), "--disk", disk, "--net", "tap=golden0,mac=02:00:00:00:00:01", "--incoming",
               "tcp:127.0.0.1:0", *options, name="golden", memory="32M", cpus=cpus)


def beats(vm):
    return [tuple(map(int, found)) for found in BEAT.findall(vm.text())]


def section_versions_raised(data, old, new):
    """The stream with `old` replaced by `new`, which is as long, in its STATE; checksums made good again."""
    at = data.rindex(MAGIC)
    size = struct.unpack(">I", data[at + 8:at + 12])[0]
    payload = data[at + HEADER:at + HEADER + size].replace(old, new)
    assert len(payload) == size and payload != data[at + HEADER:at + HEADER + size]
    return data[:at + 12] + struct.pack(">I", zlib.crc32(payload)) + payload + data[at + HEADER + size:]


def test_guest_of_release_0_1_arrives_and_goes_on(folder):
    before, go = recorded("release-0.1.stream.xz")
    with Taps(), target(folder, "--machine", "1") as vm:
        kind, said = replay(vm, before, go)
        if "lacks" in said:
            print(f"skip: the recorded guest's processor is not to be had here: {said[6:]}")
            return
        assert kind == DONE, said
        wait_until(lambda: len(beats(vm)) >= 3, 30, "beats of the guest")
        # It counts on where it was, and has lost no page of its memory.
        assert beats(vm)[0][0] > 10 and all(beat[3] == 0 for beat in beats(vm)), beats(vm)


def test_guest_of_release_0_1_is_refused_by_a_newer_machine(folder):
    before, go = recorded("release-0.1.stream.xz")
    with Taps(), target(folder) as vm:
        kind, said = replay(vm, before, go)
        assert kind == REFUSE and "start the target with --machine 1" in said, said


def test_newer_state_is_refused_by_the_name_of_its_section(folder):
    before, go = recorded("release-0.1.stream.xz")
    # Name and version of one section, as protobuf has them: "rtc", instance 0 (left out), version 1.
    with Taps(), target(folder, "--machine", "1") as vm:
        kind, said = replay(vm, section_versions_raised(before, b"\x0a\x03rtc\x18\x01", b"\x0a\x03rtc\x18\x07"), go)
        assert kind == ABORT and "rtc has version 7, this program reads 1" in said, said


def test_older_machine_has_no_newer_devices(folder):
    words = Vmm(folder, guest("hello"), "--machine", "1", "--vsock", "cid=7,unix=" + os.path.join(folder, "v"))
    status, said = words.ended()
    assert status != 0 and "--machine 1 has no --vsock: leave out one of the two" in said, said
