"""What stands above the gateways takes turns: believed at each step, refused out of order."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from edgewarden.enrol.by_key import renew
from edgewarden.errors import OperatorFault, TrustFault, WireRefusal
from edgewarden.trust.identity import Identity, load
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.references import ReferenceSet, set_id
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.folder import FleetFolder, new_key
from edgewarden_fleet.ca.rollover import Rollover
from edgewarden_fleet.store import references, registry
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify.chain import check_chain
from edgewarden_fleet.verify.references import believe, sign
from edgewarden_fleet.verify.references import load as load_references
from tests.enrol.fleet_service import made_ago, standing_service


@pytest.fixture
def folder(tmp_path: Path) -> FleetFolder:
    return made_ago(tmp_path / "fleet", 100)


def nobody(challenge: bytes) -> bytes:
    raise AssertionError("no certificate has ended")


def rollover(folder: FleetFolder) -> Rollover:
    return Rollover(folder, time.time())


def believed(folder: FleetFolder, identity: Identity) -> bool:
    return bool(check_chain(identity.x5chain(), folder.roots(), time.time()).serial)


def test_a_root_takes_its_turn_and_no_gateway_is_visited(
    folder: FleetFolder, tmp_path: Path
) -> None:
    """Two gateways renew in each step; the first root goes; both report under the second."""
    old = folder.root()
    states = {name: tmp_path / name for name in ("gw-a", "gw-b")}
    with standing_service(folder) as service:
        for name, state in states.items():
            service.enrol(state, name, days_ago=5)
        db = service.db
        rollover(folder).begin()
        assert len(folder.roots()) == 2
        assert rollover(folder).behind(db) == ["gw-a", "gw-b"]
        with pytest.raises(OperatorFault, match="2 gateways") as refused:
            rollover(folder).switch(db)
        assert refused.value.code == "EW-SET-034"
    renewed_by_all(folder, states, roots=2)
    with opened(folder) as db:
        rollover(folder).switch(db)
        assert folder.root() != old
        assert folder.root() in folder.roots()
        assert old in folder.roots()
        with pytest.raises(OperatorFault, match="2 gateways"):
            rollover(folder).finish(db)
    for state in states.values():
        assert believed(folder, load(state)), "certificates of before the switch are still good"
    renewed_by_all(folder, states, roots=2)
    with opened(folder) as db:
        rollover(folder).finish(db)
    assert folder.roots() == [folder.root()]
    assert old not in folder.roots()
    renewed_by_all(folder, states, roots=1)
    for state in states.values():
        assert believed(folder, load(state))


def renewed_by_all(folder: FleetFolder, states: dict[str, Path], roots: int) -> None:
    time.sleep(1.1)  # certificates say when they were made in whole seconds
    with standing_service(folder) as service:
        for state in states.values():
            fresh = renew(state, load(state), nobody, service.url)
            assert fresh.root_pem().count("BEGIN") == roots
            assert believed(folder, fresh)
        assert rollover(folder).behind(service.db) == []


class opened:
    def __init__(self, folder: FleetFolder) -> None:
        self._db = open_store(folder.database)

    def __enter__(self):  # type: ignore[no-untyped-def]
        return self._db

    def __exit__(self, *_: object) -> None:
        self._db.close()


def test_a_gateway_that_slept_through_it_is_named_and_waited_for(
    folder: FleetFolder, tmp_path: Path
) -> None:
    with standing_service(folder) as service:
        service.enrol(tmp_path / "a", "gw-a", days_ago=5)
        service.enrol(tmp_path / "b", "gw-b", days_ago=5)
        rollover(folder).begin()
        registry.revoke(service.db, "gw-b", "gone", time.time())
        assert rollover(folder).behind(service.db) == ["gw-a"]
        rollover(folder).switch(service.db, force=True)
    with standing_service(folder) as service, pytest.raises(TrustFault):
        renew(tmp_path / "a", load(tmp_path / "a"), nobody, service.url)  # it was warned of


def test_who_renewed_before_the_service_knew_the_new_root_is_not_taken_for_renewed(
    folder: FleetFolder, tmp_path: Path
) -> None:
    """`serve` reads its files when it starts: between a step and that, a renewal brings nothing."""
    state = tmp_path / "a"
    with standing_service(folder) as service:
        service.enrol(state, "gw-a", days_ago=5)
        rollover(folder).begin()
        time.sleep(1.1)  # certificates say when they were made in whole seconds
        fresh = renew(state, load(state), nobody, service.url)
        assert fresh.root_pem().count("BEGIN") == 1, "it was given the old root alone"
        assert rollover(folder).behind(service.db) == ["gw-a"]
        with pytest.raises(OperatorFault, match="1 gateways"):
            rollover(folder).switch(service.db)
    renewed_by_all(folder, {"gw-a": state}, roots=2)


@pytest.mark.parametrize("cut_at", range(1, 12))
def test_a_switch_that_was_interrupted_is_done_again(
    folder: FleetFolder, tmp_path: Path, cut_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder.root()
    rollover(folder).begin()
    new = [root for root in folder.roots() if root != old]
    done = cut_after(monkeypatch, cut_at)
    with opened(folder) as db:
        try:
            rollover(folder).switch(db)
        except Cut:
            assert set(map(certificates.der, folder.roots())) >= set(map(certificates.der, [old]))
            monkeypatch.undo()
            rollover(folder).switch(db)
        else:
            assert done() < cut_at
    assert folder.root() == new[0]
    assert set(map(certificates.der, folder.roots())) == set(map(certificates.der, [old, *new]))
    chain_holds(folder)


class Cut(Exception):
    pass


def cut_after(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], int]:
    """The power goes before the ``at``-th file is replaced."""
    calls = 0
    real = Rollover._put

    def put(self: Rollover, name: str, text: str, mode: int = 0o644) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise Cut
        real(self, name, text, mode)

    monkeypatch.setattr(Rollover, "_put", put)
    return lambda: calls


def chain_holds(folder: FleetFolder) -> None:
    """Every server of ours loads, and leads to the first root."""
    folder.enroll_context()
    folder.client_context()
    issuing = folder.issuing().certificate
    issuing.verify_directly_issued_by(folder.root())
    for name in ("broker/server.pem", "enroll/server.pem", "verifier/client.pem"):
        text = (folder.path / name).read_text()
        assert certificates.pem(issuing) in text
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(
        folder.path / "broker/server.pem", folder.path / "broker/server-key.pem"
    )


def test_another_issuing_certificate_leaves_the_old_ones_good(
    folder: FleetFolder, tmp_path: Path
) -> None:
    with standing_service(folder) as service:
        old = service.enrol(tmp_path / "a", "gw-a", days_ago=5)
    before = folder.issuing().certificate
    rollover(folder).issuing(folder.path / "ca/root-key.pem")
    assert folder.issuing().certificate != before
    assert believed(folder, old)
    with standing_service(folder) as service:
        fresh = renew(tmp_path / "a", load(tmp_path / "a"), nobody, service.url)
        assert fresh.x5chain()[1] == certificates.der(folder.issuing().certificate)
        assert believed(folder, fresh)
        assert service.enrol(tmp_path / "b", "gw-b")
    assert list((folder.path / "ca").glob("issuing-until-*")), "it is kept aside"


def test_what_ends_a_stolen_issuing_key(folder: FleetFolder, tmp_path: Path) -> None:
    """Another issuing key does not; another root after it does (ADR 28)."""
    with standing_service(folder) as service:
        service.enrol(tmp_path / "a", "gw-a", days_ago=5)
    stolen = folder.issuing()
    mine = new_key().public_key()

    def forged() -> str:
        leaf = certificates.make_gateway(stolen, mine, "main", "gw-a", time.time())
        chain = [certificates.der(leaf), certificates.der(stolen.certificate)]
        try:
            return check_chain(chain, folder.roots(), time.time()).device
        except WireRefusal as refusal:
            return refusal.name

    rollover(folder).issuing(folder.path / "ca/root-key.pem")
    assert forged() == "gw-a", "for whoever goes by the chain alone, such as the broker"
    rollover(folder).begin()
    with opened(folder) as db:
        rollover(folder).switch(db, force=True)
        assert forged() == "gw-a"
        rollover(folder).finish(db, force=True)
    assert forged() == "bad_chain"


def test_another_roots_key_is_refused(folder: FleetFolder, tmp_path: Path) -> None:
    other = made_ago(tmp_path / "other")
    before = folder.issuing().certificate
    with pytest.raises(OperatorFault, match="not this root's key"):
        rollover(folder).issuing(other.path / "ca/root-key.pem")
    assert folder.issuing().certificate == before


def test_other_server_keys_change_nothing_for_gateways(folder: FleetFolder, tmp_path: Path) -> None:
    keys = [p.read_bytes() for p in sorted(folder.path.glob("*/server-key.pem"))]
    with standing_service(folder) as service:
        service.enrol(tmp_path / "a", "gw-a", days_ago=5)
    rollover(folder).servers()
    assert keys != [p.read_bytes() for p in sorted(folder.path.glob("*/server-key.pem"))]
    chain_holds(folder)
    with standing_service(folder) as service:
        assert renew(tmp_path / "a", load(tmp_path / "a"), nobody, service.url)


@pytest.mark.parametrize("lost", [False, True], ids=["there", "lost"])
def test_another_verifier_key_reaches_gateways_by_renewal(
    folder: FleetFolder, tmp_path: Path, lost: bool
) -> None:
    with standing_service(folder) as service:
        old = service.enrol(tmp_path / "a", "gw-a", days_ago=5)
        kept = ReferenceSet(
            "main", "1", "1.0", "", 1, 0, None, None, "", "", {"code": (bytes(32),)}
        )
        data = sign(kept, folder.verifier())
        with transaction(service.db):
            references.add(service.db, data, {"x": "y"}, time.time())
        if lost:
            (folder.path / "verifier/key.pem").unlink()
        assert rollover(folder).verifier(service.db) == ((0, 1) if lost else (1, 0))
        key = folder.verifier().public_key()
        assert key != old.verifier_key
        held = [s for s in references.every(service.db) if s.data != data]
        if not lost:
            assert believe(held[0].data, key, "main").values == kept.values
        loaded = load_references([s.data for s in references.every(service.db)], key, "main")
        if lost:
            assert list(loaded.bad) == [set_id(data)], "nobody can say who signed it"
        else:
            assert loaded.again == {set_id(data): held[0].set_id}, "said by name, and no fault"
            assert not loaded.bad
            other = sign(replace(kept, values={"code": (bytes(31) + b"x",)}), FileSigner.generate())
            mixed = load_references([data, other, held[0].data], key, "main")
            assert list(mixed.bad) == [set_id(other)], "a stranger's other words stay bad"
    with standing_service(folder) as service:
        fresh = renew(tmp_path / "a", load(tmp_path / "a"), nobody, service.url)
    assert fresh.verifier_key == key


def test_no_roots_are_believed_that_gateways_would_refuse(
    folder: FleetFolder, tmp_path: Path
) -> None:
    """A gateway takes four, and CAs alone: with others no enrolment and no renewal would come to
    an end any more, and the desk would not notice."""
    server, bundle = folder.path / "broker/server.pem", tmp_path / "bundle.pem"
    made = [certificates.make_root(new_key(), "main", time.time()) for _ in range(4)]
    bundle.write_text("".join(map(certificates.pem, made)))
    for file, why in ((server, "is no CA"), (bundle, "5 roots")):
        with pytest.raises(OperatorFault, match=why) as refused:
            rollover(folder).trust(x509.load_pem_x509_certificates(file.read_bytes()))
        assert refused.value.code == "EW-SET-034"
        assert len(folder.roots()) == 1
    rollover(folder).trust(made[:3])
    with pytest.raises(OperatorFault, match="5 roots"):
        rollover(folder).begin()
    assert not (folder.path / "ca/next-root-key.pem").exists()
    with standing_service(folder) as service:
        assert service.enrol(tmp_path / "a", "gw-a").root_pem().count("BEGIN") == 4


def test_steps_out_of_order_are_refused(folder: FleetFolder) -> None:
    with opened(folder) as db:
        for step in (rollover(folder).switch, rollover(folder).finish):
            with pytest.raises(OperatorFault, match="comes after"):
                step(db)
        rollover(folder).begin()
        with pytest.raises(OperatorFault, match="under way"):
            rollover(folder).begin()
        with pytest.raises(OperatorFault, match="under way"):
            rollover(folder).issuing(folder.path / "ca/root-key.pem")
        with pytest.raises(OperatorFault, match="comes after"):
            rollover(folder).finish(db)
    assert json.loads((folder.path / "ca/rollover.json").read_text())["step"] == "begun"
