# SPDX-License-Identifier: Apache-2.0
"""A guest that writes faster than the link carries is moved: what it gets done in a fixed time from the order on, by post-copy,
against QEMU with auto-converge. Both over a link of the same speed, neither with compression, and with time enough for both to end."""
import statistics
import subprocess
import tempfile
import time

import migrate
import qemu
import vmm

MEMORY = "192M"
LINE = "used=96 hot=96 rate=0"
LINK_BYTES = 20 << 20
WINDOW_S = 30


def writes(*sides):
    """The guest's own count, wherever it runs."""
    return max((beat[1] for side in sides for beat in migrate.beats(side.serial())), default=0)


def whole(side):
    seen = migrate.beats(side.serial())
    if seen and seen[-1][3] != 0:
        raise vmm.Failure(f"the guest lost writes: {seen[-1]}")


def work_drover(folder):
    line = f"{LINE} khz={vmm.tsc_khz()}"
    source = vmm.Vmm(folder, "source", cmdline=line, memory=MEMORY)
    target = mover = None
    try:
        source.wait_for(lambda: b"ready" in source.serial() and len(source.beats()) >= 3, 60, "a filled memory")
        target = vmm.Vmm(folder, "target", "--incoming", "tcp:127.0.0.1:0", cmdline=line, memory=MEMORY)
        before, end = writes(source), time.monotonic() + WINDOW_S
        mover = subprocess.Popen([vmm.PROGRAM, "control", source.control_path, "migrate", target.status()["incoming_uri"],
                                  "--post-copy", "now", "--compress", "never", "--bandwidth", str(LINK_BYTES)],
                                 stdout=subprocess.PIPE, text=True)
        time.sleep(max(0, end - time.monotonic()))
        done = writes(source, target) - before
        move = target.status().get("migration", {})
        whole(target)
        return {"writes": done, "moved": move.get("status") == "completed", "total_ms": move.get("total_ms", 0)}
    finally:
        for side in (source, target):
            if side:
                side.end()
        if mover:
            mover.kill()
            mover.wait()


def work_qemu(folder, program):
    line = f"{LINE} khz={vmm.tsc_khz()}"
    source = qemu.Qemu(program, folder, "source", vmm.GUEST, line, MEMORY)
    target = None
    try:
        migrate.wait(lambda: b"ready" in source.serial() and len(migrate.beats(source.serial())) >= 3, 60, "filled memory")
        target = qemu.Qemu(program, folder, "target", vmm.GUEST, line, MEMORY, incoming=True)
        for side in (source, target):
            side.command("migrate-set-capabilities", capabilities=[{"capability": "auto-converge", "state": True}])
            side.command("migrate-set-parameters", **{"max-bandwidth": LINK_BYTES, "downtime-limit": 300})
        uri = f"tcp:127.0.0.1:{migrate.free_port()}"
        target.command("migrate-incoming", uri=uri)
        before, end = writes(source), time.monotonic() + WINDOW_S
        source.command("migrate", uri=uri)
        time.sleep(max(0, end - time.monotonic()))
        done = writes(source, target) - before
        whole(target)
        move = source.command("query-migrate")
        return {"writes": done, "moved": move["status"] == "completed", "total_ms": move["total-time"]}
    finally:
        source.end()
        if target:
            target.end()


def run(runs, say):
    reason = vmm.reason_to_skip() or (None if qemu.programs() else "no qemu-system-x86_64 to compare with")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    contenders = {"drover": work_drover}
    for name, program in qemu.programs().items():
        contenders[name] = lambda folder, program=program: work_qemu(folder, program)
    results = {name: [] for name in contenders}
    result = {"whole": True, "runs": runs, "window_s": WINDOW_S, "link_bytes_per_second": LINK_BYTES}
    try:
        for _ in range(runs):
            for name, work in contenders.items():
                with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
                    results[name].append(work(folder))
                    say(f"{name:20} " + " ".join(f"{key} {value}" for key, value in results[name][-1].items()))
    except (vmm.Failure, RuntimeError, OSError) as failure:
        say(f"migrate-work: {failure}")
        result["whole"] = False
        return result
    table = {name: statistics.median(found["writes"] for found in runs_of) for name, runs_of in results.items()}
    drover, peer = table.pop("drover"), max(table.values())
    # Lower is better, as in all figures: the time that a write takes.
    result["us_per_write"] = {"drover": WINDOW_S * 1e6 / max(1, drover), "peer": WINDOW_S * 1e6 / max(1, peer),
                              "ratio": round(peer / max(1, drover), 3)}
    result["total_ms"] = {name: statistics.median(found["total_ms"] for found in runs_of) for name, runs_of in results.items()}
    result["moved"] = {name: sum(found["moved"] for found in runs_of) for name, runs_of in results.items()}
    result["whole"] = result["moved"]["drover"] == runs
    return result
