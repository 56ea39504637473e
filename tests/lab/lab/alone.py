# SPDX-License-Identifier: Apache-2.0
"""drover-vmm alone, without a cluster: started in a host, watched on its serial console, moved to another."""
import json
import os
import re
import shlex
import threading
import time

from . import records
from .paths import LabError

MIGRATION_PORT = 9000


class Console:
    """A client of a VM's serial port: all that it ever showed, and a keyboard."""

    def __init__(self, host, name, command):
        self._data, self._news = b"", threading.Condition()
        self._log = os.path.join(host.state_dir, f"vm-{name}.log")
        self._job = host.spawn(command)
        threading.Thread(target=self._read, args=(self._job,), daemon=True).start()

    def _read(self, job):
        try:
            for kind, data in job.chunks():
                if kind == "O":
                    with self._news:
                        self._data += data
                        self._news.notify_all()
                    with open(self._log, "ab") as f:
                        f.write(data)
        except (LabError, OSError):
            pass

    @property
    def text(self):
        """Without the sequences that move a terminal's cursor and colour its letters."""
        text = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>()][0-9A-B]?", b"", self._data)
        return text.decode(errors="replace").replace("\r", "")

    def type(self, text):
        self._job.feed(text.encode())

    def wait(self, pattern, timeout, after=0):
        """Until the text from position `after` on holds a regular expression; False: it does not."""
        end = time.monotonic() + timeout
        while not re.search(pattern, self.text[after:]):
            if time.monotonic() > end:
                return False
            with self._news:
                self._news.wait(0.5)
        return True

    def close(self):
        self._job.kill()


class Vmm:
    """One VM and the programs that run it, on the hosts of scenario `s`. Its network address follows from its number, by
    the card's own address: see lab/guest_disk.py."""

    def __init__(self, s, name, number, options, memory="384M", cpus=2):
        self.s, self.name, self.options = s, name, options
        self.address = f"10.77.0.{100 + number}"
        self._mac = f"52:54:00:77:01:{100 + number:02x}"
        self._memory, self._cpus, self._hosts = memory, cpus, []
        self.control_path, self.serial_path = f"/run/{name}.control", f"/run/{name}.serial"

    def words(self, *more):
        return ["drover-vmm", "--name", self.name, "--memory", self._memory, "--cpus", str(self._cpus),
                "--net", f"tap={self.name},mac={self._mac}", "--serial", f"unix:{self.serial_path}",
                "--control", self.control_path, *self.options, *more]

    def start(self, host=None, *more):
        """On the first host, or another; returns it when the control socket is there. LabError with the program's last
        line when it ends."""
        host = host or self.s.lab.hosts[0]
        if host not in self._hosts:
            host.run(f"ip tuntap add dev {self.name} mode tap && ip link set {self.name} master drover0 up")
            self._hosts.append(host)
        log = f"/run/{self.name}.log"
        host.run(f"rm -f {self.control_path}; {shlex.join(self.words(*more))} </dev/null >{log} 2>&1 & "
                 f"for i in $(seq 300); do [ -S {self.control_path} ] && exit 0; kill -0 $! || break; "
                 f"sleep 0.1; done 2>/dev/null; tail -n 1 {log} >&2; exit 1")
        return host

    def console(self, host):
        return Console(host, self.name, ["socat", "-", f"UNIX-CONNECT:{self.serial_path}"])

    def control(self, host, *words, timeout=120):
        return json.loads(host.run(["drover-vmm", "control", self.control_path, *words],
                                   timeout=timeout).out)

    def move(self, source, target):
        """To a second host while it runs; its figures go to the scenario."""
        self.start(target, "--incoming", f"tcp:{target.address}:{MIGRATION_PORT}")
        self.control(source, "migrate", f"tcp:{target.address}:{MIGRATION_PORT}", timeout=180)
        end, status = time.monotonic() + 120, {}
        while time.monotonic() < end:
            status = self.control(source, "status")
            if (status.get("migration") or {}).get("status") in ("completed", "failed", "cancelled"):
                break
            time.sleep(0.2)
        migration = status.get("migration") or {}
        self.s.check(migration.get("status") == "completed", f"migration: {status}")
        for name in ("total_ms", "downtime_ms", "bytes_sent", "rounds"):
            self.s.figure(name, migration[name])

    def stop(self, host, timeout=90):
        """By its power button."""
        self.control(host, "stop")
        self.wait_end(host, timeout)

    def wait_end(self, host, timeout=90):
        """Until its process is gone."""
        pattern = f"[d]rover-vmm --name {self.name} "
        host.run(f"for i in $(seq {timeout * 10}); do pgrep -f '{pattern}' >/dev/null || exit 0; "
                 "sleep 0.1; done; exit 1", timeout=timeout + 10)

    def end(self):
        """Whatever state it is in."""
        for host in self._hosts:
            host.run(f"[ -S {self.control_path} ] && timeout 5 drover-vmm control {self.control_path} "
                     f"quit >/dev/null; ip link del {self.name}; rm -f /run/{self.name}.*; true")
        self._hosts = []


