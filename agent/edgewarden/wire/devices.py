"""What is said of devices behind the gateway: an operator's word to it, and its own word upstream.

**Word**: a line of ``STATE/devices.words``, which root writes and link reads (tmpfiles.d: link can
read there and not write). Each has an id of its own and is carried out once.

    {"id":"9f..","verb":"reset","device":"press-1","why":"board replaced","at_utc_s":1700000000}

**Statement**: the claims-set of one submodule (RFC 9711 §4.2.18), detached: it travels in a record,
and evidence names its SHA-256. It carries the device's own evidence where it gave some, so that
whoever reads it need not believe the gateway's verdict.

Shapes only. Refusals: ``bad_word``, ``bad_statement``.
"""

from __future__ import annotations

import json
from enum import StrEnum

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cbor
from edgewarden.wire.evidence import Tier
from edgewarden.wire.record import is_identifier

WORDS_NAME = "devices.words"
MAX_WORDS = 64
"""Words kept in the file and ids remembered by link: the same number, so that none comes back."""
MAX_WORDS_BYTES = 128 * 1024
"""64 words whose reasons are 200 characters that JSON escapes."""
ID_BYTES = 16
MAX_WHY_CHARS = 200

MAX_STATEMENT_BYTES = 6 * 1024
MAX_DEVICE_EVIDENCE_BYTES = 4 * 1024
"""A PSA token is 400 bytes to 1 kB; the statement around it is 300."""
STATEMENT_PROFILE = "urn:edgewarden:device:1"


class Verb(StrEnum):
    """What an operator can say of a device."""

    RESET = "reset"
    LIFT = "lift"
    RETIRE = "retire"


@dataclass(frozen=True, slots=True)
class Word:
    """One word of an operator."""

    id: bytes
    verb: Verb
    device: str
    why: str
    at_utc_s: int


def encode_words(words: list[Word]) -> bytes:
    """The file: the newest MAX_WORDS, one a line."""
    return b"".join(
        json.dumps(
            {
                "id": w.id.hex(), "verb": w.verb.value, "device": w.device, "why": w.why,
                "at_utc_s": w.at_utc_s,
            },
            separators=(",", ":"),
        ).encode() + b"\n"
        for w in words[-MAX_WORDS:]
    )  # fmt: skip


def parse_words(data: bytes) -> list[Word]:
    """Read the file whole or not at all; raises WireRefusal("bad_word")."""
    if len(data) > MAX_WORDS_BYTES:
        raise WireRefusal("bad_word", f"{len(data)} bytes, at most {MAX_WORDS_BYTES}")
    lines = data.split(b"\n")
    if lines.pop() or len(lines) > MAX_WORDS:
        raise WireRefusal("bad_word", "the last line is cut, or there are too many")
    return [_word(line, number) for number, line in enumerate(lines, 1)]


def _word(line: bytes, number: int) -> Word:
    try:
        body = json.loads(line)
        if set(body) != {"id", "verb", "device", "why", "at_utc_s"}:
            raise ValueError("not exactly the fields of a word")
        word = Word(
            bytes.fromhex(body["id"]), Verb(body["verb"]), body["device"], body["why"],
            body["at_utc_s"],
        )  # fmt: skip
    except (ValueError, TypeError, RecursionError) as fault:
        raise WireRefusal("bad_word", f"line {number}: {fault}"[:200]) from None
    if len(word.id) != ID_BYTES or not isinstance(word.device, str):
        raise WireRefusal("bad_word", f"line {number}: an id of another length, or no device")
    if not is_identifier(word.device) or not isinstance(word.why, str):
        raise WireRefusal("bad_word", f"line {number}: the device is no name, or why no text")
    if type(word.at_utc_s) is not int or not 0 <= word.at_utc_s < 1 << 63:
        raise WireRefusal("bad_word", f"line {number}: the time is no number, or none there is")
    if len(word.why) > MAX_WHY_CHARS:
        raise WireRefusal("bad_word", f"line {number}: why is too long")
    return word


