"""TPM structures: what a real chip wrote is read as it meant it; nothing else gets through."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.wire import tpm
from edgewarden.wire.tpm import Alg, Attribute
from edgewarden.wire.tpm_quote import QUOTE_PCRS
from tests.wire.tpm_vectors import PCRS, QUOTE, RECORDED

Parse = Callable[[bytes], object]
PARSERS: dict[str, Parse] = {
    "quote": tpm.parse_quote,
    "rsa_quote": tpm.parse_quote,
    "quote_of_two_banks": tpm.parse_quote,
    "certify": tpm.parse_certify,
    "ak_public": tpm.parse_public,
    "tls_public": tpm.parse_public,
    "ek_public": tpm.parse_public,
    "rsa_ek_public": tpm.parse_public,
    "rsa_ak_public": tpm.parse_public,
    "quote_signature": tpm.parse_signature,
    "certify_signature": tpm.parse_signature,
    "rsa_quote_signature": tpm.parse_signature,
}


def test_a_recorded_quote() -> None:
    quote = tpm.parse_quote(QUOTE.quote)
    assert quote.qualifying == hashlib.sha256(b"qualifying").digest()
    assert quote.pcrs == ((Alg.SHA256, QUOTE_PCRS),)
    assert quote.pcr_digest == tpm.pcr_digest(PCRS)
    assert (quote.clock.reset_count, quote.clock.restart_count, quote.clock.safe) == (2, 0, True)
    assert 0 < quote.clock.clock_ms < 60_000


def test_a_recorded_quote_over_two_banks() -> None:
    quote = tpm.parse_quote(RECORDED["quote_of_two_banks"])
    assert quote.pcrs == ((Alg.SHA1, frozenset()), (Alg.SHA256, frozenset({0, 23})))


def test_a_recorded_certification_names_the_key() -> None:
    certified = tpm.parse_certify(QUOTE.certify)
    assert certified.name == tpm.parse_public(QUOTE.tls_public).name
    assert certified.signer == tpm.parse_quote(QUOTE.quote).signer


@pytest.mark.parametrize("key", ["ak", "rsa_ak"])
def test_names_are_those_of_the_tpm(key: str) -> None:
    """tpm2-tools asked the TPM for the name; we compute it."""
    assert tpm.parse_public(RECORDED[f"{key}_public"]).name == RECORDED[f"{key}_name"]


def test_attributes() -> None:
    ak = tpm.parse_public(QUOTE.ak_public)
    tls = tpm.parse_public(QUOTE.tls_public)
    assert ak.attributes & Attribute.RESTRICTED
    assert not tls.attributes & Attribute.RESTRICTED
    assert ak.scheme is tls.scheme is Alg.ECDSA


def test_a_short_coordinate_is_padded_and_keeps_its_name() -> None:
    short = QUOTE.ak_public[:20] + b"\x00\x01\x07" + QUOTE.ak_public[54:]
    public = tpm.parse_public(short)
    assert public.point is not None
    assert public.point[0] == bytes(31) + b"\x07"
    assert public.name[2:] == hashlib.sha256(short).digest()


@pytest.mark.parametrize("name", PARSERS)
def test_every_byte_counts(name: str) -> None:
    """A structure cut anywhere, or longer by anything, is refused."""
    data, parse = RECORDED[name], PARSERS[name]
    parse(data)
    for cut in range(len(data)):
        with pytest.raises(WireRefusal, match="bad_tpm"):
            parse(data[:cut])
    with pytest.raises(WireRefusal, match="bad_tpm"):
        parse(data + b"\0")


def only_refuses(parse: Parse, data: bytes) -> None:
    with contextlib.suppress(WireRefusal):
        parse(data)


@given(st.sampled_from(sorted(PARSERS)), st.data())
def test_mutated_recordings_end_in_a_value_or_a_refusal(name: str, draw: st.DataObject) -> None:
    data = bytearray(RECORDED[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(data)))
    more = draw.draw(st.binary(max_size=8))
    for parse in set(PARSERS.values()):
        only_refuses(parse, bytes(data))
        only_refuses(parse, bytes(data[:cut]) + more)


@given(st.binary(max_size=1100))
@example(b"")
def test_any_bytes_end_in_a_value_or_a_refusal(data: bytes) -> None:
    for parse in set(PARSERS.values()):
        only_refuses(parse, data)
