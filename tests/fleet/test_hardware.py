"""Gateways with a TPM as the verifier sees them: what is remembered, asked for, never believed."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgewarden.appraise.values import firmware_digest
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Result, Tier, decode_challenge, encode_evidence
from edgewarden.wire.quoted import Quoted, encode_payload, qualifying, whole
from edgewarden_fleet.store import migrations, quotes
from edgewarden_fleet.store.schema import DDL, open_store, transaction
from edgewarden_fleet.verify import appraising
from edgewarden_fleet.verify.attest import HURRY_S
from tests.fakes.tpm import PCRS, SoftTpm
from tests.fleet.makers import CODE, Board, Desk
from tests.fleet.test_attest import ALARM, appraised, judged_message, nonce

C, A, N, W = Tier.CONTRAINDICATED, Tier.AFFIRMING, Tier.NONE, Tier.WARNING


@pytest.fixture
def hard(desk: Desk) -> Board:
    """A board whose TLS key lives in an enrolled TPM."""
    board = Board(desk, tpm=True)
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    return board


def tpm_of(board: Board) -> SoftTpm:
    assert board.tpm is not None
    return board.tpm


def with_word(desk: Desk, board: Board, asked: bytes, word: Quoted | None) -> Result:
    """Evidence with any TPM's part."""
    claims = encode_evidence(board.claims(asked))
    return judged_message(desk, board, board.seal_evidence(encode_payload(claims, word)))


def word_of(board: Board, asked: bytes) -> Quoted:
    claims = encode_evidence(board.claims(asked))
    return whole(tpm_of(board).quote(qualifying(asked, claims)))


def test_a_tpm_is_believed_and_its_grade_stated(desk: Desk, hard: Board) -> None:
    result = appraised(desk, hard, nonce(desk))
    assert (result.overall, result.grade, result.facets["hardware"]) == (A, "G2", A)


def test_digest_form_after_the_whole(desk: Desk, hard: Board) -> None:
    appraised(desk, hard, nonce(desk))
    asked = nonce(desk)
    word = word_of(hard, asked)
    result = with_word(desk, hard, asked, Quoted(word.quote, word.quote_signature, None, None))
    assert (result.overall, result.grade) == (A, "G2")


def test_digest_form_before_the_whole_asks_for_it(desk: Desk, hard: Board) -> None:
    asked = nonce(desk)
    word = word_of(hard, asked)
    result = with_word(desk, hard, asked, Quoted(word.quote, word.quote_signature, None, None))
    assert (result.overall, result.grade, result.facets["hardware"]) == (N, "G0", N)
    desk.now += HURRY_S + 1
    with transaction(desk.db):
        (out,) = desk.appraiser.challenge_due(desk.now)
        assert desk.appraiser.challenge_due(desk.now) == []
    challenge = decode_challenge(cose.open_envelope(out.payload, ContentType.NONCE).payload)
    assert challenge.whole
    assert appraised(desk, hard, challenge.nonce).grade == "G2"


def test_a_leaf_alone_before_its_issuer_was_ever_shown_is_refused_and_the_whole_asked_for(
    desk: Desk, hard: Board
) -> None:
    """The digest form leaves the issuing certificate out: a store that lost it says so."""
    asked = nonce(desk)
    claims = encode_evidence(hard.claims(asked))
    hard.x5chain = hard.x5chain[:1]
    data = hard.seal_evidence(encode_payload(claims, word_of(hard, asked)))
    assert desk.take(hard.topic("e", "evidence"), data).outcome == "bad_chain"
    desk.now += HURRY_S + 1
    with transaction(desk.db):
        (out,) = desk.appraiser.challenge_due(desk.now)
    said = decode_challenge(cose.open_envelope(out.payload, ContentType.NONCE).payload)
    assert said.whole


