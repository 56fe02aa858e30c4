"""Which key each device has: pinned when it is first seen, changed by an operator's word alone.

Values and their changes, pure; registry.py keeps them on the disk. Forward only: every change makes
the next generation, and a lineage only grows. A device is forgotten by an operator's word alone,
and its key is then refused under any name. A certificate may be renewed as often as its CA likes;
the key under it may not change.

    first session       -> pinned (lineage 1)
    another key         -> refused, and a finding; nothing changes
    two places at once  -> quarantined, both
    operator: reset     -> the next key is pinned (lineage + 1); ends a quarantine too
    operator: lift      -> the quarantine ends, the key stays
    operator: retire    -> its place is free, its key refused; a later device of this name continues
                           its lineage; a reset of the name lets the key in again

    devices, changed = Devices().pinned("press-1", key, 1_700_000_000)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass, field
from edgewarden.wire import cbor
from edgewarden.wire.devices import MAX_WORDS, Verb, Word
from edgewarden.wire.record import is_identifier

MAX_DEVICES = 64
"""Each costs 60 bytes of evidence, which holds 8 kB. More devices want a broker of their own."""
KEY_BYTES = 32
MAX_RETIRED = 64
"""The newest; of older ones the key is forgotten. What lasts is the CA's list of revoked ones."""
FORMAT = 2
_FORMER = 1
"""Without retired devices; read, and written anew with the next change."""
MAX_WHY = 200
MAX_FILE_BYTES = 64 * 1024
"""64 devices of 350 bytes, 64 words of 18 and 64 retired ones of 70."""


@dataclass(frozen=True, slots=True)
class Pinned:
    """One device.

    Attributes:
        key: SHA-256 of its SubjectPublicKeyInfo; b"" between a reset and the next session.
        since_utc_s: wall time of the pin, as good as this gateway knew it.
        lineage: how many keys were pinned so far.
        quarantine: why nothing of it is taken; "" when it is not so.
    """

    key: bytes
    since_utc_s: int
    lineage: int = 1
    quarantine: str = ""


@dataclass(frozen=True, slots=True)
class Retired:
    """A device that does not come back; key is b"" after a reset of its name."""

    name: str
    key: bytes
    lineage: int


@dataclass(frozen=True, slots=True)
class Devices:
    """All of them, at one generation."""

    generation: int = 0
    known: Mapping[str, Pinned] = field(default_factory=dict)
    applied: tuple[bytes, ...] = ()
    retired: tuple[Retired, ...] = ()

    def pinned(self, name: str, key: bytes, now_utc_s: int) -> Devices:
        """With this key for a device that has none."""
        before = self.known.get(name)
        lineage = (
            1
            + max(
                (r.lineage for r in self.retired if r.name == name),
                default=0,
            )
            if before is None
            else before.lineage + 1
        )
        return self._with(name, Pinned(key, now_utc_s, lineage))

    def quarantined(self, name: str, why: str) -> Devices:
        """With this device in quarantine; the first reason stays."""
        before = self.known[name]
        if before.quarantine:
            return self
        return self._with(name, replace(before, quarantine=why[:MAX_WHY]))

    def obeyed(self, word: Word) -> Devices:
        """With an operator's word carried out; the same word is never carried out twice."""
        if word.id in self.applied:
            return self
        done = replace(
            self, generation=self.generation + 1, applied=(*self.applied, word.id)[-MAX_WORDS:]
        )
        if word.verb is Verb.RESET:
            forgiven = (replace(r, key=b"") if r.name == word.device else r for r in self.retired)
            done = replace(done, retired=tuple(forgiven))
        before = self.known.get(word.device)
        if before is None:
            return done
        if word.verb is Verb.RETIRE:
            gone = Retired(word.device, before.key, before.lineage)
            known = {name: one for name, one in self.known.items() if name != word.device}
            return replace(done, known=known, retired=(*self.retired, gone)[-MAX_RETIRED:])
        after = replace(before, quarantine="")
        if word.verb is Verb.RESET:
            after = replace(after, key=b"")
        return replace(done, known={**self.known, word.device: after})

    def _with(self, name: str, pinned: Pinned) -> Devices:
        return replace(self, generation=self.generation + 1, known={**self.known, name: pinned})


def encode(devices: Devices) -> bytes:
    """The file."""
    known: dict[str, cbor.Value] = {
        n: [p.key, p.since_utc_s, p.lineage, p.quarantine] for n, p in devices.known.items()
    }
    gone: list[cbor.Value] = [[r.name, r.key, r.lineage] for r in devices.retired]
    return cbor.encode(
        {0: FORMAT, 1: devices.generation, 2: known, 3: list(devices.applied), 4: gone}
    )


def decode(data: bytes) -> Devices:
    """Read the file; raises WireRefusal("bad_pins"), never guesses."""
    try:
        body = cbor.decode(data, MAX_FILE_BYTES)
    except WireRefusal as refusal:
        raise WireRefusal("bad_pins", refusal.text) from None
    if isinstance(body, dict) and set(body) == {0, 1, 2, 3} and body[0] == _FORMER:
        body = {**body, 0: FORMAT, 4: []}
    if not isinstance(body, dict) or set(body) != {0, 1, 2, 3, 4} or body[0] != FORMAT:
        raise WireRefusal("bad_pins", "not exactly the fields of this file")
    generation, known, applied = body[1], body[2], body[3]
    if not _is_uint(generation) or not isinstance(known, dict) or not isinstance(applied, list):
        raise WireRefusal("bad_pins", "a field has another type")
    if len(known) > MAX_DEVICES or not all(isinstance(w, bytes) for w in applied):
        raise WireRefusal("bad_pins", "too many devices, or a word is no id")
    found = {str(name): _pinned(name, entry) for name, entry in known.items()}
    gone = body[4]
    if not isinstance(gone, list) or len(gone) > MAX_RETIRED:
        raise WireRefusal("bad_pins", "retired devices are no list, or too many")
    return Devices(generation, found, tuple(applied), tuple(_retired(entry) for entry in gone))


def _retired(entry: object) -> Retired:
    if not isinstance(entry, list) or len(entry) != 3:
        raise WireRefusal("bad_pins", "a retired device is not an array of three")
    one = _pinned(entry[0], [entry[1], 0, entry[2], ""])
    return Retired(str(entry[0]), one.key, one.lineage)


def _pinned(name: object, entry: object) -> Pinned:
    if not isinstance(name, str) or not is_identifier(name):
        raise WireRefusal("bad_pins", "a name is no identifier")
    if not isinstance(entry, list) or len(entry) != 4:
        raise WireRefusal("bad_pins", f"{name} is not an array of four")
    key, since, lineage, quarantine = entry
    if not isinstance(key, bytes) or len(key) not in (0, KEY_BYTES):
        raise WireRefusal("bad_pins", f"{name} has no SHA-256")
    if not _is_uint(since) or not _is_uint(lineage) or not isinstance(quarantine, str):
        raise WireRefusal("bad_pins", f"{name} has a field of another type")
    return Pinned(key, since, lineage, quarantine)


def _is_uint(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
