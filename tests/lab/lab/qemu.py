# SPDX-License-Identifier: Apache-2.0
"""One host's machine: the QEMU command line, its process, and what its monitor says."""
import json
import os
import socket
import subprocess
import threading
import time

from . import image, paths
from .paths import LabError

SHARED_DISKS = 8
# How often the emulator is asked whether it gets any time, and for how long what it answered is kept.
PING_S, PINGS_KEPT_S = 0.5, 20


def _machine():
    if paths.accelerated():
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", "tcg,thread=multi", "-cpu", "max,+svm"]


def _kvm_module():
    """The nested one."""
    if paths.accelerated():
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as f:
            return "kvm_intel" if " vmx" in f.read() else "kvm_amd"
    return "kvm_amd"


def _disk(name, path, options=""):
    return ["-drive", f"file={path},format=raw,if=none,id={name}{options}",
            "-device", f"virtio-blk-pci,drive={name},serial={name}"
                       + (",share-rw=on" if name.startswith("shared") else "")]


def command_line(host):
    """`host` is a host.Host; its root disk comes first, to be /dev/vda."""
    image, state = host.lab.image_dir, host.state_dir
    arguments = ["qemu-system-x86_64", "-name", host.name, "-machine", "q35", *_machine(),
                 "-smp", str(host.cpus), "-m", str(host.memory_mib), "-nodefaults",
                 "-no-user-config", "-display", "none",
                 # It stands still at its end, for _Monitor to note where its processors were.
                 "-action", "reboot=shutdown,shutdown=pause,watchdog=reset",
                 "-kernel", f"{image}/vmlinux", "-initrd", host.lab.initrd,
                 "-append", "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable nokaslr "
                           # A check of the timer that a slow emulator fails.
                           "no_timer_check "
                            "net.ifnames=0 ipv6.disable=1 systemd.show_status=0 "
                            f"systemd.hostname={host.name} systemd.machine_id={host.machine_id} "
                            f"lab.address={host.address}/24 lab.kvm={_kvm_module()}"]
    arguments += _disk("root", f"{image}/root.ext4", ",readonly=on,file.locking=off")
    arguments += _disk("kit", host.lab.kit, ",readonly=on,file.locking=off")
    # The machine below doesn't lose power with the host, so a flush needs to go no further.
    arguments += _disk("data", host.data_disk, ",cache=unsafe,discard=unmap")
    for number in range(SHARED_DISKS):
        arguments += _disk(f"shared{number}", host.lab.shared_disk(number),
                           ",cache=none,aio=native,file.locking=off,discard=unmap")
    if host.lab.media_dir:
        for name, file in (("debian", "disk.raw"), ("media", "media.ext4")):
            arguments += _disk(name, f"{host.lab.media_dir}/{file}", ",readonly=on,file.locking=off")
    return arguments + [
        "-netdev", f"tap,id=net0,ifname={host.port.tap},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net0,mac={host.mac}",
        "-object", "rng-random,id=rng0,filename=/dev/urandom",
        "-device", "virtio-rng-pci,rng=rng0",
        "-device", "virtio-serial-pci",
        "-chardev", f"socket,id=agent,path={state}/agent.sock,server=on,wait=off",
        "-device", "virtserialport,chardev=agent,name=drover.lab",
        "-chardev", f"file,id=journal,path={state}/journal.log,append=on",
        "-device", "virtconsole,chardev=journal",
        "-chardev", f"socket,id=console,path={state}/console.sock,server=on,wait=off,"
                    f"logfile={state}/console.log,logappend=on",
        "-serial", "chardev:console",
        "-device", "i6300esb",
        # A triple fault of an emulated processor shows there, and nowhere else.
        "-d", "cpu_reset", "-D", f"{state}/cpu.log",
        "-qmp", f"unix:{state}/qmp.sock,server=on,wait=off"]


