"""The baseline's text: what was written is what is read, and what is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.wire import baseline as wire
from edgewarden.wire.baseline import Baseline, Entry

A, B = b"a" * 32, b"b" * 32
LS = Entry("/usr/bin/ls", A, 7, "program", "coreutils")
BACKUP = Entry("/usr/local/bin/backup", B, 0, "script")
GOOD = Baseline((LS, BACKUP), {"/bin": "/usr/bin", "/usr/bin/dir": "/usr/bin/ls"})


def test_the_text_is_the_documented_one() -> None:
    assert GOOD.dump().decode() == (
        "edgewarden-baseline/1 files=2 aliases=2\n"
        "alias /bin /usr/bin\n"
        "alias /usr/bin/dir /usr/bin/ls\n"
        f"{A.hex()} 7 program coreutils /usr/bin/ls\n"
        f"{B.hex()} 0 script - /usr/local/bin/backup\n"
    )


def test_aliases_are_followed_as_the_kernel_would() -> None:
    assert GOOD.resolve("/bin/dir") == "/usr/bin/ls"
    assert GOOD.resolve("/binary/ls") == "/binary/ls"
    assert GOOD.resolve("/bin") == "/usr/bin"
    assert Baseline((), {"/a": "/a/b"}).resolve("/a/x").startswith("/a/b")


PATHS = st.binary(min_size=1, max_size=30).map(
    lambda raw: "/x" + raw.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
ENTRIES = st.builds(
    Entry,
    path=PATHS,
    sha256=st.binary(min_size=32, max_size=32),
    size_bytes=st.integers(0, 1 << 40),
    kind=st.sampled_from(["program", "script", "data"]),
    package=st.sampled_from(["libc6", "libc6:armhf", "g++-12"]),
    differs=st.booleans(),
)


@given(
    st.lists(ENTRIES, max_size=8, unique_by=lambda e: e.path),
    st.dictionaries(PATHS, PATHS, max_size=4),
)
def test_any_baseline_survives_its_text(entries: list[Entry], aliases: dict[str, str]) -> None:
    ordered = tuple(sorted(entries, key=lambda entry: entry.path))
    assert Baseline.load(Baseline(tuple(entries), aliases).dump()) == Baseline(ordered, aliases)


HEAD = "edgewarden-baseline/1 files={} aliases={}\n"
LINE = f"{A.hex()} 7 program coreutils /usr/bin/ls\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "bad_value"),
        ("edgewarden-baseline/2 files=0 aliases=0\n", "bad_value"),
        (HEAD.format(1, 0) + LINE[:-1], "bad_value"),
        (HEAD.format(2, 0) + LINE, "bad_value"),
        (HEAD.format(0, 0) + LINE, "bad_value"),
        (HEAD.format(2, 0) + LINE + LINE, "bad_order"),
        (HEAD.format(1, 0) + LINE.upper(), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace(" 7 ", " 07 "), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace("/usr", "usr"), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace("/ls", "/l\\x73"), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace("/ls", "/l\\x00"), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace("/ls", "/l\\s"), "bad_value"),
        (HEAD.format(1, 0) + LINE.replace("coreutils", "Core"), "bad_value"),
        (HEAD.format(0, 1) + "alias /a\n", "bad_value"),
        (HEAD.format(0, 1) + "alias /a b\n", "bad_value"),
        (HEAD.format(0, 2) + "alias /b /c\nalias /a /c\n", "bad_order"),
        (HEAD.format(9_999_999, 0), "too_many"),
    ],
)
def test_a_bad_baseline_is_refused_by_name(text: str, name: str) -> None:
    with pytest.raises(WireRefusal) as caught:
        Baseline.load(text.encode())
    assert caught.value.name == name


def test_not_utf8_and_too_long_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WireRefusal, match="UTF-8"):
        Baseline.load(b"\xff\n")
    monkeypatch.setattr(wire, "MAX_BASELINE_BYTES", 10)
    with pytest.raises(WireRefusal, match="too_long"):
        Baseline.load(GOOD.dump())
    monkeypatch.setattr(wire, "MAX_ENTRIES", 1)
    with pytest.raises(WireRefusal, match="too_many"):
        GOOD.dump()


@given(st.binary(max_size=300))
def test_garbage_is_refused(data: bytes) -> None:
    with contextlib.suppress(WireRefusal):
        assert Baseline.load(data).dump() == data
