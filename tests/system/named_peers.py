"""Both ends of a name in a rule, as programs of their own: a DNS server of the test's, and the part
of link that asks it through the machine's resolver.

    python named_peers.py serve 10.77.0.2 RECORDS.json     answers over UDP until the end of stdin
    python named_peers.py ask RUN RESOLV.CONF               link's refresh, until the end of stdin

RECORDS.json is read anew for each question: {"api.example.org": {"A": ["10.0.0.1"], "AAAA": []}};
a name that is not there does not exist. ``ask`` puts its resolv.conf over /etc/resolv.conf in a
mount namespace of its own, and prints the code of each finding.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import socket
import struct
import sys
from pathlib import Path

# RFC 1035 sections 3.2.2, 4.1.1; RFC 3596
TYPES = {1: ("A", socket.AF_INET), 28: ("AAAA", socket.AF_INET6)}
NXDOMAIN, TTL_S = 3, 1
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000


def reply(question: bytes, records: dict[str, dict[str, list[str]]]) -> bytes:
    """The answer to one question."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += 1 + question[at]
    kind = struct.unpack_from(">H", question, at + 1)[0]
    name, asked = ".".join(labels).lower(), question[12 : at + 5]
    word, family = TYPES.get(kind, ("", socket.AF_INET))
    found = [socket.inet_pton(family, a) for a in records.get(name, {}).get(word, [])]
    code = 0 if name in records else NXDOMAIN
    head = question[:2] + struct.pack(">HHHHH", 0x8580 | code, 1, len(found), 0, 0)
    body = b"".join(
        b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, TTL_S, len(raw)) + raw for raw in found
    )
    return head + asked + body


def serve(address: str, records: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, 53))
        print("ready", flush=True)
        while True:
            ready, _, _ = select.select([listener, sys.stdin], [], [])
            if sys.stdin in ready:
                return
            data, sender = listener.recvfrom(1024)
            listener.sendto(reply(data, json.loads(Path(records).read_text())), sender)


def ask(run: str, resolv_conf: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    target = os.path.realpath("/etc/resolv.conf").encode()
    assert libc.mount(resolv_conf.encode(), target, None, MS_BIND, None) == 0
    from edgewarden.daemon.clock import SystemClock
    from edgewarden.link.names import NameRefresh, TableFile, resolve
    from edgewarden.wire.facts import Event, Reading
    from edgewarden.wire.network_table import NAMES_NAME

    def tell(fact: Event | Reading) -> None:
        if isinstance(fact, Event):
            print(fact.code, flush=True)

    async def until_end_of_stdin() -> None:
        table = TableFile(Path(run, NAMES_NAME)).read
        names = NameRefresh(table, resolve, f"{run}/gate-names.sock", tell, SystemClock())
        task = asyncio.create_task(names.run())
        await asyncio.to_thread(sys.stdin.read)
        task.cancel()

    print("ready", flush=True)
    asyncio.run(until_end_of_stdin())


if __name__ == "__main__":
    {"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
