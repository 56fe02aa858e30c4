"""Positions held to tomllib: the same paths, each on the line a person would point at."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgewarden.settings.positions import Path as KeyPath
from edgewarden.settings.positions import locate
from edgewarden.settings.source import SourceFile, read

HERE = Path(__file__).parent


def paths(value: object, at: KeyPath = ()) -> Iterator[KeyPath]:
    """Every path of a tree: tables, arrays and their elements."""
    items: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield (*at, key)
        yield from paths(inner, (*at, key))


def test_lines_of_every_form() -> None:
    text = (HERE / "good" / "walking.toml").read_text()
    lines = locate(text)
    rows = text.split("\n")
    assert set(lines) == set(paths(tomllib.loads(text)))
    assert rows[lines["device", "id"] - 1].startswith("device.id")
    assert rows[lines["uplink", "port"] - 1].startswith("uplink = {")
    assert rows[lines["paths", "run"] - 1].startswith('"run"')
    assert rows[lines["exec", "filesystems", 1] - 1] == "  '/mnt/b',"
    assert rows[lines["serial", 1, "modbus", 0, "scale"] - 1] == "scale = 0.1"


def test_a_text_with_everything_awkward() -> None:
    text = (
        'a = """\n[not.a.table]\nb = 1 \\" # no\n"""""\n'  # ends in two quotes of its own
        "c = '''x''''\n"
        '"d.e".f = [ [1, 2], # ]\n  [3], ]\n'
        "g = 1979-05-27 07:32:00 # date\n"
        '[ "h" . i ]\nj = { "k]" = "}", l.m = [ "," ] }\n'
        "[[n]]\n[[n.o]]\n[n.o.p]\nq = -0.1e+1\n[[n]]\n[[n.o]]\n"
    )
    lines = locate(text)
    assert set(lines) == set(paths(tomllib.loads(text)))
    assert lines["c",] == 5
    assert lines["d.e", "f", 1] == 7
    assert lines["h", "i", "j", "l", "m"] == 10
    assert lines["n", 0, "o", 0, "p", "q"] == 14
    assert lines["n", 1, "o", 0] == 16


KEYS = st.sampled_from(["a", "b-1", '"q q"', "'l.t'", '"\\u00e9"', "c.d", "7"])
SCALARS = st.sampled_from(
    ["1", "-2.5e3", "true", "inf", '"s # ]"', "'}'", "'''\nm'''", '"""\\"""""', "07:32:00", "0x1F"]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda v: "[\n " + ", # ,\n ".join(v) + "\n]"),
        st.tuples(KEYS, inner).map(lambda kv: "{ " + kv[0] + " = " + kv[1] + " }"),
    ),
    max_leaves=6,
)
LINES = st.one_of(
    st.tuples(KEYS, VALUES).map(" = ".join),
    st.lists(KEYS, min_size=1, max_size=3).map(lambda k: "[" + " . ".join(k) + "]"),
    st.lists(KEYS, min_size=1, max_size=2).map(lambda k: "[[" + ".".join(k) + "]]"),
    st.sampled_from(["", "# comment [", "  \t"]),
)


@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_the_paths_are_exactly_those_of_tomllib(rows: list[str], newline: str) -> None:
    text = newline.join(rows)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(locate(text)) == set(paths(tree))


@given(st.text(alphabet="ab=.[]{}\"'#\n\\ ,1", max_size=60))
def test_any_text_ends_in_a_tree_or_in_named_faults(text: str) -> None:
    parsed = read(SourceFile("x", text))
    if not parsed.faults:
        assert set(parsed.lines) == set(paths(tomllib.loads(text)))
    assert all(fault.code == "EW-SET-002" and fault.line >= 1 for fault in parsed.faults)