def test_another_tpm_is_never_believed(desk: Desk, hard: Board) -> None:
    asked = nonce(desk)
    claims = encode_evidence(hard.claims(asked))
    other = SoftTpm(hard.key)
    result = with_word(desk, hard, asked, whole(other.quote(qualifying(asked, claims))))
    assert (result.overall, result.grade) == (C, "G0")
    assert result.reasons["hardware"].startswith("ak_foreign")
    assert quotes.enrolled(desk.db, "gw-demo", other.ak_public).keys is None


def test_a_relayed_quote_is_refused(desk: Desk, hard: Board) -> None:
    """The honest TPM of one board vouches for the evidence of another that shares its AK's word."""
    asked = nonce(desk)
    relay = Board(desk, "gw-relay")
    desk.db.execute("UPDATE device SET grade = 'G2' WHERE device = 'gw-relay'")
    desk.db.execute("UPDATE enrolled_tpm SET device = 'gw-relay'")
    asked = desk.challenge("gw-relay").nonce
    claims = encode_evidence(relay.claims(asked, grade="G2"))
    word = whole(tpm_of(hard).quote(qualifying(asked, claims)))
    result = judged_message(desk, relay, relay.seal_evidence(encode_payload(claims, word)))
    assert result.reasons["hardware"].startswith("tls_key")


def test_pulling_the_tpm_is_a_downgrade(desk: Desk, hard: Board) -> None:
    result = appraised(desk, hard, nonce(desk), grade="G0")
    assert (result.overall, result.grade) == (C, "G0")
    assert "downgrade" in result.reasons["identity"]
    asked = nonce(desk)
    silent = with_word(desk, hard, asked, None)
    assert (silent.overall, silent.facets["hardware"]) == (C, C)


def test_a_grade_without_a_tpm_is_an_upgrade_of_words(desk: Desk, board: Board) -> None:
    desk.reference("code", CODE)
    result = appraised(desk, board, nonce(desk), grade="G2")
    assert (result.facets["identity"], result.grade) == (C, "G0")


def test_a_disk_image_under_an_older_tpm_state_is_seen(desk: Desk, hard: Board) -> None:
    tpm_of(hard).boot()
    assert appraised(desk, hard, nonce(desk)).overall is A
    tpm_of(hard).resets -= 1
    hard.boot_id = b"r" * 16
    result = appraised(desk, hard, nonce(desk))
    assert result.reasons["hardware"].startswith(("reset_count", "certify_boot"))
    assert result.overall is C


def test_g3_needs_references_for_pcrs_and_a_stated_root(desk: Desk, hard: Board) -> None:
    cmdline = b"c" * 32
    hard_claims = {**hard.claims(b"").measurements, "cmdline": cmdline}
    desk.reference("cmdline", cmdline)
    assert appraised(desk, hard, nonce(desk), measurements=hard_claims).grade == "G2"
    stated = desk.reference("pcrs", firmware_digest(PCRS), "gw-demo", root_of_trust="UEFI")
    result = appraised(desk, hard, nonce(desk), measurements=hard_claims)
    assert (result.grade, result.facets["boot"]) == ("G3", A)
    desk.reference("pcrs", firmware_digest(PCRS), "gw-demo", root_of_trust="", replaces=stated)
    assert appraised(desk, hard, nonce(desk), measurements=hard_claims).grade == "G2"


def test_a_changed_boot_is_contraindicated(desk: Desk, hard: Board) -> None:
    desk.reference("pcrs", firmware_digest(PCRS), "gw-demo")
    tpm_of(hard).pcrs = {**PCRS, 4: b"x" * 32}
    result = appraised(desk, hard, nonce(desk))
    assert result.facets["boot"] is C


