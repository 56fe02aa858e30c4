"""The exec policy as gate holds it: which rules speak of which content, in their order.

What this decides: which rule answers for a content and a subject. What it leaves to others: what a
subject is (judge/exec_rules.py), from names, packages and paths to digests (the policy one-shot),
writing and owning the file (exec/policy_files.py), what happens to a program that no rule allows
(exec/responder.py).

To decide, in order:

1. A content of the critical set is allowed by ``CRITICAL``, whatever the rules say: no policy may
   lock people out of the machine.
2. The first rule that names this content, or any content, and whose conditions on the subject hold.
3. None: the program is unlisted.

Rules without a condition on the content stand in the list of every content, and in that of content
the table does not know.

The file is sealed (wire/lean.py: magic, digest over the body, body), little-endian:

    generation u64 | digests u32 | sets u16 | rules u16 | critical u16
    sets x     ( count u16 | count x rule u16, ascending ); set 0 is for unknown content
    rules x    ( flags u8 | uids u8 | parents u8 | units u8 | name length u8 )
               name | uids x (low u32, high u32) | parents x 32 bytes | units x (length u8, text)
    critical x ( length u16 | path )
    digests x  ( sha256 32 bytes | set u16 | class u8 | flags u8 ), ascending by sha256, none twice

and ends with its last byte. A table that breaks one of these is refused whole and the last good one
stays in use. Looking up is a binary search in the bytes: 10,000 contents are 360 kB and 14
comparisons, where a dict would be 2 MB in a process that has 6.

    table = Table.load(compile_list([("demo-tool", digest)]))
    table.decide(digest, subject).name == "demo-tool"
"""

from __future__ import annotations

import itertools
import struct

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.judge.exec_rules import CLASSES, Rule
from edgewarden.wire.lean import DIGEST_BYTES, Frozen, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgewarden.judge.exec_rules import Subject

MAGIC = b"EWEXECT2"
MAX_DIGESTS = 200_000
"""A Debian 12 with a desktop has 5,000 programs and scripts, and 40,000 with every library and
module; five times that is 7.2 MB of table."""
MAX_RULES = 8192
"""A policy may name each program in a rule of its own. About 300 bytes each in gate once loaded."""
MAX_SETS = 8192
MAX_CRITICAL = 512
MAX_NAME_BYTES = 64
MAX_UNIT_BYTES = 128
MAX_PATH_BYTES = 4095
"""PATH_MAX without its NUL, <linux/limits.h>."""
MAX_CONDITIONS = 255
MAX_TABLE_BYTES = 16 << 20
"""What the limits above add up to, rounded."""

_HEAD = struct.Struct("<QIHHH")
_U16 = struct.Struct("<H")
_RULE = struct.Struct("<BBBBB")
_UIDS = struct.Struct("<II")
_ROW = struct.Struct(f"<{DIGEST_BYTES}sHBB")
_ALLOW, _ANY = 1, 2
_CRITICAL = 1

CRITICAL = Rule("critical", True, (), (), ())
"""The rule behind rule 1."""


class RuleSpec(Frozen):
    """A rule to be compiled.

    Attributes:
        rule: name, action and subject.
        any_content: it has no condition on the content.
    """

    __slots__ = ("any_content", "rule")
    rule: Rule
    any_content: bool


class Content(Frozen):
    """What the policy says of one content.

    Attributes:
        rules: numbers of the rules that name it, in the policy's order.
        kind: of CLASSES.
        critical: never denied.
    """

    __slots__ = ("critical", "kind", "rules")
    rules: tuple[int, ...]
    kind: str
    critical: bool


