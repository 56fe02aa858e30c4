"""Renewal without a person: the key that is registered asks, and nobody else gets anything."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.enrol.by_key import renew
from edgewarden.enrol.folder import go_back, locked, prove
from edgewarden.enrol.service import life_of, signing_request
from edgewarden.errors import OperatorFault, TrustFault, WireRefusal
from edgewarden.trust.identity import Identity, load
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose, renewal
from edgewarden.wire.evidence import decode_challenge
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca.external import Cfssl
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.settings import CaSettings
from edgewarden_fleet.desk.renewal import GRACE_S, Nonces
from edgewarden_fleet.store import continuity, registry
from edgewarden_fleet.store.attestation import add_nonce
from edgewarden_fleet.store.schema import transaction
from edgewarden_fleet.verify.pipeline import Incoming, Verifier
from hw.rigs.ports import free_port
from tests.enrol.fleet_service import DAY_S, FleetService, made_ago, standing_service
from tests.enrol.service import Fleet, Service, running
from tests.fleet.standing import RealBoard

CHALLENGE, RENEW = "/v1/renew/challenge", "/v1/renew"
Prove = Callable[..., renewal.RenewRequest]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> FleetFolder:
    return made_ago(tmp_path_factory.mktemp("fleet") / "f", 300)


@pytest.fixture
def service(folder: FleetFolder) -> Iterator[FleetService]:
    with standing_service(folder) as made:
        yield made


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """One for each test: the registry keeps a device's first key."""
    return f"gw-{hashlib.sha256(request.node.name.encode()).hexdigest()[:12]}"


def no_evidence(challenge: bytes) -> bytes:
    raise AssertionError("nobody needs evidence here")


def answering(identity: Identity, **changes: object) -> Callable[[bytes], bytes]:
    """What link would say to a challenge."""

    def answer(challenge: bytes) -> bytes:
        opened = cose.open_envelope(challenge, cose.ContentType.NONCE, 8192)
        board = RealBoard(identity)
        nonce = decode_challenge(opened.payload).nonce
        return board.evidence(nonce, **{"issued_utc_s": int(time.time()), **changes})

    return answer


def test_before_its_end_the_key_is_enough(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=25)
    fresh = renew(tmp_path, old, no_evidence)
    assert service.asked[-2:] == [CHALLENGE, RENEW]
    assert load(tmp_path) == fresh
    assert fresh.serial != old.serial
    assert fresh.signer().public_key() == old.signer().public_key()
    assert life_of(fresh)[1] > time.time() + 29 * DAY_S
    known = registry.find(service.db, device)
    assert known is not None
    assert known.serial == fresh.serial
    assert fresh.service == service.url


def test_after_its_end_fresh_evidence_is_asked_for(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=40)
    fresh = renew(tmp_path, old, answering(old))
    assert service.asked[-4:] == [CHALLENGE, RENEW, CHALLENGE, RENEW]
    assert life_of(fresh)[1] > time.time() + 29 * DAY_S


def test_half_a_year_later_a_person_is_needed(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=30 + GRACE_S / DAY_S - 1)
    assert renew(tmp_path, old, answering(old)).serial != old.serial
    other = service.enrol(tmp_path / "late", f"{device}-late", days_ago=30 + GRACE_S / DAY_S + 1)
    with pytest.raises(WireRefusal) as refused:
        renew(tmp_path / "late", other, answering(other))
    assert refused.value.name == "renewal_too_late"
    assert "token new" in refused.value.next_step
    assert load(tmp_path / "late") == other


def refusal(state: Path, identity: Identity, evidence: Callable[[bytes], bytes]) -> str:
    with pytest.raises(WireRefusal) as refused:
        renew(state, identity, evidence)
    assert refused.value.next_step
    assert load(state) == identity, "what was there stays"
    return refused.value.name


def test_a_revoked_gateway_gets_nothing(service: FleetService, tmp_path: Path, device: str) -> None:
    old = service.enrol(tmp_path, device, days_ago=25)
    registry.revoke(service.db, device, "stolen", time.time())
    assert refusal(tmp_path, old, no_evidence) == "revoked"


