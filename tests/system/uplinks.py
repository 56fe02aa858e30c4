"""A storage thread and an uplink, as a test or a process of its own runs them.

    python -m tests.system.uplinks STATE_DIR PORT PKI_FOLDER SEED

As a process it writes a seeded load for ever and prints a JSON line after each commit: what status
would call durable.
"""

from __future__ import annotations

import asyncio
import json
import random
import ssl
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from edgewarden.daemon.clock import SystemClock, SystemRandomness
from edgewarden.link.uplink import Uplink, UplinkSettings, UplinkSnapshot
from edgewarden.record.aside import FOLDER as ASIDE
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.broker import HOST
from tests.noise import noise
from tests.waiting import wait_until

DEVICE = "gw-demo"
FAST = UplinkSettings(
    tenant="main",
    device=DEVICE,
    host=HOST,
    port=0,
    start_spread_s=0,
    keepalive_s=2,
    window=20,
    backlog_bytes_s=0,
    reconnect_base_s=0.05,
    reconnect_cap_s=0.4,
)
"""The product's rules at a twentieth of their time."""


def event(**detail: Plain) -> Event:
    return Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)


def opened(state: Path, bulk_commit_s: float = 3600, cap_bytes: int = 64 << 20) -> StorageThread:
    """A started storage thread on state."""
    clock = SystemClock()
    storage = StorageThread(
        lambda: Journal(DiskSpool(state / FOLDER, cap_bytes), DEVICE, clock, FileSigner.generate()),
        Introduction(FileSigner.generate(), (b"leaf",), "test"),
        clock,
        bulk_commit_s=bulk_commit_s,
        bulk_commit_bytes=8192,
        aside=state / ASIDE,
    )
    storage.start()
    return storage


class Gateway:
    """Storage and uplink, the loop in a thread of its own; a context manager.

    Attributes:
        events: everything the uplink told about itself.
        nonces, results: what came from the fleet.
    """

    def __init__(
        self,
        state: Path,
        port: int,
        context: Callable[[], ssl.SSLContext],
        settings: UplinkSettings = FAST,
        cap_bytes: int = 64 << 20,
    ) -> None:
        self.events: list[tuple[Event, RecordClass]] = []
        self.nonces: list[bytes] = []
        self.results: list[bytes] = []
        self.storage = opened(state, cap_bytes=cap_bytes)
        self._settings = replace(settings, port=port)
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gateway's loop")
        self.uplink: Uplink

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._live())
        self._loop.close()

    async def _live(self) -> None:
        self.uplink = Uplink(
            self._settings,
            self.storage,
            self._context,
            lambda session_ns, online: b"online" if online else b"offline",
            self.nonces.append,
            self.results.append,
            self._tell,
            SystemClock(),
            SystemRandomness(),
        )
        await self.uplink.run()

    def _tell(self, told: Event, record_class: RecordClass) -> None:
        self.events.append((told, record_class))
        self.storage.submit_event(told, record_class)

    def __enter__(self) -> Gateway:
        self._thread.start()
        wait_until(lambda: hasattr(self, "uplink"))
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self.uplink.stop)
        self._thread.join(60)
        assert not self._thread.is_alive(), "the uplink does not stop"
        self.storage.stop()

    def snapshot(self) -> UplinkSnapshot:
        return self.uplink.snapshot()

    def publish_evidence(self, message: bytes) -> None:
        self._loop.call_soon_threadsafe(self.uplink.publish_evidence, message)

    def alarms(self) -> list[str]:
        """Codes of the alarms that the uplink raised."""
        return [e.code for e, c in self.events if c is RecordClass.ALARM]

    def write(self, alarms: int = 0, audits: int = 0, bulk: int = 0, size: int = 50) -> None:
        """Some of each, durable when this returns."""
        for n in range(alarms):
            self.storage.submit_event(event(n=n, text=noise(size, n)), RecordClass.ALARM)
        for n in range(audits):
            self.storage.submit_event(event(n=n, text=noise(size, n)), RecordClass.AUDIT)
        for n in range(bulk):
            self.storage.submit_reading(Reading("s", "n", "", float(n), 1))
            self.storage.flush().result(60)
        self.storage.flush().result(60)

    def drained(self) -> bool:
        """Whether everything durable is acknowledged."""
        return all(s.acked == s.durable for s in self.storage.state().values())


def main(state: str, port: str, pki: str, seed: str) -> None:
    """The process: load and uplink until it is killed."""
    chance = random.Random(seed)
    folder = Path(pki)

    def context() -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        made.load_verify_locations(folder / "ca.pem")
        made.load_cert_chain(folder / f"{DEVICE}.pem", folder / f"{DEVICE}.key")
        return made

    gateway = Gateway(Path(state), int(port), context)

    def report() -> None:
        heads = {c.label: seq for c, (seq, _) in gateway.storage.heads().items()}
        sys.stdout.write(json.dumps(heads) + "\n")
        sys.stdout.flush()

    gateway.storage.watch(report)
    with gateway:
        while True:
            gateway.write(chance.randint(0, 8), chance.randint(0, 4), chance.randint(0, 2))


if __name__ == "__main__":
    main(*sys.argv[1:])
