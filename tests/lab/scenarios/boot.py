# SPDX-License-Identifier: Apache-2.0
"""A VM with a stock Debian kernel boots, sees its processors, disk and network, answers, and shuts
down cleanly when asked."""
from lab import records


def run(s):
    guest = s.create_vm(cpus=2)
    status = records.status(guest.address)
    s.check(status["disks"] == 1 and status["nics"] == 1, f"the guest sees {status}")
    guest.writer.stop()
    s.cluster.ask("vm", "stop", guest.name)
    s.cluster.wait_vm(guest.name, lambda vm: True, 90, state="stopped")
    s.check_records(guest)
    s.cluster.ask("vm", "start", guest.name)
    s.cluster.wait_vm(guest.name, lambda vm: True, 60)
    again = records.wait_answer(guest.address, 90)
    s.check(again is not None, "the VM does not answer after it was started again")
    s.check(again["boot"] != status["boot"], "the VM was not really stopped")
    s.check(again["records"] == len(guest.writer.acknowledged), "records are gone")
    s.check_no_resets()
