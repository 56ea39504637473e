# SPDX-License-Identifier: Apache-2.0
"""Post-copy with real guests: the guest runs on the target before its memory is there, while the link is slow, cut, mended,
or its source dies. For test_migrate."""
import contextlib
import os
import signal
import socket
import subprocess
import threading
import time

import process
import vmm
from vmm import Failure

MEMORY = "160M"
DIRTIER = vmm.GUEST.replace("checker", "dirtier")
FEEDER = vmm.GUEST.replace("checker", "feeder")
HOT = "mib=64 fill=32"  # written as fast as it goes; no link of these tests can follow


def check(condition, text):
    if not condition:
        raise Failure(text)


class SlowLink:
    """Between source and target: carries so many bytes a second, can be cut, and mended."""

    def __init__(self, uri, bytes_per_second):
        self.rate, self.cut_now, self.pairs = bytes_per_second, False, []
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        host, port = uri[len("tcp:"):].rsplit(":", 1)
        self.target = (host, int(port))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            source, _ = self.listener.accept()
            with self.lock:
                if self.cut_now:
                    source.close()
                    continue
                target = socket.create_connection(self.target)
                self.pairs.append((source, target))
            threading.Thread(target=self.forward, args=(source, target, self.rate), daemon=True).start()
            threading.Thread(target=self.forward, args=(target, source, 0), daemon=True).start()

    def forward(self, one, other, rate):
        try:
            while data := one.recv(65536):
                other.sendall(data)
                if rate:
                    time.sleep(len(data) / rate)
        except OSError:
            pass
        for end in (one, other):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        with self.lock:
            self.cut_now, pairs, self.pairs = True, self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def mend(self):
        self.cut_now = False


def passes(guest):
    text = guest.serial()
    check(b"LOST" not in text, f"{guest.name} lost a write: {text[-200:]!r}")
    return text.count(b"pass ")


def passes_on(guest, count, seconds=60):
    before = passes(guest)
    guest.wait_for(lambda: passes(guest) >= before + count, seconds, f"{count} passes over its memory")


def migration(guest):
    return guest.control("status", check=False).get("migration", {})


