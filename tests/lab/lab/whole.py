# SPDX-License-Identifier: Apache-2.0
"""What the scenarios that boot a whole Debian from its own disk have in common."""
import json
import os
import subprocess
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


def _opened(s, disk, with_backing):
    """A qcow2 image on a shared disk for qemu-img outside of the hosts, where its backing file has another name."""
    layers = {"driver": "qcow2", "backing": None, "file": {"driver": "file", "filename": s.lab.shared_disk(disk)}}
    if with_backing:
        layers["backing"] = {"driver": "raw", "file": {"driver": "file", "filename": os.path.join(
            s.lab.media_dir, "disk.raw")}}
    return "json:" + json.dumps(layers)


def check_image(s, watch, disk):
    """Once nothing runs any more: the qcow2 image holds all records, and is sound."""
    copy = s.lab.shared_disk(disk) + ".copy"
    try:
        subprocess.run(["qemu-img", "convert", "-O", "raw", _opened(s, disk, True), copy], check=True)
        watch.check_records(copy, guest_disk.RECORDS_OFFSET)
    finally:
        if os.path.exists(copy):
            os.unlink(copy)
    check = subprocess.run(["qemu-img", "check", "-q", _opened(s, disk, False)],
                           capture_output=True, text=True, check=False)
    s.check(check.returncode == 0, f"the image is not sound: {check.stdout} {check.stderr}")


def end(vmm):
    if vmm:
        if getattr(vmm, "watch", None):
            vmm.watch.end()
        vmm.end()
