"""Devices behind a gateway as the fleet sees them: judged again, their lineage watched."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from edgewarden.trust.keys import verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.devices import Statement, encode_statement
from edgewarden.wire.evidence import Result, Tier, decode_result
from edgewarden.wire.facts import OCSF, Event, Severity, event_to_map
from edgewarden.wire.record import Kind, RecordClass
from edgewarden_fleet.ca.settings import DEFAULT_REQUIRED
from edgewarden_fleet.store import submodules, views
from edgewarden_fleet.verify import bundle as bundles
from tests.downstream.test_device_evidence import CERTIFICATE, HONEST, OTHER, OWN, eat
from tests.fleet.makers import CODE, Board, Desk, Made
from tests.fleet.test_again import again, bundle_of
from tests.fleet.test_attest import judged_message

GOOD, LIE = HONEST, replace(HONEST, evidence=eat(key=OTHER))


@contextmanager
def fleet() -> Iterator[tuple[Desk, Board]]:
    with tempfile.TemporaryDirectory() as folder:
        desk = Desk(Path(folder), durable=False)
        try:
            board = Board(desk)
            for record_class in (RecordClass.ALARM, RecordClass.AUDIT):
                desk.record(board.introduce(record_class))
            desk.reference("code", CODE)
            yield desk, board
        finally:
            desk.close()


def said(board: Board, statement: Statement | bytes, kind: OCSF = OCSF.CONFIG_STATE) -> Made:
    """The record that carries a statement."""
    data = statement if isinstance(statement, bytes) else encode_statement(statement)
    event = Event(kind, 1, Severity.INFORMATIONAL, board.boot_ns, {"device_statement": data})
    return board.sign(board.build(RecordClass.AUDIT, Kind.EVENT, dict(event_to_map(event))))


def named(*statements: Statement) -> dict[str, bytes]:
    return {s.device: hashlib.sha256(encode_statement(s)).digest() for s in statements}


def judged(desk: Desk, board: Board, *statements: Statement) -> Result:
    nonce = desk.challenge("gw-demo").nonce
    return judged_message(desk, board, board.evidence(nonce, submods=named(*statements)))


def findings(desk: Desk) -> list[str]:
    rows = desk.db.execute("SELECT text FROM finding WHERE kind = 'device_lineage' ORDER BY id")
    return [row[0] for row in rows]


def test_what_a_gateway_says_of_a_device_is_judged_again() -> None:
    for statement, tier in ((GOOD, Tier.AFFIRMING), (OWN, Tier.WARNING), (CERTIFICATE, Tier.NONE),
                            (LIE, Tier.CONTRAINDICATED)):  # fmt: skip
        with fleet() as (desk, board):
            assert desk.record(said(board, statement)).accepted
            result = judged(desk, board, statement)
            assert result.facets["devices"] is tier
            assert (result.facets["executables"], result.overall) == (Tier.AFFIRMING,) * 2
            told = views.gateway(desk.db, "gw-demo", desk.now)
            assert told is not None
            attestation = told["attestation"]
            assert isinstance(attestation, dict)
            assert attestation["devices"]["press-1"]["tier"] == tier.label
            assert attestation["devices"]["press-1"]["lineage"] == 1
            reasons = told["reasons"]
            assert isinstance(reasons, list)
            bad = "contraindicated device(s) behind it: press-1"
            assert (bad in reasons) is (tier is Tier.CONTRAINDICATED)


def test_the_worst_device_is_the_facet_and_counts_where_it_is_required() -> None:
    with fleet() as (desk, board):
        other = replace(LIE, device="press-2")
        for statement in (GOOD, other):
            desk.record(said(board, statement))
        result = judged(desk, board, GOOD, other)
        assert (result.facets["devices"], result.overall) == (Tier.CONTRAINDICATED, Tier.AFFIRMING)
        assert result.reasons["devices"].startswith("press-2: its evidence is not signed by")
        required = (*DEFAULT_REQUIRED, "devices")
        desk.appraiser._settings = replace(desk.settings, required=required)
        assert judged(desk, board, GOOD, other).overall is Tier.CONTRAINDICATED


def test_a_statement_that_has_not_come_is_none_and_of_another_gateway_no_better() -> None:
    with fleet() as (desk, board):
        neighbour = Board(desk, "gw-other")
        for record_class in (RecordClass.ALARM, RecordClass.AUDIT):
            desk.record(neighbour.introduce(record_class))
        assert desk.record(said(neighbour, GOOD)).accepted
        result = judged(desk, board, GOOD)
        assert result.facets["devices"] is Tier.NONE
        assert "has not come yet" in result.reasons["devices"]


def test_evidence_that_speaks_of_no_devices_has_no_such_facet() -> None:
    with fleet() as (desk, board):
        required = (*DEFAULT_REQUIRED, "devices")
        desk.appraiser._settings = replace(desk.settings, required=required)
        data = board.evidence(desk.challenge("gw-demo").nonce)
        result = judged_message(desk, board, data)
        assert "devices" not in result.facets
        assert result.overall is Tier.AFFIRMING
        assert judged(desk, board).facets["devices"] is Tier.NONE


def test_a_key_that_changed_without_a_reset_is_a_finding() -> None:
    with fleet() as (desk, board):
        for key, lineage in ((b"a", 1), (b"a", 1), (b"", 1), (b"b", 2), (b"b", 2)):
            desk.record(said(board, replace(CERTIFICATE, key=key * 32, lineage=lineage)))
        assert findings(desk) == []
        desk.record(said(board, replace(CERTIFICATE, key=b"c" * 32, lineage=2)))
        assert findings(desk) == ["device press-1 behind it: another key, and nobody reset it"]
        desk.record(said(board, replace(CERTIFICATE, key=b"c" * 32, lineage=1)))
        assert findings(desk)[1] == "device press-1 behind it: its key was number 2 and is number 1"


def test_records_that_come_in_another_order_are_no_finding() -> None:
    with fleet() as (desk, board):
        first = said(board, replace(CERTIFICATE, key=b"a" * 32, lineage=1))
        second = said(board, replace(CERTIFICATE, key=b"b" * 32, lineage=2))
        for record in (second, first):
            desk.record(record)
        assert findings(desk) == []


def test_a_statement_that_cannot_be_read_is_a_finding_and_kept_out() -> None:
    with fleet() as (desk, board):
        assert desk.record(said(board, b"x")).accepted
        kinds = [row[0] for row in desk.db.execute("SELECT kind FROM finding")]
        assert kinds == ["unreadable_facts"]
        assert desk.record(said(board, GOOD, OCSF.HEALTH)).accepted
        assert desk.db.execute("SELECT count(*) FROM submodule").fetchone()[0] == 0


def test_what_is_kept_is_bounded() -> None:
    with fleet() as (desk, board):
        for n in range(submodules.KEPT + 3):
            desk.record(said(board, replace(CERTIFICATE, at_utc_s=n)))
        count = "SELECT count(*) FROM submodule WHERE device = 'gw-demo'"
        assert desk.db.execute(count).fetchone()[0] == submodules.KEPT
        newest = named(replace(CERTIFICATE, at_utc_s=submodules.KEPT + 2))
        assert len(submodules.statements(desk.db, "gw-demo", newest)) == 1
        for n in range(submodules.MAX_NAMES + 3):
            one = replace(CERTIFICATE, device=f"d-{n}")
            submodules.add(desk.db, "gw-demo", (2, 1000 + n), one, encode_statement(one), desk.now)
        names = "SELECT count(DISTINCT name) FROM submodule"
        assert desk.db.execute(names).fetchone()[0] == submodules.MAX_NAMES


def test_a_second_verifier_judges_devices_too() -> None:
    with fleet() as (desk, board):
        desk.record(said(board, GOOD))
        assert judged(desk, board, GOOD).facets["devices"] is Tier.AFFIRMING
        plain = bundle_of(desk)
        without = again(desk, plain)
        assert without.differs == ("devices",)
        behind = submodules.of_evidence(desk.db, "gw-demo", plain.evidence)
        assert submodules.of_evidence(desk.db, "gw-demo", b"") == ()
        whole = replace(plain, detached=behind)
        key = desk.verifier_key.public_key()
        carried = bundles.unseal(bundles.seal(whole, desk.verifier_key), key)
        assert carried.detached == (encode_statement(GOOD),)
        verdict = again(desk, carried)
        assert verdict.differs == ()
        forged = replace(whole, detached=(encode_statement(OWN),))
        carried = bundles.unseal(bundles.seal(forged, desk.verifier_key), key)
        assert again(desk, carried).second.facets["devices"] is Tier.NONE


def test_a_result_with_devices_is_read_by_a_gateway() -> None:
    with fleet() as (desk, board):
        desk.record(said(board, GOOD))
        judged(desk, board, GOOD)
        row = desk.db.execute("SELECT data FROM result ORDER BY id DESC").fetchone()
        envelope = cose.open_envelope(row[0], ContentType.RESULT)
        cose.check_signature(envelope, verifier_for(desk.verifier_key.public_key()))
        assert decode_result(envelope.payload).facets["devices"] is Tier.AFFIRMING
