# SPDX-License-Identifier: Apache-2.0
"""Memory that a VM costs beyond its guest's own: dirty private pages of all its processes, after the guest (128 MiB; disk,
NIC, rng, console, balloon) has driven its disk for a while."""
import ctypes
import errno
import fcntl
import os
import re
import struct
import tempfile
import time

import compare
import vmm

MEMORY = "128M"
GOAL_RATIO, GOAL_MIB = 0.2, 2.4
GUEST_RAM = ("/memfd:guest-ram", "/memfd:memory-backend-memfd")
CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETPERSIST, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454ca, 0x400454cb, 2, 0x1000, 0x4000


def network_of_our_own():
    """So that taps made here meet nobody's, and end with this process."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise vmm.Failure("no network namespace of its own: run it as root")


def tap_create(name):
    """Or waits until nobody has it: the kernel lets go of what a process had in an io_uring a moment after its end."""
    end = time.monotonic() + 5
    while True:
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            try:
                fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
                fcntl.ioctl(tun, TUNSETPERSIST, 1)
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > end:
                    raise
        time.sleep(0.01)


def dirty_kib(pid):
    """mapping's name -> dirty KiB, each process's part of what several share; not the guest's memory."""
    found, name = {}, ""
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
        for line in smaps:
            if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
                words = line.split(None, 5)
                name = words[5].strip() if len(words) > 5 else "(anonymous)"
            elif line.startswith("Pss_Dirty:") and not name.startswith(GUEST_RAM):
                found[name] = found.get(name, 0) + int(line.split()[1])
    return {name: kib for name, kib in found.items() if kib}


def measure(words, say=None):
    tap_create("benchtap")
    with compare.Process(words) as vm:
        vm.wait(b"verified", 60)
        tables = [dirty_kib(pid) for pid in compare.family(vm.process.pid)]
    if say:
        for table in tables:
            for name, kib in sorted(table.items(), key=lambda row: -row[1]):
                say(f"    {kib:6} KiB  {name}")
    return {"mib": sum(sum(table.values()) for table in tables) / 1024, "processes": len(tables)}


def disk_create(folder):
    path = os.path.join(folder, "disk.raw")
    with open(path, "wb") as disk:
        disk.truncate(16 << 20)
    return path


def drover_options():
    """The balloon is an option in its own right only since there is one."""
    return ("--serial", "stdio", "--net", "tap=benchtap", "--cmdline", "blocks=256")


def drover(say=None):
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        return measure(compare.drover_words(folder, MEMORY, compare.guest("block.elf"), *drover_options(),
                                            "--disk", disk_create(folder)), say)


def peer(program, machine, say=None):
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        bus = "pci"
        devices = [f"virtio-blk-{bus},drive=d0", f"virtio-net-{bus},netdev=n0,romfile=", f"virtio-rng-{bus}",
                   f"virtio-serial-{bus}", f"virtio-balloon-{bus}"]
        words = compare.qemu_words(
            program, machine, MEMORY, "-object", f"memory-backend-memfd,id=ram,size={MEMORY},share=on",
            "-machine", "memory-backend=ram", "-serial", "stdio", "-kernel", compare.guest("block.elf"),
            "-append", f"blocks=256 ecam={0xb0000000}",
            "-drive", f"file={disk_create(folder)},format=raw,if=none,id=d0,aio=io_uring",
            "-netdev", "tap,id=n0,ifname=benchtap,script=no,downscript=no",
            "-chardev", "null,id=c0")
        for device in devices:
            words += ["-device", device + ",disable-legacy=on"]
        words += ["-device", "virtconsole,chardev=c0"]
        return measure(words, say)


def run(runs, say):
    reason = compare.reason_to_skip("block.elf") or (None if os.access("/dev/net/tun", os.W_OK) else "no /dev/net/tun")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    network_of_our_own()
    contenders = {compare.DROVER: drover}
    for name, (program, machine) in compare.peers(("q35",)).items():
        contenders[name] = lambda program=program, machine=machine: peer(program, machine)
    table = compare.interleave(contenders, min(runs, 3), say)
    drover(say)  # where it is
    processes = table[compare.DROVER].pop("processes")
    result = {"runs": min(runs, 3), "processes": processes, **compare.ratios(table)}
    compare.judge(result, "mib", {"mib": GOAL_RATIO}, say)
    if result["mib"]["drover"] > GOAL_MIB:
        result["missed"].append(f"{result['mib']['drover']} MiB, goal {GOAL_MIB}")
        result["whole"] = False
    return result
