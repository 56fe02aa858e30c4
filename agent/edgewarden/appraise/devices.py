"""What a device behind a gateway is worth: judged by the gateway, and again by the fleet.

A certificate is an identity and nothing more: tier none. A device may do better by answering a
challenge with evidence of its own (wire/eat.py):

    references  measurements             signed by a key an operator named    by its TLS key
    none        -                        none                                 none
    some        none stated              warning                              warning
    some        one is not among them    contraindicated                      contraindicated
    some        all among them           affirming                            warning

Why the TLS key is not enough: whatever program holds it may say anything of itself. A key that an
operator named is one that he knows to measure (a secure element, a boot stage); that it does is his
word, as with a root of trust (docs/attestation.md).

The fleet has the same evidence, detached, and does not take the gateway's word where it need not:

    judge_submodules({"press-1": digest}, {"press-1": statement bytes}, verify)

Evidence does not hold and the gateway called it good, or another statement than the digest names:
contraindicated. A statement that has not come yet: none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cose
from edgewarden.wire.devices import Statement, decode_statement
from edgewarden.wire.eat import Token, open_token
from edgewarden.wire.evidence import Tier

Verify = Callable[[bytes, bytes, bytes], bool]
"""(COSE_Key, message, signature) -> does this key say so."""

# RFC 5480 §2: SubjectPublicKeyInfo of an uncompressed point on P-256 is this and the point.
_P256_INFO = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200")
_UNCOMPRESSED = 4


def key_of_info(info: bytes) -> bytes:
    """COSE_Key of a SubjectPublicKeyInfo; b"" unless it is an uncompressed point on P-256."""
    point = info[len(_P256_INFO) :]
    if not info.startswith(_P256_INFO) or len(point) != 65 or point[0] != _UNCOMPRESSED:
        return b""
    return cose.encode_key(point[1:33], point[33:])


def info_digest(cose_key: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a COSE_Key; raises WireRefusal("bad_key")."""
    x, y = cose.decode_key(cose_key)
    return hashlib.sha256(_P256_INFO + bytes([_UNCOMPRESSED]) + x + y).digest()


def judge_token(token: Token, references: Collection[bytes], named: bool) -> tuple[Tier, str]:
    """The table of this module, for evidence whose signature and nonce held."""
    if not references:
        return Tier.NONE, "fresh evidence, and no reference to hold it to"
    if not token.measurements:
        return Tier.WARNING, "its evidence states no measurement"
    for value in token.measurements:
        if value not in references:
            return Tier.CONTRAINDICATED, f"it measured {value.hex()[:16]}.., which is no reference"
    if not named:
        return Tier.WARNING, "right by its own word: the TLS key signed it"
    return Tier.AFFIRMING, ""


@dataclass(frozen=True, slots=True)
class Submodule:
    """One device as the fleet sees it.

    Attributes:
        statement: None where it has not come, or cannot be read.
    """

    device: str
    tier: Tier
    why: str
    statement: Statement | None = None


def judge_submodules(
    named: Mapping[str, bytes], detached: Mapping[str, bytes], verify: Verify
) -> list[Submodule]:
    """Every device that evidence names, in order of their names.

    Args:
        named: device -> SHA-256 of its claims-set.
        detached: device -> the claims-set with that digest, where it has come.
    """
    return [_submodule(name, named[name], detached.get(name), verify) for name in sorted(named)]


def _submodule(name: str, digest: bytes, data: bytes | None, verify: Verify) -> Submodule:
    if data is None:
        return Submodule(name, Tier.NONE, "what the gateway says of it has not come yet")
    if hashlib.sha256(data).digest() != digest:
        return Submodule(name, Tier.CONTRAINDICATED, "another statement than its evidence names")
    try:
        statement = decode_statement(data)
    except WireRefusal as refusal:
        return Submodule(name, Tier.CONTRAINDICATED, str(refusal)[:200])
    if statement.device != name:
        return Submodule(name, Tier.CONTRAINDICATED, "a statement on another device")
    against = contradiction(statement, verify)
    if against:
        return Submodule(name, Tier.CONTRAINDICATED, against, statement)
    return Submodule(name, statement.tier, statement.why, statement)


def contradiction(statement: Statement, verify: Verify) -> str:
    """Why a gateway's verdict does not follow from what it shows for it; "" when it may."""
    if not statement.evidence:
        better = statement.tier in (Tier.AFFIRMING, Tier.WARNING)
        return "the gateway calls it better than a certificate, without evidence" if better else ""
    try:
        token = open_token(statement.evidence)
        held = verify(statement.signed_by, token.signed, token.signature)
        own = statement.named or info_digest(statement.signed_by) == statement.key
    except WireRefusal as refusal:
        return f"its evidence cannot be read: {refusal}"[:200]
    if not held:
        return "its evidence is not signed by the key that the gateway names"
    if not own:
        return "its evidence is signed by another key than the pinned one"
    if token.nonce != statement.nonce:
        return "its evidence answers another challenge"
    if statement.tier is Tier.AFFIRMING and not (statement.named and token.measurements):
        return "the gateway calls it affirming, and its evidence cannot be"
    return ""


def worst(submodules: Collection[Submodule]) -> tuple[Tier, str]:
    """The facet ``devices``: the worst of them, with the first reason for it."""
    for tier in (Tier.CONTRAINDICATED, Tier.NONE, Tier.WARNING):
        found = [one for one in submodules if one.tier is tier]
        if found:
            return tier, f"{found[0].device}: {found[0].why}"[:200]
    return Tier.AFFIRMING if submodules else Tier.NONE, "" if submodules else "no device yet"
