"""A listener that really listens on loopback, for the length of one test, and its devices' CA."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from edgewarden.downstream.budget import Budget, Limits
from edgewarden.downstream.desk import Desk
from edgewarden.downstream.listener import Listener, ListenerSettings
from edgewarden.downstream.registry import Registry
from edgewarden.downstream.shown import DeskSettings
from edgewarden.ports import Instant
from edgewarden.trust.tls import DeviceFiles, device_context
from edgewarden.wire.facts import Event, Reading
from tests.downstream.test_device_evidence import verify
from tests.fakes.clock import FakeClock, FakeRandomness
from tests.fakes.pki import Authority, Leaf
from tests.waiting import until

PREFIX = "urn:edgewarden:downstream:"


class LoopClock(FakeClock):
    """Boot time as the event loop counts it: sockets do not wait for a clock that stands."""

    def now(self) -> Instant:
        ns = int(asyncio.get_running_loop().time() * 1e9)
        return replace(super().now(), boot_ns=ns)


class Devices:
    """The devices' CA and the files of both ends, below one folder."""

    def __init__(self, folder: Path, name: str = "devices root") -> None:
        self.folder = folder
        self.ca = Authority(name)
        self.ca_path = folder / "ca.pem"
        self.ca_path.write_bytes(self.ca.pem)
        self.server = self.write("server", self.ca.server("localhost"))
        self.crl: Path | None = None

    def write(self, name: str, leaf: Leaf) -> tuple[str, str]:
        """Paths of a certificate and its key."""
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(leaf.cert_pem)
        key.write_bytes(leaf.key_pem)
        return str(cert), str(key)

    def device(
        self,
        name: str,
        *,
        uri: str | None = None,
        ended: bool = False,
        use: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH,
    ) -> tuple[str, str]:
        """A device's certificate and key; a new key each time."""
        uris = [f"{PREFIX}{name}"] if uri is None else uri.split()
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
        leaf = self.ca._leaf(name, san, use, ended)
        return self.write(name, leaf)

    def files(self, least: str = "1.3") -> DeviceFiles:
        cert, key = self.server
        return DeviceFiles(self.ca_path, Path(cert), Path(key), self.crl, least)


@dataclass
class Running:
    """A listener, its desk, and what it told."""

    listener: Listener
    desk: Desk
    budget: Budget
    state: Path
    facts: list[Event | Reading] = field(default_factory=list)
    overruns: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.listener.port

    def readings(self) -> dict[str, object]:
        return {f"{r.source}/{r.name}": r.value for r in self.facts if isinstance(r, Reading)}

    def codes(self) -> list[str]:
        return [e.code for e in self.facts if isinstance(e, Event) and e.code]

    async def settled(self) -> None:
        """Every connection is over."""
        await until(lambda: not self.listener._tasks)


@contextlib.asynccontextmanager
async def listening(
    devices: Devices,
    settings: DeskSettings | None = None,
    limits: Limits | None = None,
    *,
    host: str = "127.0.0.1",
    handshake_s: float = 60.0,
    least: str = "1.3",
    loosen: Callable[[ssl.SSLContext], object] = lambda context: None,
) -> AsyncIterator[Running]:
    """The listener for as long as the block runs; it ticks each tenth of a second."""
    clock, budget = LoopClock(), Budget(limits or Limits())
    facts: list[Event | Reading] = []
    overruns: list[str] = []
    desk = Desk(
        settings or DeskSettings(), Registry(devices.folder / "state"), facts.append, clock,
        FakeRandomness(), verify, lambda number: listener.end(number),
    )  # fmt: skip
    context = device_context(devices.files(least))
    loosen(context)
    listener = Listener(
        ListenerSettings(host, 0, PREFIX, handshake_s), budget, desk, lambda: context, clock,
        overruns.append,
    )  # fmt: skip
    await desk.begin()
    listener.open()

    async def tick() -> None:
        while True:
            await desk.tick()
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(listener.run()), asyncio.create_task(tick())]
    try:
        yield Running(listener, desk, budget, devices.folder / "state", facts, overruns)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await desk.finish()
