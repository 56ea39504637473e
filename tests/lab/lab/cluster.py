# SPDX-License-Identifier: Apache-2.0
"""The lab as a whole: image, network, shared disks and hosts. Use inside run()."""
import os
import time

from . import guest_disk, image, initrd, kit, net, paths, qemu, sandbox, settings
from .host import Host

SHARED_DISK_BYTES = 2 << 30


def run(function, media=False):
    """sandbox.run(), once the images are there: making them needs the machine's own network."""
    try:
        image.ensure()
        if media:
            guest_disk.ensure()
        return sandbox.run(function)
    except KeyboardInterrupt:
        return 130


class Lab:
    """with Lab(hosts=3) as lab: lab.hosts[0].run("uname -a")

    With `media`, the hosts also see a whole Debian and its installer (guest_disk.py)."""

    def __init__(self, hosts=3, cpus=None, memory_mib=1024, run_id=None, media=False):
        self.image_dir = image.ensure()
        self.media_dir = guest_disk.ensure() if media else None
        self.run = paths.RunDir(run_id)
        self.initrd = os.path.join(self.run.disks, "initrd")
        self.kit = os.path.join(self.run.disks, "kit.ext4")
        initrd.write_host(self.image_dir, self.initrd)
        kit.write(self.image_dir, self.kit)
        for number in range(qemu.SHARED_DISKS):
            self.wipe_shared_disk(number)
        net.create()
        self.hosts = [Host(self, n, cpus or settings.host_cpus(), memory_mib) for n in range(1, hosts + 1)]

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.end()

    def host(self, name):
        for host in self.hosts:
            if host.name == name:
                return host
        raise paths.LabError(f"no host {name}: there are {', '.join(h.name for h in self.hosts)}")

    def shared_disk(self, number):
        return os.path.join(self.run.disks, f"shared{number}.raw")

    def wipe_shared_disk(self, number):
        with open(self.shared_disk(number), "wb") as f:
            f.truncate(SHARED_DISK_BYTES)

    def install_shared_disk(self, number):
        """Puts the whole Debian on a shared disk."""
        self.wipe_shared_disk(number)
        guest_disk.copy_into(os.path.join(self.media_dir, "disk.raw"), self.shared_disk(number))

    def start(self):
        """All hosts on, and ready. Returns the seconds it took."""
        began = time.monotonic()
        for host in self.hosts:
            host.power_on()
        for host in self.hosts:
            host.wait_ready()
        return time.monotonic() - began

    def collect(self, folder):
        os.makedirs(folder, exist_ok=True)
        for host in self.hosts:
            host.collect(folder)

    def end(self):
        for host in self.hosts:
            host.power_cut()
        self.run.remove()
