"""Brokers whose acknowledgement proves nothing: a real NATS server, and Mosquitto in MQTT 3.1.1
with an access list that throws a class away without saying so.

The negative control is the same run without the verifier's word: there records are lost, and the
gateway believes they arrived.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgewarden.link.acknowledged import VerifierKey
from edgewarden.trust.keys import FileSigner, key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import Acknowledgement, Upto, encode_acknowledgement
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, decode_record, record_hash
from tests.broker import DEFAULT_ACL, HOST, Broker, Pki
from tests.system.nats import Nats
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

ALARM, AUDIT, BULK = RecordClass
WAIT_S = 40.0
ACK = f"ew/1/main/{DEVICE}/e/ack"
ACL = DEFAULT_ACL + "pattern read ew/1/main/%u/e/ack\n"
DENIES_AUDIT = ACL.replace(
    "pattern write ew/1/main/%u/r/+\n",
    "pattern write ew/1/main/%u/r/alarm\npattern write ew/1/main/%u/r/bulk\n",
)


@pytest.fixture(scope="module")
def signer() -> FileSigner:
    return FileSigner.generate()


class Fleet:
    """A fleet's session in 3.1.1 that acknowledges what follows without a hole; a context manager.

    Attributes:
        speaks: while False it hears and says nothing.
    """

    def __init__(self, port: int, pki: Pki, signer: FileSigner, *, speaks: bool = True) -> None:
        self.records: dict[RecordClass, dict[int, bytes]] = {c: {} for c in RecordClass}
        self.copies = 0
        self.speaks = speaks
        self._signer, self._port = signer, port
        self._ready = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, "fleet", protocol=mqtt.MQTTv311)
        self.client.tls_set_context(pki.context(pki.folder / "fleet.pem", pki.folder / "fleet.key"))
        self.client.on_connect = lambda c, *_: c.subscribe("ew/1/main/#", 1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._heard

    def __enter__(self) -> Fleet:
        self.client.connect(HOST, self._port)
        self.client.loop_start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _heard(self, _c: object, _u: object, message: mqtt.MQTTMessage) -> None:
        if "/r/" not in message.topic:
            return
        record = decode_record(cose.open_envelope(message.payload, ContentType.RECORD).payload)
        kept = self.records[record.record_class]
        self.copies += record.seq in kept
        kept[record.seq] = record_hash(message.payload)
        if self.speaks:
            self.say(self.word())

    def word(self) -> Acknowledgement:
        upto = {}
        for c, kept in self.records.items():
            whole = next((n for n in range(1, len(kept) + 2) if n not in kept), 1) - 1
            if whole:
                upto[c] = Upto(whole, kept[whole], max(kept))
        return Acknowledgement("main", DEVICE, upto)

    def say(self, word: Acknowledgement, signer: FileSigner | None = None) -> None:
        by = signer or self._signer
        payload = encode_acknowledgement(word)
        data = cose.seal(payload, ContentType.ACKNOWLEDGEMENT, by.kid, by.sign)
        self.client.publish(ACK, data, qos=1)

    def whole(self, one: Gateway) -> bool:
        """Whether everything durable at the gateway has been heard."""
        state = one.storage.state()
        return all(
            sorted(kept) == list(range(1, state[int(c)].durable + 1))
            for c, kept in self.records.items()
        )

    def has_all_of(self, one: Gateway) -> bool:
        """And it is acknowledged. What the uplink tells of itself may come in between the two."""
        return one.drained() and self.whole(one)


@contextlib.contextmanager
def running(
    tmp_path: Path, port: int, pki: Pki, signer: FileSigner | None, wait_s: float = 2.0
) -> Iterator[Gateway]:
    """A gateway in 3.1.1; with a signer the verifier's word is what counts."""
    key = None
    if signer is not None:
        public = signer.public_key()
        key = VerifierKey(key_id(public), verifier_for(public), wait_s)
    settings = replace(FAST, protocol=4, verifier=key)
    cert = pki.folder / f"{DEVICE}.pem", pki.folder / f"{DEVICE}.key"
    with Gateway(tmp_path / "state", port, lambda: pki.context(*cert), settings) as one:
        yield one


@pytest.mark.needs("nats-server")
def test_a_nats_server_as_broker(tmp_path: Path, pki: Pki, signer: FileSigner) -> None:
    with (
        Nats(tmp_path / "nats", pki, DEVICE) as nats,
        Fleet(nats.port, pki, signer) as fleet,
        running(tmp_path, nats.port, pki, signer, 10) as one,
    ):
        one.write(alarms=60, audits=60, bulk=5)
        wait_until(one.drained, WAIT_S)
        assert fleet.whole(one)
        assert one.alarms() == []


