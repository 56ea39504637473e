# SPDX-License-Identifier: Apache-2.0
"""TCP between a stock guest and its host, against QEMU, in one emulated host (tests/lab/), interleaved.

The same kernel, initramfs, memory and tap for both; vhost-net on in both, since the host has it. One VM at a time, fresh for
each run. Figures: nanoseconds for a byte into the guest and out of it, microseconds for a round trip of one byte. An emulated
host is slow and noisy: only the ratios mean something."""
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(TOP, "tests", "lab"))
from lab import image, initrd  # noqa: E402

SECONDS = 4
GUEST, HOST = "10.99.0.2", "10.99.0.1"
KERNEL = "/opt/drover/guest/vmlinuz"
CMDLINE = f"console=ttyS0 quiet panic=-1 lab.address={GUEST}/24"
FIRMWARE = ("bios-256k.bin", "bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "kvmvapic.bin")
MAC = "52:54:00:00:09:09"
INIT = """#!/bin/sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/list
/bin/busybox ip link set lo up
/bin/busybox ip link set eth0 up
/bin/busybox ip addr add %s/24 dev eth0
/bin/netload serve
""" % GUEST
DROVER = (f"drover-vmm --name net --memory 128M --cpus 1 --kernel {KERNEL} --initrd /tmp/initrd --cmdline '{CMDLINE}' "
          f"--net tap=t0,mac={MAC},vhost=on --serial file:/tmp/serial --control /tmp/control")
QEMU = ("LD_LIBRARY_PATH=/opt/qemu /opt/qemu/ld.so /opt/qemu/qemu -L /opt/qemu -nodefaults -display none -no-user-config -M q35 "
        f"-accel kvm -cpu host -m 128 -smp 1 -kernel {KERNEL} -initrd /tmp/initrd -append '{CMDLINE}' "
        f"-netdev tap,id=n,ifname=t0,script=no,downscript=no,vhost=on -device virtio-net-pci,netdev=n,mac={MAC},romfile= "
        "-serial file:/tmp/serial")
RUN = """
ip tuntap add dev t0 mode tap && ip link set t0 up && ip addr add {host}/24 dev t0
rm -f /tmp/serial /tmp/control
({command}) >/tmp/vm.log 2>&1 & vm=$!
for i in $(seq 240); do grep -q serving /tmp/serial 2>/dev/null && break; sleep 0.5; done
for kind in echo give take; do echo "$kind $(netload $kind {guest} {seconds})"; done
kill $vm; wait $vm 2>/dev/null
[ -S /tmp/control ] && drover-vmm control /tmp/control quit >/dev/null 2>&1
for i in $(seq 100); do pgrep -x 'drover-vmm|ld.so|qemu' >/dev/null || break; sleep 0.1; done
ip tuntap del dev t0 mode tap
"""


def lab_host(*words, lab=None, timeout=300):
    command = [os.path.join(TOP, "tests", "lab", "host")] + (["--lab", lab] if lab else []) + list(words)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"tests/lab/host {words[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def guest_initrd(target):
    """The lab's guest with the load's server instead of the records'."""
    folder = image.ensure()
    archive = initrd.Archive()
    for name in ("dev", "proc", "sys", "run", "tmp"):
        archive.folder(name)
    archive.add_file("bin/busybox", os.path.join(folder, "busybox"), 0o755)
    archive.link("bin/sh", "busybox")
    archive.add_tree("modules", os.path.join(folder, "guest-modules"))
    archive.add_file("bin/netload", netload(), 0o755)
    archive.add("init", INIT.encode(), 0o755)
    archive.write(target)


def netload():
    return image.compiled(os.path.join(TOP, "tests", "guests", "netload.c"))


def qemu_archive(target, program=None):
    """QEMU, what it is linked to, and the firmware that it needs, as a tar file; False if there is no QEMU."""
    qemu = program or shutil.which("qemu-system-x86_64")
    if qemu is None:
        return False
    beside = os.path.join(os.path.dirname(os.path.dirname(qemu)), "share")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(qemu, os.path.join(folder, "qemu"))
        for line in subprocess.run(["ldd", qemu], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines():
            path = next((word for word in line.split() if word.startswith("/")), None)
            if path:
                name = "ld.so" if "ld-linux" in path else os.path.basename(path)
                shutil.copy(path, os.path.join(folder, name))
        for name in FIRMWARE:
            for place in (os.path.join(beside, "qemu"), os.path.join(beside, "seabios")):
                if os.path.exists(os.path.join(place, name)):
                    shutil.copy(os.path.join(place, name), os.path.join(folder, name))
                    break
        subprocess.run(["tar", "-C", folder, "-cf", target, "."], check=True)
    return True


def one(lab, command):
    """The figures of one fresh VM, lower is better."""
    out = lab_host("exec", RUN.format(command=command, host=HOST, guest=GUEST, seconds=SECONDS), lab=lab)
    rates = {}
    for line in out.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] in ("echo", "give", "take") and words[1].isdigit():
            rates[words[0]] = int(words[1])
    if len(rates) != 3 or min(rates.values()) == 0:
        raise RuntimeError(f"no figures: {out.strip()[-300:]} {lab_host('exec', 'tail -3 /tmp/vm.log /tmp/serial', lab=lab)[-300:]}")
    return {"into_guest_ns_per_byte": 1e9 / rates["give"], "out_of_guest_ns_per_byte": 1e9 / rates["take"],
            "round_trip_us": 1e6 / rates["echo"]}


def prepare(folder):
    """A lab host with all that is needed in it."""
    guest_initrd(os.path.join(folder, "initrd"))
    if not qemu_archive(os.path.join(folder, "qemu.tar")):
        return None
    lab = lab_host("start", "--memory", "1536").split()[-1]
    try:
        lab_host("put", os.path.join(folder, "initrd"), "/tmp/initrd", lab=lab)
        lab_host("put", os.path.join(folder, "qemu.tar"), "/tmp/qemu.tar", lab=lab)
        lab_host("put", netload(), "/usr/bin/netload", lab=lab)
        lab_host("exec", "chmod +x /usr/bin/netload; modprobe vhost_net; mkdir /opt/qemu; "
                 "tar -C /opt/qemu -xf /tmp/qemu.tar; rm /tmp/qemu.tar", lab=lab)
    except BaseException:
        lab_host("end", lab=lab)
        raise
    return lab


def run(runs, say):
    with tempfile.TemporaryDirectory() as folder:
        lab = prepare(folder)
        if lab is None:
            say("skip: there is no qemu-system-x86_64 to compare with")
            return {"bench": "net", "whole": False, "skipped": True}
        found = {"drover": [], "peer": []}
        try:
            for number in range(runs):
                for name, command in (("drover", DROVER), ("peer", QEMU)):
                    figures = one(lab, command)
                    found[name].append(figures)
                    say(f"{number + 1}/{runs} {name}: " + ", ".join(f"{key} {value:.1f}" for key, value in figures.items()))
        finally:
            lab_host("end", lab=lab)
    result = {"bench": "net", "runs": runs, "vhost": True, "whole": True}
    for key in found["drover"][0]:
        drover, peer = (statistics.median(figures[key] for figures in found[name]) for name in ("drover", "peer"))
        result[key] = {"drover": round(drover, 2), "peer": round(peer, 2), "ratio": round(drover / peer, 3)}
        say(f"{key}: drover {drover:.1f}, QEMU {peer:.1f}, ratio {drover / peer:.2f}")
    return result
