# SPDX-License-Identifier: Apache-2.0
"""A socket on which a lab that stays in the background takes requests of other processes.

Each connection carries one request, a JSON object on a line; the answers are JSON lines, the
last of which has "status"."""
import base64
import json
import os
import socket
import struct
import threading

from . import paths
from .paths import LabError


class Server:
    """Serves until someone asks for the end."""

    def __init__(self, lab):
        self._lab, self._end = lab, threading.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(os.path.join(lab.run.state, "control.sock"))
        self._socket.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self):
        self._end.wait()

    def _accept(self):
        while True:
            connection, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        stream = connection.makefile("rw", encoding="utf-8")

        def answer(**fields):
            stream.write(json.dumps(fields) + "\n")
            stream.flush()

        try:
            request = json.loads(stream.readline())
            self._handle(request, answer)
        except (OSError, LabError, ValueError, KeyError) as error:
            try:
                answer(status=2, error=str(error))
            except OSError:
                pass
        connection.close()

    def _handle(self, request, answer):
        verb = request["verb"]
        if verb == "end":
            answer(status=0)
            self._end.set()
            return
        if verb == "info":
            answer(status=0, hosts=[
                {"name": h.name, "address": h.address, "on": h.is_on, "resets": h.resets,
                 "console": os.path.join(h.state_dir, "console.log"),
                 "journal": os.path.join(h.state_dir, "journal.log")} for h in self._lab.hosts])
            return
        if verb == "collect":
            self._lab.collect(request["folder"])
            answer(status=0)
            return
        host = self._lab.host(request["host"])
        if verb == "exec":
            _exec(host, request, answer)
            return
        actions = {"cut": host.power_cut, "on": host.power_on, "stall": host.stall,
                   "unstall": host.unstall, "link-restore": host.link_restore,
                   "link-cut": lambda: host.link_cut(request.get("direction") or "both"),
                   "wait": host.wait_ready,
                   "put": lambda: host.put(request["source"], request["target"]),
                   "get": lambda: host.get(request["source"], request["target"])}
        actions[verb]()
        answer(status=0)


def _exec(host, request, answer):
    job = host.spawn(request["command"])
    if request.get("stdin"):
        job.feed(base64.b64decode(request["stdin"]))
    job.close_input()
    for kind, data in job.chunks(request.get("timeout")):
        answer(kind=kind, data=base64.b64encode(data).decode())
    if job.status is None:
        answer(status=2, error=f"{host.name} went away during the command")
    else:
        answer(status=job.status)


def ask(run_id, request, output=None):
    """Sends a request to a lab; output(kind, bytes) gets what a command prints."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = os.path.join(paths.run_root(), run_id, "control.sock")
    try:
        connection.connect(path)
    except OSError as error:
        raise LabError(f"no lab answers at {path}: {error.strerror}") from None
    # The kernel tells the lab's process id as it is in our own PID namespace.
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    stream = connection.makefile("rw", encoding="utf-8")
    stream.write(json.dumps(request) + "\n")
    stream.flush()
    for line in stream:
        message = json.loads(line)
        if "status" in message:
            return {**message, "pid": struct.unpack("3i", peer)[0]}
        if output:
            output(message["kind"], base64.b64decode(message["data"]))
    raise LabError("the lab ended before it answered")
