"""Acceptance 3 of the data plane, what test_uplink.py has not: a real Mosquitto's Receive Maximum,
its full queue, and memory while it stands still. The rest of the number (stop, kill, SIGSTOP over
three keepalives, wrong and expired certificates, 0x87, PUBLISH before the first PUBACK) is there,
named a03 too.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest

from edgewarden.trust.keys import FileSigner
from edgewarden.wire.record import RecordClass
from tests.broker import Broker, Pki
from tests.system.test_acknowledged import ACL, Fleet, running
from tests.system.test_uplink import WAIT_S, _command, chains, durable, gap_free, listening
from tests.system.test_uplink import gateway as made_gateway
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

GROWTH_BYTES = 4 << 20
"""Target 4.2: resident set with a backlog, above the one without."""


@pytest.mark.parametrize("maximum", [1, 20])
def test_a03_nothing_is_lost_at_a_receive_maximum_of(
    tmp_path: Path, pki: Pki, maximum: int
) -> None:
    limit = [f"max_inflight_messages {maximum}"]
    with (
        Broker(tmp_path / "broker", pki, extra=limit) as broker,
        listening(broker, pki) as heard,
        made_gateway(tmp_path, broker.port, pki) as one,
    ):
        one.write(alarms=60, audits=20, bulk=3)
        wait_until(one.drained, WAIT_S)
        # Mosquitto keeps nothing over its end of what it took and has not handed on.
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        heard.forget_ready()
        broker.restart()
        one.write(alarms=60, audits=20, bulk=3)
        wait_until(one.drained, WAIT_S)
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        assert len(chains(heard)[RecordClass.ALARM]) >= 120
        assert one.snapshot().counters.get("refused_0x93", 0) == 0


@pytest.mark.parametrize("believed", [False, True], ids=["broker", "verifier"])
def test_a03_a_full_queue_loses_nothing_that_the_verifier_has_not(
    tmp_path: Path, pki: Pki, believed: bool
) -> None:
    """The fleet's link stands still, and Mosquitto throws away what finds no room for it, with a
    PUBACK all the same, in MQTT 5, too. Without the verifier's word that is the end of them."""
    limits = ["max_queued_messages 5", "max_inflight_messages 1"]
    signer = FileSigner.generate()
    with (
        Broker(tmp_path / "broker", pki, acl=ACL, extra=limits) as broker,
        Fleet(broker.port, pki, signer) as fleet,
        (
            running(tmp_path, broker.port, pki, signer)
            if believed
            else made_gateway(tmp_path, broker.port, pki)
        ) as one,
        halting(fleet) as goes_on,
    ):
        one.write(alarms=1)
        wait_until(one.drained, WAIT_S)
        goes_on.clear()
        one.write(alarms=15)
        wait_until(lambda: broker.said("being dropped for client fleet"), WAIT_S)
        if not believed:
            wait_until(one.drained, WAIT_S)
        goes_on.set()
        if believed:
            wait_until(lambda: fleet.has_all_of(one), 3 * WAIT_S)
        else:
            heard = fleet.records[RecordClass.ALARM]
            wait_until(lambda: one_more_comes(one, heard), WAIT_S)
            assert not fleet.whole(one), "the control"
        flown = broker.log.read_text().split(f"Sending PUBACK to {DEVICE}")[0]
        assert 1 <= flown.count(f"Received PUBLISH from {DEVICE}") <= FAST.window


@contextlib.contextmanager
def halting(fleet: Fleet) -> Iterator[threading.Event]:
    """While the event is not set, nothing more is read of the fleet's connection."""
    goes_on, take = threading.Event(), fleet.client.on_message
    goes_on.set()

    def slowly(client: mqtt.Client, data: object, message: mqtt.MQTTMessage) -> None:
        goes_on.wait(2 * WAIT_S)
        assert take is not None
        take(client, data, message)

    fleet.client.on_message = slowly
    try:
        yield goes_on
    finally:
        goes_on.set()


def one_more_comes(one: Gateway, heard: Collection[int]) -> bool:
    """Whether another alarm gets through; not, while the queue is full."""
    before = one.storage.state()[RecordClass.ALARM].durable
    one.write(alarms=1)
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: before + 1 in heard, 2.0)
    return before + 1 in heard


def rss_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a03_memory_stays_flat_while_the_broker_stands_still(tmp_path: Path, pki: Pki) -> None:
    """The process writes for ever; the broker is stopped. What waits is on the disk."""
    lines: list[bytes] = []
    with Broker(tmp_path / "broker", pki) as broker, listening(broker, pki) as heard:
        process = subprocess.Popen(
            _command(tmp_path / "state", broker.port, pki, 3),
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={"PYTHONPATH": "agent", "PATH": "/usr/bin:/bin"},
        )
        assert process.stdout is not None
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        try:
            wait_until(lambda: len(lines) > 100 and heard.payloads("/r/alarm"), WAIT_S)
            broker.pause()
            before, known = rss_bytes(process.pid), len(lines)
            wait_until(lambda: len(lines) > known + 600, 2 * WAIT_S)
            grown = rss_bytes(process.pid) - before
            broker.resume()
        finally:
            broker.resume()
            process.kill()
            process.wait(60)
            reader.join(60)
            process.stdout.close()
    assert grown <= GROWTH_BYTES
