# SPDX-License-Identifier: Apache-2.0
"""An unmodified Debian disk boots by SeaBIOS and GRUB, answers, moves to another host while it runs, and shuts down at
its power button."""
from lab import alone, whole

CLUSTER, MEDIA = False, True
DISK = 3


def run(s):
    s.lab.install_shared_disk(DISK)
    s.vmm = alone.Vmm(s, "bios", 9, ["--firmware", "bios",
                                     "--disk", f"/dev/disk/by-id/virtio-shared{DISK}"])
    console, _ = whole.boot_and_move(s, s.vmm, s.lab.shared_disk(DISK))
    s.check("SeaBIOS" in console.text or "GRUB for i386-pc" in console.text, "it was not the BIOS")
    s.check_no_resets()


def end(s):
    whole.end(getattr(s, "vmm", None))