def denied(one: Gateway, fleet: Fleet, *, believed: bool) -> None:
    """Audit is thrown away; the spool lets go of it, or with the verifier's word it does not."""
    one.write(alarms=5, audits=20)
    wait_until(lambda: len(fleet.records[ALARM]) >= 5, WAIT_S)
    if believed:
        wait_until(lambda: "EW-NET-016" in one.alarms(), WAIT_S)
        assert one.storage.state()[int(AUDIT)].acked == 0
    else:
        wait_until(lambda: one.storage.state()[int(AUDIT)].acked >= 20, WAIT_S)


@pytest.mark.needs("nats-server")
@pytest.mark.parametrize("believed", [False, True], ids=["broker", "verifier"])
def test_what_a_nats_server_throws_away(
    tmp_path: Path, pki: Pki, signer: FileSigner, believed: bool
) -> None:
    """Its permissions deny a class: the PUBACK comes all the same."""
    with (
        Nats(tmp_path / "nats", pki, DEVICE, denied=("r.audit",)) as nats,
        Fleet(nats.port, pki, signer) as fleet,
        running(tmp_path, nats.port, pki, signer if believed else None) as one,
    ):
        denied(one, fleet, believed=believed)
        assert fleet.records[AUDIT] == {}


@pytest.mark.parametrize("believed", [False, True], ids=["broker", "verifier"])
def test_a_denial_that_nobody_can_see(
    tmp_path: Path, pki: Pki, signer: FileSigner, believed: bool
) -> None:
    """Mosquitto acknowledges what its access list denies. Without the verifier's word that is the
    end of these records; with it they wait until the list is mended, and none is lost."""
    with (
        Broker(tmp_path / "broker", pki, acl=DENIES_AUDIT) as broker,
        Fleet(broker.port, pki, signer) as fleet,
        running(tmp_path, broker.port, pki, signer if believed else None) as one,
    ):
        denied(one, fleet, believed=believed)
        (tmp_path / "broker" / "acl").write_text(ACL)
        broker.restart()
        if believed:
            wait_until(one.drained, WAIT_S)
            assert fleet.whole(one)
        else:
            wait_until(lambda: _more(one, fleet), WAIT_S)
            assert min(fleet.records[AUDIT]) > 20, "the first twenty are gone"


def _more(one: Gateway, fleet: Fleet) -> bool:
    """Write until one is heard: the fleet's subscription is back some time after the broker."""
    one.write(audits=1)
    return len(fleet.records[AUDIT]) >= 1


def test_a_lost_word_costs_duplicates_and_nothing_else(
    tmp_path: Path, pki: Pki, signer: FileSigner
) -> None:
    with (
        Broker(tmp_path / "broker", pki, acl=ACL) as broker,
        Fleet(broker.port, pki, signer, speaks=False) as fleet,
        running(tmp_path, broker.port, pki, signer) as one,
    ):
        one.write(alarms=10)
        wait_until(lambda: fleet.whole(one), WAIT_S)
        assert one.storage.state()[int(ALARM)].acked == 0
        fleet.speaks = True
        wait_until(one.drained, WAIT_S)
        assert fleet.copies > 0
        assert fleet.whole(one)


def test_words_that_release_nothing(tmp_path: Path, pki: Pki, signer: FileSigner) -> None:
    """A stranger's, another gateway's, one for what was not sent, one for another record."""
    with (
        Broker(tmp_path / "broker", pki, acl=ACL) as broker,
        Fleet(broker.port, pki, signer, speaks=False) as fleet,
        running(tmp_path, broker.port, pki, signer, 600) as one,
    ):
        one.write(alarms=10)
        wait_until(lambda: len(fleet.records[ALARM]) >= 11, WAIT_S)  # with the introduction
        good = fleet.word()
        seq = good.upto[ALARM].seq
        fleet.say(good, FileSigner.generate())
        fleet.say(replace(good, device="gw-other"))
        fleet.say(replace(good, upto={ALARM: Upto(seq + 1000, bytes(32), seq + 1000)}))
        fleet.say(replace(good, upto={ALARM: Upto(seq, bytes(32), seq)}))
        names = ("unknown_key", "foreign_device", "not_sent", "other_record")
        wait_until(lambda: all(one.snapshot().counters[f"word_{n}"] for n in names), WAIT_S)
        assert one.storage.state()[int(ALARM)].acked == 0
        wait_until(lambda: "EW-NET-017" in one.alarms(), WAIT_S)
        fleet.speaks = True
        one.write(alarms=1)
        wait_until(one.drained, WAIT_S)
        fleet.say(good)
        wait_until(lambda: one.snapshot().counters["word_older"], WAIT_S)
