# SPDX-License-Identifier: Apache-2.0
"""Clients of the guest's records server (tests/guests/recordd.c), and the check of its disk.

The check reads the disk from outside. It shows: acknowledged records that are lost or doubled;
a guest that ran in two places at once; and writes that were acknowledged to the guest and are gone."""
import json
import socket
import threading
import time

SLOT = 512
AREAS = {"R": 2048, "H": 1048576}  # first slot of records and of heartbeats
PORT = 7000


PATIENCE_S = 10  # an answer may be this late before a connection is given up


class Client:
    """One connection; call() sends a line and returns the answer's first line."""

    def __init__(self, address, timeout, patience=None):
        self._socket = socket.create_connection((address, PORT), timeout=timeout)
        self._socket.settimeout(patience or timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._socket.makefile("rw", encoding="utf-8")

    def call(self, line):
        self._stream.write(line + "\n")
        self._stream.flush()
        answer = self._stream.readline()
        if not answer:
            raise OSError("the guest closed the connection")
        return answer.rstrip("\n")

    def be_patient(self, seconds):
        """An answer may take so long from now on."""
        self._socket.settimeout(seconds)

    def line(self):
        return self._stream.readline()

    def close(self):
        self._socket.close()


def status(address, timeout=5):
    client = Client(address, timeout)
    try:
        return json.loads(client.call("STATUS"))
    finally:
        client.close()


def wait_answer(address, timeout):
    """The guest's status as soon as it answers; None when it doesn't."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            return status(address, 1)
        except (OSError, ValueError):
            time.sleep(0.1)
    return None


_running = []  # writers that nobody has stopped yet


def stop_all():
    """After a scenario, however it ended: a writer that goes on would be heard by the next one's guest."""
    for writer in list(_running):
        writer.stop()


class Writer(threading.Thread):
    """Appends records one after the other, and connects again when the connection is lost."""

    def __init__(self, address, name="w", pause_s=0.02):
        super().__init__(daemon=True)
        self.address, self.name_, self.pause_s = address, name, pause_s
        self.patience_s = PATIENCE_S  # may be changed while it runs: counts from the next record on
        self.acknowledged = {}   # text -> number
        self.answer_times = []   # of each acknowledgement, CLOCK_MONOTONIC
        self.connections = 0
        self._ended = threading.Event()
        _running.append(self)
        self.start()

    def run(self):
        client, number = None, 0
        while not self._ended.is_set():
            try:
                if client is None:
                    client = Client(self.address, 1.0)
                    self.connections += 1
                client.be_patient(self.patience_s)
                text = f"{self.name_}-{number}"
                # An attempt without an answer may be on the disk or not; its text is not used again.
                number += 1
                answer = client.call("APPEND " + text)
                if not answer.startswith("OK "):
                    raise OSError(answer)
                self.acknowledged[text] = int(answer[3:])
                self.answer_times.append(time.monotonic())
                self._ended.wait(self.pause_s)
            except (OSError, ValueError):
                if client:
                    client.close()
                client = None
                self._ended.wait(0.1)

    def wait_count(self, count, timeout):
        """Until so many more records are acknowledged."""
        goal, end = len(self.answer_times) + count, time.monotonic() + timeout
        while time.monotonic() < end:
            if len(self.answer_times) >= goal:
                return True
            time.sleep(0.05)
        return False

    def first_after(self, moment):
        """When the first record after a moment was acknowledged; None: none yet."""
        return next((t for t in list(self.answer_times) if t > moment), None)

    def stop(self):
        self._ended.set()
        self.join(5)
        if self in _running:
            _running.remove(self)


class Stream(threading.Thread):
    """Reads numbered lines of one single connection, which must never break."""

    def __init__(self, address):
        super().__init__(daemon=True)
        self._client = Client(address, 10, 120)
        self.lines, self.broken, self.largest_gap_s = 0, "", 0.0
        
        self.start()

    def run(self):
        try:
            answer, last = self._client.call("STREAM"), time.monotonic()
            while answer:
                now = time.monotonic()
                self.largest_gap_s = max(self.largest_gap_s, now - last)
                last = now
                if int(answer.split()[0]) != self.lines:
                    self.broken = f"line {answer.split()[0]} where {self.lines} was expected"
                    return
                self.lines += 1
                answer = self._client.line()
            self.broken = "the guest closed the connection"
        except (OSError, ValueError) as error:
            self.broken = str(error) or "broken"

    def reset_gap(self):
        self.largest_gap_s = 0.0

    def stop(self):
        """Ends it; returns what was wrong with it until then, or an empty text."""
        wrong = self.broken
        self._client.close()
        return wrong


class Entry:
    """A slot of the disk."""

    def __init__(self, data):
        words = data.split(b"\0")[0].decode(errors="replace").rstrip("\n").split(" ", 6)
        self.kind, self.number, self.boot = words[0], int(words[1]), words[2]
        self.count, self.mono_ns, self.unix_ms = int(words[3]), int(words[4]), int(words[5])
        self.text = words[6] if len(words) > 6 else ""


def read_area(path, kind, offset=0):
    entries = []
    with open(path, "rb") as f:
        f.seek(offset + AREAS[kind] * SLOT)
        while True:
            data = f.read(SLOT)
            if len(data) < SLOT or data[0] == 0:
                return entries
            entries.append(Entry(data))


def check_disk(path, acknowledged, offset=0):
    """Problems found on the disk (or a part of it, from `offset` on), as texts; an empty list is what everybody wants."""
    problems = []
    areas = {kind: read_area(path, kind, offset) for kind in AREAS}
    for kind, entries in areas.items():
        for number, entry in enumerate(entries):
            if entry.kind != kind or entry.number != number:
                problems.append(f"slot {kind}{number} holds {entry.kind}{entry.number}")
        problems += _check_turns(kind, entries)
    problems += _check_counts(areas["R"] + areas["H"])
    problems += _check_acknowledged(areas["R"], acknowledged)
    return problems


def _check_turns(kind, entries):
    """Once another boot has written, the one before must never write again."""
    finished, current, problems = set(), None, []
    for entry in entries:
        if entry.boot == current:
            continue
        if entry.boot in finished:
            problems.append(f"two places: boot {entry.boot} wrote {kind}{entry.number} after "
                            f"{current} had begun")
            break
        finished.add(current)
        current = entry.boot
    return problems


def _check_counts(entries):
    """A guest writes one thing after the other, each durable before the next: no gaps."""
    by_boot, problems = {}, []
    for entry in entries:
        by_boot.setdefault(entry.boot, []).append(entry.count)
    for boot, counts in by_boot.items():
        missing = set(range(max(counts) + 1)) - set(counts)
        if missing or len(counts) != len(set(counts)):
            problems.append(f"boot {boot}: {len(missing)} durable writes are gone, the first "
                            f"is number {min(missing, default=-1)}")
    return problems


def _check_acknowledged(records, acknowledged):
    problems, at = [], {}
    for entry in records:
        if entry.text in at:
            problems.append(f"doubled: '{entry.text}' is in {at[entry.text]} and {entry.number}")
        at[entry.text] = entry.number
    lost = [text for text, number in acknowledged.items() if at.get(text) != number]
    if lost:
        problems.append(f"lost: {len(lost)} acknowledged records, the first is '{lost[0]}'")
    return problems


def boots(path):
    """The guest's boots that wrote heartbeats, in order: [(boot, first, last)] with unix_ms."""
    found = []
    for entry in read_area(path, "H"):
        if not found or found[-1][0] != entry.boot:
            found.append((entry.boot, entry.unix_ms, entry.unix_ms))
        found[-1] = (entry.boot, found[-1][1], entry.unix_ms)
    return found
