# SPDX-License-Identifier: Apache-2.0
"""Memory goes back to the host: by an ordered balloon, and by what the guest frees; a guest that runs out of memory takes it
from the balloon; all of that moves to another host with the guest, which loses nothing that it holds."""
import time

from lab import alone, drover, records

CLUSTER = False
DISK, MEMORY_MIB, PATIENCE_S = 3, 384, 90
MIB = 1 << 20
PSS = ("for p in $(pgrep -f '[d]rover-vmm --name {} '); do cat /proc/$p/smaps_rollup; done 2>/dev/null"
       " | awk '/^Pss:/ {{ sum += $2 }} END {{ print sum + 0 }}'")


class Guest:
    """A VM, where it runs, and the server in it."""

    def __init__(self, s, name, number, *options):
        cmdline = f"console=ttyS0 quiet panic=-1 lab.address=10.77.0.{100 + number}/24"
        self.s, self.host = s, s.lab.hosts[0]
        self.vmm = alone.Vmm(s, name, number, [
            "--kernel", drover.KERNEL, "--initrd", drover.INITRD, "--cmdline", cmdline,
            "--disk", f"/dev/disk/by-id/virtio-shared{DISK}", "--cpu", "x86-64-v2", *options],
            memory=f"{MEMORY_MIB}M", cpus=2)

    def start(self):
        self.vmm.start(self.host)
        self.console = self.vmm.console(self.host)
        answer = records.wait_answer(self.vmm.address, PATIENCE_S)
        self.s.check(answer is not None, f"{self.vmm.name} does not answer within {PATIENCE_S} s")
        self.boot = answer["boot"]

    def call(self, line):
        """An answer of its server; without one, the scenario says what became of the guest."""
        try:
            client = records.Client(self.vmm.address, 10, PATIENCE_S)
            try:
                return client.call(line)
            finally:
                client.close()
        except OSError as error:
            now = records.wait_answer(self.vmm.address, 10)
            what = ("it does not answer at all" if now is None else "it answers others"
                    if now["boot"] == self.boot else "it has booted again")
            self.s.check(False, f"{self.vmm.name}: '{line}': {error}; {what}; {self.balloon()}; its console ends: "
                                f"{self.console.text[-1500:]!r}")
            return None

    def balloon(self):
        return self.vmm.control(self.host, "status")["balloon"]

    def host_mib(self):
        """What the VM's processes take of the host's memory."""
        return int(self.host.run(PSS.format(self.vmm.name)).out) / 1024

    def wait(self, what, condition):
        """As long as the balloon moves: how fast depends on what else the machine below has to do."""
        began = last = time.monotonic()
        before, value = None, None
        while time.monotonic() < min(last + PATIENCE_S, began + 5 * PATIENCE_S):
            value = condition()
            if value:
                return value
            balloon = self.balloon()
            now = balloon["actual_bytes"], balloon["reported_bytes"]
            if now != before:
                before, last = now, time.monotonic()
            time.sleep(0.5)
        self.s.check(False, f"{what}: nothing has moved for {PATIENCE_S} s; it takes {self.host_mib():.0f} MiB, {self.balloon()}")
        return None

    def order(self, mib):
        self.vmm.control(self.host, "balloon", f"{mib}M")


def shrink_and_grow(s, guest):
    """With all of its memory there from the start, so that only the balloon can take it."""
    guest.start()
    whole = guest.host_mib()
    s.check(whole >= MEMORY_MIB, f"{whole:.0f} MiB are there with --prealloc")
    guest.wait("the driver", lambda: guest.balloon()["driver"])
    began = time.monotonic()
    guest.order(160)
    guest.wait("160 MiB are left to the guest", lambda: guest.balloon()["actual_bytes"] == 160 * MIB)
    s.figure("shrink_s", time.monotonic() - began)
    small = guest.host_mib()
    s.figure("given_back_mib", whole - small)
    s.check(whole - small >= 200, f"the host has {whole - small:.0f} of 224 MiB back")
    guest.order(MEMORY_MIB)
    guest.wait("it has all again", lambda: guest.balloon()["actual_bytes"] == MEMORY_MIB * MIB)
    s.check(guest.call("FILL 250") == "OK 0" and guest.call("CHECK") == "OK 0", "it can't use it")
    guest.vmm.control(guest.host, "quit")
    guest.vmm.wait_end(guest.host)