class ClusterVm:
    """The same for a VM of the scenario's cluster: `options` are those of `drover vm create`."""

    def __init__(self, s, name, number, options, memory="384M", cpus=2):
        self.s, self.name = s, name
        self.address = f"10.77.0.{100 + number}"
        self._words = ["vm", "create", name, "--memory", memory, "--cpus", str(cpus), "--net",
                       f"bridge=drover0,mac=52:54:00:77:01:{100 + number:02x}", *options]
        self._created = False

    def start(self):
        self.s.cluster.ask(*self._words)
        self._created = True
        self.s.cluster.wait_vm(self.name, lambda vm: True, 60)
        return self.s.cluster.vm_host(self.name)

    def console(self, host):
        return Console(host, self.name, ["drover", "vm", "console", self.name])

    def move(self, _source, target):
        for tries in (1, 2, 3):
            try:
                self.s.cluster.ask("vm", "migrate", self.name, "--to", target.name, timeout=300)
                break
            except LabError as error:
                # A host that gets no processor time answers late; then the VM stays where it is, and can be moved again.
                if "no answer in time" not in str(error) or tries == 3:
                    raise
                self.s.say(f"once more: {error}")
        self.s.figure("move_tries", tries)
        vm = self.s.cluster.wait_vm(self.name, lambda vm: vm["host"] == target.name, 60)
        for name in ("total_ms", "downtime_ms"):
            self.s.figure(name, float(vm["last_migration"][name]))

    def stop(self, _host):
        self.s.cluster.ask("vm", "stop", self.name)
        self.s.cluster.wait_vm(self.name, lambda vm: True, 90, state="stopped")

    def end(self):
        if self._created:
            self.stop(None)
            self.s.cluster.ask("vm", "delete", self.name)


class Watch:
    """A guest with the records server: one connection that streams, one that writes."""

    def __init__(self, s, address, timeout):
        self.s, self.address = s, address
        self.first = records.wait_answer(address, timeout)
        s.check(self.first is not None, f"the guest does not answer within {timeout} s")
        self.writer, self.stream = records.Writer(address), records.Stream(address)
        s.check(self.writer.wait_count(20, 30), "20 records are not written within 30 s")
        self.stream.reset_gap()

    def check_goes_on(self):
        """After a move: same guest, same connections, new ones too."""
        self.s.check(self.writer.wait_count(20, 60), "no records are written after the move")
        self.s.figure("stream_gap_ms", self.stream.largest_gap_s * 1000)
        self.s.check(self.stream.stop() == "" and self.writer.connections == 1,
                     f"a connection broke: {self.stream.broken}")
        after = records.wait_answer(self.address, 20)
        self.s.check(after is not None, "the guest takes no new connection after the move")
        self.s.check(after["boot"] == self.first["boot"], "it is another guest")

    def check_records(self, disk, offset=0):
        """Once nothing runs any more."""
        problems = records.check_disk(disk, self.writer.acknowledged, offset)
        self.s.check(not problems, "; ".join(problems))
        self.s.figure("records_acknowledged", len(self.writer.acknowledged))

    def end(self):
        self.writer.stop()
        self.stream.stop()


def check_refused(s, host, words, *patterns):
    """A command line that must fail: at once, with one line that says what is wrong and what to do."""
    result = host.run(["timeout", "20", *words], timeout=40, check=False)
    lines = result.err.strip().splitlines()
    s.say("refused: " + " / ".join(lines))
    s.check(result.status not in (0, 124) and result.status < 128,
            f"exit {result.status} of {shlex.join(words)}: {lines}")
    s.check(len(lines) == 1, f"not one line but {lines}")
    for pattern in patterns:
        s.check(re.search(pattern, lines[0]), f"'{lines[0]}' does not say '{pattern}'")
