"""plain.dataclass beside the standard library's: the same class twice, the same answers."""

from __future__ import annotations

import ast
import copy
import dataclasses
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import FrozenInstanceError, InitVar, field, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewarden import plain

Make = Callable[..., Any]
HOWS: dict[str, dict[str, bool]] = {
    "plain": {},
    "frozen": {"frozen": True},
    "slots": {"slots": True},
    "frozen, slots": {"frozen": True, "slots": True},
    "by name": {"frozen": True, "slots": True, "kw_only": True},
    "without text": {"frozen": True, "repr": False},
    "without equality": {"eq": False, "frozen": True},
    "ordered": {"frozen": True, "order": True},
    "hashed all the same": {"unsafe_hash": True},
}


def pair(make: Make, **how: bool) -> Any:
    @make(**how)
    class Pair:
        """Two values, one of which does not count, and one that is not shown."""

        a: object
        b: object = 2
        hidden: object = field(default=0, repr=False)
        left: list[object] = field(default_factory=list, compare=False)
        noted: object = field(default=0, hash=False)

    return Pair


def own(make: Make, **how: bool) -> Any:
    @make(**how)
    class Own:
        """Has every method already."""

        a: object

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "own"

    return Own


def empty(make: Make, **how: bool) -> Any:
    @make(**how)
    class Empty:
        """No field."""

    return Empty


def below(make: Make, **how: bool) -> Any:
    @make(**how)
    class Above:
        """The one."""

        a: object

    @make(**how)
    class Below(Above):
        """And the other."""

        b: object = 3

    return Below


SHAPES = {"pair": pair, "own": own, "below": below}
value = st.one_of(st.integers(), st.text(max_size=3), st.none(), st.tuples(st.integers()))


def said(work: Callable[[], object]) -> object:
    """What came of it: a value, or the name of what was raised; the same for both of these, of
    which the standard one raises the second where a frozen class with slots is given a new name."""
    try:
        return work()
    except (FrozenInstanceError, TypeError):
        return "refused"
    except Exception as fault:
        return type(fault)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("how", HOWS)
@settings(max_examples=15, deadline=None)
@given(first=value, second=value, third=value)
def test_it_answers_as_the_standard_one(
    how: str, shape: str, first: object, second: object, third: object
) -> None:
    if (how, shape) == ("hashed all the same", "own"):
        for make in (plain.dataclass, dataclasses.dataclass):
            with pytest.raises(TypeError):
                own(make, unsafe_hash=True)
        return
    ours, theirs = (SHAPES[shape](m, **HOWS[how]) for m in (plain.dataclass, dataclasses.dataclass))

    def answers(kind: Any) -> list[object]:
        x, y, z = kind(a=first), kind(a=second), kind(a=first)
        if shape == "pair":
            y = kind(a=first, b=second, left=[third], hidden=third)
        changed = replace(x, a=third)

        def change() -> object:
            x.a = second
            return x.a

        def add() -> object:
            x.more = 1
            return x.more

        def delete() -> object:
            del x.a
            return "deleted"

        found = [
            x == y, x == z, x != y, x == changed, x == first, x.__eq__(object()) is NotImplemented,
            said(lambda: hash(x) == hash(z)), said(lambda: hash(x) == hash(y)),
            said(lambda: x < y), said(lambda: x < kind), said(lambda: kind(nothing=1)),
            dataclasses.asdict(changed), [f.name for f in dataclasses.fields(kind)],
            kind.__match_args__, hasattr(x, "__dict__"), kind.__hash__ is None,
            said(change), said(add), said(delete),
        ]  # fmt: skip
        return found if how == "without text" else [*found, repr(y), repr(changed)]

    assert answers(ours) == answers(theirs)


def test_a_class_without_fields() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):
        kind = empty(make, frozen=True)
        assert kind() == kind()
        assert hash(kind()) == hash(kind())
        assert repr(kind()).endswith("Empty()")


def test_values_of_two_classes_are_never_equal() -> None:
    one, other = pair(plain.dataclass), pair(plain.dataclass)
    assert one(1) != other(1)


def test_a_value_that_holds_itself_can_be_shown() -> None:
    x = pair(plain.dataclass)(1)
    x.b = x
    assert "..." in repr(x)


def test_what_is_frozen_stays_so_where_a_new_name_is_set() -> None:
    kind = pair(plain.dataclass, frozen=True)
    with pytest.raises(FrozenInstanceError, match="'more'"):
        kind(1).more = 2
    with pytest.raises(FrozenInstanceError, match="'a'"):
        del kind(1).a


def test_a_class_that_sets_its_own_way_is_refused_as_ever() -> None:
    class Stubborn:
        """Would not stay frozen."""

        def __setattr__(self, name: str, value: object) -> None: ...

    with pytest.raises(TypeError):
        plain.dataclass(frozen=True)(Stubborn)


def test_methods_are_shared() -> None:
    one, other = (pair(plain.dataclass, frozen=True) for _ in range(2))
    for name in ("__eq__", "__hash__", "__repr__", "__setattr__", "__delattr__"):
        assert getattr(one, name) is getattr(other, name), name
    assert one.__init__ is not other.__init__


def test_it_decorates_bare() -> None:
    @plain.dataclass
    class Bare:
        """One."""

        a: int

    assert Bare(1) == Bare(1)


