# SPDX-License-Identifier: Apache-2.0
"""A Debian on a qcow2 disk with a backing file boots, answers, moves to another host while it writes, and shuts down; then
the image holds every record, and is sound. Images that are corrupt, locked or not what they claim are refused."""
from lab import alone, whole

CLUSTER, MEDIA = False, True
DISK = 3
DEVICE, BACKING = f"/dev/disk/by-id/virtio-shared{DISK}", "/dev/disk/by-id/virtio-debian"


def refuse(s, host):
    words = ["drover-vmm", "--name", "bad", "--memory", "256M", "--cpus", "1", "--firmware", "bios",
             "--control", "/run/bad.control", "--disk"]
    host.run("cd /run && qemu-img create -q -f qcow2 good.qcow2 64M && head -c 4194304 /dev/urandom > noise.qcow2"
             " && cp good.qcow2 corrupt.qcow2 && printf '\\377\\377\\377\\377\\377\\377\\377\\377' | dd of=corrupt.qcow2"
             " bs=1 seek=40 conv=notrunc 2>&1 && qemu-img create -q -f qcow2 -u -b /nowhere/base.raw -F raw orphan.qcow2 64M")
    for file, pattern in (("/run/noise.qcow2", "qcow2"), ("/run/corrupt.qcow2", "qemu-img check -f qcow2 /run/corrupt.qcow2"),
                          ("/run/orphan.qcow2", "base.raw"), ("/run/missing.qcow2", "missing.qcow2")):
        alone.check_refused(s, host, [*words, f"{file},format=qcow2"], pattern)
    alone.check_refused(s, host, [*words, f"{DEVICE},format=qcow2"], "lock|in use|used by")
    host.run("rm -f /run/*.qcow2")


def run(s):
    source = s.lab.hosts[0]
    s.lab.wipe_shared_disk(DISK)
    source.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", BACKING, "-F", "raw", DEVICE])
    s.vmm = alone.Vmm(s, "qcow", 6, ["--firmware", "bios", "--disk", f"{DEVICE},format=qcow2"])
    _, watch = whole.boot_and_move(s, s.vmm, meanwhile=lambda: refuse(s, source))
    whole.check_image(s, watch, DISK)
    s.check_no_resets()


def end(s):
    whole.end(getattr(s, "vmm", None))