@pytest.mark.parametrize(
    ("window", "tier"),
    [
        ({"not_after_utc_s": 1}, W),
        ({"not_after_utc_s": 1, "retired_utc_s": 2}, C),
    ],
)
def test_values_of_a_boot_do_not_run_out_in_silence(
    desk: Desk, hard: Board, window: dict[str, int], tier: Tier
) -> None:
    """Their set's time is over: that is said, and a firmware that changed since is not affirmed."""
    cmdline = b"c" * 32
    measured = {**hard.claims(b"").measurements, "cmdline": cmdline}
    desk.reference("cmdline", cmdline)
    desk.reference("pcrs", firmware_digest(PCRS), "gw-demo", **window)
    result = appraised(desk, hard, nonce(desk), measurements=measured)
    assert (result.facets["boot"], result.grade) == (tier, "G2")
    tpm_of(hard).pcrs = {**PCRS, 4: b"x" * 32}
    result = appraised(desk, hard, nonce(desk), measurements=measured)
    assert (result.facets["boot"], result.reasons["boot"]) == (N, "PCR 0 to 9: no reference")


# --- references -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "tier", "why"),
    [
        ({}, A, None),
        ({"not_before_utc_s": 2_000_000_000}, W, "announced"),
        ({"not_after_utc_s": 1}, W, "late"),
        ({"not_after_utc_s": 1, "retired_utc_s": 2}, C, "retired"),
    ],
)
def test_windows_of_a_release(
    desk: Desk, board: Board, window: dict[str, int], tier: Tier, why: str | None
) -> None:
    """An update that was announced is not an incident; an old release becomes one. Which of them
    it is stands in the reason."""
    desk.reference("code", CODE, **window)
    result = appraised(desk, board, nonce(desk))
    assert result.facets["executables"] is tier
    said = result.reasons.get("executables")
    assert said == (why and f"{CODE.hex()[:16]}.. is of a set that is {why}")


def test_a_rollback_is_contraindicated_for_good(desk: Desk, board: Board) -> None:
    desk.reference("code", CODE)
    desk.reference("code", bytes(32), version="0.2.0", least_version="0.2.0", not_after_utc_s=1)
    result = appraised(desk, board, nonce(desk))
    assert result.facets["executables"] is C
    assert "least" in result.reasons["executables"]


def test_a_set_that_nobody_signed_does_not_count(desk: Desk, board: Board) -> None:
    desk.reference("code", CODE, signer=FileSigner.generate())
    result = appraised(desk, board, nonce(desk))
    assert result.facets["executables"] is N
    kinds = [row[0] for row in desk.db.execute("SELECT kind FROM finding")]
    assert kinds == ["bad_reference"]


def test_a_set_of_another_tenant_does_not_count(desk: Desk, board: Board) -> None:
    desk.reference("code", CODE, tenant="other")
    assert appraised(desk, board, nonce(desk)).facets["executables"] is N


# --- the store --------------------------------------------------------------------------------


def test_a_store_of_the_version_before_is_brought_up(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    for statement in DDL.split(";\n"):
        old.execute(statement)
    old.execute(f"PRAGMA user_version = {migrations.BASE}")
    old.execute("INSERT INTO counter VALUES ('gw-demo', 'kept', 7)")
    old.close()
    fresh = open_store(tmp_path / "new.db")
    with open_store(tmp_path / "old.db") as brought:
        assert brought.execute("SELECT value FROM counter").fetchone()[0] == 7
        assert tables(brought) == tables(fresh)
        assert brought.execute("PRAGMA user_version").fetchone()[0] == migrations.VERSION
    brought.close()
    fresh.close()


def tables(db: sqlite3.Connection) -> set[str]:
    rows = db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {" ".join(row[0].split()) for row in rows}


@pytest.mark.parametrize(
    ("quoted", "enrolled", "grade"),
    [(None, object(), "G2"), (object(), None, "G2"), (object(), object(), "G1")],
    ids=["nothing quoted", "no TPM enrolled", "a grade without one"],
)
def test_a_quote_counts_for_a_gateway_enrolled_with_its_tpm_alone(
    quoted: object, enrolled: object, grade: str
) -> None:
    given: Any = SimpleNamespace(tpm=quoted)
    facts: Any = SimpleNamespace(enrolled=enrolled, grade=grade)
    assert appraising._hardware(given, facts) is None
