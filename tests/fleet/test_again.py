"""The same evidence judged again: by this fleet, by a second verifier; and what does not hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import FileSigner, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Tier, decode_result
from edgewarden.wire.references import set_id
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.settings import DEFAULT_REQUIRED
from edgewarden_fleet.store import appraised as kept
from edgewarden_fleet.store import references
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify import bundle as bundles
from edgewarden_fleet.verify.again import Again, appraise_again
from edgewarden_fleet.verify.bundle import Bundle, decode_facts
from edgewarden_fleet.verify.references import load, sign
from tests.fleet.makers import CODE, TENANT, Board, Desk, authority
from tests.fleet.test_attest import ALARM, appraised, nonce
from tests.fleet.test_cli import fleet, make, run
from tests.fleet.test_late import carrying, made

__all__ = ["fleet"]


@pytest.fixture(params=[False, True], ids=["G0", "G2"])
def judged(request: pytest.FixtureRequest, desk: Desk) -> Board:
    """A gateway whose last evidence was affirmed."""
    board = Board(desk, tpm=request.param)
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    assert appraised(desk, board, nonce(desk)).overall is Tier.AFFIRMING
    return board


def bundle_of(desk: Desk, device: str = "gw-demo") -> Bundle:
    found = kept.newest(desk.db, device)
    assert found is not None
    sets = tuple(s.data for s in references.every(desk.db))
    issuing = kept.issuing(desk.db, device) or b""
    facts = decode_facts(found.facts)
    return Bundle(TENANT, device, found.evidence, found.result, facts, sets, issuing)


def again(desk: Desk, bundle: Bundle, **changes: object) -> Again:
    how: dict[str, object] = {
        "roots": [desk.root.certificate], "first_key": desk.verifier_key.public_key(),
        "required": DEFAULT_REQUIRED, "now_utc_s": desk.now + 10**8,
    }  # fmt: skip
    return appraise_again(bundle, **{**how, **changes})  # type: ignore[arg-type]


def test_the_same_facts_give_the_same_verdict_years_later(desk: Desk, judged: Board) -> None:
    bundle = bundles.unseal(
        bundles.seal(bundle_of(desk), desk.verifier_key), desk.verifier_key.public_key()
    )
    assert bundle == bundle_of(desk)
    verdict = again(desk, bundle)
    assert verdict.differs == ()
    assert verdict.second.overall is Tier.AFFIRMING
    assert verdict.second.grade == verdict.first.grade
    assert verdict.second.policy_hash == verdict.first.policy_hash
    assert verdict.second.expires_utc_s == verdict.second.issued_utc_s


def test_a_second_verifier_goes_by_its_own_references(desk: Desk, judged: Board) -> None:
    """What the first one affirmed because somebody gave it a wrong reference shows."""
    auditor = FileSigner.generate()
    (first,) = load(bundle_of(desk).sets, desk.verifier_key.public_key(), TENANT).sets.values()
    other = sign(replace(first, values={"code": (b"r" * 32,)}), auditor)
    own = load([other], auditor.public_key(), TENANT).sets
    assert list(own) == [set_id(other)]
    verdict = again(desk, bundle_of(desk), own=own)
    assert verdict.differs == ("executables",)
    assert verdict.second.overall is Tier.CONTRAINDICATED


def test_digest_form_is_judged_again_with_what_was_remembered(desk: Desk) -> None:
    from edgewarden.wire.evidence import encode_evidence
    from edgewarden.wire.quoted import encode_payload, qualifying, shortened, whole

    board = Board(desk, tpm=True)
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    appraised(desk, board, nonce(desk))
    asked = nonce(desk)
    claims = encode_evidence(board.claims(asked))
    assert board.tpm is not None
    word = whole(board.tpm.quote(qualifying(asked, claims)))
    board.x5chain = board.x5chain[:1]
    short = board.seal_evidence(encode_payload(claims, shortened(word, word)))
    assert len(short) < 2048
    assert desk.take(board.topic("e", "evidence"), short).outcome == "affirming"
    verdict = again(desk, bundle_of(desk))
    assert (verdict.second.grade, verdict.differs) == ("G2", ())


def test_late_evidence_is_judged_again(desk: Desk, judged: Board) -> None:
    from edgewarden_fleet.store import late

    desk.record(judged.introduce(ALARM.AUDIT))
    record = carrying(judged, made(judged))
    desk.record(record)
    found = late.at(desk.db, "gw-demo", record.seq)
    assert found is not None
    facts = decode_facts(found.facts)
    sets = tuple(s.data for s in references.every(desk.db))
    verdict = again(desk, Bundle(TENANT, "gw-demo", found.evidence, found.result, facts, sets))
    assert (verdict.second.overall, verdict.differs) == (Tier.WARNING, ())


def flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


LIES: dict[str, Callable[[Desk, Bundle], Bundle]] = {
    "other evidence": lambda d, b: replace(b, evidence=flip(b.evidence)),
    "other result": lambda d, b: replace(b, result=flip(b.result)),
    "another gateway": lambda d, b: replace(b, device="gw-other"),
    "another tenant": lambda d, b: replace(b, tenant="other"),
    "answered too late": lambda d, b: replace(
        b, facts=replace(b.facts, expires_utc_s=b.facts.received_utc_s - 1)
    ),
    "answered before it was asked": lambda d, b: replace(
        b, facts=replace(b.facts, asked_utc_s=b.facts.received_utc_s + 1)
    ),
    "a certificate of another time": lambda d, b: replace(
        b, facts=replace(b.facts, asked_utc_s=1.0, received_utc_s=2.0)
    ),
    "no evidence": lambda d, b: replace(b, evidence=b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bundle_that_does_not_hold_is_refused(desk: Desk, judged: Board, lie: str) -> None:
    with pytest.raises(WireRefusal):
        again(desk, LIES[lie](desk, bundle_of(desk)))


def test_a_result_about_other_evidence_is_refused(desk: Desk, judged: Board) -> None:
    first = bundle_of(desk)
    appraised(desk, judged, nonce(desk))
    with pytest.raises(WireRefusal, match="other evidence"):
        again(desk, replace(first, result=bundle_of(desk).result))


@pytest.mark.parametrize(
    "changes",
    [{"first_key": FileSigner.generate().public_key()}, {"roots": [authority()[0].certificate]}],
    ids=["another verifier", "another root"],
)
def test_other_keys_are_refused(desk: Desk, judged: Board, changes: dict[str, object]) -> None:
    with pytest.raises(WireRefusal):
        again(desk, bundle_of(desk), **changes)


def test_a_set_that_was_changed_on_the_way_does_not_count(desk: Desk, judged: Board) -> None:
    bundle = bundle_of(desk)
    verdict = again(desk, replace(bundle, sets=tuple(map(flip, bundle.sets))))
    assert len(verdict.bad_sets) == 1
    assert verdict.second.facets["executables"] is Tier.NONE


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(data=st.data())
def test_any_change_of_a_bundle_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    sealed = bytearray(SEALED)
    at = data.draw(st.integers(0, len(sealed) - 1))
    sealed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireRefusal):
        bundles.unseal(bytes(sealed), KEY.public_key())


KEY = FileSigner.generate()
SEALED = bundles.seal(
    Bundle(
        "main", "gw-demo", b"evidence", b"result",
        bundles.Facts("G0", False, None, 1.0, 2.0, 1.5), (b"set",),
    ),
    KEY,
)  # fmt: skip


@given(st.binary(max_size=200))
def test_any_facts_end_in_a_value_or_a_refusal(data: bytes) -> None:
    try:
        decode_facts(data)
    except WireRefusal:
        return


@given(
    st.dictionaries(st.integers(0, 13), st.none() | st.booleans() | st.integers() | st.binary()
                    | st.text() | st.lists(st.binary(), max_size=4)
                    | st.dictionaries(st.integers(0, 4), st.integers()))
)  # fmt: skip
def test_any_fields_of_facts_end_in_a_value_or_a_refusal(fields: dict[int, object]) -> None:
    from edgewarden.errors import OurFault
    from edgewarden.wire import cbor

    base = cbor.decode(bundles.encode_facts(bundles.Facts("G0", False, None, 1.0, 2.0, 1.5)))
    assert isinstance(base, dict)
    try:
        decode_facts(cbor.encode({**base, **fields}))
    except (WireRefusal, OurFault):
        return


# --- the command --------------------------------------------------------------------------------


def test_from_one_fleet_to_another(
    capsys: pytest.CaptureFixture[str], fleet: Path, tmp_path: Path
) -> None:
    """Written by one fleet, judged by another with its own key and references, signed by it."""
    folder = FleetFolder(fleet)
    where = tmp_path / "desk"
    where.mkdir()
    desk = Desk(where, durable=False)
    desk.verifier_key = folder.verifier()
    board = Board(desk)
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    desk.appraiser._signer = desk.verifier_key
    appraised(desk, board, nonce(desk))
    with open_store(folder.database) as target:
        desk.db.backup(target)
    target.close()
    desk.close()
    file = tmp_path / "gw.ewa"
    code, out, err = run(capsys, "evidence", "gw-demo", "--out", file, "--dir", fleet, "--json")
    assert code == 0, err
    key = json.loads(out)["verifier_key"]
    root = tmp_path / "root.pem"
    root.write_bytes(certificates_pem(desk))
    code, out, err = run(capsys, "appraise", file, "--dir", fleet, "--ca", root)
    assert (code, "overall affirming" in out) == (0, True), err

    other = make(tmp_path / "auditor")
    open_store(other.database).close()
    signed = tmp_path / "verdict"
    words = ["appraise", file, "--dir", other.path, "--ca", root, "--verifier-key", key, "--json"]
    code, out, err = run(capsys, *words, "--out", signed)
    assert code == 0, err
    envelope = cose.open_envelope(signed.read_bytes(), ContentType.RESULT)
    cose.check_signature(envelope, verifier_for(other.verifier().public_key()))
    assert decode_result(envelope.payload).overall is Tier.AFFIRMING

    code, out, _ = run(capsys, *words, "--own-references")
    assert (code, json.loads(out)["differs"]) == (1, ["executables"])
    with open_store(other.database) as db, transaction(db):
        ours = replace(
            next(iter(load(stored(fleet), bytes.fromhex(key), TENANT).sets.values())),
            tenant=other.settings().tenant, values={"code": (bytes(32),)},
        )  # fmt: skip
        references.add(db, sign(ours, other.verifier()), {}, 0.0)
    db.close()
    code, _, _ = run(capsys, *words, "--own-references")
    assert code == 2
    for wrong in ("00", "zz"):
        code, out, err = run(capsys, *words[:-2], wrong)
        assert (code, out) == (65, "")
        assert "next:" in err
    code, _, err = run(capsys, "evidence", "nobody", "--out", file, "--dir", fleet)
    assert code == 65


def stored(fleet: Path) -> list[bytes]:
    with open_store(fleet / "store" / "fleet.db", read_only=True) as db:
        found = [s.data for s in references.every(db)]
    db.close()
    return found


def certificates_pem(desk: Desk) -> bytes:
    from edgewarden_fleet.ca import certificates

    return certificates.pem(desk.root.certificate).encode()
