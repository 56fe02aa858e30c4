"""The exec table: what it holds, what it refuses, and that both ends agree on any policy."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.judge import exec_table
from edgewarden.judge.exec_table import EMPTY, MAGIC, Table, compile_table
from edgewarden.wire.lean import seal

A, B, C = (hashlib.sha256(name).digest() for name in (b"a", b"b", b"c"))
ROW = struct.Struct("<32sIB")


def body(rows: list[bytes], names: bytes, count: int | None = None) -> bytes:
    head = struct.pack("<QII", 1, len(rows) if count is None else count, len(names))
    return head + b"".join(rows) + names


def refusal(data: bytes) -> str:
    with pytest.raises(WireRefusal) as caught:
        Table.load(data)
    return caught.value.name


def test_a_listed_digest_names_its_rule_and_no_other_does() -> None:
    table = Table.load(compile_table([("tool", A), ("shell", B), ("tool", C)], generation=7))
    assert (table.count, table.generation) == (3, 7)
    assert [table.decide(d) for d in (A, B, C)] == ["tool", "shell", "tool"]
    assert table.decide(bytes(32)) is None
    assert table.decide(b"\xff" * 32) is None


def test_an_empty_table_allows_nothing() -> None:
    assert Table.load(compile_table([])).decide(A) is None
    assert EMPTY.decide(A) is None


def test_the_format_is_the_documented_one() -> None:
    rows = [ROW.pack(d, 0, 1) for d in sorted((A, B))]
    assert compile_table([("x", A), ("x", B)]) == seal(MAGIC, body(rows, b"x"))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "too_short"),
        (b"EWEXECT2" + compile_table([])[8:], "bad_magic"),
        (compile_table([("x", A)])[:-1] + b"y", "bad_stamp"),
        (compile_table([("x", A)]) + b"\0", "bad_stamp"),
        (bytes(exec_table.MAX_TABLE_BYTES + 1), "too_long"),
        (seal(MAGIC, b"short"), "bad_length"),
        (seal(MAGIC, body([ROW.pack(A, 0, 1)], b"x") + b"z"), "bad_length"),
        (seal(MAGIC, body([], b"", count=exec_table.MAX_RULES + 1)), "too_many"),
        (seal(MAGIC, body([ROW.pack(A, 0, 1)] * 2, b"x")), "bad_order"),
        (
            seal(MAGIC, body([ROW.pack(d, 0, 1) for d in sorted((A, B), reverse=True)], b"x")),
            "bad_order",
        ),
        (seal(MAGIC, body([ROW.pack(A, 1, 1)], b"x")), "bad_name"),
        (seal(MAGIC, body([ROW.pack(A, 0, 0)], b"x")), "bad_name"),
        (seal(MAGIC, body([ROW.pack(A, 0, 1)], b"\xff")), "bad_name"),
    ],
)
def test_a_bad_table_is_refused_by_name(data: bytes, name: str) -> None:
    assert refusal(data) == name


@pytest.mark.parametrize(
    "rules",
    [
        [("x", A), ("y", A)],
        [("", A)],
        [("n" * 65, A)],
        [("\udcff", A)],
        [("x", A[:31])],
    ],
)
def test_a_policy_that_cannot_be_compiled_names_the_rule(rules: list[tuple[str, bytes]]) -> None:
    with pytest.raises(OperatorFault, match=r"rules\[\d\]"):
        compile_table(rules)


NAMES = st.text(min_size=1, max_size=16).filter(lambda t: t.isprintable())


@given(st.dictionaries(st.binary(min_size=32, max_size=32), NAMES, max_size=40))
def test_what_was_compiled_is_what_is_decided(rules: dict[bytes, str]) -> None:
    table = Table.load(compile_table([(name, digest) for digest, name in rules.items()]))
    assert {digest: table.decide(digest) for digest in rules} == rules
    for digest in rules:
        neighbour = digest[:31] + bytes([digest[31] ^ 1])
        assert table.decide(neighbour) == rules.get(neighbour)


@given(st.binary(max_size=400))
def test_garbage_under_a_good_seal_is_refused_or_harmless(garbage: bytes) -> None:
    try:
        table = Table.load(seal(MAGIC, garbage))
    except WireRefusal:
        return
    assert table.decide(A) is None or A in garbage
