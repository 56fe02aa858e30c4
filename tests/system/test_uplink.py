"""The uplink against a real Mosquitto: nothing lost, nothing early, no storm, and every failure by
its name.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.link.pace import START_BYTES
from edgewarden.record.aside import FOLDER as ASIDE
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import RecordClass, decode_record, record_hash
from tests.broker import DEFAULT_ACL, Broker, Pki, Subscriber
from tests.system.mutebroker import MuteBroker
from tests.system.uplinks import DEVICE, FAST, Gateway
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("mosquitto")]

ALARM, AUDIT, BULK = RecordClass
SEED = 20261
WAIT_S = 60.0
PATIENT_S = 30
"""A keepalive that no machine stands still for: where nothing is to end the session."""
STATUS = f"ew/1/main/{DEVICE}/s/status"


def context(pki: Pki, name: str = DEVICE) -> Callable[[], object]:
    return lambda: pki.context(pki.folder / f"{name}.pem", pki.folder / f"{name}.key")


def gateway(tmp_path: Path, port: int, pki: Pki, **changes: object) -> Gateway:
    settings = replace(FAST, **{"keepalive_s": PATIENT_S, **changes})  # type: ignore[arg-type]
    return Gateway(tmp_path / "state", port, context(pki), settings)  # type: ignore[arg-type]


def listening(broker: Broker, pki: Pki) -> Subscriber:
    return Subscriber(broker.port, pki.context(*_pair(pki, "fleet")), ["ew/1/#"])


def _pair(pki: Pki, name: str) -> tuple[Path, Path]:
    return pki.folder / f"{name}.pem", pki.folder / f"{name}.key"


def _command(state: Path, port: int, pki: Pki, seed: int) -> list[str]:
    module = "tests.system.uplinks"
    return [sys.executable, "-m", module, str(state), str(port), str(pki.folder), str(seed)]


def chains(heard: Subscriber) -> dict[RecordClass, list[int]]:
    """Sequences of each class after removing duplicates; the chain is checked on the way.

    Raises:
        AssertionError: one sequence with two contents, or a record that does not follow.
    """
    found: dict[RecordClass, list[int]] = {}
    for c in RecordClass:
        hashes: dict[int, bytes] = {}
        prevs: dict[int, bytes] = {}
        for payload in heard.payloads(f"/r/{c.label}"):
            record = decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
            digest = record_hash(payload)
            assert hashes.setdefault(record.seq, digest) == digest, f"{c.label}/{record.seq} twice"
            prevs[record.seq] = record.prev
        for seq, prev in prevs.items():
            assert prev == hashes.get(seq - 1, prev), f"{c.label}/{seq} does not follow"
        found[c] = sorted(hashes)
    return found


def gap_free(heard: Subscriber, upto: dict[RecordClass, int]) -> bool:
    return chains(heard) == {c: list(range(1, last + 1)) for c, last in upto.items()}


def durable(one: Gateway) -> dict[RecordClass, int]:
    return {RecordClass(c): s.durable for c, s in one.storage.state().items()}


# --- delivery ------------------------------------------------------------------------------------


def test_everything_arrives_in_order_behind_the_status(
    tmp_path: Path, broker: Broker, pki: Pki
) -> None:
    with listening(broker, pki) as heard, gateway(tmp_path, broker.port, pki) as one:
        one.write(alarms=50, audits=50, bulk=10)
        wait_until(one.drained, WAIT_S)
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        assert heard.messages[0][:2] == (STATUS, b"online")
        shot = one.snapshot()
        assert (shot.connected, shot.reconnects, shot.in_flight, shot.fault) == (True, 0, 0, None)
        assert shot.since_utc is not None
        assert shot.since_utc.endswith("Z")
    wait_until(lambda: heard.messages and heard.messages[-1][:2] == (STATUS, b"offline"), WAIT_S)


def test_the_status_is_retained_and_the_will_replaces_it(
    tmp_path: Path, broker: Broker, pki: Pki
) -> None:
    process = subprocess.Popen(
        _command(tmp_path / "state", broker.port, pki, 1),
        stdout=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "agent", "PATH": "/usr/bin:/bin"},
    )
    try:
        wait_until(lambda: broker.said("s/status"), WAIT_S)
        with listening(broker, pki) as late:
            wait_until(lambda: (STATUS, b"online", True) in late.messages, WAIT_S)
            process.kill()
            wait_until(lambda: (STATUS, b"offline", False) in late.messages, WAIT_S)
    finally:
        process.kill()
        process.wait(60)


def test_a_nonce_comes_down_and_evidence_goes_up(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    with listening(broker, pki) as heard, gateway(tmp_path, broker.port, pki) as one:
        wait_until(lambda: one.snapshot().connected, WAIT_S)
        heard.client.publish(f"ew/1/main/{DEVICE}/e/nonce", b"nonce", qos=1)
        heard.client.publish(f"ew/1/main/{DEVICE}/e/result", b"result", qos=1)
        wait_until(lambda: one.nonces == [b"nonce"] and one.results == [b"result"], WAIT_S)
        one.publish_evidence(b"evidence")
        wait_until(lambda: heard.payloads("/e/evidence") == [b"evidence"], WAIT_S)


def test_a_message_that_is_too_long_never_reaches_a_handler(
    tmp_path: Path, broker: Broker, pki: Pki
) -> None:
    with listening(broker, pki) as heard, gateway(tmp_path, broker.port, pki) as one:
        wait_until(lambda: one.snapshot().connected, WAIT_S)
        heard.client.publish(f"ew/1/main/{DEVICE}/e/nonce", bytes(10 << 20), qos=1)
        heard.client.publish(f"ew/1/main/{DEVICE}/e/nonce", b"after", qos=1)
        wait_until(lambda: one.nonces == [b"after"], WAIT_S)
        assert one.snapshot().reconnects == 0, "the broker itself keeps to our limit"


# --- brokers come and go -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["stop", "kill", "pause"])  # pause: half open, 2 x keepalive
def test_a03_nothing_is_lost_when_the_broker_goes(
    tmp_path: Path, broker: Broker, pki: Pki, how: str
) -> None:
    kept = FAST.keepalive_s if how == "pause" else PATIENT_S
    with (
        listening(broker, pki) as heard,
        gateway(tmp_path, broker.port, pki, keepalive_s=kept) as one,
    ):
        one.write(alarms=20, audits=5, bulk=2)
        wait_until(one.drained, WAIT_S)
        heard.forget_ready()
        getattr(broker, how)()
        one.write(alarms=60, audits=20, bulk=4)
        wait_until(lambda: not one.snapshot().connected, WAIT_S)
        assert one.snapshot().fault is not None
        acked = one.storage.state()[ALARM].acked
        assert acked < one.storage.state()[ALARM].durable, "nothing is believed without PUBACK"
        broker.resume() if how == "pause" else broker.start()
        wait_until(one.drained, WAIT_S)
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        assert one.snapshot().reconnects >= 1


def test_nothing_is_sent_into_the_void(tmp_path: Path, broker: Broker, pki: Pki) -> None:
    """Without a subscriber the broker accepts and forgets: PUBACK 0x10. The spool does not."""
    with gateway(tmp_path, broker.port, pki) as one:
        one.write(alarms=200, audits=20, bulk=10)
        wait_until(lambda: one.snapshot().counters.get("refused_0x10", 0) >= 6, WAIT_S)
        assert [s.acked for s in one.storage.state().values()] == [0, 0, 0]
        assert [e.code for e, c in one.events if c is AUDIT] == ["EW-NET-012"]
        assert len(one.uplink._lanes[ALARM].ready) <= 32, "the backlog stays on the disk"
        with listening(broker, pki) as heard:
            wait_until(one.drained, WAIT_S)
            wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)


@pytest.mark.parametrize(("receive_maximum", "window"), [(1, 20), (5, 20), (20, 4), (65535, 5)])
def test_a03_the_window_holds_before_the_first_acknowledgement_on_every_connection(
    tmp_path: Path, pki: Pki, receive_maximum: int, window: int
) -> None:
    cert, key = pki.issue("mute", server=True)
    with (
        MuteBroker(cert, key, pki.ca, receive_maximum) as mute,
        gateway(tmp_path, mute.port, pki, window=window) as one,
    ):
        one.write(alarms=300)
        expected = min(receive_maximum, window)
        for connection in range(3):
            wait_until(
                lambda n=connection: len(mute.published) > n and mute.published[n] >= expected,
                WAIT_S,
            )
            one.write(alarms=5)  # the loop has every reason to send more
            assert one.snapshot().in_flight == expected
            mute.kick()
        wait_until(lambda: len(mute.published) > 3, WAIT_S)
        assert max(mute.published) == expected
        assert one.storage.state()[ALARM].acked == 0


def test_a03_bytes_bound_what_flies_before_the_first_acknowledgement(
    tmp_path: Path, pki: Pki
) -> None:
    """The window alone let 20 records go at once: 8 kB, over a second of 64 kbit/s."""
    cert, key = pki.issue("mute", server=True)
    with (
        MuteBroker(cert, key, pki.ca, 65535) as mute,
        gateway(tmp_path, mute.port, pki) as one,
    ):
        one.write(audits=300)
        wait_until(lambda: one.snapshot().in_flight_bytes > START_BYTES // 2, WAIT_S)
        one.write(audits=5)
        assert one.snapshot().in_flight_bytes <= START_BYTES
        assert max(mute.published) < FAST.window


def test_an_endless_packet_ends_the_connection(tmp_path: Path, pki: Pki) -> None:
    cert, key = pki.issue("mute", server=True)
    with (
        MuteBroker(cert, key, pki.ca, 20) as mute,
        gateway(tmp_path, mute.port, pki) as one,
    ):
        wait_until(lambda: one.snapshot().connected, WAIT_S)
        mute.shout(b"\x32\xff\xff\xff\x7f" + bytes(4096))  # PUBLISH of 256 MB
        wait_until(lambda: mute.closed[0], WAIT_S)
        wait_until(lambda: one.snapshot().reconnects >= 1, WAIT_S)
        assert one.nonces == []


# --- trust ---------------------------------------------------------------------------------------


def test_a03_an_impostor_is_alarmed_once_and_looked_at_slowly(tmp_path: Path, pki: Pki) -> None:
    theirs = Pki(tmp_path / "theirs", "impostor")
    with contextlib.ExitStack() as stack:
        impostor = stack.enter_context(Broker(tmp_path / "impostor", theirs))
        began = time.monotonic()  # before the first: who looks for it late has missed some
        one = stack.enter_context(gateway(tmp_path, impostor.port, pki))
        wait_until(lambda: one.snapshot().counters["trust_failures"] >= 5, WAIT_S)
        took_s = time.monotonic() - began
        one.write(alarms=3)
        assert one.alarms() == ["EW-NET-006"]
        fault = one.snapshot().fault
        assert fault is not None
        assert fault.code == "EW-NET-006"
        assert took_s >= 4 * FAST.reconnect_cap_s, "four re-checks, none before the cap"
        assert one.storage.state()[ALARM].acked == 0
        port = impostor.port
        impostor.stop()
        with Broker(tmp_path / "real", pki, port=port):
            wait_until(lambda: one.snapshot().connected, WAIT_S)
            assert one.alarms() == ["EW-NET-006"]


@pytest.mark.parametrize(("mine", "words"), [("expired", "certificate expired"), ("foreign", "")])
def test_a03_our_own_certificate_refused_is_named(
    tmp_path: Path, broker: Broker, pki: Pki, mine: str, words: str
) -> None:
    if mine == "expired":
        refused = pki.client_context(f"{DEVICE}-old", days=-1)
    else:
        cert, key = Pki(tmp_path / "foreign", "foreign").issue(DEVICE)
        refused = pki.context(cert, key)
    one = Gateway(tmp_path / "state", broker.port, lambda: refused, FAST)
    with one:
        wait_until(lambda: one.alarms() == ["EW-NET-007"], WAIT_S)
        assert words in one.events[-1][0].detail["why"]  # type: ignore[operator]
        wait_until(lambda: one.snapshot().counters["trust_failures"] >= 2, WAIT_S)
        assert one.alarms() == ["EW-NET-007"]
        assert not one.snapshot().connected


def test_a_session_taken_over_is_an_alarm(tmp_path: Path, pki: Pki) -> None:
    """Brokers may say so (Mosquitto 2.0.11 just closes): then somebody else has our certificate."""
    cert, key = pki.issue("mute", server=True)
    with (
        MuteBroker(cert, key, pki.ca, 20) as mute,
        gateway(tmp_path, mute.port, pki) as one,
    ):
        for session in range(1, 4):
            wait_until(
                lambda n=session: mute.published.count(1) or len(mute.published) >= n, WAIT_S
            )
            wait_until(lambda: one.snapshot().connected, WAIT_S)
            mute.shout(b"\xe0\x02\x8e\x00")  # DISCONNECT, session taken over
            wait_until(lambda n=session: one.snapshot().counters["sessions_ended"] >= n, WAIT_S)
        assert one.alarms() == ["EW-NET-011"], "once, however often"


# --- refusals ------------------------------------------------------------------------------------


def test_a03_a_class_the_broker_forbids_is_parked_and_nothing_of_it_deleted(
    tmp_path: Path, pki: Pki
) -> None:
    forbidding = "\n".join(
        line if line != "pattern write ew/1/main/%u/r/+" else "pattern write ew/1/main/%u/r/alarm"
        for line in DEFAULT_ACL.splitlines()
    )
    with (
        Broker(tmp_path / "broker", pki, acl=forbidding + "\n") as broker,
        listening(broker, pki) as heard,
        gateway(tmp_path, broker.port, pki) as one,
    ):
        one.write(alarms=10, audits=10)
        wait_until(lambda: AUDIT in one.snapshot().parked, WAIT_S)
        one.write(alarms=10)
        wait_until(lambda: one.storage.state()[ALARM].acked >= 20, WAIT_S)
        state = one.storage.state()[AUDIT]
        assert (state.acked, state.durable) == (0, 11)
        assert heard.payloads("/r/audit") == []
        wait_until(lambda: one.alarms().count("EW-NET-010") >= 2, WAIT_S)
        assert one.alarms().count("EW-NET-010") == 2, "audit and bulk, once each"
        assert one.snapshot().counters["refused_0x87"] >= 3
        (tmp_path / "broker" / "acl").write_text(DEFAULT_ACL)
        heard.forget_ready()
        broker.restart()
        heard.again()
        wait_until(one.drained, WAIT_S)
        assert one.snapshot().parked == ()
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)


def test_a_record_the_broker_finds_too_long_is_set_aside_and_the_others_go_on(
    tmp_path: Path, pki: Pki
) -> None:
    """Mosquitto answers 0x95 and lives on; without CONNACK's word for it nobody knew before."""
    with (
        Broker(tmp_path / "broker", pki, extra=["message_size_limit 3000"]) as broker,
        listening(broker, pki) as heard,
        gateway(tmp_path, broker.port, pki) as one,
    ):
        one.write(audits=3)
        wait_until(one.drained, WAIT_S)
        one.write(audits=1, size=4000)
        long_one = one.storage.heads()[AUDIT]
        one.write(audits=3, alarms=3)
        wait_until(one.drained, WAIT_S)
        assert one.alarms() == ["EW-NET-013"]
        assert one.snapshot().counters["set_aside"] == 1
        (kept,) = (tmp_path / "state" / ASIDE).iterdir()
        assert record_hash(kept.read_bytes()) == long_one[1]
        arrived = {record_hash(p) for p in heard.payloads("/r/audit")}
        assert long_one[1] not in arrived
        wait_until(lambda: len(set(heard.payloads("/r/audit"))) == durable(one)[AUDIT] - 1, WAIT_S)
        gaps = [
            decode_record(cose.open_envelope(p, ContentType.RECORD).payload).body
            for p in heard.payloads("/r/audit")
        ]
        (gap,) = [g for g in gaps if "first" in g]
        assert (gap["first"], gap["last"], gap["after"]) == (long_one[0], long_one[0], long_one[1])


