# SPDX-License-Identifier: Apache-2.0
"""Commands in a host, over its virtio-serial port (the other end is tests/lab/agent.c)."""
import os
import queue
import shlex
import socket
import struct
import threading
import time

from .paths import LabError

HEADER = struct.Struct("<HBxI")
CHUNK = 32768


class Job:
    """A command that runs in a host. Its output arrives as chunks in a queue."""

    def __init__(self, agent, job_id, command):
        self._agent, self._id, self.command = agent, job_id, command
        self._chunks = queue.Queue()
        self.status = None

    def feed(self, data):
        for start in range(0, len(data), CHUNK):
            self._agent.send(self._id, "I", data[start:start + CHUNK])

    def close_input(self):
        self._agent.send(self._id, "C", b"")

    def kill(self):
        self._agent.send(self._id, "K", b"")

    def arrived(self, kind, data):
        self._chunks.put((kind, data))

    def chunks(self, timeout=None):
        """(kind, data) of output ('O') and errors ('E') until the command ends; then status is
        set: its exit status, 128 + signal, or None when the host went away."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0, end - time.monotonic())
            try:
                kind, data = self._chunks.get(timeout=left)
            except queue.Empty:
                self.kill()
                raise LabError(f"no end after {timeout:g} s: {self.command}") from None
            if kind == "X":
                self.status = None if data is None else \
                    os.waitstatus_to_exitcode(struct.unpack("<I", data)[0])
                if self.status is not None and self.status < 0:
                    self.status = 128 - self.status
                return
            yield kind, data

    def lines(self, timeout=None):
        """Its output, line by line, as it comes."""
        rest = b""
        for kind, data in self.chunks(timeout):
            if kind == "O":
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    yield line.decode(errors="replace")
        if rest:
            yield rest.decode(errors="replace")


class Agent:
    """One connection per power-on of a host: QEMU and the agent both begin anew then."""

    def __init__(self, path, timeout=10):
        self.ready = threading.Event()
        self._jobs, self._last_id = {}, 0
        self._lock, self._gone = threading.Lock(), False
        self._socket = _connect(path, timeout)
        threading.Thread(target=self._receive, daemon=True).start()

    def send(self, job_id, kind, data):
        try:
            with self._lock:
                self._socket.sendall(HEADER.pack(job_id, ord(kind), len(data)) + data)
        except OSError:
            pass  # the receiving thread notices, and ends the jobs

    def start(self, command):
        if not isinstance(command, str):
            command = shlex.join(command)
        with self._lock:
            self._last_id = self._last_id % 65535 + 1
            job = Job(self, self._last_id, command)
            self._jobs[self._last_id] = job
            gone = self._gone
        if gone:
            job.arrived("X", None)
        else:
            self.send(job._id, "S", command.encode())
        return job

    def close(self):
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _receive(self):
        stream = self._socket.makefile("rb")
        try:
            while True:
                header = stream.read(HEADER.size)
                if len(header) < HEADER.size:
                    break
                job_id, kind, size = HEADER.unpack(header)
                data = stream.read(size)
                if chr(kind) == "H":
                    self.ready.set()
                job = self._jobs.get(job_id)
                if job:
                    job.arrived(chr(kind), data)
                    if chr(kind) == "X":
                        self._jobs.pop(job_id)
        except OSError:
            pass
        with self._lock:
            self._gone = True
        for job in list(self._jobs.values()):
            job.arrived("X", None)


def _connect(path, timeout):
    end = time.monotonic() + timeout
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(path)
            return connection
        except OSError as error:
            connection.close()
            if time.monotonic() > end:
                raise LabError(f"cannot reach {path}: {error.strerror}") from None
            time.sleep(0.02)
