"""Sessions, challenges and results as the verifier keeps them."""

from __future__ import annotations

import os

import pytest

from edgewarden.trust.keys import verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Result, Tier, decode_challenge, decode_result
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.store import attestation, registry, views
from edgewarden_fleet.store.schema import transaction
from edgewarden_fleet.verify.attest import HURRY_S, RESULT_PERIODS
from edgewarden_fleet.verify.pipeline import Incoming
from tests.fleet.makers import CODE, TENANT, VERSION, Board, Desk

ALARM, AUDIT = RecordClass.ALARM, RecordClass.AUDIT


def appraised(desk: Desk, board: Board, nonce: bytes, **changes: object) -> Result:
    """Evidence in, the signed result out, checked as a gateway checks it."""
    return judged_message(desk, board, board.evidence(nonce, **changes))


def judged_message(desk: Desk, board: Board, data: bytes) -> Result:
    """The signed result of an evidence message."""
    message = Incoming(board.topic("e", "evidence"), data)
    with transaction(desk.db):
        verdict, out = desk.appraiser.take_evidence(message, desk.now)
    assert verdict.accepted, verdict
    assert [o.topic for o in out] == [board.topic("e", "result")]
    envelope = cose.open_envelope(out[0].payload, ContentType.RESULT)
    cose.check_signature(envelope, verifier_for(desk.verifier_key.public_key()))
    return decode_result(envelope.payload)


@pytest.fixture
def ready(desk: Desk, board: Board) -> Board:
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    return board


def nonce(desk: Desk) -> bytes:
    return desk.challenge("gw-demo").nonce


def test_a_result_names_what_it_is_about(desk: Desk, ready: Board) -> None:
    asked = nonce(desk)
    result = appraised(desk, ready, asked)
    assert (result.tenant, result.device, result.nonce) == (TENANT, "gw-demo", asked)
    assert (result.overall, result.grade) == (Tier.AFFIRMING, "G0")
    assert result.facets["settings"] is Tier.NONE
    assert result.expires_utc_s - result.issued_utc_s == RESULT_PERIODS * desk.settings.period_s


def test_the_policy_hash_moves_with_the_references(desk: Desk, ready: Board) -> None:
    first = appraised(desk, ready, nonce(desk)).policy_hash
    assert appraised(desk, ready, nonce(desk)).policy_hash == first
    desk.reference("code", bytes(32))
    assert appraised(desk, ready, nonce(desk)).policy_hash != first


def test_references_of_another_version_or_device_do_not_count(desk: Desk, ready: Board) -> None:
    desk.reference("settings", ready.claims(b"").measurements["settings"], "gw-other")
    result = appraised(desk, ready, nonce(desk))
    assert result.facets["settings"] is Tier.NONE
    result = appraised(desk, ready, nonce(desk), version="9.9.9")
    assert result.overall is Tier.NONE
    assert "9.9.9" in result.reasons["executables"]


def test_what_was_measured_is_shown(desk: Desk, ready: Board) -> None:
    """For an operator who adds a reference: never taken over by itself."""
    appraised(desk, ready, nonce(desk))
    told = shown(desk)["attestation"]
    assert isinstance(told, dict)
    assert told["measurements"]["code"] == CODE.hex()


def test_a_report_key_nobody_introduced_is_a_warning(desk: Desk, board: Board) -> None:
    desk.reference("code", CODE)
    result = appraised(desk, board, nonce(desk))
    assert result.facets["identity"] is Tier.WARNING


def test_a_report_key_of_another_boot_contradicts(desk: Desk, ready: Board) -> None:
    result = appraised(desk, ready, nonce(desk), boot_id=os.urandom(16))
    assert result.facets["identity"] is Tier.CONTRAINDICATED


def test_a_restored_backup_is_seen(desk: Desk, ready: Board) -> None:
    """Its heads end before what was stored when the nonce went out."""
    backup = dict(ready.heads)
    desk.record(ready.event(ALARM))
    result = appraised(desk, ready, nonce(desk), heads={ALARM: backup[ALARM]})
    assert result.facets["freshness"] is Tier.CONTRAINDICATED


def test_a_clone_with_another_history_is_seen(desk: Desk, ready: Board) -> None:
    desk.record(ready.event(ALARM))
    result = appraised(desk, ready, nonce(desk), heads={ALARM: (2, b"x" * 32)})
    assert result.facets["freshness"] is Tier.CONTRAINDICATED


