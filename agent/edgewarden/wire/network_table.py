"""``state/policy/network.table``: what gate and link are told about the network, in one sealed
file.

What this decides: the bytes. The policy one-shot compiles it (peers/rules.py), gate turns it into
one nftables transaction, link reads only the names it may look up. Sealed (wire/lean.py); the body
is UTF-8 lines ``key value``, in this order, and after the line ``body`` the text of the nftables
table as far as it is the same in every mode:

    generation N
    rules N                      how many rules of the policy it holds
    dns KEEP_S REFRESH_S
    host NAME                    the i-th has the sets h<i>v4 and h<i>v6
    unit LEVEL CHAIN PATH        a control group and the chain its sockets go to
    counter NAME KIND LABEL      of KINDS; LABEL is the rule's name, or the limit's
    body

What it leaves to others: that the file belongs to root (gate asks fstat), what is added for a mode
(peers/modes.py).

    NetworkTable.load(table.dump()) == table

``run/network.names`` is the same file with names alone: what gate uses now, for link to ask DNS
about. link does not read the policy's table, which gate may have refused.
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen, seal, unseal

MAGIC = b"EWNETTB1"
NAMES_NAME = "network.names"
MAX_TABLE_BYTES = 4 << 20
"""4096 rules with 8192 addresses are 1 MB."""
KINDS = ("egress", "egress-name", "ingress", "ingress-name", "limit")
"""What a counter counts: refused by a rule (``-name``: one that names its peer by DNS), or by a
flood limit."""
MAX_HOSTS = 64
MAX_UNITS = 64
MAX_COUNTERS = 1024
MAX_KEEP_S = 86400


class Unit(Frozen):
    """A managed control group: its level below the root (socket cgroupv2 level N), the chain its
    sockets go to, its path without a leading slash."""

    __slots__ = ("chain", "level", "path")
    level: int
    chain: str
    path: str


class Counter(Frozen):
    """A named counter, and the chain of the same name that leads to it."""

    __slots__ = ("kind", "label", "name")
    name: str
    kind: str
    label: str

    @property
    def by_name(self) -> bool:
        """Whether the rule names its peer by DNS."""
        return self.kind.endswith("-name")

    @property
    def direction(self) -> str:
        """egress, ingress or limit."""
        return self.kind.removesuffix("-name")


class NetworkTable(Frozen):
    """See the module."""

    __slots__ = (
        "body", "counters", "dns_keep_s", "dns_refresh_s", "generation", "hosts", "rules", "units",
    )  # fmt: skip
    generation: int
    rules: int
    dns_keep_s: int
    dns_refresh_s: int
    hosts: tuple[str, ...]
    units: tuple[Unit, ...]
    counters: tuple[Counter, ...]
    body: str

    def dump(self) -> bytes:
        """The bytes of the file."""
        lines = [
            f"generation {self.generation}",
            f"rules {self.rules}",
            f"dns {self.dns_keep_s} {self.dns_refresh_s}",
            *(f"host {name}" for name in self.hosts),
            *(f"unit {u.level} {u.chain} {u.path}" for u in self.units),
            *(f"counter {c.name} {c.kind} {c.label}" for c in self.counters),
            "body",
        ]
        return seal(MAGIC, ("\n".join(lines) + "\n" + self.body).encode("utf-8"))

    def names_alone(self) -> NetworkTable:
        """What link is told of it."""
        return NetworkTable(
            self.generation, self.rules, self.dns_keep_s, self.dns_refresh_s, self.hosts, (), (), ""
        )

    @staticmethod
    def load(data: bytes) -> NetworkTable:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value, too_many.
        """
        try:
            text = unseal(MAGIC, data, most=MAX_TABLE_BYTES).decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_value", "not UTF-8") from None
        head, found, body = text.partition("\nbody\n")
        if not found:
            raise WireRefusal("bad_value", "no body")
        reader = _Lines(head.split("\n"))
        (generation,) = reader.numbers("generation", 1)
        (rules,) = reader.numbers("rules", 1)
        keep_s, refresh_s = reader.numbers("dns", 2)
        if not 0 < refresh_s <= keep_s <= MAX_KEEP_S:
            raise WireRefusal("bad_value", f"dns {keep_s} {refresh_s}")
        hosts = tuple(value for (value,) in reader.all("host", 1, MAX_HOSTS))
        units = tuple(
            Unit(_number(level), chain, path)
            for level, chain, path in reader.all("unit", 3, MAX_UNITS)
        )
        counters = tuple(
            Counter(name, kind, label)
            for name, kind, label in reader.all("counter", 3, MAX_COUNTERS)
        )
        reader.end()
        for counter in counters:
            if counter.kind not in KINDS:
                raise WireRefusal("bad_value", f"counter of kind {counter.kind}")
        for unit in units:
            parts = unit.path.split("/")
            if unit.level != len(parts) or not all(parts) or ".." in parts:
                raise WireRefusal("bad_value", f"unit {unit.path} at level {unit.level}")
        return NetworkTable(generation, rules, keep_s, refresh_s, hosts, units, counters, body)


EMPTY = NetworkTable(0, 0, 3600, 60, (), (), (), "")
"""No network policy: gate makes no table and loads no library."""


class _Lines:
    """Takes lines off the front, each of the key that is due."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._at = 0

    def numbers(self, key: str, count: int) -> list[int]:
        found = self.all(key, count, 1)
        if len(found) != 1:
            raise WireRefusal("bad_value", f"{key} is missing")
        return [_number(word) for word in found[0]]

    def all(self, key: str, words: int, most: int) -> list[list[str]]:
        found: list[list[str]] = []
        while self._at < len(self._lines) and self._lines[self._at].startswith(f"{key} "):
            parts = self._lines[self._at].split(" ")[1:]
            if len(parts) != words or not all(parts):
                raise WireRefusal("bad_value", f"{key} has {len(parts)} values")
            found.append(parts)
            self._at += 1
            if len(found) > most:
                raise WireRefusal("too_many", f"more than {most} of {key}")
        return found

    def end(self) -> None:
        if self._at != len(self._lines):
            raise WireRefusal("bad_value", f"unexpected: {self._lines[self._at][:40]}")


def _number(word: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) <= 19):
        raise WireRefusal("bad_value", f"{word[:20]!r} is no number")
    return int(word)
