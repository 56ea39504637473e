# SPDX-License-Identifier: Apache-2.0
"""A guest that writes faster than the link carries is moved by QEMU with auto-converge, and then by Drover with post-copy: what it
gets done in the time that QEMU's move takes, from the order on. Both over a link of the same speed, neither with compression."""
import statistics
import subprocess
import tempfile
import time

import migrate
import qemu
import vmm

MEMORY = "192M"
# Not with pages of zeros: where instructions are emulated, clearing a page takes forty times as long as writing to it.
LINE = "used=32 hot=32 rate=0 zeros=0"
LINK_BYTES = 20 << 20
MOVED_S = 300  # at most
GOAL = 0.5


def writes(*sides):
    """The guest's own count, wherever it runs."""
    return max((beat[1] for side in sides for beat in migrate.beats(side.serial())), default=0)


def whole(side):
    seen = migrate.beats(side.serial())
    if seen and seen[-1][3] != 0:
        raise vmm.Failure(f"the guest lost writes: {seen[-1]}")


def after(began, seconds, *sides):
    """The guest's count then, from where it runs. The line of a beat may be 100 ms late, for both alike."""
    time.sleep(max(0, began + seconds - time.monotonic()))
    return writes(*sides)


def work_drover(folder, windows):
    """What was done in each of the windows (in seconds, the shortest first), and how long the move took."""
    line = f"{LINE} khz={vmm.tsc_khz()}"
    source = vmm.Vmm(folder, "source", cmdline=line, memory=MEMORY)
    target = mover = None
    try:
        source.wait_for(lambda: b"ready" in source.serial() and len(source.beats()) >= 3, 60, "a filled memory")
        target = vmm.Vmm(folder, "target", "--incoming", "tcp:127.0.0.1:0", cmdline=line, memory=MEMORY)
        uri = target.status()["incoming_uri"]
        before, began = writes(source), time.monotonic()
        # pylint: disable=consider-using-with
        mover = subprocess.Popen([vmm.PROGRAM, "control", source.control_path, "migrate", uri, "--post-copy", "now",
                                  "--compress", "never", "--bandwidth", str(LINK_BYTES)], stdout=subprocess.PIPE, text=True)
        done = [after(began, window, source, target) - before for window in windows]
        move = target.status().get("migration", {})
        whole(target)
        if move.get("status") != "completed":
            raise vmm.Failure(f"drover has not moved within {windows[-1]:.0f} s: {move}")
        return done, move["total_ms"] / 1000
    finally:
        for side in (source, target):
            if side:
                side.end()
        if mover:
            mover.kill()
            mover.wait()


def work_qemu(folder, program):
    """What was done until it had moved, and how long that took."""
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
        before, began = writes(source), time.monotonic()
        source.command("migrate", uri=uri)
        migrate.wait(lambda: source.command("query-migrate")["status"] == "completed", MOVED_S, "end of QEMU's move")
        seconds = time.monotonic() - began
        done = after(began, seconds, source, target) - before
        migrate.after(target.serial, migrate.beats(source.serial())[-1])
        return done, seconds
    finally:
        source.end()
        if target:
            target.end()


def one_round(programs, say):
    """contender -> (writes, seconds of the window, seconds of its move); Drover's is a list, one for each of the others."""
    found = {}
    for name, program in programs.items():
        with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
            done, seconds = work_qemu(folder, program)
            found[name] = {"writes": done, "seconds": seconds}
    names = sorted(found, key=lambda name: found[name]["seconds"])
    with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
        counts, moved_s = work_drover(folder, [found[name]["seconds"] for name in names])
    for name, done in zip(names, counts):
        found[name].update(drover_writes=done, drover_seconds=moved_s)
        say(f"{name:14} {found[name]['writes']} writes until it had moved, {found[name]['seconds']:.1f} s; "
            f"drover {done} in that time, moved after {moved_s:.1f} s")
    return found


def run(runs, say):
    programs = qemu.programs()
    reason = vmm.reason_to_skip() or (None if programs else "no qemu-system-x86_64 to compare with")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    result = {"whole": True, "runs": runs, "link_bytes_per_second": LINK_BYTES}
    try:
        rounds = [one_round(programs, say) for _ in range(runs)]
    except (vmm.Failure, RuntimeError, OSError) as failure:
        say(f"migrate-work: {failure}")
        result["whole"] = False
        return result
    # Lower is better, as in all figures: the time that a write takes. The better of the peers counts.
    ratios = {name: statistics.median(found[name]["writes"] / found[name]["drover_writes"] for found in rounds)
              for name in programs}
    best = max(ratios, key=ratios.get)
    middle = {key: statistics.median(found[best][key] for found in rounds) for key in rounds[0][best]}
    result["us_per_write"] = {"drover": round(middle["seconds"] * 1e6 / middle["drover_writes"], 3),
                              "peer": round(middle["seconds"] * 1e6 / middle["writes"], 3),
                              "ratio": round(ratios[best], 3)}
    result["best_peer"], result["moved_s"] = best, {"drover": middle["drover_seconds"], "peer": middle["seconds"]}
    result["ratios"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    result["missed"] = [] if ratios[best] <= GOAL else [f"us_per_write: ratio {ratios[best]:.3f}, goal {GOAL}"]
    for line in result["missed"]:
        say(f"missed: {line}")
    return result
