"""Signed reference sets: making them, and believing only those that this verifier's key signed.

A set that does not hold (another key, other bytes) is left out and named by ``Loaded.bad``: without
it the facet is none or contraindicated, never affirming.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from edgewarden.appraise.references import Sets
from edgewarden.errors import WireRefusal
from edgewarden.ports import Signer
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.references import (
    MAX_SET_BYTES,
    ReferenceSet,
    decode_references,
    encode_references,
    set_id,
)


@dataclass(frozen=True, slots=True)
class Loaded:
    """Sets that hold, by their id; ids and reasons of those that do not.

    Attributes:
        again: those of another key that say word for word what one that holds says, with its id:
            they were signed again when the verifier got another key (ca/rollover.py), and are kept
            because earlier results name them. Nothing rests on them.
    """

    sets: Sets
    bad: dict[bytes, str]
    again: dict[bytes, bytes] = field(default_factory=dict)


def sign(reference: ReferenceSet, signer: Signer) -> bytes:
    """The signed message of a set."""
    return cose.seal(encode_references(reference), ContentType.REFERENCES, signer.kid, signer.sign)


def believe(message: bytes, cose_key: bytes, tenant: str) -> ReferenceSet:
    """Read a set that this key signed for this tenant.

    Raises:
        WireRefusal: names of the envelope, ``unknown_key``, ``bad_signature``, ``bad_references``,
            ``wrong_tenant``.
    """
    envelope = cose.open_envelope(message, ContentType.REFERENCES, MAX_SET_BYTES)
    if envelope.kid != key_id(cose_key):
        raise WireRefusal("unknown_key", "not signed by this verifier")
    cose.check_signature(envelope, verifier_for(cose_key))
    reference = decode_references(envelope.payload)
    if reference.tenant != tenant:
        raise WireRefusal("wrong_tenant", f"a set of {reference.tenant!r}")
    return reference


def load(messages: Iterable[bytes], cose_key: bytes, tenant: str) -> Loaded:
    """Read many sets."""
    sets: dict[bytes, ReferenceSet] = {}
    bad: dict[bytes, str] = {}
    foreign: dict[bytes, bytes] = {}
    for message in messages:
        try:
            sets[set_id(message)] = believe(message, cose_key, tenant)
        except WireRefusal as refusal:
            bad[set_id(message)] = str(refusal)
            if refusal.name == "unknown_key":
                foreign[set_id(message)] = message
    held = {_words(reference): name for name, reference in sets.items()}
    again: dict[bytes, bytes] = {}
    for name, message in foreign.items():
        with contextlib.suppress(WireRefusal):
            payload = cose.open_envelope(message, ContentType.REFERENCES, MAX_SET_BYTES).payload
            same = held.get(_words(decode_references(payload)))
            if same is not None:
                again[name] = same
                del bad[name]
    return Loaded(sets, bad, again)


def _words(reference: ReferenceSet) -> bytes:
    """What a set says; which other it replaces is said by an id, which signing again changes."""
    return encode_references(replace(reference, replaces=b""))
