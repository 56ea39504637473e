# SPDX-License-Identifier: Apache-2.0
"""A host loses its network, and its VMM can't say that it is frozen (it is stopped): the watchdog
resets the host before the VM is given to another one."""
import time


def run(s):
    guest = s.create_vm(cpus=2)
    lost = guest.host
    after = s.cluster.last_event()
    resets = lost.resets
    s.say(f"VMM stopped, link cut: {lost.name}")
    lost.run("pkill -STOP -f '[d]rover-vmm.*--name'")
    fault, fault_unix = time.monotonic(), time.time()
    lost.link_cut("both")
    while lost.resets == resets and time.monotonic() - fault < 3 * s.lease_s:
        time.sleep(0.05)
    reset_s = time.monotonic() - fault
    s.check(lost.resets > resets, f"the watchdog has not reset {lost.name} after {reset_s:.1f} s")
    s.figure("fault_to_reset_s", reset_s)
    s.figure("fault_to_reset_leases", reset_s / s.lease_s)
    s.wait_moved(guest, fault, lost)
    s.event_figures(fault_unix, after, guest.name)
    s.check_proof(after, lost)
    s.check(s.figures["fault_to_assigned_s"] > reset_s, "the VM was given away before the reset")
    lost.link_restore()
    lost.wait_ready()
    s.cluster.wait_nodes_up(60 + 4 * s.lease_s)
    s.check(guest.writer.wait_count(20, 30), "no records after the host came back")
    s.check_records(guest)
    s.check_no_resets(but=(lost,))
