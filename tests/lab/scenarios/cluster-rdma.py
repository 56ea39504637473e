# SPDX-License-Identifier: Apache-2.0
"""A cluster's VM moves over RDMA (soft-RoCE) once that is allowed by name, and the cluster says that it was not encrypted; without
the setting it is refused; where a VM or a host has no RDMA the move goes over TCP, encrypted, and says why. No record is lost."""
import time

from lab import records
from lab.paths import LabError
from lab.rdma import device, wide_frames

SETTING = "allow-unencrypted-rdma"


def moved(s, guest, target, transport):
    """Moves it there; what is kept of the move, and the kinds of its events."""
    after = s.cluster.last_event()
    s.say(f"drover vm migrate {guest.name} --to {target.name} --transport {transport}")
    s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, "--transport", transport, "--max-downtime", "3000",
                  timeout=400)
    vm = s.cluster.wait_vm(guest.name, lambda vm: vm["host"] == target.name, 60)
    last = vm["last_migration"]
    end, events = time.monotonic() + 20, {}
    while "migration.done" not in events and time.monotonic() < end:  # another host may be asked, which is behind
        events = {event["kind"]: event["text"] for event in s.cluster.events(after)}
    s.say(f"{last['transport']}: {last['total_ms']} ms, pause {last['downtime_ms']} ms, notice '{last['notice']}'")
    s.check(guest.writer.wait_count(20, 90), f"no records are written after a move over {last['transport']}")
    return last, events


def refused(s, guest, target):
    try:
        s.cluster.ask("vm", "migrate", guest.name, "--to", target.name, "--transport", "rdma")
        s.check(False, "a move over RDMA was not refused")
    except LabError as error:
        s.check(f"drover cluster set {SETTING} on" in str(error), f"it does not say what to do: {error}")


def fallen(s, guest, target, why):
    last, events = moved(s, guest, target, "rdma")
    s.check(last["transport"] == "tcp" and why in last["notice"], f"'{why}' was expected: {last}")
    s.check(why in events.get("migration.notice", ""), f"no event of it: {events}")
    s.check("not encrypted" not in events["migration.done"], f"it says {events['migration.done']}")


def run(s):
    guest = s.create_vm(cpus=1)
    boot = records.status(guest.address)["boot"]
    one = guest.host
    two = next(h for h in s.lab.hosts if h is not one)
    wide_frames(s.lab)
    for host in (one, two):
        device(host, True)

    refused(s, guest, two)
    s.cluster.ask("cluster", "set", SETTING, "on")
    fallen(s, guest, two, "started without --rdma")  # it was started before

    for source, target, name in ((two, one, "first"), (one, two, "second")):
        last, events = moved(s, guest, target, "rdma")
        s.check(last["transport"] == "rdma" and last["notice"] == "", f"not over RDMA from {source.name}: {last}")
        s.check("not encrypted" in events["migration.done"], f"no event says that it was not encrypted: {events}")
        s.figure(f"rdma_{name}_total_ms", last["total_ms"])
        s.figure(f"rdma_{name}_downtime_ms", last["downtime_ms"])
    last, events = moved(s, guest, one, "tcp")
    s.check(last["transport"] == "tcp" and last["notice"] == "" and "migration.notice" not in events, f"{last} {events}")
    s.figure("tcp_total_ms", last["total_ms"])
    s.figure("tcp_downtime_ms", last["downtime_ms"])

    device(two, False)
    fallen(s, guest, two, "no RDMA device")  # the target has none
    device(two, True)
    fallen(s, guest, one, "no RDMA device")  # the source had none when the guest came
    last, _ = moved(s, guest, two, "auto")
    s.check(last["transport"] == "rdma", f"auto did not go over RDMA: {last}")

    s.cluster.ask("cluster", "set", SETTING, "off")
    refused(s, guest, one)
    s.check(guest.writer.connections == 1, "the writer had to connect again")
    s.check(records.status(guest.address)["boot"] == boot, "the VM was started anew")
    s.check_records(guest)
    s.check_no_resets()


def end(s):
    s.remove_guests()  # a device that is in use is not deleted before it no longer is
    for host in s.lab.hosts:
        device(host, False)
    wide_frames(s.lab, 1500)
    s.cluster.ask("cluster", "set", SETTING, "off")