def test_revoked_between_the_two_requests(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=40)

    def meanwhile(challenge: bytes) -> bytes:
        registry.revoke(service.db, device, "stolen", time.time())
        return answering(old)(challenge)

    assert refusal(tmp_path, old, meanwhile) == "revoked"


def test_of_two_boards_with_one_key_neither_gets_a_certificate(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=25)
    continuity.begin_quarantine(service.db, device, "clone", "twice", time.time())
    assert refusal(tmp_path, old, no_evidence) == "quarantined"
    assert continuity.lift_quarantine(service.db, device, "this is the one", time.time())
    assert renew(tmp_path, old, no_evidence).serial != old.serial


def test_who_is_not_known_is_told_so(service: FleetService, tmp_path: Path, device: str) -> None:
    old = service.enrol(tmp_path, device)
    with transaction(service.db):
        service.db.execute("DELETE FROM device WHERE device = ?", (device,))
    assert refusal(tmp_path, old, no_evidence) == "renewal_unknown"


def test_an_older_state_of_the_gateway_gets_no_certificate(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    """A restored card: its chain ends before what was stored."""
    old = service.enrol(tmp_path, device, days_ago=40)
    verifier = Verifier(service.db, service.office.roots, "main", grace_s=GRACE_S)
    board = RealBoard(old)
    made = board.introduce(RecordClass.AUDIT)
    assert verifier.take(Incoming(made.topic, made.data), time.time() - 60).accepted
    assert refusal(tmp_path, old, answering(old)) == "evidence_refused"
    assert continuity.quarantined(service.db, device), "what the evidence showed stays known"


def test_programs_that_are_not_right_do_not_lock_a_gateway_out(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=40)
    altered = answering(old, measurements={"code": bytes(32)}, bytecode="x.pyc differs")
    assert renew(tmp_path, old, altered).serial != old.serial


def test_evidence_for_another_challenge_is_none(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=40)
    first: list[bytes] = []

    def stale(challenge: bytes) -> bytes:
        first.append(answering(old)(service.desk.challenge(device, time.time())))
        return first[0]

    assert refusal(tmp_path, old, stale) == "evidence_refused"


def test_evidence_for_the_brokers_challenge_is_none_for_this_one(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    """It is outstanding, and honest: it still says nothing about this request."""
    old = service.enrol(tmp_path, device, days_ago=40)

    def other(challenge: bytes) -> bytes:
        nonce, now = os.urandom(32), time.time()
        with transaction(service.db):
            add_nonce(service.db, nonce, device, now, now + 60)
        return RealBoard(old).evidence(nonce, issued_utc_s=int(now))

    with pytest.raises(WireRefusal, match="another challenge"):
        renew(tmp_path, old, other)
    assert load(tmp_path) == old


def test_a_revoked_gateway_is_not_even_challenged(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    service.enrol(tmp_path, device)
    registry.revoke(service.db, device, "stolen", time.time())
    with pytest.raises(WireRefusal) as refused:
        service.desk.challenge(device, time.time())
    assert refused.value.name == "revoked"


def test_no_evidence_from_a_stopped_link_leaves_everything(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=40)
    assert refusal(tmp_path, old, lambda _: b"") == "evidence_missing"


def test_a_lost_answer_is_no_loss(service: FleetService, tmp_path: Path, device: str) -> None:
    """The fleet has registered another certificate; the old one asks again, and is heard."""
    old = service.enrol(tmp_path, device, days_ago=25)
    for _ in range(3):
        renew_without_storing(service, old)
    assert renew(tmp_path, old, no_evidence).serial != old.serial


@pytest.mark.parametrize("days_ago", [25, 40], ids=["before its end", "after its end"])
def test_a_ca_that_is_down_costs_a_renewal_nothing(
    service: FleetService, folder: FleetFolder, tmp_path: Path, device: str, days_ago: int
) -> None:
    """Real cfssl code, and nobody at its port: said by name, nothing stored, and the next try is
    granted by the key that is there."""
    old = service.enrol(tmp_path, device, days_ago=days_ago)
    (folder.path / "ca/secret").write_text("0123456789ABCDEF0123456789ABCDEF")
    gone = Cfssl(
        CaSettings("cfssl", f"http://127.0.0.1:{free_port()}", profile="gateway"), folder.path
    )
    there, service.desk._office = service.desk._office, replace(service.office, issuer=gone)
    assert refusal(tmp_path, old, answering(old)) == "ca_unavailable"
    assert sorted(p.name for p in (tmp_path / "identity").iterdir()) == [
        "current", "grade", old.folder.name,
    ]  # fmt: skip
    known = registry.find(service.db, device)
    assert known is not None
    assert known.serial == old.serial
    service.desk._office = there
    assert renew(tmp_path, old, answering(old)).serial != old.serial


def test_another_service_is_told_nothing(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path / "state", device, days_ago=25)
    theirs = Fleet()
    with running(
        Service(theirs.ca_pem().encode(), theirs.honest), theirs.server_files(tmp_path)
    ) as impostor:
        with pytest.raises(TrustFault) as caught:
            renew(tmp_path / "state", old, no_evidence, impostor.url)
        assert caught.value.code == "EW-ID-009"
        assert impostor.requests == []
    assert load(tmp_path / "state") == old


def test_an_identity_of_an_earlier_version_needs_the_url_once(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=25)
    body = json.loads((old.folder / "identity.json").read_text())
    del body["service"]
    (old.folder / "identity.json").write_text(json.dumps(body))
    with pytest.raises(OperatorFault, match="where it came from"):
        renew(tmp_path, load(tmp_path), no_evidence)
    assert renew(tmp_path, load(tmp_path), no_evidence, service.url).service == service.url


# --- what the desk refuses -------------------------------------------------------------------


def renew_without_storing(service: FleetService, identity: Identity) -> None:
    state = identity.folder.parent.parent
    renew(state, identity, no_evidence)
    assert go_back(state)
    assert load(state) == identity


def nonce_of(service: FleetService, device: str, at_utc_s: float | None = None) -> bytes:
    message = service.desk.challenge(device, time.time() if at_utc_s is None else at_utc_s)
    opened = cose.open_envelope(message, cose.ContentType.NONCE, 8192)
    return decode_challenge(opened.payload).nonce


def asking(
    identity: Identity, nonce: bytes, *, signer: FileSigner | None = None, csr: str = "",
    chain: list[bytes] | None = None, kind: cose.ContentType = cose.ContentType.RENEWAL,
    **proof: object,
) -> renewal.RenewRequest:  # fmt: skip
    """A request, honest but for what is given."""
    own = identity.signer()
    by = signer or own
    csr = csr or signing_request(own, identity.device)
    signed = renewal.Proof(
        identity.tenant, identity.device, nonce, hashlib.sha256(csr.encode()).digest()
    )
    payload = renewal.encode_proof(replace(signed, **proof))  # type: ignore[arg-type]
    chain = chain if chain is not None else list(identity.x5chain())
    return renewal.RenewRequest(
        identity.device, csr, cose.seal(payload, kind, by.kid, by.sign, chain)
    )


@pytest.fixture
def due(service: FleetService, tmp_path: Path, device: str) -> Identity:
    return service.enrol(tmp_path / "due", device, days_ago=25)


def test_an_honest_request_is_granted(service: FleetService, due: Identity) -> None:
    answer = service.desk.renew(asking(due, nonce_of(service, due.device)), time.time())
    assert answer.tenant == due.tenant


def another_signer(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device), signer=FileSigner.generate())


def same_kid_other_key(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    forger = FileSigner.generate()
    forger.kid = due.signer().kid
    return asking(due, nonce_of(service, due.device), signer=forger)


def anothers_certificate(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    nonce = nonce_of(service, due.device)
    return asking(due, nonce, signer=other.signer(), chain=list(other.x5chain()))


def for_another_device(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device), device=other.device)


def of_another_tenant(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device), tenant="north")


def another_csr(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    honest = asking(due, nonce_of(service, due.device))
    return replace(honest, csr_pem=signing_request(other.signer(), due.device))


def csr_of_a_new_key(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    csr = signing_request(FileSigner.generate(), due.device)
    return asking(due, nonce_of(service, due.device), csr=csr)


def csr_that_is_none(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device), csr="hello")


def nonce_of_another(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, other.device))


def nonce_invented(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    return asking(due, bytes(32))


def nonce_of_yesterday(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device, time.time() - DAY_S))


def nonce_of_tomorrow(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device, time.time() + DAY_S))


def nonce_again(service: FleetService, due: Identity, other: Identity) -> renewal.RenewRequest:
    request = asking(due, nonce_of(service, due.device))
    service.desk.renew(request, time.time())
    return request


def evidence_as_proof(
    service: FleetService, due: Identity, other: Identity
) -> renewal.RenewRequest:
    return asking(due, nonce_of(service, due.device), kind=cose.ContentType.EVIDENCE)


REFUSED = {
    another_signer: "bad_header",
    same_kid_other_key: "bad_signature",
    anothers_certificate: "wrong_topic",
    for_another_device: "renewal_proof",
    of_another_tenant: "renewal_proof",
    another_csr: "renewal_proof",
    csr_of_a_new_key: "csr_invalid",
    csr_that_is_none: "csr_invalid",
    nonce_of_another: "nonce_unknown",
    nonce_invented: "nonce_unknown",
    nonce_of_yesterday: "nonce_expired",
    nonce_of_tomorrow: "nonce_expired",
    nonce_again: "nonce_used",
    evidence_as_proof: "wrong_type",
}


@pytest.mark.parametrize(
    ("attack", "name"), REFUSED.items(), ids=lambda a: getattr(a, "__name__", a)
)
def test_refused_by_name(
    service: FleetService, due: Identity, tmp_path: Path, device: str, name: str,
    attack: Callable[[FleetService, Identity, Identity], renewal.RenewRequest],
) -> None:  # fmt: skip
    other = service.enrol(tmp_path / "other", f"{device}-other")
    request = attack(service, due, other)
    before = registry.find(service.db, due.device)
    with pytest.raises(WireRefusal) as refused:
        service.desk.renew(request, time.time())
    assert refused.value.name == name
    assert registry.find(service.db, due.device) == before, "nothing was issued"


def test_a_stranger_uses_up_no_nonce(service: FleetService, due: Identity) -> None:
    """Only a proof whose signature held does."""
    nonce = nonce_of(service, due.device)
    for _ in range(3):
        with pytest.raises(WireRefusal):
            service.desk.renew(asking(due, nonce, signer=FileSigner.generate()), time.time())
    assert service.desk.renew(asking(due, nonce), time.time())


def test_used_nonces_are_forgotten_when_they_could_not_be_used_anyway() -> None:
    nonces = Nonces(60.0)
    for second in range(1000):
        assert nonces.use(nonces.make("gw", 7, second), "gw", second) == (second, 7)
    assert len(nonces._used) <= 61


# --- the folder ------------------------------------------------------------------------------


def test_the_last_certificate_stays_until_the_new_one_has_carried_something(
    service: FleetService, tmp_path: Path, device: str
) -> None:
    old = service.enrol(tmp_path, device, days_ago=25)
    fresh = renew(tmp_path, old, no_evidence)
    assert old.cert_path.exists()
    assert prove(tmp_path, fresh.folder.name)
    assert not old.folder.exists()
    assert load(tmp_path) == fresh
    assert not prove(tmp_path, fresh.folder.name), "there is nothing to forget"
    assert not go_back(tmp_path), "and nothing to go back to"
    assert load(tmp_path) == fresh


def test_one_at_a_time(service: FleetService, tmp_path: Path, device: str) -> None:
    service.enrol(tmp_path, device)
    with locked(tmp_path):
        with pytest.raises(OperatorFault) as caught, locked(tmp_path):
            raise AssertionError("both")
        assert caught.value.code == "EW-ID-041"
    with locked(tmp_path):
        pass
