# SPDX-License-Identifier: Apache-2.0
"""The hosts' root image, made from Debian packages and kept in a cache by its inputs' hash.

An image is a folder: root.ext4, vmlinuz, the same unpacked as vmlinux, version, busybox and, for the initramfs of hosts and of
their guests, host-modules/ and guest-modules/ with a list in loading order."""
import glob
import gzip
import hashlib
import lzma
import os
import shutil
import struct
import subprocess
import zlib

from . import paths
from .paths import LabError

RECIPE = "4"  # grows whenever this file makes a different image of the same packages
# Only what the lab's hosts need beside deploy/packages/host.
EXTRA_PACKAGES = ["systemd-sysv", "busybox-static", "procps", "socat"]
VIRTIO_MODULES = ["virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "virtio_console"]
BOOT_MODULES = {"host": [*VIRTIO_MODULES, "crc32c_generic", "ext4", "overlay"],
                # `button` and `evdev`: the power button, as a key.
                "guest": [*VIRTIO_MODULES, "virtio_balloon", "button", "evdev"]}
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def release():
    """The Debian release of this machine, which its hosts run too."""
    with open("/etc/os-release", encoding="utf-8") as f:
        values = dict(line.rstrip("\n").split("=", 1) for line in f if "=" in line)
    name = values.get("VERSION_CODENAME", "").strip('"')
    if name not in ("bookworm", "trixie"):
        raise LabError(f"the lab runs on Debian 12 or 13; this machine says '{name}'")
    return name


def read_packages(use):
    """The packages of deploy/packages/USE for this release."""
    names = []
    with open(os.path.join(paths.TOP_DIR, "deploy", "packages", use), encoding="utf-8") as f:
        for line in f:
            words = line.split("#")[0].split()
            if words and (len(words) == 1 or release() in words[1:]):
                names.append(words[0])
    return names


def _host_packages():
    # libasan and libubsan let a sanitizer build's programs run in the hosts.
    sanitizers = ["libasan8", "libubsan1"]
    return sorted(set(read_packages("host") + EXTRA_PACKAGES + sanitizers))


def sources():
    mirror = os.environ.get("DROVER_LAB_MIRROR", "http://deb.debian.org/debian")
    security = os.environ.get("DROVER_LAB_MIRROR_SECURITY", mirror + "-security")
    name = release()
    lines = [f"deb {mirror} {name} main", f"deb {mirror} {name}-updates main",
             f"deb {security} {name}-security main"]
    if name == "bookworm":
        lines.append(f"deb {mirror} {name}-backports main")
    return lines


def key_of(texts, files):
    """A short hash of an image's inputs."""
    digest = hashlib.sha256()
    for part in texts:
        digest.update(part.encode() + b"\n")
    for path in files:
        with open(path, "rb") as f:
            digest.update(f.read())
    return digest.hexdigest()[:16]


def _key():
    return key_of([RECIPE, release(), *_host_packages(), *sources(), str(BOOT_MODULES)],
                  [os.path.join(paths.LAB_DIR, "image-kernel")])


def run(command, log):
    # The tools' processes end with ours, and their mounts with the mount namespace.
    prefix = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork",
              "--kill-child", "--mount-proc"]
    with open(log, "ab") as out:
        done = subprocess.run(prefix + command, stdin=subprocess.DEVNULL, stdout=out,
                              stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        with open(log, encoding="utf-8", errors="replace") as f:
            tail = [line.strip() for line in f if line.strip()][-1:]
        raise LabError(f"{command[0]} failed: {' '.join(tail)} (whole log: {log})")


def bootstrap(root, packages, options, log):
    """A Debian of these packages in a folder, without documentation."""
    command = ["mmdebstrap", "--variant=minbase", "--mode=root", "--include=" + ",".join(packages),
               "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*",
               "--dpkgopt=path-exclude=/usr/share/locale/*", *options, release(), root]
    if os.path.exists(KEYRING):
        command.insert(1, f"--keyring={KEYRING}")
    run(command + sources(), log)


def _bootstrap_host(root, log):
    pin = ("Package: libraft*\\nPin: release n=bookworm-backports\\nPin-Priority: 990\\n")
    hook = os.path.join(paths.LAB_DIR, "image-kernel")
    bootstrap(root, _host_packages(),
              [f"--setup-hook=printf '{pin}' > \"$1/etc/apt/preferences.d/drover-libraft\"",
               f"--customize-hook={hook} \"$1\""], log)


def _module_order(tree, wanted):
    """Paths of the wanted modules and what they depend on, each after what it needs. Those
    that this kernel has built in are left out."""
    depends = {}
    with open(os.path.join(tree, "modules.dep"), encoding="ascii") as f:
        for line in f:
            name, needs = line.split(":")
            depends[name] = needs.split()
    by_name = {os.path.basename(path).split(".ko")[0].replace("-", "_"): path for path in depends}
    order = []

    def add(path):
        for need in depends[path]:
            add(need)
        if path not in order:
            order.append(path)

    for name in wanted:
        if name in by_name:
            add(by_name[name])
    return order


def _copy_modules(tree, wanted, target):
    os.makedirs(target)
    names = []
    for path in _module_order(tree, wanted):
        with open(os.path.join(tree, path), "rb") as f:
            data = f.read()
        if path.endswith(".xz"):
            data = lzma.decompress(data)
        elif path.endswith(".gz"):
            data = gzip.decompress(data)
        names.append(os.path.basename(path).split(".ko")[0] + ".ko")
        with open(os.path.join(target, names[-1]), "wb") as f:
            f.write(data)
    with open(os.path.join(target, "list"), "w", encoding="ascii") as f:
        f.write("".join(name + "\n" for name in names))


def _unpack_kernel(image, target):
    """The ELF kernel inside a bzImage, whose PVH entry QEMU boots: an emulated machine takes 2 s
    to unpack it by itself. Where it is packed is written in the boot protocol's header."""
    with open(image, "rb") as f:
        data = f.read()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = data[start:start + length]
    if payload[:6] == b"\xfd7zXZ\0":
        # Four bytes with the size follow the stream.
        elf = lzma.LZMADecompressor().decompress(payload)
    elif payload[:2] == b"\x1f\x8b":
        elf = zlib.decompressobj(31).decompress(payload)
    else:
        done = subprocess.run(["zstd", "-dqc"], input=payload, capture_output=True, check=False)
        elf = done.stdout
    if elf[:4] != b"\x7fELF":
        raise LabError(f"cannot unpack {image}: its packing is not known here")
    with open(target, "wb") as f:
        f.write(elf)


def _make(target, log):
    root = os.path.join(target, "root")
    _bootstrap_host(root, log)
    with open(os.path.join(root, "boot", "version"), encoding="ascii") as f:
        version = f.read().strip()
    shutil.copy(os.path.join(root, "boot", f"vmlinuz-{version}"), os.path.join(target, "vmlinuz"))
    _unpack_kernel(os.path.join(target, "vmlinuz"), os.path.join(target, "vmlinux"))
    shutil.copy(os.path.join(root, "boot", "version"), os.path.join(target, "version"))
    shutil.copy(os.path.join(root, "bin", "busybox"), os.path.join(target, "busybox"))
    for use, wanted in BOOT_MODULES.items():
        _copy_modules(os.path.join(root, "lib", "modules", version), wanted,
                      os.path.join(target, f"{use}-modules"))
    for waste in ("boot", "var/lib/apt", "var/cache", "usr/share/zoneinfo"):
        for path in glob.glob(os.path.join(root, waste, "*")):
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    # No journal: hosts mount it read-only.
    run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", root,
          os.path.join(target, "root.ext4"), "2G"], log)
    shutil.rmtree(root)


