"""The exec policy as gate holds it: a sorted table of content digests.

What this decides: whether a program's SHA-256 is on the allowlist, and by which rule. What it
leaves to others: writing and owning the file (exec/policy_files.py), what happens to a program
that is not listed (exec/responder.py).

The file is sealed (wire/lean.py: magic, digest over the body, body):

    generation u64 | count u32 | names_bytes u32        little-endian
    count x ( sha256 32 bytes | name offset u32 | name length u8 )   ascending by sha256, no digest
    twice names: UTF-8, each used by at least the row that points at it, nothing else

Rules, in order: the seal holds; the lengths add up to the last byte; digests rise strictly; every
name lies inside the names and is a name. A table that breaks one is refused whole and the last good
one stays in use.

Looking up is a binary search in the bytes: 10,000 rules are 400 kB and 14 comparisons, where a dict
would be 2 MB in a process that has 6.

    table = Table.load(compile_table([("demo-tool", digest)]))
    table.decide(digest) == "demo-tool"
"""

from __future__ import annotations

import struct

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire.lean import DIGEST_BYTES, seal, unseal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"EWEXECT1"
MAX_RULES = 65536
"""Debian 12 with a desktop has 5,000 programs and scripts; ten times that is 2.5 MB of table."""
MAX_NAME_BYTES = 64
MAX_TABLE_BYTES = 8 << 20

_HEAD = struct.Struct("<QII")
_ROW = struct.Struct(f"<{DIGEST_BYTES}sIB")


class Table:
    """A loaded table; see the module. Not changed after ``load``; asking it allocates next to
    nothing."""

    __slots__ = ("_body", "_names_at", "count", "generation")

    def __init__(self, body: bytes, generation: int, count: int) -> None:
        self._body = body
        self._names_at = _HEAD.size + count * _ROW.size
        self.generation = generation
        self.count = count

    @staticmethod
    def load(data: bytes) -> Table:
        """Read a table.

        Args:
            data: the whole file.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_length, too_many, bad_order,
                bad_name.
        """
        body = unseal(MAGIC, data, most=MAX_TABLE_BYTES)
        if len(body) < _HEAD.size:
            raise WireRefusal("bad_length", f"body of {len(body)} bytes")
        generation, count, names_bytes = _HEAD.unpack_from(body)
        if count > MAX_RULES:
            raise WireRefusal("too_many", f"{count} rules")
        if len(body) != _HEAD.size + count * _ROW.size + names_bytes:
            raise WireRefusal("bad_length", f"{count} rules, {names_bytes} bytes of names")
        table = Table(body, generation, count)
        table._check_rows(names_bytes)
        return table

    def _check_rows(self, names_bytes: int) -> None:
        last = b""
        for digest, at, length in _ROW.iter_unpack(self._body[_HEAD.size : self._names_at]):
            if digest <= last:
                raise WireRefusal("bad_order", "digests do not rise")
            last = digest
            if at + length > names_bytes or not 1 <= length <= MAX_NAME_BYTES:
                raise WireRefusal("bad_name", f"{length} bytes at {at} of {names_bytes}")
            try:
                self._name(at, length)
            except UnicodeDecodeError:
                raise WireRefusal("bad_name", "not UTF-8") from None

    def decide(self, digest: bytes) -> str | None:
        """The name of the rule that allows this content, or None."""
        low, high = 0, self.count
        while low < high:
            middle = (low + high) // 2
            at = _HEAD.size + middle * _ROW.size
            found = self._body[at : at + DIGEST_BYTES]
            if found == digest:
                _, name_at, length = _ROW.unpack_from(self._body, at)
                return self._name(name_at, length)
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return None

    def _name(self, at: int, length: int) -> str:
        start = self._names_at + at
        return self._body[start : start + length].decode("utf-8")


EMPTY = Table(_HEAD.pack(0, 0, 0), 0, 0)
"""Allows nothing: what gate judges by before it has read a good table."""


def compile_table(rules: Sequence[tuple[str, bytes]], *, generation: int = 1) -> bytes:
    """The bytes of a table.

    Args:
        rules: (name of the rule, SHA-256 of the content). One name may have many digests.
        generation: rises with every policy; shown in status.

    Raises:
        OperatorFault: too many rules, a bad name or digest, a digest twice; the text names which.
    """
    if len(rules) > MAX_RULES:
        raise _fault(f"{len(rules)} rules; {MAX_RULES} are the most")
    if not 0 <= generation < 1 << 64:
        raise _fault(f"generation {generation} does not fit")
    names = bytearray()
    offsets: dict[bytes, int] = {}
    rows: dict[bytes, bytes] = {}
    for i, (name, digest) in enumerate(rules):
        raw = _name_bytes(name, i)
        if len(digest) != DIGEST_BYTES:
            raise _fault(f"rules[{i}].sha256 has {len(digest)} bytes, not {DIGEST_BYTES}")
        if digest in rows:
            raise _fault(f"rules[{i}].sha256 is listed twice: {digest.hex()}")
        if raw not in offsets:
            offsets[raw] = len(names)
            names += raw
        rows[digest] = _ROW.pack(digest, offsets[raw], len(raw))
    body = _HEAD.pack(generation, len(rows), len(names))
    return seal(MAGIC, body + b"".join(rows[digest] for digest in sorted(rows)) + bytes(names))


def _name_bytes(name: str, i: int) -> bytes:
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError:
        raise _fault(f"rules[{i}].name is not text") from None
    if not 1 <= len(raw) <= MAX_NAME_BYTES:
        raise _fault(f"rules[{i}].name has {len(raw)} bytes; 1 to {MAX_NAME_BYTES} are allowed")
    return raw


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-EXEC-012", next_step="correct the policy file and compile it again"
    )