def statistics(s, guest):
    stats = guest.wait("its figures", lambda: guest.balloon().get("stats"))
    s.check(0.7 * MEMORY_MIB * MIB < stats["total_bytes"] < MEMORY_MIB * MIB, f"total: {stats}")
    s.check(0 < stats["free_bytes"] < stats["total_bytes"] and stats["minor_faults"] > 0, f"{stats}")


def free_pages(s, guest):
    """Nobody orders anything."""
    idle = guest.host_mib()
    s.check(guest.call("FILL 160") == "OK 0", "it can't fill 160 MiB")
    full = guest.host_mib()
    s.check(full - idle >= 120, f"{idle:.0f} MiB before, {full:.0f} full")
    before = guest.balloon()["reported_bytes"]
    guest.wait("its figures show it", lambda: guest.balloon()["stats"]["free_bytes"] < 190 * MIB)
    s.check(guest.call("FILL 0") == "OK 0", "it can't free it")
    began = time.monotonic()
    guest.wait("what it freed comes back", lambda: full - guest.host_mib() >= 120)
    s.figure("free_to_host_s", time.monotonic() - began)
    s.figure("reported_mib", (guest.balloon()["reported_bytes"] - before) / MIB)


def out_of_memory(s, guest):
    guest.order(128)
    guest.wait("128 MiB are left to the guest", lambda: guest.balloon()["actual_bytes"] == 128 * MIB)
    s.check(guest.call("FILL 200") == "OK 0", "it can't fill 200 MiB")
    balloon = guest.balloon()
    s.figure("taken_from_balloon_mib", balloon["actual_bytes"] / MIB - 128)
    s.check(balloon["target_bytes"] == 128 * MIB and balloon["actual_bytes"] > 200 * MIB, f"{balloon}")


def move(s, guest):
    """Full as it is; then what was sent is given back there too."""
    watch = alone.Watch(s, guest.vmm.address, PATIENCE_S)
    try:
        target = s.lab.hosts[1]
        guest.vmm.move(guest.host, target)
        guest.host = target
        watch.check_goes_on()
    finally:
        watch.end()
    s.check(guest.call("CHECK") == "OK 0", "it does not find what it held")
    balloon = guest.balloon()
    s.check(balloon["driver"] and balloon["target_bytes"] == 128 * MIB, f"after the move: {balloon}")
    guest.wait("its figures", lambda: guest.balloon().get("stats"))
    full = guest.host_mib()
    s.check(guest.call("FILL 0") == "OK 0", "it can't free it")
    guest.wait("what it freed comes back here", lambda: full - guest.host_mib() >= 120)
    guest.order(MEMORY_MIB)
    guest.wait("it has all again", lambda: guest.balloon()["actual_bytes"] == MEMORY_MIB * MIB)
    guest.vmm.control(guest.host, "stop")
    guest.vmm.wait_end(guest.host)
    watch.check_records(s.lab.shared_disk(DISK))


def run(s):
    s.lab.wipe_shared_disk(DISK)
    s.machines = [Guest(s, "whole", 7, "--prealloc"), Guest(s, "lean", 8)]
    shrink_and_grow(s, s.machines[0])
    s.lab.wipe_shared_disk(DISK)
    lean = s.machines[1]
    lean.start()
    statistics(s, lean)
    free_pages(s, lean)
    out_of_memory(s, lean)
    move(s, lean)
    s.check_no_resets()


def end(s):
    for guest in getattr(s, "machines", []):
        guest.vmm.end()
