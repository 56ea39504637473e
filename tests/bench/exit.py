# SPDX-License-Identifier: Apache-2.0
"""What it costs a guest to leave: ports that end in the VMM, and the notification of a virtio queue. By the lines that the
guest prints before and after a counted loop: the time that passed, and the processor time of all the VM's threads (_cpu_),
which is judged: it is the same on a busy machine."""
import tempfile

import compare

MEMORY = "32M"
COUNT = 100000
# figure -> what the guest does; only q35 has a PCI bus.
KINDS = {"port_us": 0, "device_register_us": 1, "virtio_notify_us": 2}
GOAL = 1.1  # the same, but for the noise


def measure(name, words):
    with compare.Process(words) as vm:
        begin, begin_ns = vm.wait(b"begin\n", 90), vm.cpu_ns()
        end, end_ns = vm.wait(b"end\n", 90), vm.cpu_ns()
    return {name: (end - begin) * 1e6 / COUNT, cpu_name(name): (end_ns - begin_ns) / 1e3 / COUNT}


def cpu_name(name):
    return name.replace("_us", "_cpu_us")


def drover():
    figures = {}
    for name, what in KINDS.items():
        with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
            figures |= measure(name, compare.drover_words(
                folder, MEMORY, compare.guest("exits.elf"), "--serial", "stdio",
                "--cmdline", f"what={what} count={COUNT}"))
    return figures


def peer(program, machine):
    figures = {}
    for name, what in KINDS.items():
        if name == "virtio_notify_us" and machine == "microvm":
            continue
        more = ["-device", "virtio-rng-pci,disable-legacy=on"] if what == 2 else []
        figures |= measure(name, compare.qemu_words(
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
    return compare.judge(result, cpu_name("port_us"), {cpu_name(name): GOAL for name in KINDS}, say)
