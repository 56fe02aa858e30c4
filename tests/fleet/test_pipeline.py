"""What becomes of accepted records: order, gaps, waiting, facts; and a model over all of it."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Quality, Reading, Severity, event_to_map
from edgewarden.wire.record import Kind, RecordClass
from edgewarden_fleet.console import page
from edgewarden_fleet.store import gaps, records, views
from edgewarden_fleet.store.schema import transaction
from edgewarden_fleet.verify import facts
from edgewarden_fleet.verify.pipeline import PENDING_S
from tests.fleet.makers import Board, Desk, Made

SUBSTITUTED = Quality.SUBSTITUTED

ALARM, AUDIT, BULK = RecordClass.ALARM, RecordClass.AUDIT, RecordClass.BULK


def test_records_that_overtake_their_introduction_wait_for_it(desk: Desk, board: Board) -> None:
    introduction = board.introduce(ALARM)
    late = [board.event(ALARM, n=n) for n in range(3)]
    assert [desk.record(made).outcome for made in late] == ["pending"] * 3
    verdict = desk.record(introduction)
    assert (verdict.outcome, verdict.introduced) == ("next", True)
    assert desk.stored("gw-demo", ALARM) == [1, 2, 3, 4]
    assert desk.refused() == {}


def test_what_waits_too_long_is_refused(desk: Desk, board: Board) -> None:
    board.introduce(ALARM)
    assert desk.record(board.event(ALARM)).outcome == "pending"
    desk.now += PENDING_S + 1
    with transaction(desk.db):
        assert desk.verifier.drop_overdue(desk.now) == 1
    assert desk.refused() == {"unknown_key": 1}


def test_a_key_known_from_another_class_serves_where_the_introduction_was_lost(
    desk: Desk, board: Board
) -> None:
    desk.record(board.introduce(ALARM))
    board.introduce(BULK)  # evicted on the gateway
    assert desk.record(board.batch()).outcome == "gap"
    assert desk.gaps("gw-demo", BULK) == [(1, 1)]


def test_late_records_fill_the_gap_they_left(desk: Desk, board: Board) -> None:
    made = [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(7))]
    for i in (0, 7):
        assert desk.record(made[i]).accepted
    assert desk.gaps("gw-demo", AUDIT) == [(2, 7)]
    assert desk.record(made[3]).outcome == "reordered"
    assert desk.gaps("gw-demo", AUDIT) == [(2, 3), (5, 7)]
    for i in (1, 2, 6, 4, 5):
        assert desk.record(made[i]).outcome == "reordered"
    assert desk.gaps("gw-demo", AUDIT) == []
    shown = views.gateway(desk.db, "gw-demo", desk.now)
    assert shown is not None
    assert shown["chain"]["audit"]["reordered"] == 6  # type: ignore[index]


def gap_in_bulk(desk: Desk, board: Board) -> tuple[list[Made], list[bytes]]:
    """Bulk records 1..6 of which 3 and 4 never come."""
    desk.record(board.introduce(AUDIT))
    made = [board.introduce(BULK), *(board.batch() for _ in range(5))]
    for i in (0, 1, 4, 5):
        assert desk.record(made[i]).accepted
    assert desk.gaps("gw-demo", BULK) == [(3, 4)]
    return made, [hashlib.sha256(m.data).digest() for m in made]


def test_a_signed_statement_explains_a_gap(desk: Desk, board: Board) -> None:
    _, hashes = gap_in_bulk(desk, board)
    assert desk.record(board.gap(BULK, 3, 4, before=hashes[1], after=hashes[3])).accepted
    assert desk.gaps("gw-demo", BULK) == []
    shown = views.gateway(desk.db, "gw-demo", desk.now)
    assert shown is not None
    bulk = shown["chain"]["bulk"]  # type: ignore[index]
    assert bulk["gaps"] == [{"first": 3, "last": 4, "explained": "spool full"}]
    assert (bulk["dropped"], bulk["unexplained_gaps"]) == (0, 0)


def test_a_statement_that_comes_before_the_gap_explains_it_too(desk: Desk, board: Board) -> None:
    """The gap record is audit and overtakes the bulk it speaks of."""
    desk.record(board.introduce(AUDIT))
    made = [board.introduce(BULK), *(board.batch() for _ in range(5))]
    hashes = [hashlib.sha256(m.data).digest() for m in made]
    for i in (0, 1):
        desk.record(made[i])
    desk.record(board.gap(BULK, 3, 4, before=hashes[1], after=hashes[3]))
    assert desk.record(made[4]).outcome == "gap"
    assert desk.gaps("gw-demo", BULK) == []


def test_a_statement_that_does_not_fit_explains_nothing(desk: Desk, board: Board) -> None:
    _, hashes = gap_in_bulk(desk, board)
    desk.record(board.gap(BULK, 3, 4, before=hashes[0], after=hashes[3]))
    desk.record(board.sign(board.build(AUDIT, Kind.GAP, {"class": 3, "first": "x"})))
    assert desk.gaps("gw-demo", BULK) == [(3, 4)]


def steps_of(desk: Desk, made: Made) -> int:
    """What the store works for one record, in steps of SQLite's machine."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    desk.db.set_progress_handler(step, 1)
    try:
        assert desk.record(made).accepted
    finally:
        desk.db.set_progress_handler(None, 1)
    return steps