def test_records_that_overtake_the_evidence_are_no_rollback(desk: Desk, ready: Board) -> None:
    """Heads are held to the moment of the nonce, not of the answer."""
    asked, then = nonce(desk), {ALARM: ready.heads[ALARM]}
    desk.record(ready.event(ALARM))
    result = appraised(desk, ready, asked, heads=then)
    assert result.facets["freshness"] is Tier.AFFIRMING


def shown(desk: Desk) -> views.Json:
    whole = views.gateway(desk.db, "gw-demo", desk.now)
    assert whole is not None
    return whole


def test_heads_ahead_of_the_store_are_on_their_way(desk: Desk, ready: Board) -> None:
    """Until the deadline; then the end of the chain is a gap like any other."""
    late = [ready.event(ALARM) for _ in range(20)]
    assert appraised(desk, ready, nonce(desk)).facets["freshness"] is Tier.AFFIRMING
    desk.now += desk.settings.nonce_ttl_s - 1
    assert shown(desk)["chain"]["alarm"]["gaps"] == []  # type: ignore[index]
    assert appraised(desk, ready, nonce(desk)).facets["freshness"] is Tier.AFFIRMING
    desk.now += 1
    alarm = shown(desk)["chain"]["alarm"]  # type: ignore[index]
    assert alarm["gaps"] == [{"first": 2, "last": 21, "explained": None}]
    assert (alarm["dropped"], alarm["unexplained_gaps"]) == (20, 1)
    assert alarm["withheld"] == {"first": 2, "last": 21}
    assert shown(desk)["verdict"] == "warning"
    assert "alarm 2 to 21 named by evidence did not come" in shown(desk)["reasons"]  # type: ignore[operator]
    result = appraised(desk, ready, nonce(desk))
    assert result.facets["freshness"] is Tier.WARNING
    assert "2 to 21" in result.reasons["freshness"]
    assert [desk.record(made).outcome for made in late] == ["next"] * 20
    assert shown(desk)["chain"]["alarm"]["gaps"] == []  # type: ignore[index]
    assert appraised(desk, ready, nonce(desk)).facets["freshness"] is Tier.AFFIRMING


def test_a_class_of_which_nothing_comes_is_shown_whole(desk: Desk, ready: Board) -> None:
    ready.introduce(AUDIT)
    ready.event(AUDIT)
    appraised(desk, ready, nonce(desk))
    desk.now += desk.settings.nonce_ttl_s
    audit = shown(desk)["chain"]["audit"]  # type: ignore[index]
    assert (audit["head"], audit["gaps"]) == (0, [{"first": 1, "last": 2, "explained": None}])


def test_what_is_withheld_is_found_once(desk: Desk, ready: Board) -> None:
    for _ in range(4):
        ready.event(ALARM)
        appraised(desk, ready, nonce(desk))
        desk.now += desk.settings.period_s
    found = desk.db.execute("SELECT text, class, seq FROM finding").fetchall()
    assert [tuple(f) for f in found] == [
        ("alarm 2 to 2 were named by evidence and did not come", 1, 2)
    ]


def test_a_signed_statement_explains_what_evidence_named(desk: Desk, ready: Board) -> None:
    desk.record(ready.introduce(AUDIT))
    before = ready.heads[ALARM][1]
    ready.event(ALARM)
    appraised(desk, ready, nonce(desk))
    assert desk.record(ready.gap(ALARM, 2, 2, before, ready.heads[ALARM][1])).accepted
    desk.now += desk.settings.nonce_ttl_s
    alarm = shown(desk)["chain"]["alarm"]  # type: ignore[index]
    assert alarm["gaps"] == [{"first": 2, "last": 2, "explained": "spool full"}]
    assert (alarm["dropped"], alarm["unexplained_gaps"]) == (0, 0)


def test_another_record_than_evidence_named_is_a_fork(desk: Desk, ready: Board) -> None:
    record = ready.build(ALARM, "event", {"n": 1})
    ready.sign(record)
    appraised(desk, ready, nonce(desk))
    other = ready.sign(record, advance=False)  # ECDSA: the same content, other bytes
    assert desk.record(other).outcome == "fork"
    assert desk.stored("gw-demo", ALARM) == [1]


def test_evidence_that_names_another_record_is_a_fork_told_once(desk: Desk, ready: Board) -> None:
    for _ in range(2):
        appraised(desk, ready, nonce(desk), heads={ALARM: (1, b"x" * 32)})
    found = desk.db.execute("SELECT kind, data FROM finding").fetchall()
    assert [f["kind"] for f in found] == ["fork"]
    assert found[0]["data"]
    assert shown(desk)["verdict"] == "critical"


