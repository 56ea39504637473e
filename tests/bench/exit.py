# SPDX-License-Identifier: Apache-2.0
"""What it costs a guest to leave: ports that end in the VMM, and the notification of a virtio queue. Host time, by the lines
that the guest prints before and after a counted loop."""
import tempfile

import compare

MEMORY = "32M"
COUNT = 100000
# figure -> what the guest does; only q35 has a PCI bus.
KINDS = {"port_us": 0, "device_register_us": 1, "virtio_notify_us": 2}
GOAL = 1.1  # the same, but for the noise


def measure(words):
    with compare.Process(words) as vm:
        begin = vm.wait(b"begin\n")
        return (vm.wait(b"end\n") - begin) * 1e6 / COUNT


def drover():
    figures = {}
    for name, what in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
            figures[name] = measure(compare.drover_words(
                folder, MEMORY, compare.guest("exits.elf"), "--serial", "stdio",
                "--cmdline", f"what={what} count={COUNT}"))
    return figures


def peer(program, machine):
    figures = {}
    for name, what in KINDS.items():
        if name == "virtio_notify_us" and machine == "microvm":
            continue
        more = ["-device", "virtio-rng-pci,disable-legacy=on"] if what == 2 else []
        figures[name] = measure(compare.qemu_words(
            program, machine, MEMORY, "-serial", "stdio", "-kernel", compare.guest("exits.elf"),
            "-append", f"what={what} count={COUNT}", *more))
    return figures


def run(runs, say):
    reason = compare.reason_to_skip("exits.elf")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    contenders = {compare.DROVER: drover}
    for name, (program, machine) in compare.peers().items():
        contenders[name] = lambda program=program, machine=machine: peer(program, machine)
    result = {"runs": runs, **compare.ratios(compare.interleave(contenders, runs, say))}
    return compare.judge(result, "port_us", {name: GOAL for name in KINDS}, say)