def begun(machines, *words, rate=20 << 20, clustered=False, **options):
    """A guest that writes, its target, the link between them, and the order to move it."""
    ids = [["--vm-id", "7", "--epoch", str(epoch)] if clustered else [] for epoch in (1, 2)]
    guest = machines.start("source", *ids[0], cmdline=HOT, memory=MEMORY, kernel=DIRTIER, **options)
    guest.wait_for(lambda: passes(guest) > 1, 60, "the first passes")
    target = machines.start("target", "--incoming", "tcp:127.0.0.1:0", *ids[1], memory=MEMORY, **options)
    link = SlowLink(target.status()["incoming_uri"], rate)
    mover = subprocess.Popen([vmm.PROGRAM, "control", guest.control_path, "migrate", link.uri, "--streams", "1",
                              "--compress", "never", *words],
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return guest, target, link, mover


def moved(mover, target):
    out, errors = mover.communicate(timeout=120)
    check('"completed"' in out, f"it says {out} {errors}")
    passes_on(target, 3)
    last = migration(target)
    check((last["status"], last["interrupted"]) == ("completed", False), f"the target says {last}")
    return out


def in_postcopy(guest, target):
    for side in (guest, target):
        side.wait_for(lambda: migration(side).get("status") == "postcopy", 90, "post-copy")


def both_interrupted(guest, target):
    for side in (guest, target):
        side.wait_for(lambda: migration(side).get("interrupted"), 30, "the word that the link is lost")
    check(guest.status()["state"] == "handed-over", "the source does not say that it handed over")
    check(target.status()["state"] == "running", "the target does not say that it runs")


def test_postcopy_a_guest_that_never_converges_arrives_by_itself():
    with vmm.Machines() as machines:
        guest, target, _, mover = begun(machines, "--deadline", "12", "--max-downtime", "50", rate=60 << 20)
        before = passes(guest)
        out = moved(mover, target)
        check(passes(guest) > before, "the guest did not run on while it was copied")
        return f"downtime {out.split('downtime_ms')[1].split(',')[0].strip(' :' + chr(34))} ms"


def test_postcopy_a_link_that_is_cut_comes_back_again_and_again():
    with vmm.Machines() as machines:
        guest, target, link, mover = begun(machines, "--post-copy", "now", rate=10 << 20)
        in_postcopy(guest, target)
        for _ in range(3):
            link.cut()
            both_interrupted(guest, target)
            left = migration(guest)["bytes_remaining"]
            check(left > 0, "nothing was left to send: the link was too fast for this test")
            link.mend()
            guest.wait_for(lambda left=left: migration(guest).get("bytes_remaining", 0) < left, 30, "progress")
        moved(mover, target)


def test_postcopy_goes_on_by_order_when_nobody_follows_it():
    with vmm.Machines() as machines:
        guest, target, link, mover = begun(machines, "--post-copy", "now", rate=10 << 20)
        in_postcopy(guest, target)
        mover.kill()
        mover.wait()
        link.cut()
        both_interrupted(guest, target)
        answer = str(guest.control("migrate-resume", link.uri, check=False))
        time.sleep(0.5)
        check(migration(guest)["interrupted"], f"it goes on over a link that is cut: {answer}")
        stood = passes(target)
        time.sleep(1)
        check(passes(target) <= stood + 1, "the guest runs on without its memory")
        link.mend()
        guest.control("migrate-resume", link.uri)
        guest.wait_for(lambda: migration(guest).get("status") == "completed", 90, "the end")
        passes_on(target, 3)


def test_postcopy_a_source_that_is_gone_for_good_ends_the_guest():
    with vmm.Machines() as machines:
        guest, target, _, mover = begun(machines, "--post-copy", "now", rate=10 << 20)
        in_postcopy(guest, target)
        answer = str(target.control("cancel", check=False))
        check("only when the connection to its source is lost" in answer, f"it says {answer}")
        guest.process.kill()
        mover.wait(timeout=30)
        target.wait_for(lambda: migration(target).get("interrupted"), 30, "the word that the link is lost")
        target.control("cancel")
        target.process.wait(timeout=15)
        check(target.process.returncode != 0, "it ends as if all were well")
        check("the source is gone" in target.log(), f"it does not say why: {target.log()}")


def test_postcopy_a_cluster_hears_of_a_lost_guest_as_of_one_that_crashed():
    """Never as failed, by which its agent would know that it never ran here, and have the source run it."""
    with vmm.Machines() as machines:
        guest, target, _, mover = begun(machines, "--post-copy", "now", rate=10 << 20, clustered=True)
        in_postcopy(guest, target)
        guest.process.kill()
        mover.wait(timeout=30)
        target.wait_for(lambda: migration(target).get("interrupted"), 30, "the word that the link is lost")
        target.control("cancel")
        seen = set()
        until = time.monotonic() + 15
        while target.process.poll() is None and time.monotonic() < until:
            seen.add(target.control("status", check=False).get("state"))
        check(target.process.poll() is not None, f"it does not end by itself: {target.log()}")
        check("failed" not in seen, f"it says {seen}")
        check("the source is gone" in target.log(), f"it does not say why: {target.log()}")


def test_postcopy_a_target_that_waits_for_memory_can_be_switched_off():
    with vmm.Machines() as machines:
        guest, target, link, mover = begun(machines, "--post-copy", "now", rate=10 << 20)
        in_postcopy(guest, target)
        mover.kill()
        mover.wait()
        link.cut()
        both_interrupted(guest, target)
        subprocess.run([vmm.PROGRAM, "control", target.control_path, "quit"], stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, timeout=30, check=False)
        target.process.wait(timeout=15)


def test_postcopy_two_vcpus_arrive():
    with vmm.Machines() as machines:
        guest, target, _, mover = begun(machines, "--post-copy", "now", cpus=2)
        moved(mover, target)
        passes(guest)


class Fed:
    """A guest that gives a device buffers all over its memory, on a target whose source is gone: both the vCPU and the
    I/O thread, with the device's lock, wait for pages that never come."""

    def __init__(self, machines, line, source=(), target=()):
        options = {"memory": "96M", "cmdline": f"mib=32 {line}", "kernel": FEEDER}
        words = ["--vm-id", "7", "--ha", "--epoch"]
        self.source = machines.start("source", *words, "1", *source, **options)
        self.lease(self.source, 60)
        self.source.wait_for(lambda: self.source.serial().count(b"pass ") > 1, 60, "the first passes")
        self.target = machines.start("target", "--incoming", "tcp:127.0.0.1:0", *words, "2", *target, **options)
        self.lease(self.target, 60)
        link = SlowLink(self.target.status()["incoming_uri"], 20 << 20)
        mover = subprocess.Popen([vmm.PROGRAM, "control", self.source.control_path, "migrate", link.uri, "--streams",
                                  "1", "--compress", "never", "--post-copy", "now"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        in_postcopy(self.source, self.target)
        self.pid = self.target.status()["pid"]
        time.sleep(0.3)  # some pages come: the guest's code, and the queue
        self.source.process.kill()
        link.cut()
        mover.wait(timeout=30)
        self.target.wait_for(lambda: migration(self.target).get("interrupted"), 30, "the word that the link is lost")
        self.target.wait_for(lambda: self.waiting() >= {"io", "vcpu-0"}, 5, f"threads that wait: {self.waiting()}")
        self.client = process.Client(self.target.control_path)

    @staticmethod
    def lease(machine, seconds):
        answer = process.Client(machine.control_path).lease(process.boottime_ns() + int(seconds * 1e9), vm_id=7)
        check(answer[0] == 0, f"the lease is refused: {answer}")

    def waiting(self):
        """The threads that wait for a page."""
        found = set()
        for task in os.listdir(f"/proc/{self.pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{self.pid}/task/{task}/wchan", encoding="ascii") as where, \
                    open(f"/proc/{self.pid}/task/{task}/comm", encoding="ascii") as name:
                if where.read() == "handle_userfault":
                    found.add(name.read().strip())
        return found

    def answers(self, order, body=b"", seconds=1.0):
        began = time.monotonic()
        answer = self.client.order(order, body, vm_id=7)
        took = time.monotonic() - began
        check(took < seconds, f"order {order} took {took:.1f} s: {answer}")
        return answer

    def all_answered(self):
        """As long as nobody gives it up, whatever is asked of it."""
        for _ in range(3):
            self.lease(self.target, 30)
            error, _, status = self.answers(process.STATUS)
            check((error, status[4]) == (0, process.RUNNING), f"it says {error} {status}")
            self.answers(process.BALLOON, process.field(1, 96 << 20))
            check(self.answers(process.BUTTON)[0] == 0, "the power button is refused")
            time.sleep(0.1)
        check(self.client.lease(0, vm_id=7)[0] == 0, "the end of the lease is refused")
        check(self.answers(process.STATUS)[2][4] == process.FREEZING, "a lease that is over does not freeze it")
        check("io" in self.waiting(), "its I/O thread does not wait for a page any more")  # vCPUs may: Linux 6.2

    def pause_is_refused(self):
        """In words, not by silence: no other order of this client's would be looked at."""
        error, text, _ = self.answers(process.PAUSE, seconds=3)
        check(error != 0 and "memory that is still on its way" in text, f"to a pause it says {error} {text}")
        check(self.answers(process.RESUME)[0] == 0, "it is not resumed")

    def gone(self, within):
        self.target.process.wait(timeout=within)
        check(not os.path.exists(self.target.control_path), "its socket's file stays")


def test_postcopy_orders_are_answered_while_the_balloon_waits_for_a_page():
    with vmm.Machines() as machines:
        fed = Fed(machines, "id=5 queue=0 bytes=4 word=1")
        fed.pause_is_refused()
        fed.all_answered()
        fed.client.send_order(process.QUIT, vm_id=7)
        fed.gone(4)


def test_postcopy_orders_are_answered_while_the_disk_waits_for_a_page():
    with vmm.Machines() as machines:
        disk = os.path.join(machines.folder.name, "disk.raw")
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        fed = Fed(machines, "id=2 queue=0 bytes=16 word=4 answer", ["--disk", disk], ["--disk", disk])
        fed.all_answered()
        fed.target.control("cancel")
        fed.gone(5)


def test_postcopy_orders_are_answered_while_the_console_waits_for_a_page():
    with vmm.Machines() as machines:
        path = os.path.join(machines.folder.name, "console")
        fed = Fed(machines, "id=3 queue=1 bytes=16", (), ["--console", f"unix:{path}"])
        with socket.socket(socket.AF_UNIX) as person:
            person.connect(path)
            person.sendall(b"typed " * 2000)
            fed.all_answered()
        fed.target.process.send_signal(signal.SIGTERM)
        fed.gone(5)


def test_postcopy_orders_are_answered_while_the_network_waits_for_a_page():
    if os.geteuid() != 0:
        return "SKIP: makes taps"
    taps = [f"pc{os.getpid()}{side}" for side in "st"]
    with contextlib.ExitStack() as stack, vmm.Machines() as machines:
        for tap in taps:
            subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
            stack.callback(subprocess.run, ["ip", "link", "del", tap], check=True)
        fed = Fed(machines, "id=1 queue=1 bytes=72", *(["--net", f"tap={tap},mac=02:00:00:00:00:07"] for tap in taps))
        fed.all_answered()
        fed.target.control("cancel")
        fed.gone(5)
    return None


def test_postcopy_a_guest_that_resets_itself_waits_for_its_memory():
    """A reset fills memory anew: whoever does that must not wait for pages of a link that is cut."""
    with vmm.Machines() as machines:
        options = {"memory": "96M", "cmdline": "mib=32 id=5 queue=0 bytes=4 word=1 reset", "kernel": FEEDER}
        source = machines.start("source", **options)
        source.wait_for(lambda: source.serial().count(b"pass ") > 1, 60, "the first passes")
        target = machines.start("target", "--incoming", "tcp:127.0.0.1:0", **options)
        link = SlowLink(target.status()["incoming_uri"], 10 << 20)
        mover = subprocess.Popen([vmm.PROGRAM, "control", source.control_path, "migrate", link.uri, "--streams", "1",
                                  "--compress", "never", "--post-copy", "now"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        in_postcopy(source, target)
        time.sleep(0.5)  # it waits for a page meanwhile, and resets itself
        link.cut()
        for _ in range(10):
            answer = target.control("status", timeout=2)
            check(answer["migration"]["status"] == "postcopy", f"it says {answer}")
            time.sleep(0.1)
        check(b"ready" not in target.serial(), "it began anew before its memory had come")
        link.mend()
        mover.wait(timeout=60)
        target.wait_for(lambda: b"ready" in target.serial(), 30, "the guest's second life")