class Table:
    """A loaded table; see the module. Not changed after ``load``; asking it allocates next to
    nothing.

    Attributes:
        count: contents it knows.
        rules: in the policy's order.
        critical: paths of the critical set, as bytes.
        generation: rises with every policy.
    """

    __slots__ = ("_body", "_rows_at", "_sets", "count", "critical", "generation", "rules")

    def __init__(
        self,
        body: bytes,
        rows_at: int,
        generation: int,
        count: int,
        sets: tuple[tuple[Rule, ...], ...],
        rules: tuple[Rule, ...],
        critical: tuple[bytes, ...],
    ) -> None:
        self._body = body
        self._rows_at = rows_at
        self._sets = sets
        self.generation = generation
        self.count = count
        self.rules = rules
        self.critical = critical

    @staticmethod
    def load(data: bytes) -> Table:
        """Read a table.

        Args:
            data: the whole file.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_length, too_many, bad_order,
                bad_name, bad_value.
        """
        body = unseal(MAGIC, data, most=MAX_TABLE_BYTES)
        reader = _Reader(body)
        generation, count, n_sets, n_rules, n_critical = reader.take(_HEAD)
        for what, found, most in (
            ("contents", count, MAX_DIGESTS), ("sets", n_sets, MAX_SETS),
            ("rules", n_rules, MAX_RULES), ("critical paths", n_critical, MAX_CRITICAL),
        ):  # fmt: skip
            if found > most:
                raise WireRefusal("too_many", f"{found} {what}")
        if not n_sets:
            raise WireRefusal("bad_value", "no set for unknown content")
        numbers = [_read_set(reader, n_rules) for _ in range(n_sets)]
        rules = tuple(_read_rule(reader) for _ in range(n_rules))
        critical = tuple(reader.bytes(reader.take(_U16)[0]) for _ in range(n_critical))
        if any(not path.startswith(b"/") or len(path) > MAX_PATH_BYTES for path in critical):
            raise WireRefusal("bad_value", "a critical path is not absolute")
        if len(body) != reader.at + count * _ROW.size:
            raise WireRefusal("bad_length", f"{count} contents in {len(body) - reader.at} bytes")
        _check_rows(body, reader.at, n_sets)
        sets = tuple(tuple(rules[i] for i in one) for one in numbers)
        return Table(body, reader.at, generation, count, sets, rules, critical)

    def decide(self, digest: bytes, subject: Subject) -> Rule | None:
        """The rule that answers, or None.

        Args:
            digest: of the content, 32 bytes; b"" for content that could not be hashed.
            subject: who wants to execute it.
        """
        set_number, _, flags = self._row(digest)
        if flags & _CRITICAL:
            return CRITICAL
        for rule in self._sets[set_number]:
            if rule.matches(subject):
                return rule
        return None

    def class_of(self, digest: bytes) -> str:
        """Of CLASSES; "data" for content the table does not know."""
        return CLASSES[self._row(digest)[1]]

    def knows(self, digest: bytes) -> bool:
        """Whether any rule or the critical set names this content."""
        return self._find(digest) >= 0

    def _row(self, digest: bytes) -> tuple[int, int, int]:
        at = self._find(digest)
        if at < 0:
            return 0, 0, 0
        _, set_number, kind, flags = _ROW.unpack_from(self._body, at)
        return set_number, kind, flags

    def _find(self, digest: bytes) -> int:
        body, size = self._body, _ROW.size
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            at = self._rows_at + middle * size
            found = body[at : at + DIGEST_BYTES]
            if found == digest:
                return at
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return -1


class _Reader:
    """Takes fields off the front of the body; what is not there is ``bad_length``."""

    __slots__ = ("_body", "at")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.at = 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        if self.at + layout.size > len(self._body):
            raise WireRefusal("bad_length", f"cut short at {self.at}")
        found = layout.unpack_from(self._body, self.at)
        self.at += layout.size
        return found

    def bytes(self, length: int) -> bytes:
        if self.at + length > len(self._body):
            raise WireRefusal("bad_length", f"cut short at {self.at}")
        found = self._body[self.at : self.at + length]
        self.at += length
        return found

    def text(self, length: int, most: int) -> str:
        if not 1 <= length <= most:
            raise WireRefusal("bad_name", f"a name of {length} bytes")
        try:
            return self.bytes(length).decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_name", "not UTF-8") from None


def _read_set(reader: _Reader, n_rules: int) -> tuple[int, ...]:
    (count,) = reader.take(_U16)
    numbers = tuple(reader.take(_U16)[0] for _ in range(count))
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        raise WireRefusal("bad_order", "the rules of a set do not rise")
    if numbers and numbers[-1] >= n_rules:
        raise WireRefusal("bad_value", f"rule {numbers[-1]} of {n_rules}")
    return numbers


def _read_rule(reader: _Reader) -> Rule:
    flags, n_uids, n_parents, n_units, n_name = reader.take(_RULE)
    if flags & ~(_ALLOW | _ANY):
        raise WireRefusal("bad_value", f"flags {flags} of a rule")
    name = reader.text(n_name, MAX_NAME_BYTES)
    uids = []
    for _ in range(n_uids):
        low, high = reader.take(_UIDS)
        if low > high:
            raise WireRefusal("bad_value", f"uids {low} to {high}")
        uids.append((low, high))
    parents = tuple(reader.bytes(DIGEST_BYTES) for _ in range(n_parents))
    units = tuple(reader.text(reader.bytes(1)[0], MAX_UNIT_BYTES) for _ in range(n_units))
    return Rule(name, bool(flags & _ALLOW), tuple(uids), parents, units)


def _check_rows(body: bytes, at: int, n_sets: int) -> None:
    last = b""
    for digest, set_number, kind, flags in _ROW.iter_unpack(memoryview(body)[at:]):
        if digest <= last:
            raise WireRefusal("bad_order", "digests do not rise")
        last = digest
        if set_number >= n_sets or kind >= len(CLASSES) or flags & ~_CRITICAL:
            raise WireRefusal("bad_value", f"set {set_number}, class {kind}, flags {flags}")


