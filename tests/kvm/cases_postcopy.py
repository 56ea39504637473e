# SPDX-License-Identifier: Apache-2.0
"""Post-copy with real guests: the guest runs on the target before its memory is there, while the link is slow, cut, mended,
or its source dies. For test_migrate."""
import socket
import subprocess
import threading
import time

import vmm
from vmm import Failure

MEMORY = "160M"
DIRTIER = vmm.GUEST.replace("checker", "dirtier")
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
