# SPDX-License-Identifier: Apache-2.0
"""Disks: a raw file around the page cache (io_uring in Drover; QEMU with io_uring and with native AIO, the better counts),
and a qcow2 (behind a storage daemon in Drover, inside of QEMU). Host time per request, by the lines that the guest prints before
and after a counted loop; so lower is better throughout."""
import os
import subprocess
import tempfile

import compare

MEMORY = "64M"
SPAN_MIB = 128
# figure -> what the guest does
KINDS = {
    "read_latency_us": {"count": 4000, "bytes": 4096, "random": 1, "depth": 1},
    "read_4k_us": {"count": 20000, "bytes": 4096, "random": 1, "depth": 32},
    "write_latency_us": {"count": 4000, "bytes": 4096, "random": 1, "depth": 1, "write": 1},
    "write_4k_us": {"count": 20000, "bytes": 4096, "random": 1, "depth": 32, "write": 1},
    "read_sequential_us": {"count": 2000, "bytes": 262144, "depth": 8},
    "write_sequential_us": {"count": 1000, "bytes": 262144, "depth": 8, "write": 1},
}
QCOW2_KINDS = ("read_4k_us", "write_4k_us")
GOAL = 1.0


class Disks:
    """A raw file and a qcow2 of the same size, all there, on a real file system."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="drover-bench-", dir="/var/tmp")
        self.raw = os.path.join(self.folder.name, "disk.raw")
        self.qcow2 = os.path.join(self.folder.name, "disk.qcow2")
        with open(self.raw, "wb") as disk:
            for _ in range(SPAN_MIB):
                disk.write(os.urandom(1 << 20))
            os.fsync(disk.fileno())
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", self.raw, self.qcow2], check=True)
        return self

    def __exit__(self, *_):
        self.folder.cleanup()


def measure(words, kind):
    with compare.Process(words) as vm:
        begin = vm.wait(b"begin\n", 60)
        return (vm.wait(b"end\n", 120) - begin) * 1e6 / kind["count"]


def arguments(kind):
    return " ".join(f"{key}={value}" for key, value in kind.items()) + f" span={SPAN_MIB}"


def drover(disks):
    figures = {}

    def one(figure, kind, disk):
        with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
            figures[figure] = measure(compare.drover_words(
                folder, MEMORY, compare.guest("disks.elf"), "--serial", "stdio", "--disk", disk, "--cmdline",
                arguments(kind)), kind)
    for name, kind in KINDS.items():
        one(name, kind, f"{disks.raw},direct,format=raw")
    for name in QCOW2_KINDS:
        one(f"qcow2_{name}", KINDS[name], f"{disks.qcow2},direct,format=qcow2")
    return figures


def peer(disks, program, machine, aio):
    figures = {}

    def one(figure, kind, form, path):
        figures[figure] = measure(compare.qemu_words(
            program, machine, MEMORY, "-serial", "stdio", "-kernel", compare.guest("disks.elf"), "-append", arguments(kind),
            "-object", "iothread,id=io",
            "-drive", f"file={path},format={form},if=none,id=d,cache=none,aio={aio}",
            "-device", "virtio-blk-pci,drive=d,disable-legacy=on,iothread=io"), kind)
    for name, kind in KINDS.items():
        one(name, kind, "raw", disks.raw)
    for name in QCOW2_KINDS:
        one(f"qcow2_{name}", KINDS[name], "qcow2", disks.qcow2)
    return figures


def run(runs, say):
    reason = compare.reason_to_skip("disks.elf")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    with Disks() as disks:
        contenders = {compare.DROVER: lambda: drover(disks)}
        for name, (program, machine) in compare.peers(("q35",)).items():
            for aio in ("io_uring", "native"):
                contenders[f"{name} {aio}"] = \
                    lambda program=program, machine=machine, aio=aio: peer(disks, program, machine, aio)
        result = {"runs": runs, **compare.ratios(compare.interleave(contenders, runs, say))}
    return compare.judge(result, "read_4k_us", {name: GOAL for name in KINDS}, say)