def cached(kind, what, key, make, refresh=False):
    """The folder KIND-KEY of the cache; make(folder, log) fills it first if it isn't there. Safe beside other runs (one makes
    it, the rest wait) and when interrupted (it appears under its name when it is whole)."""
    target = os.path.join(paths.cache_dir(), f"{kind}-{key}")
    if os.path.isdir(target) and not refresh:
        return target
    if os.geteuid() != 0:
        raise LabError(f"making {what} needs root: run it with sudo")
    guard = paths.lock_file(os.path.join(paths.cache_dir(), f"{kind}.lock"))
    try:
        if os.path.isdir(target) and not refresh:
            return target
        paths.note(f"making {what} (once; kept in {paths.cache_dir()})")
        work = os.path.join(paths.cache_dir(), f"tmp-{kind}")
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        make(work, os.path.join(paths.cache_dir(), f"{kind}.log"))
        shutil.rmtree(target, ignore_errors=True)
        os.rename(work, target)
        paths.note("made: " + target)
        return target
    finally:
        os.close(guard)


def ensure(refresh=False):
    """The folder of the hosts' image, made first if it isn't there."""
    return cached("image", "the hosts' image", _key(), _make, refresh)


def compiled(source, *flags):
    """A program made of one C file of this tree, kept by the file's hash: static, or what `flags` ask for."""
    flags = flags or ("-static", "-pthread")
    with open(source, "rb") as f:
        key = hashlib.sha256(f.read()).hexdigest()[:16]
    name = os.path.basename(source)[:-2]
    target = os.path.join(paths.cache_dir(), f"{name}-{key}")
    if not os.path.exists(target):
        work = f"{target}.{os.getpid()}.{os.urandom(2).hex()}"
        done = subprocess.run(["cc", "-std=gnu17", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra",
                               "-Werror", "-o", work, source, *flags],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"cannot build {source}: {done.stderr.strip()}")
        os.rename(work, target)
    return target
