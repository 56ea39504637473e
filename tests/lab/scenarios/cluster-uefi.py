# SPDX-License-Identifier: Apache-2.0
"""The cluster runs an unmodified Debian disk by OVMF: created, moved and stopped by `drover vm`, its disk and its UEFI variables on storage
that all hosts share."""
import hashlib

from lab import alone, whole

MEDIA = True
DISK, VARS = 3, 2
DEVICE = "/dev/disk/by-id/virtio-shared{}"
TEMPLATE = "/usr/share/OVMF/OVMF_VARS_4M.fd"


def refuse(s):
    """What can't work is said when the VM is described, not when it is started."""
    host = s.lab.hosts[0]
    words = ["drover", "vm", "create", "bad", "--memory", "256M", "--firmware", "uefi", "--disk"]
    alone.check_refused(s, host, [*words, DEVICE.format(DISK)], "vars")
    alone.check_refused(s, host, [*words, "/srv/a.qcow2,format=qcow2", "--mergeable"], "mergeable")


def run(s):
    refuse(s)
    s.lab.install_shared_disk(DISK)
    s.lab.wipe_shared_disk(VARS)
    s.vmm = alone.ClusterVm(s, "uefi", 8, ["--firmware", "uefi", "--vars", DEVICE.format(VARS), "--disk", DEVICE.format(DISK)])
    console, _ = whole.boot_and_move(s, s.vmm, s.lab.shared_disk(DISK))
    s.check("GRUB for x86_64-efi" in console.text, "it was not UEFI")
    size = int(s.lab.hosts[0].run(["stat", "-c", "%s", TEMPLATE]).out)
    with open(s.lab.shared_disk(VARS), "rb") as f:
        now = hashlib.sha256(f.read(size)).hexdigest()
        s.check(f.read().strip(b"\0") == b"", "something was written behind the variables")
    template = s.lab.hosts[0].run(["sha256sum", TEMPLATE]).out.split()[0]
    s.check(now != template, "OVMF has written no variable")
    s.check_no_resets()


def end(s):
    whole.end(getattr(s, "vmm", None))
