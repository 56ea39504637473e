# SPDX-License-Identifier: Apache-2.0
"""The cluster runs a Debian on a qcow2 disk with a backing file, with a CD-ROM beside it: created, moved and stopped by `drover vm`;
then the image holds every record, and is sound."""
from lab import alone, whole

MEDIA = True
DISK = 3
DEVICE, BACKING = f"/dev/disk/by-id/virtio-shared{DISK}", "/dev/disk/by-id/virtio-debian"


def run(s):
    s.lab.wipe_shared_disk(DISK)
    s.lab.hosts[0].run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", BACKING, "-F", "raw", DEVICE])
    s.vmm = alone.ClusterVm(s, "qcow", 6, ["--firmware", "bios", "--disk", f"{DEVICE},format=qcow2,boot=1",
                                           "--cdrom", "/media/installer.iso"])
    _, watch = whole.boot_and_move(s, s.vmm)
    whole.check_image(s, watch, DISK)
    s.check_no_resets()


def end(s):
    whole.end(getattr(s, "vmm", None))
