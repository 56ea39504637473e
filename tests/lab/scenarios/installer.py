# SPDX-License-Identifier: Apache-2.0
"""The Debian installer comes up from its CD-ROM by UEFI, on the serial console; moved to another host it goes on to its next
screen. CD-ROM images that are none, or that can't boot, are refused."""
import subprocess
import tempfile
import time

from lab import alone

CLUSTER, MEDIA = False, True
ISO = "/media/installer.iso"
# With less memory than it likes, it says so first.
SCREENS = "Low memory mode", "Select a language|Choose language|Select your location|country|Loading additional components"


def refuse(s, host):
    with tempfile.TemporaryDirectory() as work:
        with open(f"{work}/readme", "w", encoding="ascii") as f:
            f.write("no boot record\n")
        subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", f"{work}/data.iso",
                        f"{work}/readme"], check=True, stderr=subprocess.DEVNULL)
        host.put(f"{work}/data.iso", "/run/data.iso")
    host.run(f"head -c 1000000 {ISO} > /run/short.iso; head -c 4194304 /dev/urandom > /run/noise.iso")
    words = ["drover-vmm", "--name", "bad", "--memory", "256M", "--cpus", "1",
             "--control", "/run/bad.control", "--firmware", "bios", "--cdrom"]
    for file, pattern in (("/run/data.iso,boot=1", "boot record"), ("/run/short.iso", "short.iso"),
                          ("/run/noise.iso", "no ISO"), ("/run/nothing.iso", "does not exist"),
                          ("/run", "directory")):
        alone.check_refused(s, host, [*words, file], pattern)
    host.run("rm -f /run/*.iso")


def run(s):
    source, target = s.lab.hosts[:2]
    refuse(s, source)
    s.lab.wipe_shared_disk(3)
    s.vmm = alone.Vmm(s, "inst", 7, ["--firmware", "uefi", "--cdrom", f"{ISO},boot=1",
                                     "--disk", "/dev/disk/by-id/virtio-shared3"],
                      memory="512M", cpus=1)
    began = time.monotonic()
    s.vmm.start()
    console = s.vmm.console(source)
    s.check(console.wait("GRUB for [^ ]* loads", 240), f"no GRUB: {console.text[-300:]!r}")
    s.figure("start_to_grub_s", time.monotonic() - began)
    s.check(console.wait(SCREENS[0], 420), f"no first screen: {console.text[-300:]!r}")
    s.figure("start_to_screen_s", time.monotonic() - began)
    s.vmm.move(source, target)
    moved = s.vmm.console(target)
    moved.type("\r")
    s.check(moved.wait(SCREENS[1], 180), f"no next screen after the move: {moved.text[-300:]!r}")
    s.check_no_resets()


def end(s):
    if hasattr(s, "vmm"):
        s.vmm.end()