def test_a_record_costs_the_same_however_many_gaps_stand_open(desk: Desk, board: Board) -> None:
    """A gateway that leaves out every other record would stop the verifier for all others."""
    made = [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(2, 1001))]
    cost = {
        # behind a gap, into the midst of one, and the last of one
        seq: [steps_of(desk, made[seq + more - 1]) for more in (0, -2, -1)]
        for seq in range(5, 1001, 5)
        if desk.record(made[seq - 5]).accepted
    }
    assert len(desk.gaps("gw-demo", AUDIT)) == 200
    for early, late in zip(cost[25], cost[1000], strict=True):
        assert late <= 1.2 * early, (cost[25], cost[1000])


STATEMENT = {
    "class": 3, "first": 3, "last": 4, "before": bytes(32), "after": bytes(32), "reason": "full",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("class", 4), ("class", 0), ("class", True), ("class", "3"), ("first", "3"), ("last", True),
        ("last", "4"), ("last", 4.5),
        ("first", 0), ("first", 5), ("last", 1 << 53), ("before", "x"), ("after", None),
        ("reason", b"full"),
    ],
)  # fmt: skip
def test_a_statement_that_cannot_be_read_is_told_and_not_kept(
    desk: Desk, board: Board, field: str, value: object
) -> None:
    desk.record(board.introduce(AUDIT))
    for body in (STATEMENT, {**STATEMENT, field: value}):
        assert desk.record(board.sign(board.build(AUDIT, Kind.GAP, dict(body)))).accepted
    kinds = [row[0] for row in desk.db.execute("SELECT kind FROM finding")]
    assert kinds == ["unreadable_facts"]
    assert len(gaps.notes(desk.db, "gw-demo", BULK)) == 1


def test_a_fork_is_kept_with_its_proof(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(AUDIT))
    first = board.build(AUDIT, Kind.EVENT, {"n": 1})
    clone = board.sign(first, advance=False)
    assert desk.record(clone).accepted
    other = board.sign(board.build(AUDIT, Kind.EVENT, {"n": 2}), advance=False)
    assert desk.record(other).outcome == "fork"
    row = desk.db.execute("SELECT severity, data FROM finding WHERE kind = 'fork'").fetchone()
    assert (row["severity"], row["data"]) == (Severity.CRITICAL, other.data)
    shown = views.gateway(desk.db, "gw-demo", desk.now)
    assert shown is not None
    assert shown["verdict"] == "critical"


def test_readings_counters_and_denied_programs_are_kept(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(ALARM))
    desk.record(board.introduce(BULK))
    for value in (20.0, 21.5):
        desk.record(
            board.batch(
                Reading("env", "temperature", "Cel", value, board.boot_ns, SUBSTITUTED, 400.0),
                Reading("env", "door", "", True, board.boot_ns),
                Reading("host", "load_1m", "", 0.5, board.boot_ns),
                counts={"env.bad_frames": 3},
            )
        )
    digest = hashlib.sha256(b"evil").digest()
    desk.record(board.denied(digest))
    shown = views.gateway(desk.db, "gw-demo", desk.now)
    assert shown is not None
    assert list(shown["sensors"]) == ["env"]  # type: ignore[call-overload]
    env = shown["sensors"]["env"]  # type: ignore[index]
    assert env["readings"] == 4
    assert env["channels"]["temperature"]["value"] == "21.5"
    assert env["channels"]["door"]["value"] == "true"
    assert env["channels"]["door"]["quality"] == "good"
    assert env["channels"]["temperature"]["quality"] == "substituted"
    assert shown["counts"] == {"env.bad_frames": 6}
    assert "load_1m" in shown["host"]["channels"]  # type: ignore[index]
    verdicts = shown["exec"]["denied_verdicts"]  # type: ignore[index]
    assert [(v["digest"], v["class"], v["seq"]) for v in verdicts] == [(digest.hex(), "alarm", 2)]


