"""The fleet's broker session: one thread alone speaks on its socket, however busy the other one is.

A TLS connection is not two: OpenSSL's read in one thread and write in another corrupt it and, in
time, the process (seen after 8,000 records: "bad record mac" at the broker, SIGSEGV here).
"""

from __future__ import annotations

import queue
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewarden_fleet.ca.certificates import FLEET_CN
from edgewarden_fleet.ca.settings import Endpoint
from edgewarden_fleet.ingest.session import RECEIVE_MAXIMUM, BrokerSession
from edgewarden_fleet.ingest.worker import Delivery
from edgewarden_fleet.verify.attest import Outgoing
from hw.rigs.ports import free_port
from tests.broker import HOST, Broker, Pki, Subscriber
from tests.fleet.makers import TENANT, unconnected
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")
WAIT_S = 60.0
ACL = f"user {FLEET_CN}\ntopic readwrite #\nuser fleet\ntopic readwrite #\n"
MESSAGES = 50


class Watched(ssl.SSLSocket):
    """Remembers who read and wrote."""

    spoke: set[threading.Thread]

    def recv(self, *args: Any, **how: Any) -> bytes:
        self.spoke.add(threading.current_thread())
        return super().recv(*args, **how)

    def send(self, *args: Any, **how: Any) -> int:
        self.spoke.add(threading.current_thread())
        return super().send(*args, **how)


class Inbox:
    """In the place of the worker: what was delivered is acknowledged by whoever takes it."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Delivery] = queue.Queue()
        self.offer = self.queue.put


@pytest.fixture
def watched(pki: Pki) -> ssl.SSLContext:
    context = pki.client_context(FLEET_CN)
    context.sslsocket_class = type("Mine", (Watched,), {"spoke": set()})
    return context


@pytest.fixture
def busy(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    with Broker(tmp_path / "broker", pki, acl=ACL) as one:
        yield one


def session_of(broker: Broker, context: ssl.SSLContext, folder: Path) -> BrokerSession:
    return BrokerSession(Endpoint(HOST, broker.port), context, TENANT, unconnected(folder))


def test_one_thread_alone_speaks_on_the_socket(
    busy: Broker, pki: Pki, watched: ssl.SSLContext, tmp_path: Path
) -> None:
    session, inbox = session_of(busy, watched, tmp_path), Inbox()
    session.start(inbox)  # type: ignore[arg-type]
    try:
        assert session.connected.wait(WAIT_S)
        with Subscriber(busy.port, pki.context(*pki.issue("fleet")), ["answers/#"]) as other:
            wait_until(lambda: busy.said(f"Sending SUBACK to {FLEET_CN}"), WAIT_S)
            for n in range(MESSAGES):
                other.client.publish(f"ew/1/{TENANT}/gw-demo/r/audit", b"%d" % n, qos=1)
            for n in range(MESSAGES):
                inbox.queue.get(timeout=WAIT_S).acknowledge()
                session.send(Outgoing(f"answers/{n}", b"%d" % n))
            wait_until(lambda: len(other.messages) == MESSAGES, WAIT_S)
    finally:
        session.stop()
    speakers: set[threading.Thread] = watched.sslsocket_class.spoke  # type: ignore[union-attr]
    assert len(speakers) == 1, speakers
    assert threading.current_thread() not in speakers


def test_every_message_is_acknowledged_beyond_the_receive_maximum(
    busy: Broker, pki: Pki, watched: ssl.SSLContext, tmp_path: Path
) -> None:
    """The broker sends no more than so many unacknowledged: what waits to be written is written
    at once, not when the socket happens to be looked at."""
    session, inbox = session_of(busy, watched, tmp_path), Inbox()
    session.start(inbox)  # type: ignore[arg-type]
    try:
        assert session.connected.wait(WAIT_S)
        with Subscriber(busy.port, pki.context(*pki.issue("fleet")), ["answers/#"]) as other:
            wait_until(lambda: busy.said(f"Sending SUBACK to {FLEET_CN}"), WAIT_S)
            for _ in range(2 * RECEIVE_MAXIMUM):
                other.client.publish(f"ew/1/{TENANT}/gw-demo/r/audit", b"x", qos=1)
            for _ in range(2 * RECEIVE_MAXIMUM):
                inbox.queue.get(timeout=WAIT_S).acknowledge()
    finally:
        session.stop()
    assert session.failed is None


def test_what_ends_the_thread_is_kept_for_the_composer(
    busy: Broker, watched: ssl.SSLContext, tmp_path: Path, pki: Pki
) -> None:
    session = session_of(busy, watched, tmp_path)

    class Broken:
        def offer(self, delivery: Delivery) -> None:
            raise RuntimeError("as it does")

    session.start(Broken())  # type: ignore[arg-type]
    try:
        assert session.connected.wait(WAIT_S)
        with Subscriber(busy.port, pki.context(*pki.issue("fleet")), ["answers/#"]) as other:
            wait_until(lambda: busy.said(f"Sending SUBACK to {FLEET_CN}"), WAIT_S)
            other.client.publish(f"ew/1/{TENANT}/gw-demo/r/audit", b"x", qos=1)
            wait_until(lambda: session.failed is not None, WAIT_S)
    finally:
        session.stop()
    assert isinstance(session.failed, RuntimeError)


def test_it_ends_while_nobody_answers(watched: ssl.SSLContext, tmp_path: Path) -> None:
    nobody = Endpoint("127.0.0.1", free_port())
    session = BrokerSession(nobody, watched, TENANT, unconnected(tmp_path))
    session.start(Inbox())  # type: ignore[arg-type]
    session.stop()
    assert session.failed is None
