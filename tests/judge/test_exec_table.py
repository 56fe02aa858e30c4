"""The exec table: what it holds, what it refuses, and that both ends agree on any policy."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.judge import exec_table
from edgewarden.judge.exec_rules import CLASSES, Rule
from edgewarden.judge.exec_table import (
    CRITICAL,
    EMPTY,
    MAGIC,
    Content,
    RuleSpec,
    Table,
    compile_list,
    compile_table,
    with_generation,
)
from edgewarden.wire.lean import seal
from tests.fakes.subject import NOBODY, Someone

A, B, C = (hashlib.sha256(name).digest() for name in (b"a", b"b", b"c"))


def head(digests: int = 0, sets: int = 1, rules: int = 0, critical: int = 0) -> bytes:
    return struct.pack("<QIHHH", 1, digests, sets, rules, critical)


def a_set(*rules: int) -> bytes:
    return struct.pack("<H", len(rules)) + b"".join(struct.pack("<H", r) for r in rules)


def a_rule(
    name: bytes = b"x", flags: int = 1, tail: bytes = b"", counts: bytes = bytes(3)
) -> bytes:
    return bytes([flags]) + counts + bytes([len(name)]) + name + tail


def row(digest: bytes, number: int = 0, kind: int = 1, flags: int = 0) -> bytes:
    return digest + struct.pack("<HBB", number, kind, flags)


def name_of(table: Table, digest: bytes, subject: Someone = NOBODY) -> str | None:
    rule = table.decide(digest, subject)
    return None if rule is None else rule.name


def spec(
    name: str, allow: bool = True, *, anything: bool = False, uid: int | None = None
) -> RuleSpec:
    uids = () if uid is None else ((uid, uid),)
    return RuleSpec(Rule(name, allow, uids, (), ()), anything)


def content(*rules: int, kind: str = "program", critical: bool = False) -> Content:
    return Content(rules, kind, critical)


def test_a_listed_digest_names_its_rule_and_no_other_does() -> None:
    table = Table.load(compile_list([("tool", A), ("shell", B), ("tool", C)], generation=7))
    assert (table.count, table.generation) == (3, 7)
    assert [name_of(table, d) for d in (A, B, C)] == ["tool", "shell", "tool"]
    assert name_of(table, bytes(32)) is None
    assert name_of(table, b"\xff" * 32) is None
    assert name_of(table, b"") is None


def test_an_empty_table_allows_nothing() -> None:
    assert name_of(Table.load(compile_list([])), A) is None
    assert name_of(EMPTY, A) is None


def test_the_first_rule_that_matches_answers() -> None:
    rules = [spec("no-web", allow=False, uid=33), spec("debian"), spec("late-deny", allow=False)]
    table = Table.load(compile_table(rules, {A: content(0, 1, 2)}))
    assert name_of(table, A, Someone(who=33)) == "no-web"
    assert name_of(table, A, Someone(who=1000)) == "debian"


def test_a_rule_for_any_content_takes_its_place_in_the_order() -> None:
    rules = [spec("tool"), spec("web-nothing", allow=False, anything=True, uid=33), spec("debian")]
    table = Table.load(compile_table(rules, {A: content(0), B: content(2)}))
    web = Someone(who=33)
    assert [name_of(table, d, web) for d in (A, B, C)] == ["tool", "web-nothing", "web-nothing"]
    assert [name_of(table, d, Someone(who=0)) for d in (A, B, C)] == ["tool", "debian", None]


def test_the_critical_set_is_never_denied() -> None:
    rules = [spec("nothing", allow=False, anything=True)]
    contents = {A: content(critical=True), B: content()}
    table = Table.load(compile_table(rules, contents, critical=["/usr/bin/sudo"]))
    assert table.decide(A, NOBODY) is CRITICAL
    assert name_of(table, B) == "nothing"
    assert table.critical == (b"/usr/bin/sudo",)


def test_a_content_has_a_class() -> None:
    table = Table.load(compile_table([], {A: content(kind="loader"), B: content(kind="shell")}))
    assert [table.class_of(d) for d in (A, B, C)] == ["loader", "shell", "data"]
    assert [table.knows(d) for d in (A, B, C)] == [True, True, False]


def test_the_format_is_the_documented_one() -> None:
    rule = a_rule(
        counts=bytes([1, 1, 1]), tail=struct.pack("<II", 3, 4) + B + bytes([9]) + b"a.service"
    )
    body = head(1, 2, 1, 1) + a_set() + a_set(0) + rule + b"\x02\x00/x" + row(A, 1, 1, 1)
    compiled = compile_table(
        [RuleSpec(Rule("x", True, ((3, 4),), (B,), ("a.service",)), False)],
        {A: content(0, critical=True)},
        critical=["/x"],
    )
    assert compiled == seal(MAGIC, body)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "too_short"),
        (b"EWEXECT1" + compile_list([])[8:], "bad_magic"),
        (compile_list([("x", A)])[:-1] + b"y", "bad_stamp"),
        (compile_list([("x", A)]) + b"\0", "bad_stamp"),
        (bytes(exec_table.MAX_TABLE_BYTES + 1), "too_long"),
        (seal(MAGIC, b"short"), "bad_length"),
        (seal(MAGIC, head() + a_set() + b"z"), "bad_length"),
        (seal(MAGIC, head(1) + a_set()), "bad_length"),
        (seal(MAGIC, head(rules=1) + a_set() + a_rule(counts=bytes([0, 1, 0]))), "bad_length"),
        (seal(MAGIC, head(digests=exec_table.MAX_DIGESTS + 1)), "too_many"),
        (seal(MAGIC, head(sets=exec_table.MAX_SETS + 1)), "too_many"),
        (seal(MAGIC, head(rules=exec_table.MAX_RULES + 1)), "too_many"),
        (seal(MAGIC, head(critical=exec_table.MAX_CRITICAL + 1)), "too_many"),
        (seal(MAGIC, head(sets=0)), "bad_value"),
        (seal(MAGIC, head(2) + a_set() + row(A) * 2), "bad_order"),
        (seal(MAGIC, head(2) + a_set() + row(max(A, B)) + row(min(A, B))), "bad_order"),
        (seal(MAGIC, head(rules=2) + a_set(1, 0) + a_rule() * 2), "bad_order"),
        (seal(MAGIC, head(rules=1) + a_set(1) + a_rule()), "bad_value"),
        (seal(MAGIC, head(rules=1) + a_set() + a_rule(flags=4)), "bad_value"),
        (seal(MAGIC, head(1) + a_set() + row(A, number=1)), "bad_value"),
        (seal(MAGIC, head(1) + a_set() + row(A, kind=len(CLASSES))), "bad_value"),
        (seal(MAGIC, head(1) + a_set() + row(A, flags=2)), "bad_value"),
        (seal(MAGIC, head(critical=1) + a_set() + b"\x01\x00x"), "bad_value"),
        (
            seal(
                MAGIC,
                head(rules=1)
                + a_set()
                + a_rule(counts=bytes([1, 0, 0]), tail=struct.pack("<II", 2, 1)),
            ),
            "bad_value",
        ),
        (seal(MAGIC, head(rules=1) + a_set() + a_rule(b"")), "bad_name"),
        (seal(MAGIC, head(rules=1) + a_set() + a_rule(b"n" * 65)), "bad_name"),
        (seal(MAGIC, head(rules=1) + a_set() + a_rule(b"\xff")), "bad_name"),
    ],
)
def test_a_bad_table_is_refused_by_name(data: bytes, name: str) -> None:
    with pytest.raises(WireRefusal) as caught:
        Table.load(data)
    assert caught.value.name == name


@pytest.mark.parametrize(
    "rules",
    [[("x", A), ("y", A)], [("", A)], [("n" * 65, A)], [("\udcff", A)], [("x", A[:31])]],
)
def test_a_policy_that_cannot_be_compiled_names_the_rule(rules: list[tuple[str, bytes]]) -> None:
    with pytest.raises(OperatorFault, match=r"rules\[\d\]"):
        compile_list(rules)


@pytest.mark.parametrize(
    ("rules", "contents", "critical"),
    [
        ([RuleSpec(Rule("x", True, ((5, 4),), (), ()), False)], {}, []),
        ([RuleSpec(Rule("x", True, (), (A[:3],), ()), False)], {}, []),
        ([RuleSpec(Rule("x", True, (), (), ("",)), False)], {}, []),
        ([RuleSpec(Rule("x", True, (), (), ("u",) * 256), False)], {}, []),
        ([], {A: Content((0,), "program", False)}, []),
        ([], {A: Content((), "spell", False)}, []),
        ([], {}, ["usr/bin/sudo"]),
    ],
)
def test_nonsense_is_not_compiled(
    rules: list[RuleSpec], contents: dict[bytes, Content], critical: list[str]
) -> None:
    with pytest.raises(OperatorFault) as caught:
        compile_table(rules, contents, critical=critical)
    assert caught.value.code == "EW-EXEC-012"


NAMES = st.text(min_size=1, max_size=16).filter(lambda t: t.isprintable())
DIGESTS = st.binary(min_size=32, max_size=32)


@given(st.dictionaries(DIGESTS, NAMES, max_size=40))
def test_what_was_compiled_is_what_is_decided(rules: dict[bytes, str]) -> None:
    table = Table.load(compile_list([(name, digest) for digest, name in rules.items()]))
    assert {digest: name_of(table, digest) for digest in rules} == rules
    for digest in rules:
        neighbour = digest[:31] + bytes([digest[31] ^ 1])
        assert name_of(table, neighbour) == rules.get(neighbour)


RULES = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, 0, 33, 1000])), max_size=8
)


@given(RULES, st.dictionaries(DIGESTS, st.sets(st.integers(0, 7), max_size=4), max_size=10),
       st.sampled_from([0, 33, 1000]), DIGESTS)  # fmt: skip
def test_the_table_decides_as_reading_the_rules_one_by_one_does(
    rules: list[tuple[bool, bool, int | None]],
    named: dict[bytes, set[int]],
    uid: int,
    stranger: bytes,
) -> None:
    specs = [
        spec(f"r{i}", allow, anything=anything, uid=who)
        for i, (allow, anything, who) in enumerate(rules)
    ]
    contents = {
        digest: content(*sorted(i for i in numbers if i < len(rules)))
        for digest, numbers in named.items()
    }
    table = Table.load(compile_table(specs, contents))
    for digest in (*named, stranger):
        expected = None
        for i, (_, anything, who) in enumerate(rules):
            if (anything or i in named.get(digest, set())) and who in (None, uid):
                expected = f"r{i}"
                break
        assert name_of(table, digest, Someone(who=uid)) == expected


@given(st.binary(max_size=400))
def test_garbage_under_a_good_seal_is_refused_or_harmless(garbage: bytes) -> None:
    try:
        table = Table.load(seal(MAGIC, garbage))
    except WireRefusal:
        return
    assert table.decide(A, NOBODY) is None or table.rules


def test_a_table_under_another_generation_is_the_same_table() -> None:
    rows = [("a", b"\x01" * 32), ("b", b"\x02" * 32)]
    made = compile_list(rows, generation=1)
    assert with_generation(made, 1 << 40) == compile_list(rows, generation=1 << 40)
    with pytest.raises(WireRefusal):
        with_generation(made[:-1], 2)