def test_named_ends_are_kept_bounded(
    desk: Desk, ready: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation, "KEPT_CLAIMS", 5)
    for _ in range(9):
        ready.event(ALARM)
        appraised(desk, ready, nonce(desk))
    kept = [r[0] for r in desk.db.execute("SELECT seq FROM claim ORDER BY seq").fetchall()]
    assert kept == [6, 7, 8, 9, 10]


def test_a_revoked_device_is_contraindicated(desk: Desk, ready: Board) -> None:
    asked = nonce(desk)
    registry.revoke(desk.db, "gw-demo", "stolen", desk.now)
    assert appraised(desk, ready, asked).overall is Tier.CONTRAINDICATED
    with transaction(desk.db):
        assert desk.appraiser.challenge_soon("gw-demo", desk.now + 60) == []


def test_a_refused_answer_leaves_the_last_verdict(desk: Desk, ready: Board) -> None:
    """Resending old evidence is open to whoever saw it; it must not move anything."""
    data = ready.evidence(nonce(desk))
    assert desk.take(ready.topic("e", "evidence"), data).accepted
    before = views.gateway(desk.db, "gw-demo", desk.now)
    assert desk.take(ready.topic("e", "evidence"), data).outcome == "nonce_used"
    after = views.gateway(desk.db, "gw-demo", desk.now)
    assert before is not None
    assert after is not None
    assert before["attestation"] == after["attestation"]


def test_a_nonce_is_spent_by_the_first_answer_whatever_it_is(desk: Desk, ready: Board) -> None:
    asked = nonce(desk)
    bad = appraised(desk, ready, asked, bytecode="differs: x.pyc")
    assert bad.overall is Tier.CONTRAINDICATED
    again = desk.take(ready.topic("e", "evidence"), ready.evidence(asked))
    assert again.outcome == "nonce_used"


def test_what_its_gateway_did_not_sign_spends_no_nonce(desk: Desk, ready: Board) -> None:
    """Else whoever can write to the topic would keep a gateway from ever being attested."""
    asked, topic = nonce(desk), ready.topic("e", "evidence")
    honest = ready.evidence(asked)
    assert desk.take(topic, honest[:-1] + bytes([honest[-1] ^ 1])).outcome == "bad_signature"
    assert desk.take(topic, honest).accepted


def test_nobody_spends_a_nonce_of_another_gateway(desk: Desk, ready: Board) -> None:
    other = Board(desk, "gw-other")
    asked = nonce(desk)
    taken = desk.take(other.topic("e", "evidence"), other.evidence(asked))
    assert taken.outcome == "nonce_foreign"
    assert desk.take(ready.topic("e", "evidence"), ready.evidence(asked)).accepted


def test_a_verdict_that_ages_says_so(desk: Desk, ready: Board) -> None:
    appraised(desk, ready, nonce(desk))
    later = desk.now + RESULT_PERIODS * desk.settings.period_s + 1
    shown = views.gateway(desk.db, "gw-demo", later)
    assert shown is not None
    assert shown["attestation"]["expired"] is True  # type: ignore[index]
    assert "attestation is out of date" in shown["reasons"]  # type: ignore[operator]


# --- sessions and challenges -----------------------------------------------------------------


def test_going_on_line_earns_one_challenge(desk: Desk, board: Board) -> None:
    out = desk.connect(board, {})
    envelope = cose.open_envelope(out[0].payload, ContentType.NONCE)
    cose.check_signature(envelope, verifier_for(desk.verifier_key.public_key()))
    challenge = decode_challenge(envelope.payload)
    assert challenge.device == "gw-demo"
    assert challenge.expires_utc_s - challenge.issued_utc_s == desk.settings.nonce_ttl_s
    assert desk.connect(board, {}) == [], "not twice in a moment"
    desk.now += HURRY_S + 1
    assert len(desk.connect(board, {})) == 1


def test_a_retained_status_seen_before_is_good_for_a_challenge(desk: Desk, board: Board) -> None:
    data = board.status({})
    topic = board.topic("s", "status")
    assert desk.take(topic, data).outcome == "online"
    desk.now += HURRY_S + 1
    assert desk.take(topic, data, retain=True).outcome == "online"
    assert attestation.last_challenge(desk.db, "gw-demo") == desk.now
    assert desk.take(topic, data).outcome == "stale_session"


