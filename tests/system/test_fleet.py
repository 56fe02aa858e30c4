"""The operator's side as it runs: real Mosquitto with init's configuration, `serve`, real TLS
enrolment.

The broker is held to its promises (a gateway is its certificate's name, confined to its own
topics), the fleet to its own: nothing acknowledged is lost, what is forged or sent again is refused
by name, what is dropped is stated.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import pwd
import signal
import socket
import ssl
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.enrol import by_token as enrol
from edgewarden.enrol.folder import PENDING
from edgewarden.errors import TrustFault, WireRefusal
from edgewarden.trust import tls
from edgewarden.trust.keys import verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Tier, decode_challenge, decode_result
from edgewarden.wire.facts import Reading
from edgewarden.wire.manifest import files_digest
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.verify.attest import HURRY_S
from tests.fleet.makers import VERSION
from tests.fleet.standing import (
    Client,
    RealBoard,
    Standing,
    client_of,
    fleet_command,
    standing_fleet,
)
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

ALARM, AUDIT, BULK = RecordClass.ALARM, RecordClass.AUDIT, RecordClass.BULK
NOT_AUTHORISED = 0x87  # MQTT 5 §3.4.2.1
DENIED = hashlib.sha256(b"evil").digest()


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    with standing_fleet(tmp_path_factory.mktemp("fleet") / "fleet") as made:
        yield made


@pytest.fixture
def new_board(standing: Standing, request: pytest.FixtureRequest) -> Callable[[str], RealBoard]:
    return lambda device: RealBoard(standing.enrol(device))


def value(standing: Standing, device: str, *path: str) -> object:
    at: object = standing.show(device)
    for step in path:
        assert isinstance(at, dict)
        at = at.get(step)
    return at


def send(client: Client, *made: object) -> None:
    for one in made:
        reason = client.publish(one.topic, one.data)  # type: ignore[attr-defined]
        assert reason < 0x80


# --- enrolment -------------------------------------------------------------------------------


def test_enrolment_gives_a_certificate_openssl_accepts(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    board = new_board("gw-enrolled")
    folder = standing.folder
    command = ["openssl", "verify", "-purpose", "sslclient", "-x509_strict", "-CAfile",
               str(folder / "ca/root.pem"), "-untrusted", str(board.folder.cert_path),
               str(board.folder.cert_path)]  # fmt: skip
    checked = subprocess.run(command, capture_output=True, text=True, check=True)
    assert checked.stdout.strip().endswith("OK")
    shown = subprocess.run(
        ["openssl", "x509", "-noout", "-text", "-in", str(board.folder.cert_path)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "URI:urn:edgewarden:device:main:gw-enrolled" in shown
    assert "TLS Web Client Authentication" in shown
    assert "TLS Web Server Authentication" not in shown
    assert board.folder.grade == "G0"
    assert value(standing, "gw-enrolled", "identity", "serial") == board.folder.serial


def test_a_token_enrols_one_key_once(standing: Standing, tmp_path: Path) -> None:
    url, token = str(standing.init["enroll"]), standing.token("gw-once")
    enrol.enroll(tmp_path / "a", url, token)
    with pytest.raises(WireRefusal) as refused:
        enrol.enroll(tmp_path / "b", url, token)
    assert refused.value.name == "token_used"
    assert refused.value.next_step
    other = standing.token("gw-once")
    with pytest.raises(WireRefusal) as refused:
        enrol.enroll(tmp_path / "c", url, other)
    assert refused.value.name == "device_exists"


def test_a_lost_answer_can_be_asked_for_again(standing: Standing, tmp_path: Path) -> None:
    """The key waits on the gateway; the same token and key get their certificate."""
    url, token = str(standing.init["enroll"]), standing.token("gw-again")
    first = enrol.enroll(tmp_path / "a", url, token)
    pending = tmp_path / "b" / "identity"
    pending.mkdir(parents=True)
    path = pending / PENDING
    path.touch(mode=0o600)
    path.write_bytes(first.key_path.read_bytes())
    again = enrol.enroll(tmp_path / "b", url, token)
    assert again.signer().public_key() == first.signer().public_key()
    assert again.serial != first.serial


def test_a_token_of_another_fleet_stops_at_the_fingerprint(
    standing: Standing, tmp_path: Path
) -> None:
    fleet_command("init", tmp_path / "other")
    token = fleet_command(
        "token", "new", "--dir", tmp_path / "other", "--device", "gw-x"
    ).stdout.strip()
    with pytest.raises(TrustFault) as refused:
        enrol.enroll(tmp_path / "state", str(standing.init["enroll"]), token)
    assert "token_foreign_ca" in refused.value.text
    body = {"schema": "edgewarden.enroll/1", "token": token, "device": "gw-x", "csr": "-"}
    assert post(standing, json.dumps(body).encode())["error"] == "token_foreign_ca"


def post(standing: Standing, body: bytes) -> dict[str, object]:
    """One raw request to the enrolment service."""
    host, port = str(standing.init["enroll"]).removeprefix("https://").split(":")
    context = tls.pinned_context((standing.folder / "ca/root.pem").read_text())
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    try:
        connection.request("POST", "/v1/enroll", body)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    assert isinstance(answer, dict)
    return answer


def test_enrolment_refuses_by_name(standing: Standing) -> None:
    token = standing.token("gw-names")
    base = {"schema": "edgewarden.enroll/1", "token": token, "device": "gw-names", "csr": "-"}

    def refused(**changes: str) -> object:
        answer = post(standing, json.dumps({**base, **changes}).encode())
        assert answer["schema"] == "edgewarden.refusal/1"
        assert answer["next"]
        return answer["error"]

    assert refused(token="nonsense") == "token_malformed"
    assert refused(device="gw-other") == "token_foreign_device"
    assert refused() == "csr_invalid"
    assert post(standing, b"{")["error"] == "bad_request"
    assert post(standing, b" " * 40_000)["error"] == "too_long"


# --- the broker's promises -------------------------------------------------------------------


def test_another_client_id_does_not_disturb_its_owner(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    victim, rogue = new_board("gw-victim"), new_board("gw-rogue")
    first = client_of(standing, victim)
    second = client_of(standing, rogue, client_id="gw-victim")
    third = client_of(standing, rogue, client_id="fleet.verifier")
    try:
        wait_until(second.lost.is_set, 60)  # the rogue only ever displaces itself
        assert not first.lost.is_set()
        made = victim.introduce(AUDIT)
        assert first.publish(made.topic, made.data) == 0
        assert not first.lost.is_set()
        wait_until(lambda: value(standing, "gw-victim", "reports_verified") == 1, 60)
    finally:
        for client in (first, second, third):
            client.close()


def test_a_gateway_reaches_its_own_topics_only(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    owner, rogue = new_board("gw-owner"), new_board("gw-nosy")
    mine, theirs = client_of(standing, owner), client_of(standing, rogue)
    try:
        made = owner.introduce(AUDIT)
        for topic in (
            made.topic, owner.topic("s", "status"), owner.topic("e", "evidence"),
            rogue.topic("e", "nonce"), rogue.topic("e", "result"), "ew/1/main/x/r/audit",
            f"ew/1/other/{rogue.device}/r/audit", "$SYS/broker", "ew/1/main",
        ):  # fmt: skip
            assert theirs.publish(topic, made.data) == NOT_AUTHORISED, topic
        theirs.subscribe("#", "ew/1/main/+/r/+", owner.topic("e", "nonce"), "$SYS/#")
        mine.subscribe(owner.topic("e", "nonce"))
        status = owner.status({})
        assert mine.publish(owner.topic("s", "status"), status, retain=True) == 0
        assert mine.got.get(timeout=60).topic == owner.topic("e", "nonce")
        assert mine.publish(made.topic, made.data) == 0
        assert rogue.introduce(AUDIT)
        theirs.publish(rogue.topic("r", "audit"), b"own")  # behind whatever would have come
        assert theirs.got.empty()
    finally:
        mine.close()
        theirs.close()


def test_nobody_connects_without_a_gateways_certificate(standing: Standing, tmp_path: Path) -> None:
    root = (standing.folder / "ca/root.pem").read_text()
    bare = tls.pinned_context(root)
    server = tls.pinned_context(root)
    server.load_cert_chain(
        standing.folder / "enroll/server.pem", standing.folder / "enroll/server-key.pem"
    )
    fleet_command("init", tmp_path / "other")
    foreign = tls.pinned_context(root)
    foreign.load_cert_chain(
        tmp_path / "other/verifier/client.pem", tmp_path / "other/verifier/client-key.pem"
    )
    for context in (bare, server, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            first_byte(standing.broker_port, context)


def first_byte(port: int, context: ssl.SSLContext) -> bytes:
    """Connect and read: a TLS 1.3 client learns of a refused certificate only then."""
    with (
        socket.create_connection(("127.0.0.1", port), 30) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        secure.settimeout(30)
        secure.sendall(b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00")
        got = secure.recv(1)
    if not got:
        raise ConnectionError("closed without an answer")
    return got


# --- reports ---------------------------------------------------------------------------------


def test_reports_reach_the_store_and_say_what_they_say(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    board = new_board("gw-reports")
    client = client_of(standing, board)
    try:
        client.publish(board.topic("s", "status"), board.status({}), retain=True)
        send(client, *(board.introduce(c) for c in RecordClass))
        send(
            client,
            board.batch(
                Reading("gps", "lat", "lat", 48.1173, board.boot_ns),
                Reading("gps", "lon", "lon", 11.5167, board.boot_ns),
                Reading("meter", "temperature", "Cel", 21.5, board.boot_ns),
                counts={"gps.bad_frames": 2},
            ),
            board.denied(DENIED),
            board.event(AUDIT, message="<script>alert(1)</script>"),
        )
        wait_until(lambda: value(standing, "gw-reports", "reports_verified") == 6, 60)
    finally:
        client.close()
    shown = standing.show("gw-reports")
    assert shown["reports_rejected"] == {}
    sensors, execs = shown["sensors"], shown["exec"]
    assert isinstance(sensors, dict)
    assert isinstance(execs, dict)
    assert {n: s["readings"] for n, s in sensors.items()} == {"gps": 2, "meter": 1}
    assert sensors["meter"]["channels"]["temperature"]["value"] == "21.5"
    assert shown["counts"] == {"gps.bad_frames": 2}
    assert execs["denied"] == 1
    assert execs["denied_verdicts"][0]["digest"] == DENIED.hex()
    assert execs["denied_verdicts"][0]["class"] == "alarm"
    assert [f["kind"] for f in shown["findings"]] == ["exec_denied"]  # type: ignore[attr-defined]


def test_forged_replayed_and_dropped_reports_are_shown_as_that(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    """With the gateway's own credentials on its own topic: the broker delivers, the verifier
    refuses."""
    board = new_board("gw-attacked")
    client = client_of(standing, board)
    try:
        client.publish(board.topic("s", "status"), board.status({}), retain=True)
        old = board.introduce(ALARM)
        events = [board.event(ALARM, n=n) for n in range(6)]
        forged = events[5].data[:-1] + bytes([events[5].data[-1] ^ 1])
        send(client, old, events[0], events[3], events[2])
        assert client.publish(events[5].topic, forged) == 0
        assert client.publish(old.topic, events[0].data) == 0
        wait_until(
            lambda: (
                value(standing, "gw-attacked", "reports_rejected")
                == {"bad_signature": 1, "replay": 1}
            ),
        )
    finally:
        client.close()
    chain = value(standing, "gw-attacked", "chain", "alarm")
    assert isinstance(chain, dict)
    assert (chain["head"], chain["records"], chain["reordered"]) == (5, 4, 1)
    assert [(g["first"], g["last"]) for g in chain["gaps"]] == [(3, 3)]
    assert chain["refused"] == {"bad_signature": 1, "replay": 1}
    assert value(standing, "gw-attacked", "reports_verified") == 4


def test_a_reconnect_sends_again_without_a_replay(
    standing: Standing, new_board: Callable[[str], RealBoard]
) -> None:
    board = new_board("gw-resends")
    client = client_of(standing, board)
    client.publish(board.topic("s", "status"), board.status({}), retain=True)
    made = [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(4))]
    send(client, *made)
    client.close()
    client = client_of(standing, board)
    try:
        client.publish(board.topic("s", "status"), board.status({AUDIT: 2}), retain=True)
        send(client, *made[2:], board.event(AUDIT, n=9))
        wait_until(lambda: value(standing, "gw-resends", "reports_verified") == 6, 60)
        chain = value(standing, "gw-resends", "chain", "audit")
        assert isinstance(chain, dict)
        assert (chain["duplicates"], chain["refused"]) == (3, {})
    finally:
        client.close()


def answer_challenge(
    client: Client, board: RealBoard, **changes: object
) -> tuple[Tier, dict[str, Tier], dict[str, str]]:
    """Wait for a nonce, answer it, wait for the result."""
    while True:
        got = client.got.get(timeout=60)
        if got.topic.endswith("/nonce"):
            break
    key = board.folder.verifier_key
    envelope = cose.open_envelope(got.payload, ContentType.NONCE)
    cose.check_signature(envelope, verifier_for(key))
    nonce = decode_challenge(envelope.payload).nonce
    client.publish(board.topic("e", "evidence"), board.evidence(nonce, **changes))
    while True:
        got = client.got.get(timeout=60)
        if got.topic.endswith("/result"):
            break
    envelope = cose.open_envelope(got.payload, ContentType.RESULT)
    cose.check_signature(envelope, verifier_for(key))
    result = decode_result(envelope.payload)
    assert result.nonce == nonce
    return result.overall, dict(result.facets), dict(result.reasons)


def test_evidence_is_challenged_judged_and_answered(
    standing: Standing, new_board: Callable[[str], RealBoard], tmp_path: Path
) -> None:
    board = new_board("gw-attests")
    settings = tmp_path / "edgewarden.toml"
    settings.write_text("[device]\nid = 'gw-attests'\n")
    right = {"code": code_reference(standing, tmp_path),
             "settings": files_digest([settings.read_bytes()])}  # fmt: skip
    fleet_command(
        "reference", "add", "--dir", standing.folder, "--device", "gw-attests", "--settings",
        settings,
    )  # fmt: skip
    client = client_of(standing, board)
    try:
        client.subscribe(board.topic("e", "nonce"), board.topic("e", "result"))
        send(client, *(board.introduce(c) for c in RecordClass))
        overall, facets, reasons = answer_challenge(client, board, measurements=right)
        assert overall is Tier.AFFIRMING, reasons
        assert facets["settings"] is Tier.AFFIRMING
        assert facets["policy"] is Tier.NONE
        shown = value(standing, "gw-attests", "attestation")
        assert isinstance(shown, dict)
        assert (shown["result"], shown["grade"], shown["version"]) == ("affirming", "G0", VERSION)
        wait_until(lambda: challenge_is_due(standing, "gw-attests"), 60)
        client.publish(board.topic("s", "status"), board.status({}), retain=True)
        flipped = {**right, "code": bytes(32)}
        overall, facets, reasons = answer_challenge(client, board, measurements=flipped)
        assert overall is Tier.CONTRAINDICATED
        assert "executables" in reasons
        assert value(standing, "gw-attests", "verdict") == "critical"
    finally:
        client.close()


def challenge_is_due(standing: Standing, device: str) -> bool:
    """The fleet challenges again a moment after the last time (HURRY_S)."""
    age = value(standing, device, "attestation", "age_s")
    return isinstance(age, float) and age > HURRY_S + 1


def code_reference(standing: Standing, tmp_path: Path) -> bytes:
    """A wheel made here, added as the operator would; the digest the gateway would report."""
    wheel = tmp_path / "edgewarden-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("edgewarden/__init__.py", f'__version__ = "{VERSION}"\n')
        archive.writestr("edgewarden/link/x.py", "x = 1\n")
    added = fleet_command("reference", "add", wheel, "--dir", standing.folder, "--json")
    return bytes.fromhex(json.loads(added.stdout)["references"][0]["digest"])


def test_the_console_shows_it_and_nothing_else_gets_in(standing: Standing) -> None:
    address = str(standing.ready["console"]).removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        page = answer.read().decode()
        assert answer.status == 200
        assert "default-src 'none'" in (answer.getheader("Content-Security-Policy") or "")
        assert "gw-reports" in page
        assert DENIED.hex() in page
        connection.request("GET", "/", headers={"Host": "evil.example"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 421
        connection.request("POST", "/")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 405
        connection.request("GET", "/v1/gateways/gw-reports")
        body = json.loads(connection.getresponse().read())
        assert body["schema"] == "edgewarden-fleet.gateway/1"
    finally:
        connection.close()


# --- coming and going, each with a fleet of its own -------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Standing]:
    with standing_fleet(tmp_path / "fleet") as made:
        yield made


def board_of(fleet: Standing, device: str) -> RealBoard:
    return RealBoard(fleet.enrol(device))


@pytest.mark.needs("root")
def test_a_broker_started_by_root_is_root_no_longer() -> None:
    """The default: it drops to its own account and can read what it needs, and no other key."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o711)
        with standing_fleet(Path(name) / "fleet", broker_user="auto") as fleet:
            assert fleet.init["broker_user"] == "mosquitto"
            assert fleet.broker is not None
            status = Path(f"/proc/{fleet.broker.pid}/status").read_text()
            uid = pwd.getpwnam("mosquitto").pw_uid
            assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
            client = client_of(fleet, board_of(fleet, "gw-drop"))
            client.close()
            for key in fleet.folder.rglob("*-key.pem"):
                assert key.stat().st_mode & 0o777 == 0o600
                assert (key.stat().st_uid == uid) is (key.parent.name == "broker")


