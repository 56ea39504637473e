# SPDX-License-Identifier: Apache-2.0
"""The disk that carries the programs under test into the hosts, made for each run, so that a
rebuild of Drover makes no new image."""
import os
import shutil
import subprocess
import tempfile

from . import initrd, paths

PROGRAMS = ["droverd", "drover", "drover-vmm"]
GUESTS = ["checker.elf"]  # small ones of our own, which boot at once


def programs():
    """Those of the build folder that are there."""
    found = {}
    for name in PROGRAMS:
        path = os.path.join(paths.build_dir(), name)
        if os.path.exists(path):
            found[name] = path
    return found


def require(wanted=tuple(PROGRAMS)):
    """LabError when one of these is not built."""
    missing = [name for name in wanted if name not in programs()]
    if missing:
        raise paths.LabError(f"no {', '.join(missing)} in {paths.build_dir()}: build first, or say "
                             "where with DROVER_LAB_BUILD")


def write(image_dir, target):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(target)) as work:
        os.makedirs(f"{work}/bin")
        os.makedirs(f"{work}/guest")
        for name, path in programs().items():
            shutil.copy(path, f"{work}/bin/{name}")
            subprocess.run(["strip", "--strip-debug", f"{work}/bin/{name}"], check=False,
                           stderr=subprocess.DEVNULL)
        shutil.copy(f"{image_dir}/vmlinuz", f"{work}/guest/vmlinuz")
        initrd.write_guest(image_dir, f"{work}/guest/initrd")
        for name in GUESTS:
            path = os.path.join(paths.build_dir(), "tests/guests", name)
            if os.path.exists(path):
                shutil.copy(path, f"{work}/guest/{name}")
        size_mib = 16 + 2 * sum(os.path.getsize(os.path.join(folder, name)) >> 20
                                for folder, _, names in os.walk(work) for name in names)
        subprocess.run(["mke2fs", "-qF", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", work,
                        target, f"{size_mib}M"], check=True, stdout=subprocess.DEVNULL)
