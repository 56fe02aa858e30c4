"""The look's file: every one survives, nothing else gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import seal
from edgewarden.wire.look import (
    MAGIC,
    MAX_INODES,
    MAX_LOOK_BYTES,
    MAX_TEXT_BYTES,
    Look,
    Looked,
    dump,
    load,
)

TEXT = st.text(max_size=100).filter(lambda t: max(t, default="a") < "\ud800")
LOOKED = st.builds(
    Looked, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), TEXT, TEXT,
    st.integers(-1, 2**31 - 1), st.integers(-1, 2**31 - 1), st.lists(TEXT, max_size=3).map(tuple),
    st.lists(st.integers(0, 2**64 - 1), max_size=5).map(tuple),
)  # fmt: skip
LOOKS = st.builds(
    Look,
    st.integers(0, 2**64 - 1),
    st.lists(LOOKED, max_size=5).map(tuple),
    st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple),
    st.integers(0, 2**16),
    st.integers(0, 2**16),
)


@given(LOOKS)
def test_every_look_survives(look: Look) -> None:
    assert load(dump(look)) == look


def test_what_is_too_long_is_cut() -> None:
    one = Looked(7, 1, "/" + "x" * 5000, "", 0, 0, ("LD_PRELOAD=" + "y" * 9000,), (9,) * 1000)
    [found] = load(dump(Look(1, (one,), (), 0, 0))).processes
    assert (len(found.exe), len(found.preload[0])) == (MAX_TEXT_BYTES, MAX_TEXT_BYTES)
    assert len(found.inodes) == MAX_INODES


def test_more_than_fits_is_left_out_and_counted_and_the_file_can_be_read() -> None:
    """What an ordinary user can bring about: thousands of processes with everything as long as it
    gets. link refuses a file above the limit, and then knows nothing of anybody."""
    text = "x" * MAX_TEXT_BYTES
    long = Looked(7, 1, text, text, 99, 99, (text,) * 3, (2**60,) * MAX_INODES)
    short = Looked(1, 1, "/sbin/init", "", 9, 3, (), (5,))
    data = dump(Look(1, (short, *[long] * 5000), (), 2, 0))
    assert len(data) <= MAX_LOOK_BYTES
    found = load(data)
    assert found.processes[0] == short
    assert found.left_out == 2 + 5001 - len(found.processes)
    assert 1000 < len(found.processes) < 5001


@given(LOOKS, st.integers(0, 10_000), st.integers(1, 255))
def test_a_changed_byte_is_refused(look: Look, at: int, by: int) -> None:
    data = bytearray(dump(look))
    data[at % len(data)] ^= by
    with pytest.raises(WireRefusal):
        load(bytes(data))


@given(st.binary(max_size=300))
def test_garbage_under_a_good_seal_raises_only_a_refusal(garbage: bytes) -> None:
    refused = ""
    try:
        load(seal(MAGIC, garbage))
    except WireRefusal as refusal:
        refused = refusal.name
    assert refused in ("", "bad_length", "bad_value")


@given(LOOKS.filter(lambda look: bool(look.processes)), st.integers(1, 40))
def test_a_body_that_ends_early_is_refused(look: Look, less: int) -> None:
    body = dump(look)[40:]
    with pytest.raises(WireRefusal):
        load(seal(MAGIC, body[:-less] if less < len(body) else b""))
