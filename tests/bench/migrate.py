# SPDX-License-Identifier: Apache-2.0
"""Live migration, Drover against QEMU: the same guest, the same /dev/kvm, interleaved runs."""
import os
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "kvm"))
import qemu
import vmm

# name: memory, the guest's command line
CASES = {
    "idle_512": ("640M", "used=512 hot=0"),
    "hot_64": ("2048M", "used=64 hot=64 rate=20000"),
    "hot_16": ("2048M", "used=64 hot=16 rate=20000"),
}
# What each case's guest holds that is not zero, its own program aside.
NON_ZERO_BYTES = {"idle_512": 512 << 20, "hot_64": 64 << 20, "hot_16": 64 << 20}
# figure: (case, key, the ratio that it may have)
FIGURES = {
    "total_idle_ms": ("idle_512", "total_ms", 0.5),
    "total_hot_ms": ("hot_64", "total_ms", 0.5),
    "pause_ms": ("hot_16", "pause_ms", 0.25),
    "cpu_s_per_gb": ("idle_512", "cpu_s_per_gb", 0.5),
    "bytes_beyond": ("hot_64", "bytes_beyond", 0.7),
}
PAUSE_MEDIAN_MS, PAUSE_P99_MS, PREDICTION_P95 = 10, 20, 0.2
SETTLE_S = 0.5  # the guest runs on before it is moved, and after


def beats(serial):
    return [tuple(map(int, found)) for found in vmm.BEAT.findall(serial)]


