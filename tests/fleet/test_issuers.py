"""What a CA signed is held to what was asked for, before anything is registered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgewarden.errors import PeerFault
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.issuers import BuiltIn, Chain, Wanted, checked
from tests.fleet.makers import NOW, TENANT, authority, new_key

ROOT, ISSUING = authority(NOW)
KEY = new_key().public_key()
WANTED = Wanted(TENANT, "gw-demo", KEY, "")


def made(key: object = KEY, tenant: str = TENANT, device: str = "gw-demo", board: int = 1) -> Chain:
    leaf = certificates.make_gateway(ISSUING, key, tenant, device, NOW, board=board)  # type: ignore[arg-type]
    return Chain(leaf, ISSUING.certificate)


def elsewhere() -> Chain:
    _, other = authority(NOW)
    leaf = certificates.make_gateway(other, KEY, TENANT, "gw-demo", NOW)
    return Chain(leaf, other.certificate)


def as_a_server() -> Chain:
    leaf = certificates.make_server(ISSUING, KEY, ["gw-demo"], NOW)
    return Chain(leaf, ISSUING.certificate)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: made(device="gw-other"), "another gateway"),
        (lambda: made(tenant="north"), "another gateway"),
        (lambda: made(key=new_key().public_key()), "another key"),
        (lambda: made(board=2), "another board"),
        (elsewhere, "root"),
        (as_a_server, "clients"),
    ],
    ids=["device", "tenant", "key", "board", "root", "purpose"],
)
def test_anything_else_is_refused(make: Callable[[], Chain], why: str) -> None:
    with pytest.raises(PeerFault, match=why) as refused:
        checked(make(), WANTED, [ROOT.certificate], NOW)
    assert refused.value.code == "EW-ID-040"


def test_what_was_asked_for_is_believed() -> None:
    chain = BuiltIn(Authority(ISSUING.certificate, ISSUING.key)).issue(WANTED, NOW)
    assert checked(chain, WANTED, [ROOT.certificate], NOW) == chain
