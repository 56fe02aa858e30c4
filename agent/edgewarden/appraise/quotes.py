"""What a TPM's word is worth: one quote, judged without a TPM and without a TPM library.

Decides whether a quote vouches for exactly these claims, on the TPM that was enrolled, in this
boot. Knows no key: ``verify`` says whether a public area made a signature. In this order, and every
failure is a ``Contradiction`` with a stable name:

    ak_foreign          the attestation key is the enrolled one, byte for byte
    ak_attributes       it is restricted, fixed to its TPM, and signs only
    quote_signature     it signed the quote
    bad_tpm             magic, type, sizes, nothing behind (wire/tpm.py)
    quote_nonce         qualifying data = H(nonce, claims): neither replayed nor rewritten
    pcr_selection       SHA-256 bank, PCR 0 to 10: not fewer, not others, no other bank
    pcr_digest          the PCR values beside it are those it vouches for
    certify_signature   the same key certified the TLS key
    certify_name        the certified name is that of the TLS public area
    certify_signer      by the same attestation key, under the same parent
    certify_boot        in this boot
    tls_attributes      the TLS key cannot leave its TPM
    tls_key             it is the key of the certificate that signed the evidence: no relay
    tpm_reset           the TPM was reset while the system ran on
    reset_count         resets went back
    tpm_clock           or the clock did, within one reset

    judge(quoted, Bound(nonce, claims, boot_id, peer_key), enrolled, verify) -> Vouched
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cose, tpm
from edgewarden.wire.quoted import Quoted, TpmKeys, qualifying
from edgewarden.wire.tpm import Alg, Attribute, Certification, Public, Quote, Signature
from edgewarden.wire.tpm_quote import QUOTE_PCRS

Verify = Callable[[Public, bytes, Signature], bool]
"""(key, message, signature) -> did this key sign SHA-256 of the message."""

AK_ATTRIBUTES = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.RESTRICTED
    | Attribute.SIGN
)
"""Restricted: it signs only what the TPM itself made; nobody can have it sign a made-up quote."""
TLS_ATTRIBUTES = Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN
_AK_NEEDS, _TLS_NEEDS = int(AK_ATTRIBUTES), int(TLS_ATTRIBUTES)
_DECRYPT = int(Attribute.DECRYPT)
KEYS_KEPT = 4096
"""Of gateways: their public areas, which stay the same for years, and what was certified."""
_public = lru_cache(maxsize=2 * KEYS_KEPT)(tpm.parse_public)
_SELECTION = ((Alg.SHA256, QUOTE_PCRS),)


class Contradiction(Exception):
    """The TPM's part does not hold; name is one of the docstring's."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a TPM stood when it was last believed.

    Attributes:
        reset_count, clock_ms: of its TPMS_CLOCK_INFO.
        boot_id: of the evidence.
    """

    reset_count: int
    clock_ms: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What the verifier knows of the TPM by itself.

    Attributes:
        ak_public: TPMT_PUBLIC of the attestation key, from enrolment.
        keys, pcrs: of the last whole evidence that was believed; for the digest form.
        mark: of the last evidence that was believed.
    """

    ak_public: bytes
    keys: TpmKeys | None = None
    pcrs: Mapping[int, bytes] | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """What the quote must be about.

    Attributes:
        claims: the encoded claims, exactly as they stood in the payload.
        peer_key: COSE_Key of the certificate that signed the evidence.
    """

    nonce: bytes
    claims: bytes
    boot_id: bytes
    peer_key: bytes


@dataclass(frozen=True, slots=True)
class Vouched:
    """A quote that holds.

    Attributes:
        mark: to remember.
        pcrs: PCR values it vouches for; None when they moved and only their digest came.
    """

    mark: Mark
    keys: TpmKeys
    pcrs: Mapping[int, bytes] | None


