"""A revoked gateway's session ends, and it gets no other: real Mosquitto, `serve`, `revoke`.

The issue's figure: no PUBLISH is accepted later than two seconds after the revocation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.enrol import by_token
from edgewarden.trust import tls
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca import broker
from edgewarden_fleet.ca.settings import read, text
from tests.fleet.standing import (
    Client,
    RealBoard,
    Standing,
    client_of,
    fleet_command,
    standing_fleet,
)
from tests.steps import slack_s
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("mosquitto")]

LATEST_S = 2.0
NOT_AUTHORISED = 0x87  # MQTT 5 §3.4.2.1
TOPIC = "ew/1/main/{}/r/bulk"


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing_fleet(tmp_path_factory.mktemp("fleet") / "fleet") as made:
        yield made


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Standing]:
    """A fleet whose broker a test may stop."""
    with standing_fleet(tmp_path / "fleet") as made:
        yield made


def revoke(standing: Standing, device: str) -> float:
    """When it was done (mono)."""
    fleet_command("revoke", device, "--reason", "stolen", "--dir", standing.folder)
    return time.monotonic()


def last_accepted(client: Client, device: str, since_mono: float, for_s: float) -> float:
    """Publish as fast as answers come; seconds after ``since_mono`` of the last success."""
    last = 0.0
    while time.monotonic() < since_mono + for_s:
        info = client.mqtt.publish(TOPIC.format(device), b"x", qos=1)
        try:
            wait_until(lambda mid=info.mid: mid in client.acks, 0.5)
        except TimeoutError:
            continue  # the session is down, paho connects again by itself
        if client.acks[info.mid] < 0x80:
            last = time.monotonic() - since_mono
    return last


def test_a_revoked_gateway_is_heard_no_longer_than_two_seconds(standing: Standing) -> None:
    board, other = RealBoard(standing.enrol("gw-stolen")), RealBoard(standing.enrol("gw-honest"))
    client, witness = client_of(standing, board), client_of(standing, other)
    try:
        assert client.publish(TOPIC.format("gw-stolen"), b"x") < 0x80
        client.connected.clear()
        since_mono = revoke(standing, "gw-stolen")
        last_s = last_accepted(client, "gw-stolen", since_mono, 1.5 * LATEST_S)
        print(f"last accepted {last_s:.2f} s after the revocation")
        assert last_s <= LATEST_S + slack_s()
        assert client.lost.wait(60), "the session was ended"
        assert client.connected.wait(60), "its certificate still opens a connection"
        assert client.publish(TOPIC.format("gw-stolen"), b"x") == NOT_AUTHORISED
        assert not witness.lost.is_set(), "nobody else is disturbed"
        assert witness.publish(TOPIC.format("gw-honest"), b"x") < 0x80
    finally:
        client.close()
        witness.close()


def test_it_stays_so_over_a_restart_of_the_broker(own: Standing) -> None:
    board, other = RealBoard(own.enrol("gw-lost")), RealBoard(own.enrol("gw-kept"))
    revoke(own, "gw-lost")
    wait_until(lambda: not listed(own, "gw-lost"))
    own.stop_broker()
    own.start_broker()
    for one, reason in ((board, NOT_AUTHORISED), (other, None)):
        client = client_of(own, one)
        try:
            got = client.publish(TOPIC.format(one.device), b"x")
            assert got == reason if reason else got < 0x80
        finally:
            client.close()


def test_a_broker_that_lost_its_list_is_given_it_again(own: Standing) -> None:
    board = RealBoard(own.enrol("gw-again"))
    own.stop_broker()
    state = own.folder / "broker/data" / broker.STATE_FILE
    state.write_text(broker.first_state("main"))
    own.start_broker()
    wait_until(lambda: listed(own, "gw-again"), 120)
    client = client_of(own, board)
    try:
        assert client.publish(TOPIC.format("gw-again"), b"x") < 0x80
    finally:
        client.close()


def listed(standing: Standing, device: str) -> bool:
    """Whether the plugin's state names the gateway."""
    state = (standing.folder / "broker/data" / broker.STATE_FILE).read_text()
    return f'"{broker.role_of(device)}"' in state


