# SPDX-License-Identifier: Apache-2.0
"""What the scenarios that boot a whole Debian from its own disk have in common."""
import time

from . import alone, guest_disk

BOOT_S = 240  # GRUB, kernel, initrd and systemd, in an emulator in an emulator


def boot_and_move(s, vmm, disk=None, meanwhile=lambda: None):
    """Boots it on the first host, moves it to the second, and has it switched off by its power button there. `disk`: a
    raw file to look for the records in; `meanwhile` is called while it boots. Returns the first host's console, and the
    watch."""
    source, target = s.lab.hosts[:2]
    began = time.monotonic()
    vmm.start(source)
    console = vmm.console(source)
    s.check(console.wait("GRUB for [^ ]* loads", BOOT_S),
            f"GRUB does not come up: {console.text[-300:]!r}")
    s.figure("start_to_grub_s", time.monotonic() - began)
    meanwhile()
    watch = alone.Watch(s, vmm.address, BOOT_S)
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
    vmm.control(target, "stop")
    vmm.wait_end(target)
    s.figure("stop_s", time.monotonic() - began)
    if disk:
        watch.check_records(disk, guest_disk.RECORDS_OFFSET)
    return console, watch


def end(vmm):
    if vmm:
        if getattr(vmm, "watch", None):
            vmm.watch.end()
        vmm.end()