def compile_table(
    rules: Sequence[RuleSpec],
    contents: Mapping[bytes, Content],
    *,
    critical: Sequence[str] = (),
    generation: int = 1,
) -> bytes:
    """The bytes of a table.

    Args:
        rules: in the policy's order; the first that matches answers.
        contents: SHA-256 -> what the policy says of it.
        critical: absolute paths, resolved: content there that the table does not know is allowed
            with an alarm (judge/critical.py).
        generation: rises with every policy; shown in status.

    Raises:
        OperatorFault: too much of something, a bad name, digest or number; the text names which.
    """
    if len(rules) > MAX_RULES or len(contents) > MAX_DIGESTS or len(critical) > MAX_CRITICAL:
        raise _fault(
            f"{len(rules)} rules, {len(contents)} contents, {len(critical)} critical paths; "
            f"{MAX_RULES}, {MAX_DIGESTS} and {MAX_CRITICAL} are the most"
        )
    if not 0 <= generation < 1 << 64:
        raise _fault(f"generation {generation} does not fit")
    everywhere = tuple(i for i, spec in enumerate(rules) if spec.any_content)
    sets: dict[tuple[int, ...], int] = {everywhere: 0}
    rows = []
    for digest in sorted(contents):
        content = contents[digest]
        if len(digest) != DIGEST_BYTES:
            raise _fault(f"a sha256 has {len(digest)} bytes, not {DIGEST_BYTES}")
        if content.kind not in CLASSES or any(not 0 <= i < len(rules) for i in content.rules):
            raise _fault(f"{digest.hex()}: class {content.kind!r}, rules {content.rules}")
        named = tuple(sorted({*content.rules, *everywhere}))
        number = sets.setdefault(named, len(sets))
        rows.append(_ROW.pack(digest, number, CLASSES.index(content.kind), content.critical))
    if len(sets) > MAX_SETS:
        raise _fault(f"{len(sets)} different combinations of rules; {MAX_SETS} are the most")
    parts = [_HEAD.pack(generation, len(rows), len(sets), len(rules), len(critical))]
    parts += [_U16.pack(len(one)) + b"".join(map(_U16.pack, one)) for one in sets]
    parts += [_rule_bytes(spec, i) for i, spec in enumerate(rules)]
    for path in critical:
        raw = path.encode("utf-8", "surrogateescape")
        if not raw.startswith(b"/") or len(raw) > MAX_PATH_BYTES:
            raise _fault(f"critical path {path!r} is not absolute")
        parts.append(_U16.pack(len(raw)) + raw)
    return seal(MAGIC, b"".join(parts + rows))


def with_generation(data: bytes, generation: int) -> bytes:
    """A table under another generation; raises WireRefusal for what is no table."""
    body = unseal(MAGIC, data, most=MAX_TABLE_BYTES)
    return seal(MAGIC, struct.pack("<Q", generation) + body[8:])  # _HEAD begins with it


def compile_list(listed: Sequence[tuple[str, bytes]], *, generation: int = 1) -> bytes:
    """A table of programs that anybody may execute: (name of the rule, SHA-256) each.

    Raises:
        OperatorFault: as ``compile_table``; a digest twice.
    """
    names = {name: i for i, name in enumerate(dict.fromkeys(name for name, _ in listed))}
    contents: dict[bytes, Content] = {}
    for i, (name, digest) in enumerate(listed):
        if len(digest) != DIGEST_BYTES:
            raise _fault(f"rules[{i}].sha256 has {len(digest)} bytes, not {DIGEST_BYTES}")
        if digest in contents:
            raise _fault(f"rules[{i}].sha256 is listed twice: {digest.hex()}")
        contents[digest] = Content((names[name],), "program", False)
    specs = [RuleSpec(Rule(name, True, (), (), ()), False) for name in names]
    return compile_table(specs, contents, generation=generation)


def _rule_bytes(spec: RuleSpec, i: int) -> bytes:
    rule = spec.rule
    name = _name_bytes(rule.name, MAX_NAME_BYTES, f"rules[{i}].name")
    units = [_name_bytes(unit, MAX_UNIT_BYTES, f"rules[{i}].unit") for unit in rule.units]
    most = max(len(rule.uids), len(rule.parents), len(units))
    if most > MAX_CONDITIONS:
        raise _fault(f"rules[{i}] has {most} values of one kind; {MAX_CONDITIONS} are the most")
    if any(not 0 <= low <= high < 1 << 32 for low, high in rule.uids):
        raise _fault(f"rules[{i}].uid: {rule.uids} are no ranges of users")
    if any(len(digest) != DIGEST_BYTES for digest in rule.parents):
        raise _fault(f"rules[{i}].parent: a digest has not {DIGEST_BYTES} bytes")
    flags = (_ALLOW if rule.allow else 0) | (_ANY if spec.any_content else 0)
    return b"".join(
        (
            _RULE.pack(flags, len(rule.uids), len(rule.parents), len(units), len(name)),
            name,
            *(_UIDS.pack(low, high) for low, high in rule.uids),
            *rule.parents,
            *(bytes([len(unit)]) + unit for unit in units),
        )
    )


def _name_bytes(name: str, most: int, where: str) -> bytes:
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise _fault(f"{where} is not text") from None
    if not 1 <= len(raw) <= most:
        raise _fault(f"{where} has {len(raw)} bytes; 1 to {most} are allowed")
    return raw


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-EXEC-012", next_step="correct the policy file and compile it again"
    )


EMPTY = Table.load(compile_table([], {}, generation=0))
"""Allows nothing: what gate judges by before it has read a good table."""
