# SPDX-License-Identifier: Apache-2.0
"""The leader loses its power: while it runs no VM (nobody notices), and while it runs one (the VM is
back elsewhere, no later than with any other host)."""
import time


def run(s):
    guest = s.create_vm(cpus=2)
    leader = s.cluster.leader()
    if guest.host is leader:
        target = next(h for h in s.lab.hosts if h is not leader)
        s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, timeout=300)
    s.say(f"power cut of the leader, which runs no VM: {leader.name}")
    fault, count = time.monotonic(), len(guest.writer.answer_times)
    leader.power_cut()
    s.cluster.wait_vm(guest.name, lambda vm: not vm["stale"], 30 + 4 * s.lease_s)
    s.figure("fault_to_new_leader_s", time.monotonic() - fault)
    time.sleep(3 * s.lease_s)
    s.check(guest.writer.connections == 1, "the VM's connection broke, though its host is alive")
    times = guest.writer.answer_times[count:]
    s.check(times, "no records were written while the leader was away")
    gap = max(later - earlier for earlier, later in zip(times, times[1:]))
    s.figure("bystander_gap_ms", gap * 1000)
    leader.power_on()
    leader.wait_ready()
    s.cluster.wait_nodes_up(60)

    leader = s.cluster.leader()
    if guest.host is not leader:
        s.cluster.ask("vm", "migrate", guest.name, "--to", leader.name, timeout=300)
        leader = s.cluster.leader()
    lost, after = guest.host, s.cluster.last_event()
    s.check(lost is leader, "the leadership moved while the VM was moved to it")
    s.say(f"power cut of the leader, which runs the VM: {lost.name}")
    fault, fault_unix = time.monotonic(), time.time()
    lost.power_cut()
    s.wait_moved(guest, fault, lost)
    s.event_figures(fault_unix, after, guest.name)
    s.check_proof(after, lost)
    s.check_records(guest)
    s.check_no_resets()