class Ender(MuteBroker):
    """Acknowledges, but ends the session over a record longer than LONGEST."""

    LONGEST = 2000

    def _answer(self, connection: ssl.SSLSocket, number: int, kind: int, body: bytes) -> None:
        super()._answer(connection, number, kind, body)
        if kind == 3 and len(body) > self.LONGEST:
            connection.sendall(b"\xe0\x02\x95\x00")  # DISCONNECT, packet too large
            connection.shutdown(socket.SHUT_RDWR)
        elif kind == 3:
            after = 2 + int.from_bytes(body[:2], "big")
            connection.sendall(b"\x40\x02" + body[after : after + 2])


def test_a_record_over_which_the_broker_ends_each_session_is_set_aside(
    tmp_path: Path, pki: Pki
) -> None:
    """EMQX and others end the session where Mosquitto answers: that came again, for ever."""
    cert, key = pki.issue("ender", server=True)
    with Ender(cert, key, pki.ca, 20) as ender, gateway(tmp_path, ender.port, pki) as one:
        one.write(audits=3)
        wait_until(one.drained, WAIT_S)
        one.write(audits=1, size=4000)
        one.write(audits=3, alarms=3)
        wait_until(one.drained, WAIT_S)
        assert one.alarms() == ["EW-NET-013"]
        assert one.snapshot().counters["set_aside"] == 1


