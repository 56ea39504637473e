# SPDX-License-Identifier: Apache-2.0
"""What the scenarios that boot a whole Debian from its own disk have in common."""
import time

from . import alone, guest_disk, records

BOOT_S = 420  # GRUB, kernel, initrd and systemd, in an emulator in an emulator


def boot_and_move(s, vmm, disk=None, meanwhile=lambda: None):
    """Boots it, moves it to another host, and has it switched off by its power button there. `disk`: a raw file to look for
    the records in; `meanwhile` is called while it boots. Returns the first host's console, and the watch."""
    began = time.monotonic()
    source = vmm.start()
    target = next(host for host in s.lab.hosts if host is not source)
    console = vmm.console(source)
    s.check(console.wait("GRUB for [^ ]* loads", BOOT_S),
            f"GRUB does not come up: {console.text[-300:]!r}")
    s.figure("start_to_grub_s", time.monotonic() - began)
    meanwhile()
    if not records.wait_answer(vmm.address, BOOT_S):
        s.check(False, f"no answer within {BOOT_S} s, its console ends: {console.text[-300:]!r}")
    watch = alone.Watch(s, vmm.address, 10)
    vmm.watch = watch
    s.figure("start_to_answer_s", time.monotonic() - began)
    s.check(console.wait("login:", 60), f"no login on the console: {console.text[-300:]!r}")
    s.figure("start_to_login_s", time.monotonic() - began)
    vmm.move(source, target)
    watch.check_goes_on()
    moved = vmm.console(target)
    moved.type("\r")
    s.check(moved.wait("login:", 30), f"the console is dead after the move: {moved.text[-300:]!r}")
    watch.writer.stop()
    began = time.monotonic()
    vmm.stop(target)
    s.figure("stop_s", time.monotonic() - began)
    if disk:
        watch.check_records(disk, guest_disk.RECORDS_OFFSET)
    return console, watch


def end(vmm):
    if vmm:
        if getattr(vmm, "watch", None):
            vmm.watch.end()
        vmm.end()