def test_the_will_ends_the_session_and_the_timer(desk: Desk, board: Board) -> None:
    desk.connect(board, {})
    will = board.status({}, online=False)
    desk.now += desk.settings.period_s + 1
    with transaction(desk.db):
        assert len(desk.appraiser.challenge_due(desk.now)) == 1
        assert desk.appraiser.challenge_due(desk.now) == []
    assert desk.take(board.topic("s", "status"), will).outcome == "offline"
    desk.now += desk.settings.period_s + 1
    with transaction(desk.db):
        assert desk.appraiser.challenge_due(desk.now) == []


def test_a_session_opens_redelivery_above_what_was_acknowledged(desk: Desk, board: Board) -> None:
    made = [board.introduce(ALARM), *(board.event(ALARM, n=n) for n in range(4))]
    for one in made:
        desk.record(one)
    desk.connect(board, {ALARM: 3})
    assert [desk.record(made[i]).outcome for i in (3, 4)] == ["duplicate", "duplicate"]
    assert [desk.record(made[i]).outcome for i in (2, 3, 4)] == ["replay"] * 3
    desk.connect(board, {ALARM: 5})
    assert desk.record(made[4]).outcome == "replay"


def test_without_a_session_nothing_is_sent_again(desk: Desk, board: Board) -> None:
    made = board.introduce(ALARM)
    desk.record(made)
    assert desk.record(made).outcome == "replay"
    assert desk.record(made, dup=True).outcome == "duplicate"


def test_a_replayed_status_does_not_reopen_redelivery(desk: Desk, board: Board) -> None:
    made = board.introduce(ALARM)
    opening = board.status({})
    topic = board.topic("s", "status")
    assert desk.take(topic, opening).accepted
    desk.record(made)
    assert desk.take(topic, opening).outcome == "stale_session"
    assert desk.take(topic, opening, retain=True).outcome == "online"
    assert desk.record(made).outcome == "replay"


def test_an_earlier_boots_status_neither_lowers_a_floor_nor_locks_the_gateway_out(
    desk: Desk, board: Board
) -> None:
    first = board.introduce(ALARM)
    desk.record(first)
    withheld = board.status({})
    board.start()
    second = board.introduce(ALARM)
    desk.connect(board, {ALARM: 2})
    desk.record(second)
    topic = board.topic("s", "status")
    assert desk.take(topic, withheld).outcome == "stale_session"
    assert [desk.record(m).outcome for m in (first, second)] == ["replay", "replay"]
    desk.connect(board, {ALARM: 2})
    board.start()
    board.introduce(ALARM)
    desk.connect(board, {ALARM: 3})


def test_nonces_evidence_and_boots_are_kept_bounded(
    desk: Desk, ready: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation, "KEPT_EVIDENCE", 5)
    monkeypatch.setattr(attestation, "KEPT_BOOTS", 5)
    for _ in range(attestation.KEPT_NONCES + 10):
        desk.now += 1
        desk.challenge("gw-demo")
    for _ in range(9):
        desk.now += 1
        appraised(desk, ready, nonce(desk))
        ready.boot_id = os.urandom(16)
        desk.connect(ready, {})
        ready.start()
        desk.record(ready.introduce(ALARM))

    def count(table: str) -> int:
        return int(desk.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    assert count("nonce") == attestation.KEPT_NONCES
    assert (count("evidence"), count("result")) == (5, 5)
    assert count("session") <= 7


def test_two_devices_do_not_share_anything(desk: Desk, ready: Board) -> None:
    other = Board(desk, "gw-other")
    desk.record(other.introduce(ALARM))
    desk.record(other.event(ALARM))
    assert desk.stored("gw-demo", ALARM) == [1]
    result = appraised(desk, ready, nonce(desk), version=VERSION)
    assert result.overall is Tier.AFFIRMING


def test_nobody_who_is_not_registered_or_is_revoked_is_asked(desk: Desk, ready: Board) -> None:
    desk.now += HURRY_S + 1
    assert desk.appraiser.challenge_soon("gw-nobody", desk.now) == []
    assert len(desk.appraiser.challenge_soon("gw-demo", desk.now)) == 1
    desk.now += HURRY_S + 1
    registry.revoke(desk.db, "gw-demo", "stolen", desk.now)
    assert desk.appraiser.challenge_soon("gw-demo", desk.now) == []
