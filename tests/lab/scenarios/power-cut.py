# SPDX-License-Identifier: Apache-2.0
"""The host of a VM loses its power: the VM runs elsewhere after a recorded proof, with every
acknowledged record; the host comes back and joins in by itself."""
import time


def run(s):
    guest = s.create_vm(cpus=2)
    lost = guest.host
    after = s.cluster.last_event()
    s.say(f"power cut: {lost.name}")
    fault, fault_unix = time.monotonic(), time.time()
    lost.power_cut()
    s.wait_moved(guest, fault, lost)
    s.event_figures(fault_unix, after, guest.name)
    s.check_proof(after, lost)
    s.say(f"power on: {lost.name}")
    began = time.monotonic()
    lost.power_on()
    lost.wait_ready()
    s.cluster.wait_nodes_up(60)
    s.figure("power_on_to_member_s", time.monotonic() - began)
    s.check(guest.writer.wait_count(20, 30), "no records after the host came back")
    s.check_records(guest)
    s.check_no_resets()
