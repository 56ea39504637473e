# SPDX-License-Identifier: Apache-2.0
"""A drover-vmm process under test, and the control protocol spoken byte by byte, so that orders of the agent (leases,
epochs) and malformed frames can be sent too."""
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import time
import zlib

BUILD = os.environ.get("DROVER_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
VMM = os.path.join(BUILD, "drover-vmm")
MAGIC, VERSION, KIND_CONTROL = 0x44525652, 1, 1
STATUS, PAUSE, RESUME, BUTTON, QUIT, LEASE, SUBSCRIBE, BALLOON = 10, 11, 12, 13, 14, 15, 20, 24
RUNNING, PAUSED, FROZEN, FREEZING = 1, 2, 3, 8
ESTALEEPOCH, ENOTFOUND, EWRONGSTATE = -5006, -5008, -5023


def guest(name):
    return os.path.join(BUILD, "tests/guests", name + ".elf")


def boottime_ns():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wait_until(condition, seconds, what):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.005)
    raise AssertionError(f"not within {seconds} s: {what}")


# ---- protobuf, the little that is needed ----

def varint(number):
    number &= (1 << 64) - 1
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def parse(data):
    """{field: value} with the last value of each; bytes for messages and texts."""
    fields, at = {}, 0

    def read_varint():
        nonlocal at
        number = shift = 0
        while True:
            byte = data[at]
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return number
    while at < len(data):
        key = read_varint()
        if key & 7 == 2:
            size = read_varint()
            fields[key >> 3] = data[at:at + size]
            at += size
        else:
            fields[key >> 3] = read_varint()
    return fields


def signed(number):
    return number - (1 << 64) if number >> 63 else number


def frame(payload, magic=MAGIC, crc=None, size=None):
    crc = zlib.crc32(payload) if crc is None else crc
    size = len(payload) if size is None else size
    return struct.pack(">IHHII", magic, VERSION, KIND_CONTROL, size, crc) + payload


class Client:
    """A connection to the control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.data = b""
        self.events = []
        self.request_id = 0

    def receive(self):
        """(what, fields) of the next message; None at the end of the connection."""
        while True:
            if len(self.data) >= 16:
                size = struct.unpack(">I", self.data[8:12])[0]
                if len(self.data) >= 16 + size:
                    message = parse(self.data[16:16 + size])
                    self.data = self.data[16 + size:]
                    what = next(iter(message))
                    return what, parse(message[what])
            got = self.socket.recv(65536)
            if not got:
                return None
            self.data += got

    def send_order(self, order, body=b"", vm_id=0, epoch=0):
        self.request_id += 1
        request = field(1, self.request_id) + field(2, vm_id) + field(3, epoch) + field(order, body)
        self.socket.sendall(frame(field(1, request)))

    def order(self, order, body=b"", vm_id=0, epoch=0):
        """(error, message, status) of the reply."""
        self.send_order(order, body, vm_id, epoch)
        while True:
            message = self.receive()
            assert message is not None, "the VMM closed the connection"
            what, fields = message
            if what == 2:
                assert fields[1] == self.request_id
                return (signed(fields.get(2, 0)), fields.get(3, b"").decode(),
                        parse(fields.get(4, b"")))
            self.events.append((boottime_ns(), parse(fields[1])))

    def lease(self, deadline_ns, **ids):
        return self.order(LEASE, field(1, deadline_ns), **ids)

    def closed_by_peer(self):
        try:
            return self.receive() is None
        except ConnectionError:
            return True


class Vmm:
    """A drover-vmm with its sockets and files in `folder`; ended at the end of its `with`."""

    def __init__(self, folder, kernel, *options, name="one", memory="64M", cpus=1, cmdline="", serial=None):
        self.control = os.path.join(folder, name + ".sock")
        self.serial = os.path.join(folder, name + ".serial")
        boots = ["--kernel", kernel, "--cmdline", cmdline] if kernel else []  # or by firmware
        words = [VMM, "--name", name, "--memory", memory, "--cpus", str(cpus), *boots,
                 "--control", self.control, "--serial", serial or "file:" + self.serial, *options]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"it ended: {self.process.stderr.read()}")
            with socket.socket(socket.AF_UNIX) as probe:  # it is there before it listens
                return probe.connect_ex(self.control) == 0
        wait_until(ready, 10, "the control socket")
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.communicate()

    def ended(self, seconds=30):
        """(exit status, what it said)."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out + err

    def text(self):
        try:
            with open(self.serial, "rb") as file:
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def wait_text(self, text, seconds=20):
        wait_until(lambda: text in self.text(), seconds, f"{text!r} on the serial port")

    def client(self):
        return Client(self.control)

    def command(self, *words, fails=False):
        """`drover-vmm control`: the JSON, or the error's line if it `fails`."""
        done = subprocess.run([VMM, "control", self.control, *words], capture_output=True, text=True,
                              timeout=60)
        assert (done.returncode != 0) == fails, f"{words}: {done.returncode} {done.stderr}"
        return done.stderr if fails else json.loads(done.stdout)

    def pid(self):
        """Of the VMM itself: self.process is its launcher, where it is jailed."""
        if not hasattr(self, "own_pid"):
            self.own_pid = self.command("status")["pid"]
        return self.own_pid

    def threads(self, prefix):
        tasks = f"/proc/{self.pid()}/task"
        return [int(tid) for tid in os.listdir(tasks)
                if open(f"{tasks}/{tid}/comm").read().startswith(prefix)]

    def cpu_ns(self, tid):
        return int(open(f"/proc/{self.pid()}/task/{tid}/schedstat").read().split()[0])


class StoppedThread:
    """One thread of another process, held by ptrace while all others run."""
    SEIZE, INTERRUPT, DETACH = 0x4206, 0x4207, 17
    WALL = 0x40000000

    def __init__(self, tid):
        self.tid = tid
        self.libc = ctypes.CDLL(None, use_errno=True)

    def ptrace(self, request):
        if self.libc.ptrace(request, self.tid, None, None) < 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def __enter__(self):
        self.ptrace(self.SEIZE)
        self.ptrace(self.INTERRUPT)
        os.waitpid(self.tid, self.WALL)
        return self

    def __exit__(self, *_):
        self.ptrace(self.DETACH)
