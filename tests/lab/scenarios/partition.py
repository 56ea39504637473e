# SPDX-License-Identifier: Apache-2.0
"""The host of a VM loses its network, in both directions and then in each one: the VM freezes there
in time, runs elsewhere, never in two places, and the host neither resets itself nor stays away."""
import time


def run(s):
    guest = s.create_vm(cpus=2)
    for direction in ("both", "out", "in"):
        lost = guest.host
        after = s.cluster.last_event()
        s.say(f"link cut ({direction}): {lost.name}")
        fault, fault_unix = time.monotonic(), time.time()
        lost.link_cut(direction)
        s.wait_moved(guest, fault, lost)
        s.event_figures(fault_unix, after, guest.name)
        s.figure(f"fault_to_running_{direction}_s", s.figures["fault_to_running_s"])
        s.check_proof(after, lost)
        left = lost.run("pgrep -fc '[d]rover-vmm.*--name' || true").out.strip()
        s.figure(f"vmms_left_{direction}", int(left or 0))
        lost.link_restore()
        s.cluster.wait_nodes_up(60 + 4 * s.lease_s)
        s.check(guest.writer.wait_count(20, 30), "no records after the network came back")
    s.check_records(guest)
    s.check_no_resets()
