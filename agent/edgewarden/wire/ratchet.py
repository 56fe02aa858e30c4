"""The continuity token on the wire and on the gateway's disk.

    in evidence    [step, token, mark]   what the gateway holds, and the mark it spends it with
    in a result    [step, token]         the next token, or null when none is given
    on the disk    one slot of state/link/continuity (trust/continuity.py): a length in two bytes,
                   CBOR {0: 1, 1: tenant, 2: device, 3: step, 4: token, 5: mark or null,
                   6: generation}, and the first 16 bytes of its SHA-256

Token: 32 bytes; step 0's is 32 zero bytes, which every new gateway holds. Mark: 16 random bytes
that the gateway chooses and makes durable before the token leaves it. Shapes only; what they mean
is order/ratchet.py.
"""

from __future__ import annotations

import hashlib
from typing import TypeGuard

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.record import MAX_SEQ, is_identifier

TOKEN_BYTES = 32
MARK_BYTES = 16
"""128 bits: two copies choose the same mark once in 2^64 copies."""
FIRST_TOKEN = bytes(TOKEN_BYTES)
MAX_SLOT_BYTES = 512
"""A sector: two names of 63 characters leave half of it free."""
_FORMAT, _CHECKSUM_BYTES = 1, 16


@dataclass(frozen=True, slots=True)
class Spent:
    """One presentation: a token and the mark it is spent with."""

    step: int
    token: bytes
    mark: bytes


@dataclass(frozen=True, slots=True)
class Issued:
    """A token as the fleet hands it out."""

    step: int
    token: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """What a gateway keeps; mark is None until the token is spent for the first time."""

    step: int = 0
    token: bytes = FIRST_TOKEN
    mark: bytes | None = None


NOTHING_SPENT = Spent(0, FIRST_TOKEN, bytes(MARK_BYTES))


def spent_to_list(spent: Spent) -> list[int | bytes]:
    """As it stands in evidence."""
    return [spent.step, spent.token, spent.mark]


def spent_from(value: object) -> Spent | None:
    """Read evidence's member; None when it is not one."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    step, token, mark = value
    if not _is_step(step) or not _is_blob(token, TOKEN_BYTES) or not _is_blob(mark, MARK_BYTES):
        return None
    return Spent(step, token, mark)


def issued_to_list(issued: Issued | None) -> list[int | bytes] | None:
    """As it stands in a result."""
    return None if issued is None else [issued.step, issued.token]


def issued_from(value: object) -> Issued | None:
    """Read a result's member, which is not null; None when it is not one."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    step, token = value
    if not _is_step(step) or step == 0 or not _is_blob(token, TOKEN_BYTES):
        return None
    return Issued(step, token)


def encode_slot(tenant: str, device: str, held: Held, generation: int) -> bytes:
    """One slot of the file."""
    body = cbor.encode(
        {
            0: _FORMAT, 1: tenant, 2: device, 3: held.step, 4: held.token, 5: held.mark,
            6: generation,
        }
    )  # fmt: skip
    return len(body).to_bytes(2, "big") + body + _checksum(body)


def decode_slot(data: bytes) -> tuple[str, str, Held, int]:
    """(tenant, device, held, generation); raises WireRefusal (names of cbor.py, ``bad_token``)."""
    end = 2 + int.from_bytes(data[:2], "big")
    encoded = data[2:end]
    if not encoded or data[end : end + _CHECKSUM_BYTES] != _checksum(encoded):
        raise WireRefusal("bad_token", "its checksum does not fit")
    body = cbor.decode(encoded, MAX_SLOT_BYTES)
    if not isinstance(body, dict) or set(body) != set(range(7)) or body[0] != _FORMAT:
        raise WireRefusal("bad_token", "not the seven fields of a continuity token")
    tenant, device, step, token, mark, generation = (body[key] for key in range(1, 7))
    if not isinstance(tenant, str) or not isinstance(device, str):
        raise WireRefusal("bad_token", "it names no gateway")
    if not is_identifier(tenant) or not is_identifier(device):
        raise WireRefusal("bad_token", "it names no gateway")
    if not _is_step(step) or not _is_step(generation) or not _is_blob(token, TOKEN_BYTES):
        raise WireRefusal("bad_token", "step, token or generation is out of range")
    if mark is not None and not _is_blob(mark, MARK_BYTES):
        raise WireRefusal("bad_token", "its mark is not 16 bytes")
    return tenant, device, Held(step, token, mark), generation


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]


def _is_step(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SEQ


def _is_blob(value: object, length: int) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) == length
