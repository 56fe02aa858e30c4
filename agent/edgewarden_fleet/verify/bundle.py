"""A bundle: stored evidence with everything its appraisal went by, signed by who appraised it.

What ``edgewarden-fleet evidence ID --out FILE`` writes and ``appraise FILE`` reads. One COSE_Sign1
(content type appraisal) by the verifier's key over this map:

    0 format (1)   1 tenant   2 device   3 evidence message   4 result message   5 facts
    6 [reference set message, ...]   7 issuing certificate, DER, or empty: digest form leaves it out
    ? 8 [what the gateway says of a device behind it, ...], as its evidence names them

Facts are the first verifier's word (a second one has no way to know what was stored when); the
evidence and the reference sets prove themselves. Refusal: ``bad_bundle``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from edgewarden.appraise.quotes import Enrolled, Mark
from edgewarden.errors import WireRefusal
from edgewarden.ports import Signer
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cbor, cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.fields import GRADES
from edgewarden.wire.quoted import TpmKeys
from edgewarden.wire.record import MAX_SEQ, RecordClass, is_identifier
from edgewarden.wire.tpm_quote import QUOTE_PCRS
from edgewarden_fleet.verify.appraising import Facts

FORMAT = 1
MAX_BUNDLE_BYTES = 512 * 1024
"""Evidence and result are 5 kB, a reference set 0.5 kB; a fleet of many releases has dozens. 64
devices with evidence of their own are 280 kB."""
_LATEST_S = 253_402_300_799.0
"""The end of the year 9999, the last that has a date (datetime.MAXYEAR)."""
_PCR_BYTES = 32


@dataclass(frozen=True, slots=True)
class Bundle:
    """One piece of evidence, what became of it, and why.

    Attributes:
        sets: signed reference sets that applied.
        detached: statements on devices, those of them that are still kept.
    """

    tenant: str
    device: str
    evidence: bytes
    result: bytes
    facts: Facts
    sets: tuple[bytes, ...]
    issuing: bytes = b""
    detached: tuple[bytes, ...] = ()


def seal(bundle: Bundle, signer: Signer) -> bytes:
    """The signed bundle."""
    b = bundle
    payload = cbor.encode(
        {
            0: FORMAT, 1: b.tenant, 2: b.device, 3: b.evidence, 4: b.result,
            5: encode_facts(b.facts), 6: list(b.sets), 7: b.issuing,
            **({8: list(b.detached)} if b.detached else {}),
        }
    )  # fmt: skip
    return cose.seal(payload, ContentType.APPRAISAL, signer.kid, signer.sign)


def unseal(message: bytes, cose_key: bytes) -> Bundle:
    """Read a bundle that this key signed.

    Raises:
        WireRefusal: names of the envelope, ``unknown_key``, ``bad_signature``, ``bad_bundle``.
    """
    envelope = cose.open_envelope(message, ContentType.APPRAISAL, MAX_BUNDLE_BYTES)
    if envelope.kid != key_id(cose_key):
        raise WireRefusal("unknown_key", "not signed by the verifier that is named")
    cose.check_signature(envelope, verifier_for(cose_key))
    body = cbor.decode(envelope.payload, MAX_BUNDLE_BYTES)
    if not isinstance(body, dict) or set(body) - {8} != set(range(8)) or body[0] != FORMAT:
        raise WireRefusal("bad_bundle", "not the fields of a bundle")
    tenant, device, evidence, result, facts, sets, issuing = (body[n] for n in range(1, 8))
    if not all(isinstance(name, str) and is_identifier(name) for name in (tenant, device)):
        raise WireRefusal("bad_bundle", "tenant or device is not an identifier")
    detached = body.get(8, [])
    if not isinstance(sets, list) or not isinstance(detached, list):
        raise WireRefusal("bad_bundle", "sets or statements are no list")
    if not all(isinstance(p, bytes) for p in (evidence, result, facts, issuing, *sets, *detached)):
        raise WireRefusal("bad_bundle", "a message is not a byte string")
    known = replace(
        decode_facts(facts), detached={hashlib.sha256(one).digest(): one for one in detached}
    )
    return Bundle(tenant, device, evidence, result, known, tuple(sets), issuing, tuple(detached))


def encode_facts(f: Facts) -> bytes:
    """Facts as they are kept beside a result."""
    return cbor.encode(
        {
            0: FORMAT, 1: f.grade, 2: f.revoked, 3: f.key_boot, 4: f.asked_utc_s,
            5: f.expires_utc_s, 6: f.received_utc_s, 7: {int(c): n for c, n in f.heads.items()},
            8: {int(c): h for c, h in f.hashes.items()},
            9: {int(c): list(gap) for c, gap in f.withheld.items()}, 10: _enrolled(f.enrolled),
            11: f.late, 12: f.age_s, 13: f.quarantine,
        }
    )  # fmt: skip


def decode_facts(data: bytes) -> Facts:
    """Read facts; raises WireRefusal("bad_bundle")."""
    body = cbor.decode(data, MAX_BUNDLE_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(14)) or body[0] != FORMAT:
        raise WireRefusal("bad_bundle", "not the facts of an appraisal")
    try:
        return Facts(
            grade=GRADES[GRADES.index(body[1])],
            revoked=_truth(body[2]),
            key_boot=None if body[3] is None else _bytes(body[3]),
            asked_utc_s=_moment(body[4]),
            expires_utc_s=_moment(body[5]),
            received_utc_s=_moment(body[6]),
            heads={RecordClass(c): _sequence(n) for c, n in body[7].items()},
            hashes={RecordClass(c): None if h is None else _bytes(h) for c, h in body[8].items()},
            withheld={
                RecordClass(c): (_sequence(a), _sequence(b)) for c, (a, b) in body[9].items()
            },
            enrolled=_read_enrolled(body[10]),
            late=_truth(body[11]),
            age_s=None if body[12] is None else _moment(body[12]),
            quarantine=_text(body[13]),
        )
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as fault:
        raise WireRefusal("bad_bundle", f"facts cannot be read: {fault}") from None


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not true or false")
    return value


def _enrolled(e: Enrolled | None) -> Sequence[cbor.Value] | None:
    if e is None:
        return None
    k, m = e.keys, e.mark
    keys = None if k is None else [k.ak_public, k.tls_public, k.certify, k.certify_signature]
    mark: list[cbor.Value] | None = None
    if m is not None:
        mark = [m.reset_count, m.clock_ms, m.boot_id]
    return [e.ak_public, keys, None if e.pcrs is None else dict(e.pcrs), mark]


def _read_enrolled(value: Sequence[object] | None) -> Enrolled | None:
    if value is None:
        return None
    ak_public, keys, pcrs, mark = value
    shown = None if keys is None else TpmKeys(*map(_bytes, _list(keys, 4)))
    values: Mapping[int, bytes] | None = None
    if pcrs is not None:
        if not isinstance(pcrs, dict):
            raise TypeError("PCR values are not a map")
        if set(pcrs) != QUOTE_PCRS:
            raise ValueError("PCR values are not those of PCR 0 to 10")
        values = {n: _digest(v) for n, v in pcrs.items()}
    seen = None
    if mark is not None:
        resets, clock_ms, boot_id = _list(mark, 3)
        seen = Mark(_int(resets), _int(clock_ms), _bytes(boot_id))
    return Enrolled(_bytes(ak_public), shown, values, seen)


def _list(value: object, length: int) -> list[object]:
    if not isinstance(value, list) or len(value) != length:
        raise TypeError(f"not an array of {length}")
    return value


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not a byte string")
    return value


def _digest(value: object) -> bytes:
    if not isinstance(value, bytes) or len(value) != _PCR_BYTES:
        raise TypeError("a PCR value is not 32 bytes")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _moment(value: float) -> float:
    """Seconds, since 1970 or of an age; not NaN, which is in every window and in none. What is no
    number has no order, either."""
    if isinstance(value, bool) or not 0 <= value <= _LATEST_S:
        raise ValueError("not a moment that a clock says")
    return float(value)


def _sequence(value: object) -> int:
    number = _int(value)
    if not 0 <= number <= MAX_SEQ:
        raise ValueError("not a sequence")
    return number


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError("not an integer")
    return value