def test_noise_does_not_bury_a_denied_program(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(ALARM))
    desk.record(board.denied(bytes(32)))
    with transaction(desk.db):
        for n in range(views.SHOWN_FINDINGS + 1):
            records.add_finding(desk.db, "gw-demo", "noise", Severity.MEDIUM, f"{n}", desk.now)
    shown = views.gateway(desk.db, "gw-demo", desk.now)
    assert shown is not None
    found = shown["findings"]
    assert isinstance(found, list)
    assert [f["kind"] for f in found[:2]] == ["exec_denied", "noise"]
    assert found[1]["text"] == str(views.SHOWN_FINDINGS), "of the same severity the newest first"


@pytest.mark.parametrize(
    ("rule", "end"), [("default", ".. rule default"), ("", "0.."), (None, "0..")]
)
def test_a_denial_without_a_rule_names_none(
    desk: Desk, board: Board, rule: str | None, end: str
) -> None:
    desk.record(board.introduce(ALARM))
    detail = {"action": "denied", "file": {"path": "/x", "sha256": bytes(32)}, "rule": rule}
    event = Event(OCSF.PROCESS_ACTIVITY, 1, Severity.HIGH, board.boot_ns, detail)
    desk.record(board.sign(board.build(ALARM, Kind.EVENT, event_to_map(event))))
    assert desk.db.execute("SELECT text FROM finding").fetchone()[0].endswith(end)
    whole = views.gateway(desk.db, "gw-demo", desk.now)
    assert whole is not None
    assert ("<th>rule</th>" in page.page("main", [whole], "")) is bool(rule)


def test_facts_that_cannot_be_read_do_not_break_the_chain(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(BULK))
    for body in (
        {"readings": [{"x": 1}], "events": [], "counts": {}},
        {"readings": [], "events": [{"class_uid": 9999}], "counts": {}},
        {"readings": [], "events": {}, "counts": {}},
    ):
        made = board.sign(board.build(BULK, Kind.BATCH, dict(body)))
        assert desk.record(made).accepted
    assert desk.stored("gw-demo", BULK) == [1, 2, 3, 4]
    kinds = [r[0] for r in desk.db.execute("SELECT kind FROM finding").fetchall()]
    assert kinds == ["unreadable_facts"] * 3


def test_hostile_facts_are_bounded(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(BULK))
    for start in range(0, 1500, 500):
        readings = [
            Reading(f"s{n}", "x" * 40, "", 1.0, board.boot_ns) for n in range(start, start + 500)
        ]
        assert desk.record(board.batch(*readings)).accepted
    count = desk.db.execute("SELECT count(*) FROM reading").fetchone()[0]
    assert 500 <= count <= facts.MAX_CHANNELS
    event = Event(
        OCSF.DETECTION_FINDING, 1, Severity.HIGH, 2**62, {"title": "x" * 5000, "n": float("nan")}
    )
    made = board.sign(board.build(BULK, Kind.EVENT, dict(event_to_map(event))))
    assert desk.record(made).accepted
    assert len(desk.db.execute("SELECT text FROM finding").fetchone()[0]) <= facts.MAX_TEXT


MOST = 2**64 - 1
"""The largest integer that CBOR spells; SQLite holds half of it."""


def test_counters_stop_before_they_overflow(desk: Desk, board: Board) -> None:
    """Three of 2**53 would be nothing; 1,100 of them are beyond 64 bits."""
    desk.record(board.introduce(BULK))
    with transaction(desk.db):
        desk.db.execute("INSERT INTO counter VALUES ('gw-demo', 'x', ?)", (2**63 - 2,))
    for _ in range(2):
        assert desk.record(board.batch(counts={"x": MOST, "y": MOST, "z": -(2**63)})).accepted
    kept = dict(desk.db.execute("SELECT name, value FROM counter").fetchall())
    assert kept == {"x": facts.MAX_COUNT, "y": facts.MAX_COUNT, "z": 0}


def test_the_largest_numbers_of_a_record_are_stored_or_refused_by_name(
    desk: Desk, board: Board
) -> None:
    desk.record(board.introduce(AUDIT))
    record = board.build(AUDIT, Kind.EVENT, {})
    for changes in ({"boot_ns": MOST}, {"wall_ns": MOST}, {"uncertainty_ms": MOST}):
        record = board.build(AUDIT, Kind.EVENT, {})
        time = replace(record.time, **changes)  # type: ignore[arg-type]
        assert desk.record(board.sign(replace(record, time=time))).accepted
    event = Event(OCSF.PROCESS_ACTIVITY, MOST, Severity.HIGH, MOST, {"action": "denied"})
    assert desk.record(board.sign(board.build(AUDIT, Kind.EVENT, event_to_map(event)))).accepted
    gone = {"class": 3, "first": 1, "last": MOST, "before": bytes(32), "after": bytes(32)}
    body: dict[str, object] = {**gone, "reason": "x"}
    assert desk.record(board.sign(board.build(AUDIT, Kind.GAP, body))).accepted
    assert views.gateway(desk.db, "gw-demo", desk.now) is not None
    last = board.build(AUDIT, Kind.EVENT, {})
    for seq in (2**53, MOST):
        made = board.sign(replace(last, seq=seq), advance=False)
        assert desk.record(made).outcome == "bad_record"
    assert desk.record(board.sign(replace(last, seq=2**53 - 1))).outcome == "gap"