@pytest.mark.parametrize("setting", ["retain_available false", "max_inflight_messages 1"])
def test_a_broker_that_can_less_is_used_for_what_it_can(
    tmp_path: Path, pki: Pki, setting: str
) -> None:
    """Without retained messages it refuses our will: 0x9a, each time, for ever."""
    with (
        Broker(tmp_path / "broker", pki, extra=[setting]) as broker,
        listening(broker, pki) as heard,
        gateway(tmp_path, broker.port, pki) as one,
    ):
        one.write(alarms=5, audits=5, bulk=2)
        wait_until(one.drained, WAIT_S)
        wait_until(lambda: gap_free(heard, durable(one)), WAIT_S)
        assert (STATUS, b"online", False) in heard.messages


# --- killed under load ---------------------------------------------------------------------------


def test_a02_every_sequence_is_seen_across_kills(
    tmp_path: Path, broker: Broker, pki: Pki, runs: int
) -> None:
    """The process is killed under load, again and again; then one last life drains what is left."""
    chance = random.Random(SEED)
    said: dict[str, int] = {}
    with listening(broker, pki) as heard:
        for life in range(max(3, runs // 2)):
            _live_and_die(
                _command(tmp_path / "state", broker.port, pki, SEED + life),
                chance.randint(5, 250),
                lambda: heard.payloads("/r/alarm"),
                said,
            )
            chains(heard)
        with gateway(tmp_path, broker.port, pki) as last:
            for c, state in last.storage.state().items():
                assert state.durable >= said[RecordClass(c).label], "what was said durable is there"
            wait_until(last.drained, WAIT_S)
            wait_until(lambda: gap_free(heard, durable(last)), WAIT_S)
    total = sum(len(heard.payloads(f"/r/{c.label}")) for c in RecordClass)
    assert total >= sum(said.values())


def _live_and_die(
    command: list[str], wanted: int, heard: Callable[[], object], said: dict[str, int]
) -> None:
    """Until so many commits are told, and of the first life something was heard, too."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={"PYTHONPATH": "agent", "PATH": "/usr/bin:/bin"},
    )
    lines: list[bytes] = []
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        wait_until(lambda: len(lines) >= wanted and heard(), 4 * WAIT_S)
    finally:
        process.kill()
        process.wait(60)
        reader.join(60)
        process.stdout.close()
    with contextlib.suppress(ValueError):
        said.update(json.loads(lines[-2]))
