"""The judge of sessions: a peer whose certificate held comes in, or does not.

Pure: certificates in, words out. Leaves to listener.py to close what is to be closed, to desk.py to
tell and to keep.

A new session, rules in order, each with its refusal's name:

    no_name, two_names, foreign_name     certificate.py
    not_listed                           only listed devices are admitted, and it is none of them
    retired                              an operator's word: this key is not let in again
    quarantined                          until an operator's word
    other_key                            not the key that is pinned          a finding
    too_many_devices                     no room for one more pin
    too_many_here                        this device has MAX_HERE sessions

Whether a name is in two places is places.py's to say.
"""

from __future__ import annotations

from collections.abc import Collection

from edgewarden.downstream.lineage import MAX_DEVICES, Devices
from edgewarden.plain import dataclass

MAX_HERE = 4
"""Sessions of one device: a publisher, a script beside it, and both again while they reconnect."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Whoever shows a certificate of our CA.

    Attributes:
        name: from its SAN URI.
        key: SHA-256 of its SubjectPublicKeyInfo.
        place: its address (budget.py).
    """

    name: str
    key: bytes
    place: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a session: refused by name, or let in, perhaps after its key is pinned."""

    refusal: str = ""
    why: str = ""
    pin: bool = False


def judge(peer: Peer, devices: Devices, listed: Collection[str] | None, here: int) -> Verdict:
    """Judge a new session.

    Args:
        listed: the only names let in; None lets everyone in whom the CA named.
        here: sessions this device has.
    """
    if listed is not None and peer.name not in listed:
        return Verdict("not_listed", "it is not among the devices of the settings")
    if any(gone.key == peer.key for gone in devices.retired):
        return Verdict("retired", "its key is one of a device that was retired")
    known = devices.known.get(peer.name)
    if known is not None and known.quarantine:
        return Verdict("quarantined", known.quarantine)
    if known is not None and known.key and known.key != peer.key:
        return Verdict(
            "other_key",
            f"its key is {peer.key.hex()[:16]}.., {known.key.hex()[:16]}.. is pinned",
        )
    if known is None and len(devices.known) >= MAX_DEVICES:
        return Verdict("too_many_devices", f"{MAX_DEVICES} are pinned")
    if here >= MAX_HERE:
        return Verdict("too_many_here", f"it has {here} sessions")
    return Verdict(pin=known is None or not known.key)
