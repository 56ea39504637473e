# SPDX-License-Identifier: Apache-2.0
"""A stock kernel crashes (sysrq c): the cluster tells it and starts the VM again; with on_panic=pause it stands still, also
over a move. Before it crashes, the VM moves between two hosts while it runs."""
import time

from lab import drover, records

INITRD = "/run/guest-panic.initrd"
# What the stock guest lacks: the panic device's driver, and somebody who types the crash. Archives add up in an initramfs.
MAKE_INITRD = f"""set -e
rm -rf /run/panic; mkdir -p /run/panic/modules; cd /run/panic
cp $(find /lib/modules -name 'pvpanic.ko') $(find /lib/modules -name 'pvpanic-mmio.ko') modules/
cat > crash <<'END'
#!/bin/busybox sh
/bin/busybox mkdir -p /dev; /bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /modules/pvpanic.ko; /bin/busybox insmod /modules/pvpanic-mmio.ko
while read -r word; do [ "$word" = crash ] && echo c > /proc/sysrq-trigger; done < /dev/ttyS0 &
exec /bin/busybox sh /init
END
chmod +x crash
find . | busybox cpio -o -H newc > /run/more.cpio
size=$(stat -c %s {drover.INITRD}); cp {drover.INITRD} {INITRD}
truncate -s $(((size + 3) / 4 * 4)) {INITRD}; cat /run/more.cpio >> {INITRD}
"""


def create(s, name, number, *options):
    s.lab.wipe_shared_disk(number - 1)
    words, address = drover.create_words(name, number, 1)
    words[words.index("--initrd") + 1] = INITRD
    words[words.index("--cmdline") + 1] += " rdinit=/crash"
    s.cluster.ask(*words, *options)
    s.cluster.wait_vm(name, lambda vm: True, 60)
    status = records.wait_answer(address, 90)
    s.check(status is not None, f"the server in {name} does not answer within 90 s")
    return address, status["boot"]


def move(s, name):
    source = s.cluster.vm_host(name)
    target = next(h for h in s.lab.hosts if h is not source)
    s.cluster.ask("vm", "migrate", name, "--to", target.name, timeout=300)
    return target


def crash(s, name):
    """Types the word on its console, and waits until the cluster tells of it."""
    after = s.cluster.last_event()
    began = time.monotonic()
    s.cluster.vm_host(name).run(f"(echo; echo crash; sleep 5) | timeout 6 drover vm console {name} >/dev/null; true",
                                timeout=30)
    while time.monotonic() < began + 60:
        told = [e for e in s.cluster.events(after) if e["kind"] == "vm.panicked"]
        if told:
            s.check(len(told) == 1 and name in told[0]["text"], f"told otherwise: {told}")
            s.say(told[0]["text"])
            return
        time.sleep(0.5)
    s.check(False, f"nobody tells that {name} has crashed: {s.cluster.events(after)}")


def stopped(s):
    address, boot = create(s, "crash1", 1)
    stream = records.Stream(address)
    target = move(s, "crash1")
    s.cluster.wait_vm("crash1", lambda vm: vm["host"] == target.name, 60)
    s.check(records.wait_answer(address, 30)["boot"] == boot, "the VM was started anew by its move")
    s.figure("stream_gap_ms", stream.largest_gap_s * 1000)
    stream.stop()
    began = time.monotonic()
    crash(s, "crash1")
    vm = s.cluster.wait_vm("crash1", lambda vm: vm["panics"] == 1 and not vm["guest_panicked"], 60)
    s.check(vm["host"] == target.name, f"it changed its host: {vm['host']}")
    while time.monotonic() < began + 120:
        status = records.wait_answer(address, 30)
        if status is not None and status["boot"] != boot:
            s.figure("crash_to_answer_s", time.monotonic() - began)
            return
        time.sleep(1)
    s.check(False, "the VM was not started again")


def paused(s):
    create(s, "crash2", 2, "--on-panic", "pause")
    crash(s, "crash2")
    vm = s.cluster.wait_vm("crash2", lambda vm: vm["guest_panicked"], 30, state="paused")
    s.check("crashed" in vm["reason"], f"the reason is missing: {vm['reason']}")
    target = move(s, "crash2")
    s.cluster.wait_vm("crash2", lambda vm: vm["host"] == target.name and vm["guest_panicked"], 60,
                      state="paused")


def run(s):
    for host in s.lab.hosts:
        host.run(MAKE_INITRD)
    stopped(s)
    paused(s)
    s.check_no_resets()


def end(s):
    """The cluster goes on without these VMs, whose disks others want."""
    for name in ("crash1", "crash2"):
        if any(vm["name"] == name for vm in s.cluster.ask("vm", "list")["vms"]):
            s.cluster.ask("vm", "kill", name)
            s.cluster.wait_vm(name, lambda vm: True, 60, state="stopped")
            s.cluster.ask("vm", "delete", name)
    for host in s.lab.hosts:
        host.run(f"rm -rf {INITRD} /run/panic /run/more.cpio", check=False)