def wait(condition, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise vmm.Failure(f"no {what} within {seconds} s")
        time.sleep(0.005)


def ticks_of(path):
    with open(path, encoding="ascii") as stat:
        name, rest = stat.read().rsplit(")", 1)
    return name, sum(map(int, rest.split()[11:13]))


def cpu_seconds(*pids):
    """Processor time but the vCPUs': that of the process has the threads that are gone, too."""
    ticks = 0
    for pid in pids:
        ticks += ticks_of(f"/proc/{pid}/stat")[1]
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                name, used = ticks_of(f"/proc/{pid}/task/{thread}/stat")
            except OSError:
                continue  # it has ended meanwhile, and so was none of the vCPUs'
            ticks -= used if "vcpu" in name or "KVM" in name else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def after(serial, before):
    """Waits until the guest runs on; its longest gap then. It must have lost nothing."""
    wait(lambda: len(beats(serial())) >= 3, 30, "sign of the guest after the move")
    seen = beats(serial())
    if seen[-1][3] != 0 or seen[0][0] <= before[0]:
        raise vmm.Failure(f"the guest lost writes, or is another one: {seen[-1]} after {before}")
    return max(beat[4] for beat in seen[:2]) / 1000


def move_drover(folder, memory, line, *words):
    source = vmm.Vmm(folder, "source", cmdline=line, memory=memory)
    target = None
    try:
        source.wait_for(lambda: b"ready" in source.serial() and len(source.beats()) >= 3, 60, "a filled memory")
        target = vmm.Vmm(folder, "target", "--incoming", "tcp:127.0.0.1:0", cmdline=line, memory=memory)
        uri = target.status()["incoming_uri"]
        time.sleep(SETTLE_S)
        pids = (source.status()["pid"], target.status()["pid"])
        before, used = source.beats()[-1], cpu_seconds(*pids)
        figures = source.control("migrate", uri, *words)
        figures = figures.get("migration", figures)
        used = cpu_seconds(*pids) - used
        if figures["status"] != "completed":
            raise vmm.Failure(f"drover: {figures}")
        return {"total_ms": figures["total_ms"], "pause_ms": figures["downtime_ms"],
                "gap_ms": after(target.serial, before), "bytes": figures["bytes_sent"], "cpu_s": used,
                "predicted_ms": figures["predicted_downtime_ms"], "rounds": figures["rounds"]}
    finally:
        source.end()
        if target:
            target.end()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def move_qemu(folder, program, memory, line, channels):
    source = qemu.Qemu(program, folder, "source", vmm.GUEST, line, memory)
    target = None
    try:
        wait(lambda: b"ready" in source.serial() and len(beats(source.serial())) >= 3, 60, "filled memory")
        target = qemu.Qemu(program, folder, "target", vmm.GUEST, line, memory, incoming=True)
        for side in (source, target):
            if channels:
                side.command("migrate-set-capabilities", capabilities=[{"capability": "multifd", "state": True}])
                side.command("migrate-set-parameters", **{"multifd-channels": channels})
            side.command("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
            side.command("migrate-set-parameters", **{"max-bandwidth": 1 << 40, "downtime-limit": 300})
        uri = f"tcp:127.0.0.1:{free_port()}"
        target.command("migrate-incoming", uri=uri)
        time.sleep(SETTLE_S)
        pids = (source.process.pid, target.process.pid)
        before, used, start = beats(source.serial())[-1], cpu_seconds(*pids), time.time()
        source.command("migrate", uri=uri)
        resumed, stopped = target.wait_event("RESUME"), source.wait_event("STOP")
        used = cpu_seconds(*pids) - used
        gap_ms = after(target.serial, before)
        for _ in range(100):
            info = source.command("query-migrate")
            if info["status"] == "completed":
                break
            time.sleep(0.02)
        return {"total_ms": (resumed - start) * 1000, "pause_ms": (resumed - stopped) * 1000, "gap_ms": gap_ms,
                "bytes": info["ram"]["transferred"], "cpu_s": used}
    finally:
        source.end()
        if target:
            target.end()


def derive(name, run):
    """What follows from a run's figures."""
    return {**run, "cpu_s_per_gb": run["cpu_s"] / (NON_ZERO_BYTES[name] / 1e9),
            "bytes_beyond": max(0, run["bytes"] - NON_ZERO_BYTES[name])}


def percentile(values, part):
    """The smallest value that so many of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * part // 100) - 1))]


def medians(runs):
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def run_case(name, runs, contenders, say):
    """contender -> its runs, interleaved."""
    memory, line = CASES[name]
    line += f" khz={vmm.tsc_khz()}"
    results = {contender: [] for contender in contenders}
    for _ in range(runs):
        for contender, move in contenders.items():
            with tempfile.TemporaryDirectory(prefix="drover-bench-") as folder:
                results[contender].append(derive(name, move(folder, memory, line)))
    for contender, found in results.items():
        say(f"{name:9} {contender:20} " + " ".join(f"{key} {value:.5g}" for key, value in medians(found).items()))
    return results


def prediction_error(runs):
    """How far the predicted pause was from the one that came, of the latter; its 95th percentile."""
    return percentile([abs(run["predicted_ms"] - run["pause_ms"]) / run["pause_ms"] for run in runs], 95)


def judge(result, drover, say):
    """All figures of Drover's own, and which goals are missed."""
    missed = [f"{figure}: ratio {result[figure]['ratio']}, goal {goal}"
              for figure, (_, _, goal) in FIGURES.items() if figure in result and result[figure]["ratio"] > goal]
    if "hot_16" in drover:
        pauses = [run["pause_ms"] for run in drover["hot_16"]]
        result["pause_median_ms"], result["pause_p99_ms"] = statistics.median(pauses), percentile(pauses, 99)
        if result["pause_median_ms"] > PAUSE_MEDIAN_MS or result["pause_p99_ms"] > PAUSE_P99_MS:
            missed.append(f"pause: median {result['pause_median_ms']:.1f} ms, 99th percentile"
                          f" {result['pause_p99_ms']:.1f} ms; goals {PAUSE_MEDIAN_MS} and {PAUSE_P99_MS}")
    result["prediction_error_p95"] = round(prediction_error(sum(drover.values(), [])), 3)
    if result["prediction_error_p95"] > PREDICTION_P95:
        missed.append(f"prediction: {result['prediction_error_p95']:.0%} off at the 95th percentile,"
                      f" goal {PREDICTION_P95:.0%}")
    result["missed"] = missed
    for line in missed:
        say(f"missed: {line}")


def run(runs, say):
    reason = vmm.reason_to_skip() or (None if qemu.programs() else "no qemu-system-x86_64 to compare with")
    if reason:
        say(f"skipped: {reason}")
        return {"skipped": reason}
    # The guest's memory is a pattern, which any coder makes small: as QEMU does not, neither does Drover here.
    contenders = {"drover": lambda folder, memory, line: move_drover(folder, memory, line, "--compress", "never")}
    for name, program in qemu.programs().items():
        for channels in (0, 2):
            contenders[f"{name}{' multifd' if channels else ''}"] = \
                lambda folder, memory, line, program=program, channels=channels: \
                move_qemu(folder, program, memory, line, channels)
    result, drover, peers = {"whole": True, "runs": runs}, {}, {}
    for name in CASES:
        try:
            found = run_case(name, runs, contenders, say)
        except (vmm.Failure, RuntimeError, OSError) as failure:
            say(f"{name}: {failure}")
            result["whole"] = False
            continue
        drover[name] = found.pop("drover")
        peers[name] = [medians(peer) for peer in found.values()]
    for figure, (name, key, _) in FIGURES.items():
        if name in drover:
            ours, theirs = medians(drover[name])[key], min(peer[key] for peer in peers[name])
            result[figure] = {"drover": round(ours, 3), "peer": round(theirs, 3),
                              "ratio": round(ours / theirs, 3) if theirs else None}
            say(f"{figure}: {result[figure]}")
    if drover:
        judge(result, drover, say)
    main = result.get("total_idle_ms", {})
    result.update({key: main.get(key) for key in ("drover", "peer", "ratio")})
    return result
