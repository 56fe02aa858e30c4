"""What gate remembers so that nobody is locked out: how far observe has got, how boots ended, and
that packages are changing.

What this decides: the bytes of coverage, boots and packages in state/policy, sealed lines of text
(wire/lean.py), ``key value``, each key once, in this order. What it leaves to others: what counts
as observed (lockout/coverage.py) and as healthy (lockout/boots.py), and that the files are root's.

    Coverage.load(NOTHING.dump()) == NOTHING
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen, field_names, seal, unseal

COVERAGE_MAGIC = b"EWCOVER1"
BOOTS_MAGIC = b"EWBOOTS1"
WINDOW_MAGIC = b"EWPACKS1"
MAX_FILE_BYTES = 8192
MAX_NUMBER = (1 << 64) - 1


class Coverage(Frozen):
    """How much of this machine's life observe has seen with one policy.

    Attributes:
        generation: of the table that was observed with.
        observed_s: seconds in observe.
        boots: boots that were observed from gate's start until they were healthy.
        boot_id: of the boot that was observed last.
        whole: that boot was observed from gate's start on.
        would_denies: programs of the critical set with other content.
        last: path of the last of them.
        granted: a person's ``enforce`` on the filesystem that holds / was accepted for good.
    """

    __slots__ = (
        "boot_id", "boots", "generation", "granted", "last", "observed_s", "whole", "would_denies",
    )  # fmt: skip
    generation: int
    observed_s: int
    boots: int
    boot_id: str
    whole: bool
    would_denies: int
    last: str
    granted: bool

    def dump(self) -> bytes:
        """The bytes of state/policy/coverage."""
        return _dump(COVERAGE_MAGIC, self)

    @staticmethod
    def load(data: bytes) -> Coverage:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        generation, observed_s, boots, boot_id, whole, would_denies, last, granted = _load(
            COVERAGE_MAGIC, data, Coverage
        )
        return Coverage(
            _number(generation), _number(observed_s), _number(boots), boot_id, _truth(whole),
            _number(would_denies), last, _truth(granted),
        )  # fmt: skip


NOTHING = Coverage(0, 0, 0, "", False, 0, "", False)
"""Before anything was observed."""


class Boots(Frozen):
    """How the last boots ended.

    Attributes:
        unhealthy: boots in a row that never became healthy, this one not counted.
        boot_id: of the last boot that gate saw.
        healthy: that boot became healthy.
    """

    __slots__ = ("boot_id", "healthy", "unhealthy")
    unhealthy: int
    boot_id: str
    healthy: bool

    def dump(self) -> bytes:
        """The bytes of state/policy/boots."""
        return _dump(BOOTS_MAGIC, self)

    @staticmethod
    def load(data: bytes) -> Boots:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        unhealthy, boot_id, healthy = _load(BOOTS_MAGIC, data, Boots)
        return Boots(_number(unhealthy), boot_id, _truth(healthy))


class Window(Frozen):
    """That packages are changing (lockout/packages.py).

    Attributes:
        boot_id: on which boot; the seconds are of its CLOCK_MONOTONIC.
        asked_s, until_s: when it was said last, and when it ends by itself.
        since_ns: what was changed before, by CLOCK_REALTIME, has no excuse.
        unit: that dpkg runs in.
    """

    __slots__ = ("asked_s", "boot_id", "since_ns", "unit", "until_s")
    boot_id: str
    asked_s: int
    until_s: int
    since_ns: int
    unit: str

    def dump(self) -> bytes:
        """The bytes of state/policy/packages."""
        return _dump(WINDOW_MAGIC, self)

    @staticmethod
    def load(data: bytes) -> Window:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        boot_id, asked_s, until_s, since_ns, unit = _load(WINDOW_MAGIC, data, Window)
        return Window(boot_id, _number(asked_s), _number(until_s), _number(since_ns), unit)


NO_WINDOW = Window("", 0, 0, 0, "")
"""Packages are not changing."""


def _dump(magic: bytes, record: Frozen) -> bytes:
    lines = []
    for field in field_names(record):
        value = getattr(record, field)
        text = " ".join(value.split()) if isinstance(value, str) else str(int(value))
        lines.append(f"{field} {text}\n")
    return seal(magic, "".join(lines).encode("utf-8", "backslashreplace"))


def _load(magic: bytes, data: bytes, kind: type[Frozen]) -> list[str]:
    try:
        text = unseal(magic, data, most=MAX_FILE_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_value", "not UTF-8") from None
    pairs = [line.partition(" ") for line in text.split("\n")[:-1]]
    fields = kind.fields  # type: ignore[attr-defined]  # see wire/lean.py, Frozen
    if not text.endswith("\n") or tuple(key for key, _, _ in pairs) != fields:
        raise WireRefusal("bad_value", "other keys than expected")
    return [value for _, _, value in pairs]


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MAX_NUMBER):
        raise WireRefusal("bad_value", f"{text!r} is not a number")
    return int(text)


def _truth(text: str) -> bool:
    if text not in ("0", "1"):
        raise WireRefusal("bad_value", f"{text!r} is neither 0 nor 1")
    return text == "1"
