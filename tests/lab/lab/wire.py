# SPDX-License-Identifier: Apache-2.0
"""What goes over a host's cable, seen from outside: how much between two hosts, whether it looks like TLS, and whether a text
shows in it.

A process of its own, so that the lab's own clocks are not disturbed: it listens until its standard input ends."""
import json
import os
import select
import socket
import struct
import subprocess
import sys

ETHERTYPE_IPV4, PROTOCOL_TCP = 0x0800, 6
SOL_PACKET, PACKET_STATISTICS, SO_RCVBUFFORCE = 263, 6, 33
TLS_DATA = b"\x17\x03\x03"


class Wire:
    """Between `with` and its end; then `seen` has the findings."""

    def __init__(self, host, text):
        self._tap, self._text = host.port.tap, text
        self.seen = None

    def __enter__(self):
        self._process = subprocess.Popen([sys.executable, os.path.abspath(__file__), self._tap, self._text],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != "listening\n":
            raise OSError(f"can't listen at {self._tap}")
        return self

    def __exit__(self, *_error):
        out, _ = self._process.communicate(timeout=60)
        self.seen = json.loads(out)


def _tcp(frame):
    """(source, its port, destination, its port, payload) of a TCP packet; None: something else."""
    if len(frame) < 54 or struct.unpack_from("!H", frame, 12)[0] != ETHERTYPE_IPV4 or frame[23] != PROTOCOL_TCP:
        return None
    header = (frame[14] & 15) * 4
    end = 14 + struct.unpack_from("!H", frame, 16)[0]
    at = 14 + header
    source_port, target_port = struct.unpack_from("!HH", frame, at)
    payload = frame[at + (frame[at + 12] >> 4) * 4:end]
    return socket.inet_ntoa(frame[26:30]), source_port, socket.inet_ntoa(frame[30:34]), target_port, payload


def _listen(tap, text):
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    sniffer.bind((tap, 0))
    seen = {"frames": 0, "lost_frames": 0, "text_bytes": {}, "bytes": {}, "tls_records": {}}
    print("listening", flush=True)

    def count(what, key, more):
        seen[what][key] = seen[what].get(key, 0) + more

    while True:
        ready, _, _ = select.select([sniffer, sys.stdin], [], [])
        if sniffer not in ready and sys.stdin in ready:
            break
        packet = _tcp(sniffer.recv(1 << 17))
        if packet is None:
            continue
        source, source_port, target, target_port, payload = packet
        seen["frames"] += 1
        key = f"{source} {target} {min(source_port, target_port)}"
        count("bytes", key, len(payload))
        if payload.startswith(TLS_DATA):
            count("tls_records", key, 1)
        if text in payload:
            count("text_bytes", key, len(text))
    _, lost = struct.unpack("II", sniffer.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    seen["lost_frames"] = lost
    print(json.dumps(seen))


if __name__ == "__main__":
    _listen(sys.argv[1], sys.argv[2].encode())
