# SPDX-License-Identifier: Apache-2.0
"""From the start of the process to the first line of a stock guest's init, in one emulated host (tests/lab/), against QEMU.

The same Debian kernel, initramfs, memory and command line for all; no disk, no network; the line comes by the serial port.
An emulated host is slow and noisy: only the ratios mean something."""
import os
import tempfile

import compare
import net
import qemu
from lab import image, initrd

GOAL = 1.0
MARK = "init-is-here"
MEMORY = "256M"
SECONDS = 180
CMDLINE = "console=ttyS0 quiet panic=-1"
INIT = f"""#!/bin/sh
/bin/busybox echo {MARK}
while :; do /bin/busybox sleep 1000; done
"""
MACHINES = {"q35": "q35", "microvm": "microvm,x-option-roms=off"}


def guest_initrd(target):
    archive = initrd.Archive()
    for name in ("dev", "proc", "sys", "run", "tmp"):
        archive.folder(name)
    archive.add_file("bin/busybox", os.path.join(image.ensure(), "busybox"), 0o755)
    archive.link("bin/sh", "busybox")
    archive.add("init", INIT.encode(), 0o755)
    archive.write(target)


def timeuntil():
    return image.compiled(os.path.join(net.TOP, "tests", "guests", "timeuntil.c"))


def drover_words():
    return (f"drover-vmm --name boot --memory {MEMORY} --cpus 1 --kernel {net.KERNEL} --initrd /tmp/initrd "
            f"--cmdline '{CMDLINE}' --serial stdio --control /tmp/control")


def qemu_words(place, machine):
    return (f"{place}/ld.so --library-path {place} {place}/qemu -L {place} -nodefaults -no-user-config -display none "
            f"-monitor none -M {machine} -accel kvm -cpu host -m {MEMORY} -smp 1 -kernel {net.KERNEL} -initrd /tmp/initrd "
            f"-append '{CMDLINE}' -serial stdio")


def one(lab, words):
    out = net.lab_host("exec", f"rm -f /tmp/control; timeuntil {SECONDS} {MARK} {words} 2>/tmp/vm.log || tail -n 3 /tmp/vm.log",
                       lab=lab).strip()
    if not out.isdigit():
        raise RuntimeError(f"no figure: {out[-400:]}")
    return {"init_s": int(out) / 1e6}


def prepare(lab, folder):
    """name -> words of all contenders; what they need is in the host then."""
    guest_initrd(os.path.join(folder, "initrd"))
    net.lab_host("put", os.path.join(folder, "initrd"), "/tmp/initrd", lab=lab)
    net.lab_host("put", timeuntil(), "/usr/bin/timeuntil", lab=lab)
    net.lab_host("exec", "chmod +x /usr/bin/timeuntil", lab=lab)
    contenders = {compare.DROVER: drover_words()}
    for number, (name, program) in enumerate(qemu.programs().items()):
        archive, place = os.path.join(folder, "qemu.tar"), f"/opt/qemu{number}"
        net.qemu_archive(archive, program)
        net.lab_host("put", archive, "/tmp/qemu.tar", lab=lab)
        net.lab_host("exec", f"mkdir {place}; tar -C {place} -xf /tmp/qemu.tar; rm /tmp/qemu.tar", lab=lab)
        for machine, words in MACHINES.items():
            contenders[f"{name} {machine}"] = qemu_words(place, words)
    return contenders


def rounds(lab, contenders, runs, say):
    """name -> the median of each contender, taken in turn; a peer that does not come up at all is left out, and told."""
    results = {name: [] for name in contenders}
    for number in range(runs):
        for name in list(results):
            try:
                results[name].append(one(lab, contenders[name]))
                say(f"  {number + 1}/{runs} {name}: {results[name][-1]['init_s']:.2f} s")
            except RuntimeError as error:
                if name == compare.DROVER or results[name]:
                    raise
                say(f"  {name} is left out: {error}")
                del results[name]
    return {name: compare.medians(found) for name, found in results.items()}


def run(runs, say):
    if not qemu.programs():
        say("skipped: there is no qemu-system-x86_64 to compare with")
        return {"skipped": "no qemu-system-x86_64 to compare with"}
    with tempfile.TemporaryDirectory() as folder:
        lab = net.lab_host("start", "--memory", "2048").split()[-1]
        try:
            table = rounds(lab, prepare(lab, folder), runs, say)
        finally:
            net.lab_host("end", lab=lab)
    result = {"runs": runs, **compare.ratios(table)}
    if "init_s" not in result:
        say("skipped: no QEMU boots this guest here")
        return {"skipped": "no QEMU boots this guest here"}
    return compare.judge(result, "init_s", {"init_s": GOAL}, say)
