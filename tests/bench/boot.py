# SPDX-License-Identifier: Apache-2.0
"""From the start of the process to the guest's first instruction, seen from outside: its byte arrives on a pipe."""
import tempfile

import compare

MEMORY = "128M"
# At most this part of the best QEMU's time.
GOAL = 0.2


def drover():
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        words = compare.drover_words(folder, MEMORY, compare.guest("first.elf"), "--serial", "stdio")
        with compare.Process(words) as vm:
            ms = (vm.wait(b"!") - vm.began) * 1000
    return {"kernel_ms": ms, "first_instruction_ms": ms}


def peer(program, machine):
    """The same kernel; and the same instructions as the machine's firmware, so that it runs none of its own before."""
    figures = {}
    for name, words in {"kernel_ms": ("-kernel", compare.guest("first.elf")),
                        "first_instruction_ms": ("-bios", compare.guest("first.rom"))}.items():
        with compare.Process(compare.qemu_words(program, machine, MEMORY, "-serial", "stdio", *words)) as vm:
            figures[name] = (vm.wait(b"!") - vm.began) * 1000
    return figures


def run(runs, say):
    reason = compare.reason_to_skip("first.elf", "first.rom")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    contenders = {compare.DROVER: drover}
    for name, (program, machine) in compare.peers().items():
        contenders[name] = lambda program=program, machine=machine: peer(program, machine)
    result = {"runs": runs, **compare.ratios(compare.interleave(contenders, runs, say))}
    return compare.judge(result, "kernel_ms", {"kernel_ms": GOAL, "first_instruction_ms": GOAL}, say)
