"""The bytes of gate's word on one USB device or serial port; registered in local.py.

What this decides: the bytes. Texts are cut to their bound, never refused: gate
must not fail on a long serial number. What it leaves to others: header and type (local.py).

    head (_HEAD), then each of TEXTS as its bytes, then the interfaces, three bytes each
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import DIGEST_BYTES
from edgewarden.wire.local_messages import MODES
from edgewarden.wire.peripherals import KINDS, OUTCOMES, REASONS, PeripheralVerdict

TEXTS = {"place": 200, "rule": 64, "text": 160, "serial": 128, "product": 80, "driver": 64}
"""Name and most bytes of each text, in their order."""
MAX_INTERFACES = 32
"""Told of one device; all of them count for the verdict."""

_HEAD = struct.Struct("<BBBBBHHIQBB6B")
"""kind, outcome, reason, mode, effective, vid, pid, devnum, boot_ns, length of the digest, number
of interfaces, lengths of the texts."""


def peripheral_body(m: PeripheralVerdict) -> bytes:
    """The bytes behind the header."""
    texts = [_cut(getattr(m, name), most) for name, most in TEXTS.items()]
    interfaces = m.interfaces[:MAX_INTERFACES]
    head = _HEAD.pack(
        KINDS.index(m.kind), OUTCOMES.index(m.decision), REASONS.index(m.reason),
        MODES.index(m.mode), m.effective, m.vid, m.pid, m.devnum & 0xFFFFFFFF, m.boot_ns,
        len(m.descriptors), len(interfaces), *map(len, texts),
    )  # fmt: skip
    return head + b"".join(texts) + m.descriptors + bytes(b for t in interfaces for b in t)


def peripheral_parse(body: bytes) -> PeripheralVerdict:
    """The value of what ``peripheral_body`` made.

    Raises:
        WireRefusal: bad_length, bad_value.
    """
    if len(body) < _HEAD.size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    (
        kind,
        outcome,
        reason,
        mode,
        effective,
        vid,
        pid,
        devnum,
        boot_ns,
        n_digest,
        n_faces,
        *lengths,
    ) = _HEAD.unpack_from(body)
    if len(body) != _HEAD.size + sum(lengths) + n_digest + 3 * n_faces:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    too_long = any(n > most for n, most in zip(lengths, TEXTS.values(), strict=True))
    if too_long or n_digest not in (0, DIGEST_BYTES) or n_faces > MAX_INTERFACES or effective > 1:
        raise WireRefusal("bad_value", f"lengths {lengths}, {n_digest}, {n_faces}")
    words = []
    for index, known in ((kind, KINDS), (outcome, OUTCOMES), (reason, REASONS), (mode, MODES)):
        if index >= len(known):
            raise WireRefusal("bad_value", f"{index} of {len(known)} words")
        words.append(known[index])
    at = _HEAD.size
    texts = []
    for length in lengths:
        try:
            texts.append(body[at : at + length].decode("utf-8"))
        except UnicodeDecodeError:
            raise WireRefusal("bad_value", "a text is not UTF-8") from None
        at += length
    digest, faces = body[at : at + n_digest], body[at + n_digest :]
    triples = tuple((faces[i], faces[i + 1], faces[i + 2]) for i in range(0, 3 * n_faces, 3))
    return PeripheralVerdict(
        words[0], words[1], words[2], words[3], effective == 1, vid, pid, devnum, boot_ns, digest,
        triples, texts[0], texts[1], texts[2], texts[3], texts[4], texts[5],
    )  # fmt: skip


def _cut(text: str, most: int) -> bytes:
    """At most ``most`` bytes of UTF-8, never half a character."""
    data = text.encode("utf-8", "backslashreplace")
    return data if len(data) <= most else data[:most].decode("utf-8", "ignore").encode()
