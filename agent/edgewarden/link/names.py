"""The policy's DNS names, looked up again and again, and told to gate.

What this decides: when a name is asked for (every ``dns_refresh_s`` of the network table, AT_ONCE
at a time, ANSWER_S each), and that gate hears everything anew when it was started again. Only names
that gate uses now are asked for (run/network.names): a policy that gate refused lets no name lapse.
gate checks that, and bounds what it is told.
libc's resolver tells no TTL, so an answer is kept for ``dns_keep_s``: names that change faster need
a shorter one.

What it leaves to others: the resolver (a parameter; the machine's own by default), the table's file
(daemon/link.py), what is believed (network/names.py in gate).

    NameRefresh(table, resolve, "run/gate-names.sock", sink, clock).run()
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from edgewarden.errors import WireRefusal
from edgewarden.ports import Clock, FactSink, Sleep
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.local import NameAnswer, encode
from edgewarden.wire.local_network import MAX_ADDRESSES
from edgewarden.wire.network_table import EMPTY, MAX_TABLE_BYTES, NetworkTable

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""(name, socket.AF_INET or AF_INET6) -> addresses as text; raises OSError without an answer."""
LOOK_S = 2.0
"""A gate that started again waits so long for its addresses; in step with link's other looks."""
AT_ONCE = 4
"""Each is a thread of the resolver for as long as DNS takes."""
ANSWER_S = 10.0
"""resolv.conf(5): two tries of 5 s."""
_FAMILIES = ((4, socket.AF_INET), (6, socket.AF_INET6))


async def resolve(name: str, family: int) -> list[str]:
    """Ask this machine's resolver; the final dot keeps search domains out of it."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(f"{name}.", None, family=family, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class TableFile:
    """The names that gate says it uses; read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._table = EMPTY

    def read(self) -> NetworkTable:
        """The table; EMPTY while there is none that can be believed."""
        try:
            status = self._path.stat()
            if self._seen != (status.st_ino, status.st_mtime_ns):
                self._seen = (status.st_ino, status.st_mtime_ns)
                with self._path.open("rb") as file:
                    self._table = NetworkTable.load(file.read(MAX_TABLE_BYTES + 1))
        except (OSError, WireRefusal):
            self._table = EMPTY
        return self._table


class NameRefresh:
    """See the module. Every method on the loop's thread.

    Args:
        table: gate's names as they are now.
        resolve: asks for a name.
        path: run/gate-names.sock.
        sink: told when a name has no answer, once.
    """

    def __init__(
        self,
        table: Callable[[], NetworkTable],
        resolve: Resolve,
        path: str,
        sink: FactSink,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._table = table
        self._resolve = resolve
        self._path = path
        self._sink = sink
        self._clock = clock
        self._gate: socket.socket | None = None
        self._answers: dict[tuple[str, int], list[str]] = {}
        self._silent: set[str] = set()
        self._hosts: tuple[str, ...] = ()
        self._due_s = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.look()
                await self._sleep(LOOK_S)
        finally:
            self._drop()

    async def look(self) -> None:
        """One round: names that are due are asked for, and a new gate is told everything."""
        table = self._table()
        if not table.hosts:
            self._drop()
            return
        again = await self._connect()
        now_s = asyncio.get_running_loop().time()
        if table.hosts != self._hosts or now_s >= self._due_s:
            self._hosts = table.hosts
            self._due_s = now_s + table.dns_refresh_s
            await self._ask_all(table)
            again = True
        if again:
            self._tell(table)

    async def _ask_all(self, table: NetworkTable) -> None:
        few = asyncio.Semaphore(AT_ONCE)

        async def ask(name: str, version: int, family: int) -> None:
            async with few:
                with contextlib.suppress(OSError, TimeoutError, UnicodeError):
                    async with asyncio.timeout(ANSWER_S):
                        found = await self._resolve(name, family)
                    self._answers[name, version] = list(dict.fromkeys(found))[:MAX_ADDRESSES]
                    return
            self._answers.pop((name, version), None)

        async with asyncio.TaskGroup() as group:
            for name in table.hosts:
                for version, family in _FAMILIES:
                    group.create_task(ask(name, version, family))
        for name in table.hosts:
            self._notice(name)

    def _notice(self, name: str) -> None:
        """A name without any answer is a finding, once until it has one again."""
        if any(self._answers.get((name, version)) for version, _ in _FAMILIES):
            self._silent.discard(name)
        elif name not in self._silent:
            self._silent.add(name)
            detail: dict[str, Plain] = {"title": f"no answer for {name}, which a rule names"}
            now_ns = self._clock.mono_ns()
            self._sink(
                Event(OCSF.DETECTION_FINDING, 1, Severity.MEDIUM, now_ns, detail, "EW-NET-039")
            )

    def _tell(self, table: NetworkTable) -> None:
        for host, name in enumerate(table.hosts):
            for version, family in _FAMILIES:
                addresses = self._answers.get((name, version))
                if not addresses or self._gate is None:
                    continue
                raw = tuple(socket.inet_pton(family, a.partition("%")[0]) for a in addresses)
                answer = NameAnswer(host, table.generation, version, table.dns_keep_s, raw)
                try:
                    self._gate.send(encode(answer), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except OSError:  # full or gone: the next look connects and tells all again
                    self._drop()

    async def _connect(self) -> bool:
        """Be connected, if gate lives; True when it is a new connection."""
        if self._gate is not None:
            with contextlib.suppress(BlockingIOError):
                if self._gate.recv(1, socket.MSG_DONTWAIT) == b"":
                    self._drop()
        if self._gate is not None:
            return False
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(made, self._path)
        except OSError:
            made.close()
            return False
        self._gate = made
        return True

    def _drop(self) -> None:
        if self._gate is not None:
            self._gate.close()
            self._gate = None