def judge(quoted: Quoted, bound: Bound, enrolled: Enrolled, verify: Verify) -> Vouched | None:
    """Judge a quote; None when its keys are not known here yet (ask for the whole).

    Raises:
        Contradiction: see the module's docstring.
    """
    keys = quoted.keys or enrolled.keys
    if keys is None:
        return None
    try:
        quote = _quote(quoted, keys, bound, enrolled, verify)
        _check_tls_key(keys, quote, bound, verify)
    except WireRefusal as refusal:
        raise Contradiction(refusal.name, refusal.text) from None
    clock = quote.clock
    mark = Mark(clock.reset_count, clock.clock_ms, bound.boot_id)
    _check_monotonic(mark, enrolled.mark)
    return Vouched(mark, keys, _values(quoted, quote, enrolled))


def _quote(
    quoted: Quoted, keys: TpmKeys, bound: Bound, enrolled: Enrolled, verify: Verify
) -> Quote:
    if keys.ak_public != enrolled.ak_public:
        raise Contradiction("ak_foreign", "another attestation key than the enrolled one")
    ak = _public(keys.ak_public)
    has = int(ak.attributes)  # IntFlag's own & makes an object of every answer
    if has & _AK_NEEDS != _AK_NEEDS or has & _DECRYPT:
        raise Contradiction("ak_attributes", "the attestation key is not one that only quotes")
    if not verify(ak, quoted.quote, tpm.parse_signature(quoted.quote_signature)):
        raise Contradiction("quote_signature", "the attestation key did not sign the quote")
    quote = tpm.parse_quote(quoted.quote)
    if quote.qualifying != qualifying(bound.nonce, bound.claims):
        raise Contradiction("quote_nonce", "the quote is about another nonce or other claims")
    if quote.pcrs != _SELECTION:
        raise Contradiction("pcr_selection", "not PCR 0 to 10 of the SHA-256 bank, exactly")
    if quoted.pcrs is not None and tpm.pcr_digest(quoted.pcrs) != quote.pcr_digest:
        raise Contradiction("pcr_digest", "the PCR values are not those of the quote")
    return quote


def _check_tls_key(keys: TpmKeys, quote: Quote, bound: Bound, verify: Verify) -> None:
    certified, tls = _certified(keys, verify)
    if certified.signer != quote.signer:
        raise Contradiction("certify_signer", "certified by another key than the quote's")
    if certified.clock.reset_count != quote.clock.reset_count:
        raise Contradiction("certify_boot", "the TLS key was certified in another boot")
    if int(tls.attributes) & _TLS_NEEDS != _TLS_NEEDS:
        raise Contradiction("tls_attributes", "the TLS key may leave its TPM")
    if tls.point != cose.decode_key(bound.peer_key):
        raise Contradiction("tls_key", "the TPM vouches for another key than the certificate's")


@lru_cache(maxsize=KEYS_KEPT)
def _certified(keys: TpmKeys, verify: Verify) -> tuple[Certification, Public]:
    """What the attestation key says of the TLS key; a gateway shows the same for a whole boot, and
    whoever showed the very same bytes before is believed by memory (a refusal is not kept)."""
    ak = _public(keys.ak_public)
    if not verify(ak, keys.certify, tpm.parse_signature(keys.certify_signature)):
        raise Contradiction("certify_signature", "the attestation key did not certify the TLS key")
    certified = tpm.parse_certify(keys.certify)
    tls = _public(keys.tls_public)
    if certified.name != tls.name:
        raise Contradiction("certify_name", "another key was certified")
    return certified, tls


def _check_monotonic(now: Mark, before: Mark | None) -> None:
    if before is None:
        return
    if now.boot_id == before.boot_id and now.reset_count != before.reset_count:
        raise Contradiction("tpm_reset", "the TPM was reset while the system ran on")
    if now.reset_count < before.reset_count:
        raise Contradiction(
            "reset_count", f"{now.reset_count} TPM resets, {before.reset_count} were seen"
        )
    if now.reset_count == before.reset_count and now.clock_ms < before.clock_ms:
        raise Contradiction("tpm_clock", "the TPM's clock went back within one reset")


def _values(quoted: Quoted, quote: Quote, enrolled: Enrolled) -> Mapping[int, bytes] | None:
    """PCR values beside the quote, or remembered ones if it still vouches for them."""
    if quoted.pcrs is not None:
        return quoted.pcrs
    if enrolled.pcrs is not None and tpm.pcr_digest(enrolled.pcrs) == quote.pcr_digest:
        return enrolled.pcrs
    return None
