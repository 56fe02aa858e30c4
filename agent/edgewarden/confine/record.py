"""What `edgewarden confine` remembers: every file it made, every value it changed, and what it
proved. Root-owned, sealed (wire/lean.py), JSON inside.

What this decides: the bytes, and what is refused when they are read: a seal that does not hold, an
unknown key, a path that is not absolute, a list too long. ``Applied`` is written before the first
file it names, so that whatever a power cut leaves behind can be taken away by name. ``Proved`` is
about one boot.

What it leaves to others: that the file is root's (probe/), doing and undoing (change/).

    Applied.load(applied.dump()) == applied
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.lean import seal, unseal

APPLIED_MAGIC = b"EWCONFA1"
PROVED_MAGIC = b"EWCONFP1"
APPLIED_NAME = "confinement/applied"
"""Below [paths] state; on trial below [paths] run as TRIAL_NAME, which a boot empties."""
TRIAL_NAME = "confine-trial"
PROVED_NAME = "confine-proved"
"""Below [paths] run; the tier that follows from it is in state/policy (wire/gate_files.py)."""
MAX_BYTES = 1 << 20
MAX_ROWS = 512
MAX_GAPS = 64


@dataclass(frozen=True, slots=True)
class Made:
    """A file of ours: its digest (64 hexadecimal digits), or for a symbolic link its target."""

    path: str
    sha256: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Turned:
    """A sysctl of ours: its value before, and the one we gave it."""

    name: str
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class Placed:
    """A place that runs nothing because of us; ``unit`` with method dropin only."""

    path: str
    method: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Applied:
    """Everything that has to be undone to leave nothing.

    Attributes:
        trial: it stands in /run, and the next boot ends it.
        units: the managed services.
        files: in the order they were made.
        folders: that were made for them, outermost first.
        login: from which it was asked for on trial (gate/sessions.py).
        restarted: the services were restarted for it, and are restarted when it is taken back.
    """

    trial: bool
    units: tuple[str, ...]
    files: tuple[Made, ...]
    folders: tuple[str, ...] = ()
    sysctls: tuple[Turned, ...] = ()
    mounts: tuple[Placed, ...] = ()
    restarted: bool = False
    login: tuple[str, ...] = ()

    def dump(self) -> bytes:
        """The bytes of the file."""
        return seal(APPLIED_MAGIC, json.dumps(asdict(self), sort_keys=True).encode())

    @staticmethod
    def load(data: bytes) -> Applied:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        tree = _tree(APPLIED_MAGIC, data, set(Applied.__dataclass_fields__))
        found = Applied(
            trial=_flag(tree, "trial"),
            units=_texts(tree, "units"),
            files=tuple(Made(**row) for row in _rows(tree, "files", Made)),
            folders=_texts(tree, "folders"),
            sysctls=tuple(Turned(**row) for row in _rows(tree, "sysctls", Turned)),
            mounts=tuple(Placed(**row) for row in _rows(tree, "mounts", Placed)),
            restarted=_flag(tree, "restarted"),
            login=_texts(tree, "login"),
        )
        paths = [*(made.path for made in found.files), *found.folders]
        if not all(path.startswith("/") and "/../" not in f"{path}/" for path in paths):
            raise WireRefusal("bad_value", "a path that is not absolute")
        return found


@dataclass(frozen=True, slots=True)
class Proved:
    """What `verify` saw on one boot.

    Attributes:
        units: managed services for which a canary was really refused.
        gaps: what is open, in words, the worst first.
    """

    boot_id: str
    units: tuple[str, ...]
    gaps: tuple[str, ...]

    def dump(self) -> bytes:
        """The bytes of the file."""
        kept = Proved(self.boot_id, self.units, self.gaps[:MAX_GAPS])
        return seal(PROVED_MAGIC, json.dumps(asdict(kept), sort_keys=True).encode())

    @staticmethod
    def load(data: bytes) -> Proved:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        tree = _tree(PROVED_MAGIC, data, set(Proved.__dataclass_fields__))
        boot_id = tree["boot_id"]
        if not isinstance(boot_id, str):
            raise WireRefusal("bad_value", "boot_id")
        return Proved(boot_id, _texts(tree, "units"), _texts(tree, "gaps"))


def _tree(magic: bytes, data: bytes, keys: set[str]) -> dict[str, Any]:
    try:
        tree = json.loads(unseal(magic, data, most=MAX_BYTES))
    except ValueError:
        raise WireRefusal("bad_value", "not JSON") from None
    if not isinstance(tree, dict) or set(tree) != keys:
        raise WireRefusal("bad_value", "other keys")
    return tree


def _flag(tree: dict[str, Any], key: str) -> bool:
    if not isinstance(tree[key], bool):
        raise WireRefusal("bad_value", key)
    return bool(tree[key])


def _texts(tree: dict[str, Any], key: str) -> tuple[str, ...]:
    value = tree[key]
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise WireRefusal("bad_value", key)
    if not all(isinstance(item, str) for item in value):
        raise WireRefusal("bad_value", key)
    return tuple(value)


def _rows(tree: dict[str, Any], key: str, model: type[Any]) -> list[dict[str, str]]:
    value, fields = tree[key], set(model.__dataclass_fields__)
    if not isinstance(value, list) or len(value) > MAX_ROWS:
        raise WireRefusal("bad_value", key)
    for row in value:
        texts = isinstance(row, dict) and all(isinstance(item, str) for item in row.values())
        if not texts or set(row) != fields:
            raise WireRefusal("bad_value", key)
    return value