@dataclass(frozen=True, slots=True)
class Statement:
    """What the gateway says of one device.

    Attributes:
        key: SHA-256 of the SubjectPublicKeyInfo that is pinned; b"" when none is.
        lineage: how many keys were pinned so far.
        tier: what the gateway makes of it; NONE = a certificate and nothing more.
        why: one line.
        signed_by: COSE_Key that the device's evidence was held to; b"" without evidence.
        named: whether an operator named that key; else it is the certificate's own.
        nonce: of the challenge that the evidence answers.
        evidence: the device's own message (COSE_Sign1), as it came; b"" for none.
        at_utc_s: wall time of the last change, as good as this gateway knew it.
    """

    device: str
    key: bytes
    lineage: int
    tier: Tier
    why: str
    signed_by: bytes
    named: bool
    nonce: bytes
    evidence: bytes
    at_utc_s: int


_SUB, _PROFILE, _IAT, _NONCE = 2, 265, 6, 10
_KEY, _LINEAGE, _TIER, _WHY, _SIGNED_BY, _NAMED, _EVIDENCE = range(-70021, -70028, -1)
_STATEMENT_KEYS = {
    _SUB, _PROFILE, _IAT, _NONCE, _KEY, _LINEAGE, _TIER, _WHY, _SIGNED_BY, _NAMED, _EVIDENCE,
}  # fmt: skip


def encode_statement(s: Statement) -> bytes:
    """The detached claims-set."""
    return cbor.encode(
        {
            _SUB: s.device, _PROFILE: STATEMENT_PROFILE, _IAT: s.at_utc_s, _NONCE: s.nonce,
            _KEY: s.key, _LINEAGE: s.lineage, _TIER: int(s.tier), _WHY: s.why,
            _SIGNED_BY: s.signed_by, _NAMED: s.named, _EVIDENCE: s.evidence,
        }
    )  # fmt: skip


def decode_statement(data: bytes) -> Statement:
    """Read a detached claims-set; raises WireRefusal("bad_statement")."""
    try:
        body = cbor.decode(data, MAX_STATEMENT_BYTES)
    except WireRefusal as refusal:
        raise WireRefusal("bad_statement", refusal.text) from None
    if not isinstance(body, dict) or set(body) != _STATEMENT_KEYS:
        raise WireRefusal("bad_statement", "not exactly the claims of a device")
    if body[_PROFILE] != STATEMENT_PROFILE:
        raise WireRefusal("bad_statement", "another profile")
    device, why, tier = body[_SUB], body[_WHY], body[_TIER]
    if not isinstance(device, str) or not is_identifier(device):
        raise WireRefusal("bad_statement", "the device is no identifier")
    if not isinstance(why, str) or len(why) > MAX_WHY_CHARS or not isinstance(body[_NAMED], bool):
        raise WireRefusal("bad_statement", "why or named has another type")
    for number in (body[_LINEAGE], body[_IAT], tier):
        if type(number) is not int or not 0 <= number < 1 << 63:
            raise WireRefusal("bad_statement", "a number is none, or out of range")
    if tier not in set(Tier):
        raise WireRefusal("bad_statement", "the tier is none")
    for claim, lengths in ((_KEY, (0, 32)), (_NONCE, (0, 32))):
        if not isinstance(body[claim], bytes) or len(body[claim]) not in lengths:
            raise WireRefusal("bad_statement", "key or nonce has another length")
    for claim, most in ((_SIGNED_BY, 256), (_EVIDENCE, MAX_DEVICE_EVIDENCE_BYTES)):
        if not isinstance(body[claim], bytes) or len(body[claim]) > most:
            raise WireRefusal("bad_statement", "its evidence or key is none, or too long")
    return Statement(
        device, body[_KEY], body[_LINEAGE], Tier(tier), why, body[_SIGNED_BY], body[_NAMED],
        body[_NONCE], body[_EVIDENCE], body[_IAT],
    )  # fmt: skip
