# SPDX-License-Identifier: Apache-2.0
"""How a move grows: with the guest's memory, with the streams, and with the number of VMs that move at once."""
import concurrent.futures
import statistics
import tempfile
import time

import migrate
import vmm

# memory in MiB, of which a quarter is used, as far as the guest can reach
SIZES = (128, 512, 2048, 8192)
USED_MAX = 512
STREAMS = (1, 2, 4)
VMS = (1, 2, 4, 8, 16)
MANY = ("128M", "used=64 hot=1 rate=200")  # each of the VMs that move at once


def private_kib(pid):
    """Memory of the process alone that is written to; the guest's is shared."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty:"))


class Move:
    """One VM, and where it goes."""

    def __init__(self, folder, number, memory, line):
        self.source = vmm.Vmm(folder, f"source{number}", cmdline=line, memory=memory)
        self.target, self.folder, self.number, self.memory, self.line = None, folder, number, memory, line

    def ready(self):
        self.source.wait_for(lambda: b"ready" in self.source.serial() and len(self.source.beats()) >= 3, 120,
                             "a filled memory")
        self.target = vmm.Vmm(self.folder, f"target{self.number}", "--incoming", "tcp:127.0.0.1:0", cmdline=self.line,
                              memory=self.memory)
        self.uri = self.target.status()["incoming_uri"]

    def run(self, *words):
        before = self.source.beats()[-1]
        figures = self.source.control("migrate", self.uri, *words)
        figures = figures.get("migration", figures)
        if figures["status"] != "completed":
            raise vmm.Failure(f"drover: {figures}")
        migrate.after(self.target.serial, before)
        return figures

    def end(self):
        self.source.end()
        if self.target:
            self.target.end()


def many(count, memory, line, *words):
    """`count` moves at once: the time until the last is done, the median and the longest pause, memory of a source."""
    moves = []
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        try:
            for number in range(count):
                moves.append(Move(folder, number, memory, line))
            for move in moves:
                move.ready()
            time.sleep(migrate.SETTLE_S)
            pid = moves[0].source.status()["pid"]
            before, start = private_kib(pid), time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(count) as pool:
                figures = list(pool.map(lambda move: move.run(*words), moves))
            pauses = [one["downtime_ms"] for one in figures]
            return {"all_ms": (time.monotonic() - start) * 1000, "total_ms": max(one["total_ms"] for one in figures),
                    "pause_ms": statistics.median(pauses), "pause_longest_ms": max(pauses),
                    "memory_kib": private_kib(pid) - before, "bytes": sum(one["bytes_sent"] for one in figures)}
        finally:
            for move in moves:
                move.end()


def run(runs, say):
    reason = vmm.reason_to_skip()
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    khz = f" khz={vmm.tsc_khz()}"
    result = {"whole": True, "runs": min(runs, 3)}
    plan = {f"{size}_mib": (1, f"{size}M", f"used={min(size // 4, USED_MAX)} hot=4 rate=2000", ()) for size in SIZES}
    plan.update({f"{count}_streams": (1, "2048M", "used=512 hot=4 rate=2000", ("--streams", str(count)))
                 for count in STREAMS})
    plan.update({f"{count}_vms": (count, *MANY, ()) for count in VMS})
    for name, (count, memory, line, words) in plan.items():
        try:
            found = [many(count, memory, line + khz, *words) for _ in range(result["runs"])]
        except (vmm.Failure, OSError) as failure:
            say(f"{name}: {failure}")
            result["whole"] = False
            continue
        result[name] = {key: round(value, 1) for key, value in migrate.medians(found).items()}
        say(f"{name:10} " + "  ".join(f"{key} {value:.6g}" for key, value in result[name].items()))
    return result
