"""No bytes in an x5chain end in anything but a refusal by name.

Whoever may publish may send any chain: what escapes here would end the ingest worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from edgewarden.errors import WireRefusal
from edgewarden_fleet.verify.chain import check_chain
from tests.fleet.makers import Desk, new_key

VALUES = (0x00, 0x01, 0x02, 0x05, 0x06, 0x0C, 0x30, 0x7F, 0x80, 0x81, 0x82, 0xA0, 0xA3, 0xFF)
"""DER's own tags and lengths, where a parser changes its mind."""
HEAD_BYTES = 16
"""Outer lengths, version and serial number: every value is tried."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    made = Desk(tmp_path_factory.mktemp("desk"), durable=False)
    yield made
    made.close()


def altered(certificate: bytes) -> Iterator[bytes]:
    for at, was in enumerate(certificate):
        for value in range(256) if at < HEAD_BYTES else VALUES:
            if value != was:
                yield certificate[:at] + bytes([value]) + certificate[at + 1 :]


@pytest.mark.parametrize("which", [0, 1], ids=["leaf", "issuing"])
def test_an_altered_certificate_is_refused_or_names_the_same_gateway(
    desk: Desk, which: int
) -> None:
    chain = desk.enrol(f"gw-{which}", new_key())
    honest = check_chain(chain, [desk.root.certificate], desk.now)
    refused = accepted = 0
    for data in altered(chain[which]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # cryptography warns of odd names and serials
            try:
                found = check_chain(
                    [data if n == which else c for n, c in enumerate(chain)],
                    [desk.root.certificate],
                    desk.now,
                )
            except WireRefusal:
                refused += 1
                continue
        # cryptography 50 reads a signature whose BIT STRING claims unused zero bits.
        assert found == honest
        accepted += 1
    assert refused > 5_000
    assert accepted <= 8
