# SPDX-License-Identifier: Apache-2.0
"""QEMU as the peer: one machine with the test guest, spoken to by QMP."""
import json
import os
import shutil
import socket
import subprocess
import time


def programs():
    """The QEMUs to compare with: name -> path."""
    found = {}
    for path in (shutil.which("qemu-system-x86_64"), os.environ.get("DROVER_BENCH_QEMU")):
        if path:
            version = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.split()[3]
            found[f"qemu {version}"] = path
    return found


class Qemu:
    """One QEMU process; `incoming`: waits for a guest."""

    def __init__(self, program, folder, name, kernel, cmdline, memory, incoming=False):
        self.name, self.serial_path = name, os.path.join(folder, f"{name}.serial")
        qmp = os.path.join(folder, f"{name}.qmp")
        command = [program, "-accel", "kvm", "-machine", "q35", "-m", memory, "-smp", "1", "-nodefaults",
                   "-display", "none", "-serial", f"file:{self.serial_path}", "-kernel", kernel, "-append", cmdline,
                   "-qmp", f"unix:{qmp},server=on,wait=off"]
        command += ["-incoming", "defer"] if incoming else []
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.socket = socket.socket(socket.AF_UNIX)
        for _ in range(500):
            try:
                self.socket.connect(qmp)
                break
            except OSError:
                time.sleep(0.02)
        self.lines = self.socket.makefile("r")
        self.events = []
        self.next_message()
        self.command("qmp_capabilities")

    def next_message(self):
        message = json.loads(self.lines.readline())
        if "event" in message:
            stamp = message["timestamp"]
            self.events.append((message["event"], stamp["seconds"] + stamp["microseconds"] / 1e6, message.get("data")))
        return message

    def command(self, name, **arguments):
        request = {"execute": name, "arguments": arguments} if arguments else {"execute": name}
        self.socket.sendall(json.dumps(request).encode())
        while True:
            message = self.next_message()
            if "return" in message:
                return message["return"]
            if "error" in message:
                raise RuntimeError(f"{name}: {message['error']['desc']}")

    def wait_event(self, name, seconds=60):
        """When it happened, by the host's clock."""
        self.socket.settimeout(seconds)
        while True:
            for event, when, _ in self.events:
                if event == name:
                    return when
            self.next_message()

    def serial(self):
        if not os.path.exists(self.serial_path):
            return b""
        with open(self.serial_path, "rb") as serial:
            return serial.read()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.socket.close()