def _environment():
    """An emulator needs help to outlive UEFI guests: tests/lab/tcg-lock.c says why."""
    if paths.accelerated():
        return None
    library = image.compiled(os.path.join(paths.LAB_DIR, "tcg-lock.c"), "-shared", "-fPIC")
    return {**os.environ, "LD_PRELOAD": library}


class Machine:
    """A running QEMU. `ended(machine)` is called from a thread of its own when it is gone."""

    def __init__(self, host, ended):
        self.events, self.reason = [], None
        for name in ("agent.sock", "qmp.sock", "console.sock"):
            path = os.path.join(host.state_dir, name)
            if os.path.exists(path):
                os.unlink(path)
        with open(os.path.join(host.state_dir, "qemu.log"), "ab") as log:
            self.process = subprocess.Popen(command_line(host), stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, env=_environment())
        self.registers_path = os.path.join(host.state_dir, "registers.log")
        self._monitor = _Monitor(self, os.path.join(host.state_dir, "qmp.sock"))
        threading.Thread(target=self._wait, args=(ended,), daemon=True).start()

    def _wait(self, ended):
        self.process.wait()
        self._monitor.done.wait(2)
        ended(self)

    def signal(self, number):
        self.process.send_signal(number)

    def stall_s(self):
        """For how long QEMU itself stood still at most, lately: what waits for it (timers of the machine's watchdog, too) did as well."""
        return self._monitor.stall_s()

    def link(self, up):
        """Plugs or pulls the host's cable as its network card sees it."""
        self._monitor.command("set_link", {"name": "net0", "up": up})


class _Monitor:
    """QEMU's QMP: events with their time, and why the machine ended."""

    def __init__(self, machine, path):
        self._machine, self._lock = machine, threading.Lock()
        self.done = threading.Event()
        self._answered = threading.Event()
        self._socket, self._stalls = None, []
        threading.Thread(target=self._follow, args=(path,), daemon=True).start()

    def _follow(self, path):
        try:
            while self._machine.process.poll() is None and not os.path.exists(path):
                time.sleep(0.02)
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(path)
            self._socket = connection
            self.command("qmp_capabilities")
            threading.Thread(target=self._ping, daemon=True).start()
            for line in connection.makefile("r"):
                self._take(json.loads(line))
        except OSError:
            pass
        self.done.set()

    def _ping(self):
        """Asks QEMU's main loop for a sign of life, again and again."""
        try:
            while not self.done.wait(PING_S):
                asked = time.monotonic()
                self._stalls = [s for s in self._stalls if s[0] > asked - PINGS_KEPT_S] + [[asked, None]]
                self._answered.clear()
                self.command("query-status", mark="ping")
                while not self._answered.wait(1):
                    if self.done.is_set():
                        return
                self._stalls[-1][1] = time.monotonic()
        except OSError:
            pass

    def stall_s(self):
        now = time.monotonic()
        return max([(answered or now) - asked for asked, answered in self._stalls], default=0.0)

    def _take(self, message):
        if message.get("id") == "ping":
            self._answered.set()
            return
        if message.get("id") == "registers":
            with open(self._machine.registers_path, "a", encoding="utf-8") as f:
                f.write(f"{time.monotonic():.3f} ended: {self._machine.reason}\n{message.get('return')}\n")
            self.command("quit")
        event = message.get("event")
        if not event:
            return
        self._machine.events.append((time.monotonic(), event, message.get("data", {})))
        if event == "WATCHDOG":
            self._machine.reason = "watchdog"
        if event == "SHUTDOWN" and message["data"].get("reason") != "host-qmp-quit":
            # The watchdog's reset comes as a guest's.
            self._machine.reason = self._machine.reason or message["data"].get("reason")
            self.command("human-monitor-command", {"command-line": "info registers -a"}, "registers")

    def command(self, name, arguments=None, mark="-"):
        """Its answer carries the mark; only _take() looks at answers."""
        if self._socket is None:
            raise LabError(f"{name}: the machine's monitor is not there")
        text = json.dumps({"execute": name, "arguments": arguments or {}, "id": mark})
        with self._lock:
            self._socket.sendall(text.encode() + b"\n")
