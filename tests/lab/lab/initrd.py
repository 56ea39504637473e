# SPDX-License-Identifier: Apache-2.0
"""Writes initramfs archives (cpio 'newc'), for the hosts and for their guests."""
import os
import stat

from . import image, paths, settings


class Archive:
    """An archive in memory; each folder of a path is made as it is first used."""

    def __init__(self):
        self._parts, self._size, self._folders, self._inode = [], 0, set(), 0

    def _entry(self, name, mode, data=b""):
        self._inode += 1
        encoded = name.encode() + b"\0"
        fields = [self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, data):
            padded = part + b"\0" * (-len(part) % 4)
            self._parts.append(padded)

    def _parents(self, name):
        folder = os.path.dirname(name)
        if folder and folder not in self._folders:
            self._parents(folder)
            self._folders.add(folder)
            self._entry(folder, stat.S_IFDIR | 0o755)

    def folder(self, name):
        self._parents(os.path.join(name, "x"))

    def add(self, name, data, mode=0o644):
        self._parents(name)
        self._entry(name, stat.S_IFREG | mode, data)

    def add_file(self, name, path, mode=None):
        with open(path, "rb") as f:
            self.add(name, f.read(), mode or os.stat(path).st_mode & 0o777)

    def link(self, name, target):
        self._parents(name)
        self._entry(name, stat.S_IFLNK | 0o777, target.encode())

    def add_tree(self, name, path):
        """Adds a folder's files and links, in a fixed order."""
        for folder, _, files in sorted(os.walk(path)):
            inside = os.path.normpath(os.path.join(name, os.path.relpath(folder, path)))
            for file in sorted(files):
                source = os.path.join(folder, file)
                if os.path.islink(source):
                    self.link(os.path.join(inside, file), os.readlink(source))
                else:
                    self.add_file(os.path.join(inside, file), source)

    def write(self, path):
        self._entry("TRAILER!!!", 0)
        # Not compressed: unpacking costs an emulated machine more than reading.
        with open(path, "wb") as f:
            f.write(b"".join(self._parts))


def _base(image_dir, use):
    archive = Archive()
    for folder in ("dev", "proc", "sys", "run", "tmp", "root"):
        archive.folder(folder)
    archive.add_file("bin/busybox", os.path.join(image_dir, "busybox"), 0o755)
    archive.link("bin/sh", "busybox")
    archive.add_tree("modules", os.path.join(image_dir, f"{use}-modules"))
    archive.add_file("init", os.path.join(paths.LAB_DIR, f"{use}-init"), 0o755)
    return archive


def write_host(image_dir, path):
    """The hosts': mounts the root with an overlay, adds what tests/lab/hostfs holds, and goes on
    to systemd."""
    archive = _base(image_dir, "host")
    archive.add_tree("hostfs", os.path.join(paths.LAB_DIR, "hostfs"))
    archive.add_file("hostfs/usr/lib/drover-lab/agent",
                     image.compiled(os.path.join(paths.LAB_DIR, "agent.c")), 0o755)
    archive.add_file("hostfs/etc/systemd/system/droverd.service",
                     os.path.join(paths.TOP_DIR, "deploy", "systemd", "droverd.service"), 0o644)
    archive.add("hostfs/etc/drover/droverd.conf", settings.droverd_conf().encode())
    archive.write(path)


def write_guest(image_dir, path):
    """The guests': recordd, on a stock kernel."""
    archive = _base(image_dir, "guest")
    archive.add_file("bin/recordd",
                     image.compiled(os.path.join(paths.TOP_DIR, "tests", "guests", "recordd.c")))
    archive.write(path)
