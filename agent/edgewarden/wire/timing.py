"""Signed time: what the fleet answers to a nonce, and what of it a gateway keeps.

    POST /v1/time   32 random bytes → COSE_Sign1 by the verifier's key, content type
                    application/ew-time+cbor: {0: 1, 1: tenant, 2: nonce, 3: ms since 1970}
    state/link/time CBOR {0: 1, 1: boot id, 2: floor_ns, 3: floor_boot_ns, 4: moment or null}, and
                    the first 16 bytes of its SHA-256; a moment is [boot_ns, utc_ns, uncertainty_ms]
    anchor          an audit event with code EW-HOST-021, detail {"utc_ns", "uncertainty_ms",
                    "source"}, true at its seen_mono_ns

Shapes only: refusals ``bad_time``.
"""

from __future__ import annotations

import hashlib

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.record import is_identifier

FORMAT = 1
NONCE_BYTES = 32
MAX_TIME_BYTES = 1024
MAX_FILE_BYTES = 512
MAX_NS = 2**63 - 1
"""The year 2262: what fits the nanoseconds of a kernel, of SQLite and of CBOR."""
MAX_UTC_MS = MAX_NS // 10**6
ANCHOR_CODE = "EW-HOST-021"
_CHECKSUM_BYTES = 16


@dataclass(frozen=True, slots=True)
class SignedTime:
    """The fleet's time when it answered."""

    tenant: str
    nonce: bytes
    utc_ms: int


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of one boot whose time is known: CLOCK_BOOTTIME, time since 1970, how far off."""

    boot_ns: int
    utc_ns: int
    uncertainty_ms: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What survives a restart; floor_boot_ns and moment are of the boot they name."""

    boot_id: bytes
    floor_ns: int
    floor_boot_ns: int
    moment: Moment | None


def encode_time(time: SignedTime) -> bytes:
    """Payload of an answer."""
    return cbor.encode({0: FORMAT, 1: time.tenant, 2: time.nonce, 3: time.utc_ms})


def decode_time(payload: bytes) -> SignedTime:
    """Read a verified answer; raises WireRefusal."""
    body = cbor.decode(payload, MAX_TIME_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(4)) or not _is(body[0], FORMAT):
        raise WireRefusal("bad_time", "not the four fields of a signed time")
    tenant, nonce, utc_ms = body[1], body[2], body[3]
    if not isinstance(tenant, str) or not is_identifier(tenant):
        raise WireRefusal("bad_time", "tenant is not an identifier")
    if not isinstance(nonce, bytes) or len(nonce) != NONCE_BYTES:
        raise WireRefusal("bad_time", "nonce is not 32 bytes")
    if not isinstance(utc_ms, int) or isinstance(utc_ms, bool) or not 0 <= utc_ms <= MAX_UTC_MS:
        raise WireRefusal("bad_time", "no time that a calendar has")
    return SignedTime(tenant, nonce, utc_ms)


def encode_kept(kept: Kept) -> bytes:
    """The file's bytes."""
    m = kept.moment
    moment: cbor.Value = None if m is None else [m.boot_ns, m.utc_ns, m.uncertainty_ms]
    body = cbor.encode(
        {0: FORMAT, 1: kept.boot_id, 2: kept.floor_ns, 3: kept.floor_boot_ns, 4: moment}
    )
    return body + _checksum(body)


def decode_kept(data: bytes) -> Kept:
    """Read the file; raises WireRefusal."""
    encoded = data[:-_CHECKSUM_BYTES]
    if data[-_CHECKSUM_BYTES:] != _checksum(encoded):
        raise WireRefusal("bad_time", "the checksum does not fit")
    body = cbor.decode(encoded, MAX_FILE_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(5)) or not _is(body[0], FORMAT):
        raise WireRefusal("bad_time", "not the five fields of a kept time")
    boot_id, floor_ns, floor_boot_ns = body[1], body[2], body[3]
    if not isinstance(boot_id, bytes) or len(boot_id) != 16:
        raise WireRefusal("bad_time", "boot id is not 16 bytes")
    if not _is_ns(floor_ns) or not _is_ns(floor_boot_ns):
        raise WireRefusal("bad_time", "a time is out of range")
    assert isinstance(floor_ns, int)
    assert isinstance(floor_boot_ns, int)
    return Kept(boot_id, floor_ns, floor_boot_ns, _moment(body[4]))


def moment_from(boot_ns: object, utc_ns: object, uncertainty_ms: object) -> Moment | None:
    """A moment from parts that somebody sent; None when they are none."""
    if not _is_ns(boot_ns) or not _is_ns(utc_ns) or not _is_ns(uncertainty_ms):
        return None
    assert isinstance(boot_ns, int)
    assert isinstance(utc_ns, int)
    assert isinstance(uncertainty_ms, int)
    return Moment(boot_ns, utc_ns, uncertainty_ms)


def _moment(value: object) -> Moment | None:
    if value is None:
        return None
    found = moment_from(*value) if isinstance(value, list) and len(value) == 3 else None
    if found is None:
        raise WireRefusal("bad_time", "a moment is not three times")
    return found


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


def _is(value: object, wanted: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value == wanted


def _is_ns(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_NS