@pytest.mark.parametrize("plugin", [True, False], ids=["plugin", "access-list"])
def test_a_replaced_boards_certificate_is_nobody_beside_its_successor(
    tmp_path: Path, plugin: bool
) -> None:
    """The stolen board's session ends; with its certificate, 30 days good yet, it may say and hear
    nothing, not in its last will either, and pushes nobody out."""
    made = Standing(tmp_path / "fleet")
    if not plugin:
        by_access_list(made, tmp_path)
    try:
        made.start_broker()
        made.start_server()
        if not plugin:
            wait_until(lambda: "EW-NET-022" in Path(made.log.name).read_text(), 60)
        old = RealBoard(made.enrol("gw-demo"))
        before = client_of(made, old)
        assert before.publish(TOPIC.format("gw-demo"), b"x") < 0x80
        fleet_command("replace", "gw-demo", "--reason", "stolen", "--dir", made.folder)
        since_mono = time.monotonic()
        last_s = last_accepted(before, "gw-demo", since_mono, LATEST_S)
        print(f"last accepted {last_s:.2f} s after the replacement")
        assert not plugin or before.lost.wait(60), "the session was ended"
        before.close()

        identity = by_token.enroll(
            made.state / "another", str(made.init["enroll"]), made.token("gw-demo")
        )
        assert (identity.device, identity.session) == ("gw-demo", "gw-demo.2")
        new = client_of(made, RealBoard(identity))
        thief = client_of(made, old, "gw-demo.2")
        try:
            if not plugin:  # read again by a signal, which the enrolment does not wait for
                wait_until(lambda: new.publish(TOPIC.format("gw-demo"), b"x") < 0x80)
            assert new.publish(TOPIC.format("gw-demo"), b"x") < 0x80
            assert thief.publish(TOPIC.format("gw-demo"), b"x") == NOT_AUTHORISED
            assert thief.publish("ew/1/main/gw-demo.2/r/bulk", b"x") == NOT_AUTHORISED
            new.subscribe("ew/1/main/gw-demo/e/nonce")
            thief.subscribe("ew/1/main/gw-demo/e/nonce")
            new.publish("ew/1/main/gw-demo/s/status", RealBoard(identity).status({}))
            assert new.got.get(timeout=60).topic.endswith("/e/nonce"), "a challenge came"
            thief.publish(TOPIC.format("gw-demo"), b"x")  # whose answer comes behind a challenge
            assert thief.got.empty(), "and the old board did not hear it"
            assert not new.lost.is_set(), "nor was the new one's session taken over"
        finally:
            new.close()
            thief.close()
        for one, counted in ((RealBoard(identity), 1), (old, 0)):
            before_n = refused(made)
            die_with_a_will(made, one)
            client = client_of(made, RealBoard(identity))
            assert client.publish("ew/1/main/gw-demo/s/status", b"x") < 0x80
            client.close()
            wait_until(lambda n=before_n + counted + 1: refused(made) >= n)
            assert refused(made) == before_n + counted + 1, "a last will is held to the same"
    finally:
        made.close()


def die_with_a_will(standing: Standing, board: RealBoard) -> None:
    """A session that breaks off and leaves its last will to the broker."""
    client = Client(
        tls.client_context(board.folder), standing.broker_port, board.device,
        will=(f"ew/1/main/{board.device}/s/status", b"not a status"),
    )  # fmt: skip
    client.break_off()


def refused(standing: Standing) -> int:
    """Messages that the verifier has refused."""
    return sum(standing.show("gw-demo")["refused"].values())  # type: ignore[attr-defined]


def by_access_list(made: Standing, place: Path, signal: str = "HUP") -> None:
    """Take the plugin out of the broker's configuration; ``broker.reload`` sends a signal."""
    conf = made.folder / "broker/mosquitto.conf"
    acl = f"acl_file {made.folder}/broker/acl"
    plain = re.sub(r"plugin .*\nplugin_opt.*", acl, conf.read_text())
    conf.write_text(f"{plain}pid_file {place}/pid\n")
    command = ("sh", "-c", f"kill -{signal} $(cat {place}/pid)")
    settings = read(made.folder / "fleet.toml")
    (made.folder / "fleet.toml").write_text(text(replace(settings, broker_reload=command)))


@pytest.mark.parametrize("how", ["reload", "restart"])
def test_without_the_plugin_the_access_list_is_read_again(tmp_path: Path, how: str) -> None:
    """``broker.reload`` of fleet.toml, which may as well be a restart."""
    made = Standing(tmp_path / "fleet")
    by_access_list(made, tmp_path, {"reload": "HUP", "restart": "TERM"}[how])
    try:
        made.start_broker()
        made.start_server()
        board = RealBoard(made.enrol("gw-stolen"))
        client = client_of(made, board)
        wait_until(lambda: "EW-NET-022" in Path(made.log.name).read_text(), 60)
        try:
            assert client.publish(TOPIC.format("gw-stolen"), b"x") < 0x80
            since_mono = revoke(made, "gw-stolen")
            if how == "restart":
                assert made.broker is not None
                made.broker.wait(60)
                made.start_broker()
            last_s = last_accepted(client, "gw-stolen", since_mono, 2.5 * LATEST_S)
            print(f"{how}: last accepted {last_s:.2f} s after the revocation")
            assert last_s <= LATEST_S + slack_s()
        finally:
            client.close()
    finally:
        made.close()


def test_what_came_through_before_the_session_ended_is_refused(standing: Standing) -> None:
    """The broker is only the first of two: the verifier believes nothing of a revoked gateway."""
    board = RealBoard(standing.enrol("gw-late"))
    client = client_of(standing, board)
    made = board.introduce(RecordClass.AUDIT)
    try:
        fleet_command("revoke", "gw-late", "--dir", standing.folder)
        if client.publish(made.topic, made.data) < 0x80:
            wait_until(lambda: "revoked" in str(standing.show("gw-late")["refused"]))
    finally:
        client.close()
