# SPDX-License-Identifier: Apache-2.0
"""The real commands, given in the hosts as their administrator would."""
import json
import shlex
import time
import uuid

from . import settings
from .paths import LabError

KERNEL = "/opt/drover/guest/vmlinuz"
INITRD = "/opt/drover/guest/initrd"
GUEST_MEMORY = "192M"


def command(host, *words, timeout=150, request_id=None):
    """`drover WORDS --json` in a host; its answer. LabError with its one line when it fails."""
    key = ["--request-id", request_id] if request_id else []
    result = host.run(["drover", *key, *words, "--json"], timeout=timeout, check=False)
    if result.status != 0:
        raise LabError(f"{host.name}: drover {shlex.join(words)}: {result.err.strip()}")
    if words[0] == "events":  # one object a line
        return [json.loads(line) for line in result.out.splitlines()]
    return json.loads(result.out) if result.out.strip() else {}


def create_words(name, number, cpus=2):
    """`drover vm create` for the lab's guest on shared disk `number` (from 1): its words, and
    the guest's address."""
    address = f"10.77.0.{100 + number}"
    return ["vm", "create", name, "--memory", GUEST_MEMORY, "--cpus", str(cpus),
            "--kernel", KERNEL, "--initrd", INITRD,
            "--cmdline", f"console=ttyS0 quiet panic=-1 lab.address={address}/24",
            "--disk", f"/dev/disk/by-id/virtio-shared{number - 1}", "--net", "default"], address


class Cluster:
    """The cluster that the lab's hosts form, seen through any host that answers."""

    def __init__(self, lab):
        self.lab, self.lease_s = lab, settings.lease_ms() / 1000.0
        self._asked = None

    def form(self, say=lambda host, words: None):
        """Init on the first host, a token for each other, joins. say(host, words) before each."""
        first, *others = self.lab.hosts
        for host in self.lab.hosts:
            host.run("for i in $(seq 300); do [ -S /run/drover/api.sock ] && exit 0; sleep 0.1; "
                     "done; journalctl -u droverd -n 1 -o cat >&2; exit 1", timeout=60)
        words = ["cluster", "init", "--address", first.address, "--name", first.name,
                 "--lease-ms", str(settings.lease_ms())]
        say(first, words)
        command(first, *words)
        for host in others:
            token = command(first, "cluster", "token")["token"]
            words = ["cluster", "join", token, "--address", host.address, "--name", host.name]
            say(host, words)
            command(host, *words)

    def ask(self, *words, timeout=150):
        """A command on whichever host answers: the one of last time first. A host may be lost when it has begun, so the
        next one is asked the same: with a request's id, it is done once."""
        request_id = uuid.uuid4().hex
        order = sorted((h for h in self.lab.hosts if h.is_on and not h.is_cut),
                       key=lambda h: h is not self._asked)
        problem = LabError("no host is on")
        for host in order:
            try:
                answer = command(host, *words, timeout=timeout, request_id=request_id)
                self._asked = host
                return answer
            except LabError as error:
                problem = error
        raise problem

    def nodes(self):
        return {node["name"]: node for node in self.ask("node", "list", timeout=20)["nodes"]}

    def vm(self, name):
        return self.ask("vm", "show", name, timeout=20)

    def vm_host(self, name):
        return self.lab.host(self.vm(name)["host"])

    def leader(self):
        return self.lab.host(self.ask("cluster", "status", timeout=20)["leader"])

    def events(self, after=0):
        """Events with an index above `after`, oldest first."""
        return self.ask("events", "--limit", "1000", "--after", str(after), timeout=20)

    def last_event(self):
        return max((event["index"] for event in self.events()), default=0)

    def wait_nodes_up(self, timeout=60):
        end = time.monotonic() + timeout
        states = {}
        while time.monotonic() < end:
            try:
                states = {name: node["state"] for name, node in self.nodes().items()}
                if len(states) == len(self.lab.hosts) and set(states.values()) == {"up"}:
                    return
            except LabError as error:
                states = str(error)
            time.sleep(0.3)
        raise LabError(f"not all hosts are up after {timeout:g} s: {states}")

    def wait_vm(self, name, wanted, timeout, state="running"):
        """Until wanted(vm) holds in that state; returns the VM."""
        end, vm = time.monotonic() + timeout, None
        while time.monotonic() < end:
            try:
                vm = self.vm(name)
                if vm["state"] == state and wanted(vm):
                    return vm
            except LabError as error:
                vm = str(error)
            time.sleep(0.2)
        raise LabError(f"VM {name} is not {state} as wanted after {timeout:g} s: {vm}")
