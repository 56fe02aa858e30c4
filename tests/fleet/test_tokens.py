"""Tokens: single use, bound, expiring, consumed atomically; and a limit on attempts."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.enrol import EnrolRequest, Token, parse_token
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.desk.server import MAX_ADDRESSES, RateLimit
from edgewarden_fleet.desk.tokens import MAX_TTL_S, Office, enrol_device, new_token
from edgewarden_fleet.store import registry, replaced
from edgewarden_fleet.store.schema import open_store
from tests.fleet.makers import NOW, new_key
from tests.fleet.test_certificates import request
from tests.fleet.test_folder import make


@pytest.fixture
def fleet(tmp_path: Path) -> FleetFolder:
    made = make(tmp_path / "fleet")
    open_store(made.database).close()
    return made


def enrol(fleet: FleetFolder, token: Token, key: object, now: float = NOW, device: str = "") -> str:
    """One attempt; "ok" or the refusal's name."""
    db = open_store(fleet.database)
    try:
        asked = EnrolRequest(str(token), device or token.device, request(key))
        enrol_device(db, Office.open(fleet), asked, now)
    except WireRefusal as refusal:
        return refusal.name
    finally:
        db.close()
    return "ok"


def token_for(fleet: FleetFolder, device: str = "gw-demo", ttl: int = 60) -> Token:
    db = open_store(fleet.database)
    try:
        return new_token(db, fleet.root(), device, NOW, ttl)
    finally:
        db.close()


def test_a_token_says_what_it_is_for_and_the_store_keeps_only_its_hash(fleet: FleetFolder) -> None:
    token = token_for(fleet)
    assert parse_token(str(token)) == token
    stored = b"".join(p.read_bytes() for p in fleet.database.parent.iterdir())
    assert token.secret not in stored
    assert str(token).split(".")[2].encode() not in stored


def test_the_rules_in_order(fleet: FleetFolder) -> None:
    token, key, other = token_for(fleet), new_key(), new_key()
    unknown = Token("gw-demo", bytes(32), token.ca_sha256)
    foreign = Token("gw-demo", token.secret, bytes(32))
    relabelled = Token("gw-evil", token.secret, token.ca_sha256)
    assert enrol(fleet, unknown, key) == "token_unknown"
    assert enrol(fleet, foreign, key) == "token_foreign_ca"
    assert enrol(fleet, token, key, device="gw-evil") == "token_foreign_device"
    assert enrol(fleet, relabelled, key) == "token_foreign_device"
    assert enrol(fleet, token, key, NOW + 60) == "token_expired"
    assert enrol(fleet, token, key) == "ok", "no refusal spends a token"
    assert enrol(fleet, token, other) == "token_used"
    assert enrol(fleet, token, key) == "ok", "an answer that was lost can be asked for again"
    assert enrol(fleet, token, key, NOW + 60) == "token_expired"
    assert enrol(fleet, token_for(fleet), other) == "device_exists"
    assert enrol(fleet, token_for(fleet, "gw-two"), key) == "csr_invalid", "one key, one device"


def test_a_bad_request_spends_nothing(fleet: FleetFolder) -> None:
    token = token_for(fleet)
    db = open_store(fleet.database)
    try:
        with pytest.raises(WireRefusal, match="csr_invalid"):
            enrol_device(db, Office.open(fleet), EnrolRequest(str(token), "gw-demo", "-"), NOW)
    finally:
        db.close()
    assert enrol(fleet, token, new_key()) == "ok"


def test_of_many_at_once_one_wins(fleet: FleetFolder) -> None:
    token = token_for(fleet)
    results: list[str] = []
    gate = threading.Barrier(6)

    def attempt() -> None:
        key = new_key()
        gate.wait()
        results.append(enrol(fleet, token, key))

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == ["ok", *["token_used"] * 5]


