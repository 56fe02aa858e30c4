"""What a session that ended, or never began, leaves behind: nothing for the collector of cycles.

It comes by after some ten thousand objects, for link minutes; a session is three hundred, and 50 kB
of OpenSSL's behind them, which it does not count. And what link's start leaves behind: nothing that
it does not need.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import paho.mqtt.client as mqtt
import pytest

from edgewarden.daemon import publish
from edgewarden.errors import PeerUnavailable
from edgewarden.link import dial
from edgewarden.link.drain import Drainer
from edgewarden.link.session import Session
from edgewarden.ports import Clock
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
from hw.rigs.ports import free_port
from tests.broker import Broker, Pki
from tests.fakes.mirrored import Mirrored
from tests.system.cards import standing
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import until, wait_until

pytestmark = pytest.mark.needs("mosquitto")
WAIT_S = 90.0
TIMES = 8
WATCHED = (
    Session, Drainer, mqtt.Client, ssl.SSLSocket, ssl.SSLContext, PeerUnavailable, ConnectionError,
)  # fmt: skip


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing is collected meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def alive() -> Counter[str]:
    """How many there are of each of WATCHED."""
    found = (kind.__name__ for one in gc.get_objects() for kind in WATCHED if isinstance(one, kind))
    return Counter(found)


def gateway(tmp_path: Path, port: int, pki: Pki) -> Gateway:
    pair = pki.folder / f"{DEVICE}.pem", pki.folder / f"{DEVICE}.key"
    return Gateway(tmp_path / "state", port, lambda: pki.context(*pair), FAST)


def test_lost_sessions_are_gone_with_their_sockets(
    tmp_path: Path, broker: Broker, pki: Pki, uncollected: None
) -> None:
    with gateway(tmp_path, broker.port, pki) as one:
        wait_until(lambda: one.snapshot().connected, WAIT_S)
        before = alive()
        for n in range(1, TIMES + 1):
            broker.restart()
            wait_until(lambda n=n: one.snapshot().reconnects >= n, WAIT_S)  # type: ignore[misc]
            wait_until(lambda: one.snapshot().connected, WAIT_S)
        assert one.snapshot().counters["sessions_ended"] >= TIMES
        assert {name: n for name, n in (alive() - before).items() if n > 1} == {}


def test_tries_that_failed_keep_no_context_and_no_frame(
    tmp_path: Path, pki: Pki, uncollected: None
) -> None:
    before = alive()
    with gateway(tmp_path, free_port(), pki) as one:
        wait_until(lambda: one.snapshot().counters["connect_failures"] >= TIMES, WAIT_S)
        after, fault = alive() - before, one.snapshot().fault
    assert {name: n for name, n in after.items() if n > 2} == {}
    assert fault is not None
    assert [f for f in (fault, fault.__cause__) if f and f.__traceback__] == []


def test_nor_does_a_copy_for_the_site_that_finds_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncollected: None
) -> None:
    tried: list[int] = []

    def dial_plain(host: str, port: int, clock: Clock) -> socket:
        tried.append(port)
        return dial.dial_plain(host, port, clock)

    monkeypatch.setattr(publish, "dial_plain", dial_plain)
    monkeypatch.setattr(publish, "BASE_S", 0.01)
    monkeypatch.setattr(publish, "CAP_S", 0.01)
    text = f'[paths]\nstate = "{tmp_path}"\n[sparkplug]\nhost = "127.0.0.1"\nport = {free_port()}\n'
    publishers = publish.build(load_settings([SourceFile("x", text)]), DEVICE, Mirrored())
    before = alive()

    async def tries() -> None:
        running = asyncio.create_task(publishers.run())
        await until(lambda: len(tried) >= TIMES, WAIT_S)
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running

    asyncio.run(tries())
    assert {name: n for name, n in (alive() - before).items() if n > 2} == {}


def test_what_only_the_start_of_link_needed_goes() -> None:
    with tempfile.TemporaryDirectory(prefix="ew-left-") as short, standing(Path(short)) as stage:
        card = stage.enrolled()
        card.start()
        assert card.link is not None
        status, seen = Path(f"/proc/{card.link.pid}/status"), [0]

        def fell() -> bool:
            assert card.link is not None
            assert card.link.poll() is None, card.log.read_text()
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
            seen.append(int(lines.get("RssFile", "0").split()[0]))  # none in mid-exec
            return max(seen) > 10_000 and seen[-1] < max(seen) - 2000

        wait_until(fell, WAIT_S)