def test_the_broker_keeps_what_a_stopped_fleet_misses(
    own: Standing,
) -> None:
    board = board_of(own, "gw-queued")
    assert own.stop_server() == 0
    client = client_of(own, board)
    try:
        send(client, board.introduce(BULK), *(board.batch() for _ in range(30)))
    finally:
        client.close()
        own.start_server()
    wait_until(lambda: value(own, "gw-queued", "reports_verified") == 31, 60)
    assert value(own, "gw-queued", "reports_rejected") == {}


def test_a_killed_fleet_loses_nothing_and_accuses_nobody(
    own: Standing,
) -> None:
    board = board_of(own, "gw-killed")
    client = client_of(own, board)
    try:
        send(client, board.introduce(BULK))
        for _ in range(4):
            for _ in range(40):
                made = board.batch()
                client.mqtt.publish(made.topic, made.data, qos=1)
            own.stop_server(signal.SIGKILL)
            own.start_server()
        wait_until(lambda: value(own, "gw-killed", "reports_verified") == 161)
    finally:
        client.close()
    assert value(own, "gw-killed", "reports_rejected") == {}
    assert value(own, "gw-killed", "chain", "bulk", "gaps") == []


def test_the_fleet_finds_a_restarted_broker(
    own: Standing,
) -> None:
    board = board_of(own, "gw-returns")
    own.stop_broker()
    own.start_broker()
    client = client_of(own, board)
    try:
        send(client, board.introduce(AUDIT))
        wait_until(lambda: value(own, "gw-returns", "reports_verified") == 1)
    finally:
        client.close()