def test_an_enrolled_device_is_registered_with_its_key(fleet: FleetFolder) -> None:
    key = new_key()
    assert enrol(fleet, token_for(fleet), key) == "ok"
    db = open_store(fleet.database)
    try:
        known = registry.find(db, "gw-demo")
    finally:
        db.close()
    assert known is not None
    assert known.public_key == FileSigner(key).public_key()
    assert (known.grade, known.revoked) == ("G0", False)


@pytest.mark.parametrize("device", ["", "UPPER", "a b", "x" * 64, "-x", "fleet.verifier"])
def test_a_token_needs_a_device_id(fleet: FleetFolder, device: str) -> None:
    with pytest.raises(OperatorFault, match="not a device id"):
        token_for(fleet, device)


@pytest.mark.parametrize("ttl", [0, -1, MAX_TTL_S + 1])
def test_a_token_needs_a_bounded_life(fleet: FleetFolder, ttl: int) -> None:
    with pytest.raises(OperatorFault, match="lifetime"):
        token_for(fleet, ttl=ttl)


def test_the_rate_limit_counts_each_address_and_forgets_the_oldest() -> None:
    limit = RateLimit(per_minute=3)
    assert [limit.allow("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert limit.allow("b", 0.0)
    assert limit.allow("a", 20.0), "a third of a minute gives one back"
    assert not limit.allow("a", 20.0)
    for i in range(MAX_ADDRESSES + 10):
        limit.allow(f"address {i}", 21.0)
    assert len(limit._seen) == MAX_ADDRESSES


def test_a_board_whose_name_would_not_fit_a_certificate_gets_no_token(fleet: FleetFolder) -> None:
    """62 letters and ".2" are what a CN holds; the first board of any id is not concerned."""
    fits, longer = "g" * 62, "g" * 63
    for device in (fits, longer):
        assert enrol(fleet, token_for(fleet, device), new_key()) == "ok"
        db = open_store(fleet.database)
        replaced.retire(db, device, "burnt", NOW)
        db.close()
    assert enrol(fleet, token_for(fleet, fits), new_key()) == "ok"
    with pytest.raises(OperatorFault, match="too long for another board"):
        token_for(fleet, longer)


def test_a_token_for_a_revoked_device_gets_no_certificate(fleet: FleetFolder) -> None:
    """It was told "enrolled", and then heard by nobody."""
    key = new_key()
    assert enrol(fleet, token_for(fleet), key) == "ok"
    db = open_store(fleet.database)
    registry.revoke(db, "gw-demo", "stolen", NOW)
    serial = db.execute("SELECT serial FROM device").fetchone()[0]
    assert enrol(fleet, token_for(fleet), key) == "revoked"
    assert db.execute("SELECT serial FROM device").fetchone()[0] == serial
    db.close()


def test_a_device_that_was_revoked_meanwhile_gets_no_other_certificate(fleet: FleetFolder) -> None:
    """While a CA elsewhere signs, an operator may revoke; a replaced board has another key."""
    db = open_store(fleet.database)
    try:
        office, key = Office.open(fleet), new_key()
        token = new_token(db, fleet.root(), "gw-demo", NOW, 600)
        enrol_device(db, office, EnrolRequest(str(token), "gw-demo", request(key)), NOW)
        known = registry.find(db, "gw-demo")
        assert known is not None
        again = registry.Issued("aa", "PEM", NOW + 9)
        registry.renewed(db, "gw-demo", known.public_key, again)
        with pytest.raises(WireRefusal, match="revoked"):
            registry.renewed(db, "gw-demo", b"another key", again)
        assert registry.revoke(db, "gw-demo", "stolen", NOW)
        assert registry.revoke(db, "gw-demo", "again", NOW)
        assert not registry.revoke(db, "gw-nobody", "stolen", NOW)
        with pytest.raises(WireRefusal, match="revoked"):
            registry.renewed(db, "gw-demo", known.public_key, again)
    finally:
        db.close()
