# SPDX-License-Identifier: Apache-2.0
"""Processors and memory of the host: pinning, cgroups, huge pages, and their contradictions."""
import os

from cases_input import refused
from process import Vmm, guest, wait_until


def threads(pid):
    """{name: its processors}"""
    found = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/status", encoding="ascii") as status:
            fields = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
        found[fields["Name"]] = fields["Cpus_allowed_list"]
    return found


def test_vcpus_are_pinned_and_nothing_else_is(folder):
    last = max(os.sched_getaffinity(0))
    with Vmm(folder, guest("timer"), "--cpu-affinity", str(last), cpus=2, cmdline="cpus=2") as vm:
        vm.wait_text("tick 1")
        found = threads(vm.pid())
        assert found["vcpu-0"] == found["vcpu-1"] == str(last), found
        assert len(os.sched_getaffinity(0)) == 1 or found["io"] != str(last), found


def test_processors_that_are_not_there_are_refused(folder):
    refused(folder, "--cpu-affinity", "0,1000", kernel=guest("hello"), says="processor 1000 is not there")


def rss_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1])


def test_preallocated_memory_is_there_from_the_start(folder):
    with Vmm(folder, guest("timer"), "--prealloc", memory="256M") as vm:
        assert rss_kib(vm.pid()) >= 256 << 10


def test_mergeable_memory_is_for_ksm_and_moves(folder):
    """To a target whose memory is shared: what backs it is each host's own affair."""
    with Vmm(folder, guest("timer"), "--mergeable", memory="64M") as vm:
        vm.wait_text("tick 1")
        with open(f"/proc/{vm.pid()}/smaps", encoding="ascii") as smaps:
            assert any(" mg" in line for line in smaps if line.startswith("VmFlags")), "not marked for KSM"
        with Vmm(folder, guest("timer"), "--incoming", "tcp:127.0.0.1:0", name="two", memory="64M") as two:
            vm.command("migrate", two.command("status")["incoming_uri"])
            two.wait_text("tick")
            assert rss_kib(two.pid()) < 32 << 10, "memory that was never touched was sent"


def test_contradictions_of_memory_are_refused(folder):
    for words, says in ((["--mergeable", "--huge-pages"], "can't be merged"),
                        (["--mergeable", "--prealloc"], "not set aside"),
                        (["--cpu-quota", "101"], "more than --cpus 1")):
        refused(folder, *words, kernel=guest("hello"), says=says)
    refused(folder, "--huge-pages", kernel=guest("hello"), memory="63M", says="multiple of 2M")
    refused(folder, "--huge-pages", kernel=guest("hello"), memory="16T", says="nr_hugepages")


def test_a_share_of_processors_needs_cgroup_v2(folder):
    """Where the host has it, the VM gets it; else one line says so."""
    with open("/proc/mounts", encoding="utf-8") as mounts:
        whole = any(line.split()[1:3] == ["/sys/fs/cgroup", "cgroup2"] for line in mounts)
    if not whole or not os.access("/sys/fs/cgroup", os.W_OK):
        refused(folder, "--cpu-weight", "50", kernel=guest("hello"), says="cgroup")
        return
    with Vmm(folder, guest("timer"), "--cpu-weight", "50", "--cpu-quota", "50") as vm:
        vm.wait_text("tick 1")
        with open(f"/proc/{vm.pid()}/cgroup", encoding="ascii") as file:
            place = "/sys/fs/cgroup" + file.read().strip().split("0::")[1]
        with open(f"{place}/cpu.weight", encoding="ascii") as file:
            assert file.read().strip() == "50"
        with open(f"{place}/cpu.max", encoding="ascii") as file:
            assert file.read().strip() == "50000 100000"
        vm.command("quit")
        wait_until(lambda: not os.path.exists(place), 10, "the cgroup is gone")


def test_balloon_orders_are_judged_and_told(folder):
    with Vmm(folder, guest("timer"), memory="64M") as vm:
        assert vm.command("status")["balloon"] == {"driver": False, "target_bytes": 64 << 20,
                                                   "actual_bytes": 64 << 20, "reported_bytes": 0}
        assert vm.command("balloon", "48M")["balloon"]["target_bytes"] == 48 << 20
        for size, says in (("65M", "started with 64M"), ("8M", "from 16M"), ("much", "balloon needs")):
            said = vm.command("balloon", size, fails=True)
            assert says in said and said.count("\n") == 1, said
        with Vmm(folder, guest("timer"), "--incoming", "tcp:127.0.0.1:0", name="two", memory="64M") as two:
            vm.command("migrate", two.command("status")["incoming_uri"])
            assert two.command("status")["balloon"]["target_bytes"] == 48 << 20


def flags():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        return next(line for line in info if line.startswith("flags")).split()


def test_a_baseline_that_the_host_lacks_is_refused_with_what_to_choose(folder):
    refused(folder, "--cpu", "pentium", kernel=guest("hello"), says="give x86-64-v2, x86-64-v3")
    for model, needs in (("x86-64-v2", "ssse3"), ("x86-64-v3", "avx2"), ("x86-64-v4", "avx512f")):
        vm = Vmm(folder, guest("hello"), "--cpu", model)
        status, said = vm.ended()
        assert "Traceback" not in said
        if status == 0:
            assert needs in flags() and vm.text().startswith("hello"), said
        else:
            assert "this host lacks" in said and ": choose --cpu " in said, said
            assert said.count("\n") == 1, said


def test_a_guest_does_not_move_to_another_kind_of_processor(folder):
    """Told before a byte of memory, and the guest goes on. The state's own test is test_state_*."""
    with Vmm(folder, guest("timer"), memory="64M") as vm:
        vm.wait_text("tick 1")
        other = Vmm(folder, guest("timer"), "--incoming", "tcp:127.0.0.1:0", "--cpu", "x86-64-v2", name="two",
                    memory="64M")
        if other.process.poll() is None and os.path.exists(other.control):
            said = vm.command("migrate", other.command("status")["incoming_uri"], fails=True)
            assert "--cpu host" in said and "--cpu x86-64-v2" in said, said
        other.process.kill()
        other.process.communicate()
        assert vm.command("status")["state"] == "running"
