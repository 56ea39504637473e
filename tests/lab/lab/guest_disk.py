# SPDX-License-Identifier: Apache-2.0
"""A whole Debian on a disk, and the Debian installer on a CD-ROM, made of Debian's packages.

The folder that ensure() gives holds disk.raw (GPT: BIOS boot partition, ESP, ext4 root, and a raw partition for the records
server; GRUB for BIOS and for UEFI) and media.ext4 with installer.iso (El Torito for both). No loop device is needed."""
import glob
import os
import shutil
import struct
import subprocess

from . import image, paths
from .paths import LabError

RECIPE = "3"  # grows whenever this file makes other images of the same inputs
PACKAGES = ["systemd-sysv", "udev", "dbus", "kmod", "iproute2", "login", "passwd", "zstd",
            "initramfs-tools", "linux-image-amd64"]
# "Only the drivers that this system needs", as the installer offers it: a third of the time to boot.
INITRD_MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "ext4", "crc32c_generic"]
MIB = 1 << 20
SECTOR = 512
# Name, type, first and last MiB of each partition.
PARTITIONS = [("bios", "21686148-6449-6E6F-744E-656564454649", 1, 2),
              ("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 2, 18),
              ("root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 18, 1042),
              ("records", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", 1042, 1682)]
DISK_BYTES = 1683 * MIB
RECORDS_OFFSET = PARTITIONS[3][2] * MIB
GRUB_DIR = "/usr/lib/grub"
GRUB_MODULES = {"i386-pc": ["biosdisk", "part_gpt", "ext2"],
                "x86_64-efi": ["part_gpt", "ext2", "normal", "search", "linux", "echo", "test",
                               "serial", "terminal", "configfile"]}
# Where, in GRUB's first sector, the place of its second part is written; and in that, of its third.
BOOT_SECTOR_NEXT, BOOT_CODE_SIZE, DISK_SECTOR_NEXT = 0x5C, 440, 0x1F4
INSTALLER_CFG = """\
serial --unit=0 --speed=115200
if [ "$grub_platform" = pc ]; then
    terminal_input serial
    terminal_output serial
fi
set timeout=1
menuentry 'Install' {
    echo "GRUB for $grub_cpu-$grub_platform loads the installer ..."
    linux /linux console=ttyS0 priority=high --- console=ttyS0
    initrd /initrd.gz
}
"""


def _files():
    tree = os.path.join(paths.LAB_DIR, "guestfs")
    for folder, _, names in sorted(os.walk(tree)):
        for name in sorted(names):
            path = os.path.join(folder, name)
            yield path, os.path.relpath(path, tree)


def _recordd():
    return image.compiled(os.path.join(paths.TOP_DIR, "tests", "guests", "recordd.c"))


def _key():
    inputs = [path for path, _ in _files()]
    inputs += [os.path.join(paths.LAB_DIR, "image-installer"), _recordd()]
    return image.key_of([RECIPE, image.release(), *PACKAGES, *image.sources(), str(PARTITIONS),
                         str(GRUB_MODULES), str(INITRD_MODULES), INSTALLER_CFG], inputs)


def _bootstrap(root, log):
    hook = os.path.join(paths.LAB_DIR, "image-installer")
    conf, modules = "etc/initramfs-tools/conf.d", "usr/share/initramfs-tools/modules.d"
    image.bootstrap(root, PACKAGES, [f"--essential-hook=cd \"$1\" && mkdir -p {conf} {modules} && "
                                     f"echo MODULES=list > {conf}/lab && "
                                     f"printf '%s\\n' {' '.join(INITRD_MODULES)} > {modules}/lab",
                                     f"--customize-hook={hook} \"$1\"",
                                     "--customize-hook=echo root:lab | chroot \"$1\" chpasswd"], log)
    for path, name in _files():
        target = os.path.join(root, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy(path, target)
    shutil.copy(_recordd(), os.path.join(root, "usr/local/sbin/recordd"))
    wants = os.path.join(root, "etc/systemd/system/multi-user.target.wants")
    for unit in ("recordd", "lab-network"):
        os.symlink(f"../{unit}.service", os.path.join(wants, f"{unit}.service"))
    for name, text in (("etc/hostname", "lab-guest\n"), ("etc/machine-id", "")):
        with open(os.path.join(root, name), "w", encoding="ascii") as f:
            f.write(text)
    os.makedirs(os.path.join(root, "boot/efi"))
    for waste in ("var/lib/apt/lists", "var/cache/apt"):
        for path in glob.glob(os.path.join(root, waste, "*")):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


def copy_into(part, disk, offset=0):
    """Copies a file into the disk, its holes as holes."""
    with open(disk, "r+b") as out, open(part, "rb") as f:
        out.seek(offset)
        while data := f.read(MIB):
            if data.count(0) == len(data):
                out.seek(len(data), os.SEEK_CUR)
            else:
                out.write(data)


def _partition(disk):
    with open(disk, "wb") as f:
        f.truncate(DISK_BYTES)
    script = "label: gpt\n" + "".join(
        f"start={first * MIB // SECTOR}, size={(last - first) * MIB // SECTOR}, type={kind}, "
        f"name={name}\n" for name, kind, first, last in PARTITIONS)
    done = subprocess.run(["sfdisk", "-q", disk], input=script, text=True, capture_output=True,
                          check=False)
    if done.returncode != 0:
        raise LabError(f"sfdisk: {done.stderr.strip()}")


def _copy_grub_modules(root):
    for platform in GRUB_MODULES:
        target = os.path.join(root, "boot/grub", platform)
        os.makedirs(target)
        for pattern in ("*.mod", "*.lst"):
            for path in glob.glob(os.path.join(GRUB_DIR, platform, pattern)):
                shutil.copy(path, target)


def _grub_bios(disk, work, log):
    """What grub-bios-setup does: GRUB's first sector, which names where its core is."""
    core = os.path.join(work, "core.img")
    image.run(["grub-mkimage", "-O", "i386-pc", "-p", "(,gpt3)/boot/grub", "-o", core,
               *GRUB_MODULES["i386-pc"]], log)
    first = PARTITIONS[0][2] * MIB
    with open(os.path.join(GRUB_DIR, "i386-pc", "boot.img"), "rb") as f:
        boot = bytearray(f.read())
    struct.pack_into("<Q", boot, BOOT_SECTOR_NEXT, first // SECTOR)
    with open(core, "rb") as f:
        data = bytearray(f.read())
    if len(data) > (PARTITIONS[0][3] - PARTITIONS[0][2]) * MIB:
        raise LabError("GRUB's core is too large for its partition")
    struct.pack_into("<Q", data, DISK_SECTOR_NEXT, first // SECTOR + 1)
    with open(disk, "r+b") as f:
        f.write(boot[:BOOT_CODE_SIZE])
        f.seek(first)
        f.write(data)


def _grub_uefi(disk, work, log):
    esp, early, program = (os.path.join(work, name) for name in ("esp", "early.cfg", "BOOTX64.EFI"))
    with open(early, "w", encoding="ascii") as f:
        f.write("search --no-floppy --set=root --label lab-root\nset prefix=($root)/boot/grub\n")
    image.run(["grub-mkimage", "-O", "x86_64-efi", "-p", "/boot/grub", "-c", early, "-o", program,
               *GRUB_MODULES["x86_64-efi"]], log)
    with open(esp, "wb") as f:
        f.truncate((PARTITIONS[1][3] - PARTITIONS[1][2]) * MIB)
    image.run(["mformat", "-i", esp, "-v", "LAB-ESP", "::"], log)
    image.run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"], log)
    image.run(["mcopy", "-i", esp, program, "::/EFI/BOOT/BOOTX64.EFI"], log)
    copy_into(esp, disk, PARTITIONS[1][2] * MIB)


def _make_disk(target, root, log):
    disk, work = os.path.join(target, "disk.raw"), os.path.join(target, "work")
    os.makedirs(work)
    _partition(disk)
    _copy_grub_modules(root)
    ext4 = os.path.join(work, "root.ext4")
    size_mib = PARTITIONS[2][3] - PARTITIONS[2][2]
    image.run(["mke2fs", "-q", "-t", "ext4", "-L", "lab-root", "-d", root, ext4, f"{size_mib}M"],
              log)
    copy_into(ext4, disk, PARTITIONS[2][2] * MIB)
    _grub_bios(disk, work, log)
    _grub_uefi(disk, work, log)
    shutil.rmtree(work)


def _make_iso(target, installer, log):
    os.makedirs(os.path.join(installer, "boot/grub"))
    with open(os.path.join(installer, "boot/grub/grub.cfg"), "w", encoding="ascii") as f:
        f.write(INSTALLER_CFG)
    files = os.path.join(target, "files")
    os.makedirs(files)
    image.run(["grub-mkrescue", "-o", os.path.join(files, "installer.iso"), installer], log)
    size_mib = 16 + os.path.getsize(os.path.join(files, "installer.iso")) // MIB
    image.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", files,
               os.path.join(target, "media.ext4"), f"{size_mib}M"], log)
    shutil.rmtree(files)


def _make(target, log):
    root, installer = os.path.join(target, "root"), os.path.join(target, "installer")
    _bootstrap(root, log)
    shutil.move(os.path.join(root, "installer"), installer)
    _make_iso(target, installer, log)
    _make_disk(target, root, log)
    for tree in (root, installer):
        shutil.rmtree(tree)


def ensure(refresh=False):
    """The folder of the images, made first if it isn't there."""
    return image.cached("guest", "the guests' disk and installer", _key(), _make, refresh)