def takes_the_standard_one(source: str) -> bool:
    """Whether a module decorates with the standard library's own."""
    nodes = list(ast.walk(ast.parse(source)))
    froms = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == "dataclasses"]
    if any(name.name == "dataclass" for node in froms for name in node.names):
        return True
    return any(ast.unparse(n) == "dataclasses.dataclass" for n in nodes if isinstance(n, ast.expr))


def test_the_gateway_takes_no_other() -> None:
    agent = Path(plain.__file__).parent
    sources = {p: p.read_text() for p in agent.rglob("*.py") if p != Path(plain.__file__)}
    assert [p for p, source in sources.items() if takes_the_standard_one(source)] == []
    assert sum("plain import dataclass" in source for source in sources.values()) > 100


@pytest.mark.parametrize(
    "line",
    [
        "from dataclasses import dataclass",
        "import dataclasses\n@dataclasses.dataclass\nclass A: pass",
    ],
)
def test_a_planted_one_is_seen(line: str) -> None:
    assert takes_the_standard_one(line)


# --- __init__, which is written when the first value is made ---------------------------------


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_made_and_asked_as_the_standard_one(how: str, shape: str) -> None:
    if (how, shape) == ("hashed all the same", "own"):
        return
    ours, theirs = (SHAPES[shape](m, **HOWS[how]) for m in (plain.dataclass, dataclasses.dataclass))
    for kinds in ((ours, theirs), (ours(a=1), theirs(a=1))):
        one, other = (str(inspect.signature(k.__init__)) for k in kinds)
        assert re.sub(r"<[^>]*>|_d_\w+", "", one) == re.sub(r"<[^>]*>", "", other)
    assert get_type_hints(ours.__init__) == get_type_hints(theirs.__init__)
    assert ours.__init__.__qualname__ == theirs.__init__.__qualname__
    for bad in ({}, {"a": 1, "z": 2}):
        texts = set()
        for kind in (ours, theirs):
            with pytest.raises(TypeError) as refused:
                kind(**bad)
            texts.add(str(refused.value))
        assert len(texts) == 1, texts


@pytest.mark.parametrize("how", ["frozen, slots", "slots", "frozen", "by name"])
def test_a_value_can_be_copied(how: str) -> None:
    for make in (plain.dataclass, dataclasses.dataclass):
        value = pair(make, **HOWS[how])(a=[1], b="b", left=[3], hidden=4)
        for again in (copy.copy(value), copy.deepcopy(value)):
            assert again == value
            assert (again.left, again.hidden) == ([3], 4)


def test_what_follows_init_is_called_and_init_false_is_heeded() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):

        @make(frozen=True, slots=True)
        class Sum:
            """Two fields are not asked for."""

            a: int
            made: list[int] = field(init=False, default_factory=list)
            fixed: int = field(init=False, default=7)
            later: int = field(init=False)

            def __post_init__(self) -> None:
                object.__setattr__(self, "later", self.fixed + 1)

        kind: Any = Sum
        value = kind(3)
        assert (value.a, value.made, value.fixed, value.later) == (3, [], 7, 8)
        assert value.made is not kind(3).made
        with pytest.raises(TypeError):
            kind(3, [])


def test_its_own_init_is_left_alone() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):

        @make(frozen=True, slots=True)
        class Own:
            """Starts its own way."""

            a: int

            def __init__(self) -> None:
                object.__setattr__(self, "a", 5)

        assert Own().a == 5


def test_a_field_without_default_behind_one_that_has_is_refused_at_once() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):
        with pytest.raises(TypeError, match="follows default argument"):

            @make(frozen=True)
            class Wrong:
                """In the wrong order."""

                a: int = 1
                b: int


def test_a_frozen_class_has_only_frozen_ones_above_and_below() -> None:
    for over, under in ((True, False), (False, True)):
        for make in (plain.dataclass, dataclasses.dataclass):
            above = pair(make, frozen=over)
            with pytest.raises(TypeError, match="cannot inherit"):

                @make(frozen=under)
                class Below(above):  # type: ignore[misc, valid-type]
                    """Of the other kind."""

                    more: int = 0


def test_nothing_is_compiled_before_the_first_value(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    made = plain._init_of

    def init_of(kind: Any, frozen: bool) -> Any:
        written.append(kind.__name__)
        return made(kind, frozen)

    monkeypatch.setattr(plain, "_init_of", init_of)
    kind = pair(plain.dataclass, frozen=True, slots=True)
    assert written == []
    assert kind(1) == kind(1)
    assert written == ["Pair"]


def test_what_a_class_has_of_its_own_stays() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):

        @make(frozen=True, slots=True)
        class Kept:
            """Is copied its own way."""

            a: int

            def __getstate__(self) -> str:
                return "ten"

            def __setstate__(self, state: str) -> None:
                object.__setattr__(self, "a", 10 if state == "ten" else 0)

        kind: Any = Kept
        if make is plain.dataclass or sys.version_info >= (3, 12):  # 3.11 puts its own over it
            assert copy.copy(kind(1)).a == 10

        with pytest.raises(TypeError):

            @make(frozen=True)
            class Loose:
                """Deletes what it likes."""

                a: int

                def __delattr__(self, name: str) -> None: ...


def test_what_is_only_for_the_start_is_asked_for_and_not_kept() -> None:
    for make in (plain.dataclass, dataclasses.dataclass):

        @make(slots=True)
        class Twice:
            """Keeps the double."""

            given: InitVar[int]
            kept: int = 0

            def __post_init__(self, given: int) -> None:
                self.kept = 2 * given

        kind: Any = Twice
        assert kind(4).kept == 8
