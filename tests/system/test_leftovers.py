"""What a session that ended, or never began, leaves behind: nothing for the collector of cycles.

It comes by after some ten thousand objects, for link minutes; a session is three hundred, and 50 kB
of OpenSSL's behind them, which it does not count.
"""

from __future__ import annotations

import gc
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from edgewarden.errors import PeerUnavailable
from edgewarden.link.drain import Drainer
from edgewarden.link.session import Session
from tests.broker import Broker, Pki, free_port
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")
WAIT_S = 30.0
TIMES = 8
WATCHED = (Session, Drainer, mqtt.Client, ssl.SSLSocket, ssl.SSLContext, PeerUnavailable)


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
    assert [f.__traceback__ for f in (fault, fault.__cause__) if f] == [None, None]
