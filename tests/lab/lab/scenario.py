# SPDX-License-Identifier: Apache-2.0
"""What a scenario file is given: a formed cluster, a VM with records, checks and figures.

A scenario is a file of scenarios/ with a function run(s). It may set FRESH = True to get a
cluster that nobody used before."""
import time

from . import drover, records, settings
from .paths import LabError

class Failed(Exception):
    """A check of the scenario did not hold."""


class Guest:
    """A VM with the records server, the writer that fills it, and where its disk is outside."""

    def __init__(self, scenario, name, address, disk):
        self.name, self.address, self.disk = name, address, disk
        self.writer = records.Writer(address)
        self._scenario = scenario

    @property
    def host(self):
        return self._scenario.cluster.vm_host(self.name)


class Scenario:
    """One run of one scenario."""

    def __init__(self, name, lab, cluster, say):
        self.name, self.lab, self.cluster, self.say = name, lab, cluster, say
        self.lease_s = settings.lease_ms() / 1000.0
        self.figures = {"lease_s": self.lease_s}
        self.guests, self.checks = [], 0
        self._resets = {host.name: host.resets for host in lab.hosts}

    def figure(self, name, value):
        self.figures[name] = round(value, 3) if isinstance(value, float) else value

    def check(self, holds, text):
        """Ends the scenario when a claim does not hold."""
        self.checks += 1
        if not holds:
            raise Failed(text)

    def create_vm(self, name="vm1", cpus=2, number=1):
        """`drover vm create`, and until its server answers and has written some records."""
        self.lab.wipe_shared_disk(number - 1)
        words, address = drover.create_words(name, number, cpus)
        began = time.monotonic()
        self.say("drover " + " ".join(words[:3]) + " …")
        self.cluster.ask(*words)
        self.cluster.wait_vm(name, lambda vm: True, 60)
        self.figure("create_to_running_s", time.monotonic() - began)
        status = records.wait_answer(address, 90)
        self.check(status is not None, f"the server in {name} does not answer within 90 s")
        self.figure("create_to_answer_s", time.monotonic() - began)
        self.check(status["cpus"] == cpus, f"the guest sees {status['cpus']} of {cpus} processors")
        guest = Guest(self, name, address, self.lab.shared_disk(number - 1))
        self.guests.append(guest)
        self.check(guest.writer.wait_count(20, 30), "20 records are not written within 30 s")
        return guest

    def wait_moved(self, guest, fault, old_host, timeout_leases=6):
        """Until the VM runs on another host and writes again; takes the figures since the fault
        (a time.monotonic())."""
        vm = self.cluster.wait_vm(guest.name, lambda vm: vm["host"] != old_host.name,
                                  timeout_leases * self.lease_s + 60)
        running_s = time.monotonic() - fault
        self.check(guest.writer.wait_count(5, 90), "the restarted VM takes no records")
        answer = guest.writer.first_after(fault + 1.0)
        self.figure("fault_to_running_s", running_s)
        self.figure("fault_to_running_leases", running_s / self.lease_s)
        self.figure("fault_to_answer_s", answer - fault)
        return vm

    def event_figures(self, fault_unix, after, name_of_vm):
        """From the cluster's own events since the fault: when each step was recorded."""
        steps = []
        for event in self.cluster.events(after):
            steps.append({"kind": event["kind"], "after_s": round(event["unix_ms"] / 1000
                                                                  - fault_unix, 2),
                          "text": event["text"]})
            if event["kind"] in ("vm.assigned", "vm.started") and event.get("vm") == name_of_vm:
                key = "fault_to_" + event["kind"].split(".")[1]
                self.figure(key + "_s", event["unix_ms"] / 1000 - fault_unix)
                self.figure(key + "_leases", (event["unix_ms"] / 1000 - fault_unix) / self.lease_s)
        return steps

    def check_proof(self, after, dead_host, kinds=("power_off", "lease_watchdog", "operator")):
        """A recorded proof stands before the VM's new assignment."""
        events = self.cluster.events(after)
        dead = [e for e in events if e["kind"] == "host.dead" and e.get("node") == dead_host.name]
        self.check(dead, f"no event says that {dead_host.name} is dead")
        proof = dead[0].get("proof")
        self.check(proof and proof["kind"] in kinds, f"host.dead carries no proof: {dead[0]}")
        assigned = [e for e in events if e["kind"] == "vm.assigned"]
        self.check(assigned and assigned[0]["index"] > dead[0]["index"],
                   "the VM was assigned before the proof was recorded")
        self.figure("proof", proof["kind"])

    def check_records(self, guest, *writers):
        """Stops writing; nothing lost, nothing doubled, never in two places. `writers`: others beside the guest's own."""
        acknowledged = {}
        for writer in (guest.writer, *writers):
            writer.stop()
            acknowledged.update(writer.acknowledged)
        problems = records.check_disk(guest.disk, acknowledged)
        self.figure("records_acknowledged", len(acknowledged))
        self.figure("records_problems", len(problems))
        self.check(not problems, "; ".join(problems))

    def check_no_resets(self, but=()):
        for host in self.lab.hosts:
            if host not in but:
                count = host.resets - self._resets[host.name]
                why = ", ".join(what for _, what in host.history if what.startswith("machine ended"))
                self.check(count == 0, f"{host.name} reset itself {count} times ({why})")

    def remove_guests(self):
        while self.guests:
            guest = self.guests[-1]
            guest.writer.stop()
            self.cluster.ask("vm", "stop", guest.name)
            self.cluster.wait_vm(guest.name, lambda vm: True, 90, state="stopped")
            self.cluster.ask("vm", "delete", guest.name)
            self.guests.pop()

    def end(self):
        """Leaves the cluster as it was found: all hosts up, no VM. True if that worked."""
        for guest in self.guests:
            guest.writer.stop()
        try:
            for host in self.lab.hosts:
                host.heal()
            for host in self.lab.hosts:
                host.wait_ready()
            if self.cluster:
                self.cluster.wait_nodes_up(60 + 4 * self.lease_s)
            self.remove_guests()
            return True
        except LabError as error:
            self.say(f"cannot be used for another scenario: {error}")
            return False
