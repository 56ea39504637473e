# SPDX-License-Identifier: Apache-2.0
"""The timeline of deploy/quickstart: the real commands, on three emulated hosts."""
import os
import shlex
import statistics
import sys
import textwrap
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
from lab import cluster, control, drover, kit, paths, records  # noqa: E402
from lab.paths import LabError  # noqa: E402

VM = "shop"
BEGAN = time.monotonic()


def tell(text=""):
    seconds = int(time.monotonic() - BEGAN)
    stamp = f"{seconds // 60:2d}:{seconds % 60:02d}  "
    for line in text.splitlines() or [""]:
        print(stamp + line, flush=True)
        stamp = " " * len(stamp)


def headline(number, text):
    print()
    tell(f"{number}. {text}")


def show(host, *words, timeout=200, hide=()):
    """Gives a command in a host, and shows it with what it says. Fails when it fails."""
    shown = shlex.join(words)
    for secret in hide:
        shown = shown.replace(secret, secret[:16] + "...")
    tell(f"   {host.name}# drover {shown}")
    result = host.run(["drover", *words], timeout=timeout, check=False)
    print(textwrap.indent((result.out + result.err).rstrip(), " " * 12), flush=True)
    if result.status != 0:
        raise LabError(f"drover {shown} ended with status {result.status}")
    return result.out


def form(lab, whole):
    headline(1, "Three hosts become a cluster")

    def say(host, words):
        shown = [w[:16] + "..." if w.startswith("drover1.") else w for w in words]
        tell(f"   {host.name}# drover {shlex.join(shown)}")

    whole.form(say)
    whole.wait_nodes_up()
    show(lab.hosts[0], "node", "list")


def create(lab):
    headline(2, "A VM with a stock Debian kernel, its disk on storage that all hosts share")
    words, address = drover.create_words(VM, 1)
    show(lab.hosts[0], *words)
    status = records.wait_answer(address, 120)
    if not status:
        raise LabError(f"the server in the VM does not answer at {address}")
    tell(f"   its server answers at {address}: {status['cpus']} processors, up for "
         f"{status['uptime_ms'] / 1000:.1f} s")
    writer = records.Writer(address)
    if not writer.wait_count(50, 60):
        raise LabError("the VM writes no records")
    tell(f"   a client appends numbered records, each durable before it counts: "
         f"{len(writer.acknowledged)} so far")
    return address, writer


def move(lab, whole, address, writer):
    headline(3, "It moves to another host while it runs")
    stream = records.Stream(address)
    source = whole.vm_host(VM)
    target = next(h for h in lab.hosts if h is not source)
    connections = writer.connections
    show(source, "vm", "migrate", VM, "--to", target.name, timeout=300)
    writer.wait_count(50, 60)
    gap, wrong = stream.largest_gap_s * 1000, stream.stop()
    if wrong or writer.connections != connections:
        raise LabError(f"the connection did not survive: {wrong}")
    tell(f"   one TCP connection streamed all the while, {stream.lines} lines in order; its longest "
         f"silence was {gap:.0f} ms")


def wait_elsewhere(whole, writer, lost, fault):
    vm = whole.wait_vm(VM, lambda vm: vm["host"] != lost.name, 6 * whole.lease_s + 60)
    tell(f"   {VM} runs on {vm['host']}, {time.monotonic() - fault:.1f} s after the fault "
         f"(lease: {whole.lease_s:g} s)")
    if not writer.wait_count(20, 90):
        raise LabError("the VM takes no records after its recovery")
    tell(f"   and its server answers again, {writer.first_after(fault + 1) - fault:.1f} s after the "
         "fault")


def power_cut(whole, writer):
    headline(4, "The host that runs it loses its power")
    lost, after = whole.vm_host(VM), whole.last_event()
    fault = time.monotonic()
    lost.power_cut()
    tell(f"   power cut: {lost.name}")
    wait_elsewhere(whole, writer, lost, fault)
    tell("   why it was allowed to start there, step by step:")
    other = whole.vm_host(VM)
    show(other, "events", "--after", str(after))
    return lost


def come_back(whole, lost):
    headline(5, "The lost host comes back, and joins in by itself")
    began = time.monotonic()
    lost.power_on()
    tell(f"   power on: {lost.name}")
    lost.wait_ready()
    whole.wait_nodes_up(90)
    tell(f"   member again {time.monotonic() - began:.1f} s after power-on")
    show(lost, "node", "list")


def pull_network(whole, writer):
    headline(6, "The host that runs it now loses its network, but not its power")
    lost, after = whole.vm_host(VM), whole.last_event()
    boot = records.status(writer.address)["boot"]
    fault = time.monotonic()
    lost.link_cut()
    tell(f"   cable pulled: {lost.name}")
    wait_elsewhere(whole, writer, lost, fault)
    beats = [b for b in records.boots(whole.lab.shared_disk(0)) if b[0] == boot]
    behind = records.boots(whole.lab.shared_disk(0))[-1]
    tell(f"   {lost.name} itself, cut off, had stopped the VM: the last write there is "
         f"{(behind[1] - beats[-1][2]) / 1000:.1f} s older than the first on {whole.vm_host(VM).name}")
    show(whole.vm_host(VM), "events", "--after", str(after))
    lost.link_restore()
    tell(f"   cable back: {lost.name}")
    whole.wait_nodes_up(90)
    tell(f"   {lost.name} is a member again, and did not have to reset itself" if lost.resets == 0
         else f"   {lost.name} is a member again, after {lost.resets} resets")


def judge(lab, writer):
    writer.stop()
    problems = records.check_disk(lab.shared_disk(0), writer.acknowledged)
    boots = len(records.boots(lab.shared_disk(0)))
    print()
    if problems:
        raise LabError("; ".join(problems))
    times = writer.answer_times
    usual = statistics.median(b - a for a, b in zip(times, times[1:])) * 1000
    tell(f"The VM's disk, read from outside: all {len(writer.acknowledged)} acknowledged records are "
         f"there, none is\ndoubled, and its {boots} boots followed one another, never two at once. "
         f"(A record took {usual:.0f} ms.)")


def how_to_go_on(lab):
    host = f"{TOP}/tests/lab/host --lab {lab.run.id}"
    print(textwrap.dedent(f"""
        The cluster is left running. To look around:
          {host} exec 'drover vm list'
          {host} exec 'drover events'
          {host} --host h2 exec 'drover vm migrate {VM}'
          {host} --host h1 cut                 a power cut; 'on' switches it on again
          {host} net bash                      a shell in the hosts' network (the VM: 10.77.0.101)
          {host} --help                        what else there is
        To end it:
          {host} end
        """), flush=True)


def timeline(lab):
    seconds = lab.start()
    tell(f"three hosts are up, {seconds:.0f} s after power-on")
    whole = drover.Cluster(lab)
    form(lab, whole)
    address, writer = create(lab)
    move(lab, whole, address, writer)
    lost = power_cut(whole, writer)
    come_back(whole, lost)
    pull_network(whole, writer)
    judge(lab, writer)


def body(detach, keep):
    with cluster.Lab(hosts=3) as lab:
        try:
            timeline(lab)
        except LabError as error:
            folder = os.path.join(paths.cache_dir(), "quickstart", "logs")
            lab.collect(folder)
            print(f"error: {error} (logs: {folder})", file=sys.stderr)
            return 1
        print()
        tell("done")
        if keep:
            server = control.Server(lab)
            how_to_go_on(lab)
            detach()
            server.wait()
    return 0


def main():
    try:
        kit.require()
        return cluster.run(lambda detach: body(detach, "--keep" in sys.argv[1:]))
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


sys.exit(main())
