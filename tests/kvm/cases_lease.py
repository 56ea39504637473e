# SPDX-License-Identifier: Apache-2.0
"""Leases: a VM of a cluster runs only while its lease lasts, whatever else its process does."""
import contextlib
import time

import process
from process import Vmm, boottime_ns, guest, wait_until

IDS = {"vm_id": 7, "epoch": 3}
OPTIONS = ["--vm-id", "7", "--epoch", "3", "--ha"]
MS = 1_000_000


def state(client):
    return client.order(process.STATUS, **IDS)[2].get(4)


def lease_until_text(vm, client, text, lease_ms, timeout_s):
    """Renews as an agent does, until the guest has written it; the last deadline. The VM runs then."""
    end = time.monotonic() + timeout_s
    while text not in vm.text():
        assert time.monotonic() < end, f"no {text!r} within {timeout_s} s: {vm.text()!r}"
        assert client.lease(boottime_ns() + lease_ms * MS, **IDS)[0] == 0
        time.sleep(lease_ms / 10_000)
    while True:
        deadline = boottime_ns() + lease_ms * MS
        error, _, status = client.lease(deadline, **IDS)
        assert error == 0
        if status[4] == process.RUNNING or state(client) == process.RUNNING:
            return deadline
        assert time.monotonic() < end, "it does not run, though it has a lease"


def test_without_a_lease_it_never_enters(folder):
    with Vmm(folder, guest("hello"), *OPTIONS) as vm:
        time.sleep(0.3)
        assert state(vm.client()) == process.FROZEN and vm.text() == ""


def test_lease_starts_ends_and_thaws_in_place(folder):
    with Vmm(folder, guest("timer"), *OPTIONS, cpus=2, cmdline="cpus=2") as vm:
        client = vm.client()
        watcher = vm.client()
        watcher.order(process.SUBSCRIBE, **IDS)
        deadline = lease_until_text(vm, client, "tick 1 ", 2000, 40)
        wait_until(lambda: state(client) == process.FROZEN, 5, "frozen")
        frozen_at = boottime_ns()
        assert frozen_at >= deadline, "frozen too early"
        assert frozen_at - deadline < 1000 * MS, f"frozen {(frozen_at - deadline) / MS} ms late"
        before = vm.text()
        time.sleep(0.3)
        assert vm.text() == before, "it ran without a lease"
        assert client.lease(boottime_ns() + 60_000 * MS, **IDS)[0] == 0
        last = before.count("tick")
        wait_until(lambda: vm.text().count("tick") > last + 3, 20, "it goes on")
        assert vm.text().startswith(before) and "BACK" not in vm.text()
        states = []
        while process.FROZEN not in states[1:]:
            what, fields = watcher.receive()
            assert what == 3
            states.append(process.parse(fields[1])[4])
        assert process.RUNNING in states, states


def test_deadline_zero_freezes_at_once(folder):
    with Vmm(folder, guest("timer"), *OPTIONS) as vm:
        client = vm.client()
        client.lease(boottime_ns() + 60_000 * MS, **IDS)
        vm.wait_text("tick 1 ", 20)
        began = boottime_ns()
        assert client.lease(0, **IDS)[0] == 0
        wait_until(lambda: state(client) == process.FROZEN, 10, "frozen")
        assert boottime_ns() - began < 2000 * MS


def test_an_earlier_deadline_is_ignored(folder):
    with Vmm(folder, guest("timer"), *OPTIONS) as vm:
        client = vm.client()
        later = boottime_ns() + 60_000 * MS
        client.lease(later, **IDS)
        _, _, status = client.lease(boottime_ns() + 10 * MS, **IDS)
        assert status[5] == later
        time.sleep(0.1)
        assert state(client) == process.RUNNING


def test_a_pause_outlives_freeze_and_thaw(folder):
    with Vmm(folder, guest("timer"), *OPTIONS) as vm:
        client = vm.client()
        client.lease(boottime_ns() + 60_000 * MS, **IDS)
        vm.wait_text("tick 1 ", 20)
        assert client.order(process.PAUSE, **IDS)[2][4] == process.PAUSED
        client.lease(0, **IDS)
        wait_until(lambda: state(client) == process.FROZEN, 10, "frozen")
        client.lease(boottime_ns() + 60_000 * MS, **IDS)
        wait_until(lambda: state(client) == process.PAUSED, 10, "paused again")
        before = vm.text()
        time.sleep(0.3)
        assert vm.text() == before
        client.order(process.RESUME, **IDS)
        wait_until(lambda: vm.text() != before, 20, "ticks")


def test_vcpus_stop_at_the_deadline_though_all_other_threads_stand(folder):
    """Main and I/O thread are held by ptrace: only the vCPUs' own timers are left to stop the guest."""
    with Vmm(folder, guest("dirtier"), *OPTIONS, cmdline="mib=4") as vm:
        client = vm.client()
        deadline = boottime_ns() + 2500 * MS
        client.lease(deadline, **IDS)
        wait_until(lambda: state(client) == process.RUNNING, 2, "main has let the vCPUs go")
        vcpu, = vm.threads("vcpu-")
        with contextlib.ExitStack() as stack:
            for tid in [vm.pid(), *vm.threads("io")]:
                stack.enter_context(process.StoppedThread(tid))
            used = vm.cpu_ns(vcpu)
            wait_until(lambda: vm.cpu_ns(vcpu) > used + 50 * MS, 2, "the guest runs")
            assert boottime_ns() < deadline, "too slow a machine: the test shows nothing"
            wait_until(lambda: boottime_ns() > deadline + 300 * MS, 5, "the deadline")
            used = vm.cpu_ns(vcpu)
            time.sleep(0.7)
            assert vm.cpu_ns(vcpu) == used, "the guest ran on after its deadline"
        assert state(client) in (process.FROZEN, process.FREEZING)
        client.lease(boottime_ns() + 60_000 * MS, **IDS)
        before = vm.text()
        wait_until(lambda: len(vm.text()) > len(before) + 20, 20, "it goes on")
        assert "LOST" not in vm.text()


def test_orders_of_other_vms_and_epochs_are_refused(folder):
    with Vmm(folder, guest("timer"), *OPTIONS) as vm:
        client = vm.client()
        lease = boottime_ns() + 60_000 * MS
        assert client.lease(lease, vm_id=7, epoch=2)[0] == process.ESTALEEPOCH
        assert client.lease(lease, vm_id=8, epoch=3)[0] == process.ENOTFOUND
        time.sleep(0.1)
        assert state(client) == process.FROZEN and vm.text() == "", "a refused lease let it run"


def test_a_lease_for_a_vm_without_ha_is_refused(folder):
    with Vmm(folder, guest("timer")) as vm:
        assert vm.client().lease(boottime_ns())[0] == process.EWRONGSTATE