def test_readings_with_the_largest_numbers_are_kept(desk: Desk, board: Board) -> None:
    desk.record(board.introduce(BULK))
    pack = [{-2: "s/", 0: "n", 2: MOST, 6: 0}, {0: "m", 2: float("nan"), 6: 0}]
    body: dict[str, object] = {"readings": pack, "events": [], "counts": {}}
    assert desk.record(board.sign(board.build(BULK, Kind.BATCH, body))).accepted
    kept = dict(desk.db.execute("SELECT name, value FROM reading").fetchall())
    assert kept == {"n": "1.844674407e+19", "m": "nan"}


def test_what_is_kept_of_refusals_is_bounded(desk: Desk, board: Board) -> None:
    count = records.KEPT_REFUSALS + 350
    with transaction(desk.db):
        for n in range(count):
            records.add_refusal(
                desk.db, "gw-demo", "ew/1/main/gw-demo/r/bulk", "bad_signature", "", bytes([n % 7]),
                desk.now,
            )  # fmt: skip
    kept = desk.db.execute("SELECT count(*) FROM refusal").fetchone()[0]
    assert records.KEPT_REFUSALS <= kept < records.KEPT_REFUSALS + 100
    assert desk.refused() == {"bad_signature": count}


def test_a_flood_under_an_unknown_key_is_bounded(desk: Desk, board: Board) -> None:
    """The oldest make room, and each that did is counted as refused."""
    signer = FileSigner.generate()
    for _ in range(records.PENDING_PER_KEY + 5):
        made = board.sign(board.build(AUDIT, Kind.EVENT, {}), signer=signer)
        assert desk.record(made).outcome == "pending"
    assert desk.refused() == {"unknown_key": 5}
    assert desk.db.execute("SELECT text FROM refusal").fetchone()[0].startswith("made room")
    assert desk.stored("gw-demo", AUDIT) == []


def test_a_flood_of_invented_keys_does_not_keep_a_gateways_messages_out(
    desk: Desk, board: Board
) -> None:
    for n in range(records.PENDING_PER_DEVICE + 7):
        signer = FileSigner.generate()
        signer.kid = n.to_bytes(8, "big")
        record = board.build(AUDIT, Kind.EVENT, {})
        assert desk.record(board.sign(record, signer=signer, advance=False)).outcome == "pending"
    assert desk.refused() == {"unknown_key": 7}
    introduction = board.introduce(AUDIT)
    assert desk.record(board.event(AUDIT)).outcome == "pending"
    assert desk.record(introduction).accepted
    assert desk.stored("gw-demo", AUDIT) == [1, 2]


# --- a model: an honest gateway, a hostile network --------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_network_makes_an_honest_gateway_fork_and_no_alteration_passes(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        desk = Desk(Path(name), durable=False)
        try:
            _deliver(desk, Board(desk), data)
        finally:
            desk.close()


def _deliver(desk: Desk, board: Board, data: st.DataObject) -> None:
    introduction = board.introduce(AUDIT)
    made = [introduction, *(board.event(AUDIT, n=n) for n in range(8))]
    desk.record(introduction)
    arrived = {1}
    for _ in range(data.draw(st.integers(1, 25))):
        one = data.draw(st.sampled_from(made))
        if data.draw(st.booleans()):
            at = data.draw(st.integers(0, 9999)) % len(one.data)
            bit = 1 << data.draw(st.integers(0, 7))
            altered = one.data[:at] + bytes([one.data[at] ^ bit]) + one.data[at + 1 :]
            verdict = desk.take(one.topic, altered, dup=data.draw(st.booleans()))
            assert not verdict.accepted
            continue
        verdict = desk.record(one, dup=one.seq in arrived)
        assert verdict.accepted is (one.seq not in arrived)
        assert verdict.outcome != "fork"
        arrived.add(one.seq)
    assert desk.stored("gw-demo", AUDIT) == sorted(arrived)
    missing = set(range(1, max(arrived) + 1)) - arrived
    stated = {n for first, last in desk.gaps("gw-demo", AUDIT) for n in range(first, last + 1)}
    assert stated == missing
    assert "fork" not in desk.refused()
