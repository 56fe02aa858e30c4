"""How interfaces, ids and ports are written: one way each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.wire.peripherals import (
    ANY,
    Triple,
    id_text,
    interface_text,
    is_port_path,
    parent_of,
    parse_id,
    parse_interface,
)

PART = st.integers(0, 255) | st.just(ANY)


@given(st.tuples(PART, PART, PART))
def test_an_interface_is_read_as_it_is_written(triple: Triple) -> None:
    assert parse_interface(interface_text(triple)) == triple


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF) | st.just(ANY))
def test_an_id_is_read_as_it_is_written(vid: int, pid: int) -> None:
    assert parse_id(id_text(vid, pid)) == (vid, pid)


@pytest.mark.parametrize(
    "text",
    ["", "3/1/1", "FF/ff/ff", "ff/ff", "ff/ff/ff/ff", "0x3/01/01", "+3/01/01", "**/01/01"],
)
def test_other_interfaces_are_none(text: str) -> None:
    assert parse_interface(text) is None


@pytest.mark.parametrize(
    "text",
    ["", "0403", "0403:", ":6001", "*:6001", "403:6001", "0403:600G", "0403:6001:1", "0403:**"],
)
def test_other_ids_are_none(text: str) -> None:
    assert parse_id(text) is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("1-1", True), ("10-1.2.3.4.5.6.7", True), ("1-1.2.3.4.5.6.7.8", False), ("usb1", False),
     ("1-", False), ("1-1.", False), ("1-01", False), ("0-1", False), ("1-1:1.0", False),
     ("1-²", False), ("1", False), ("", False)],
)  # fmt: skip
def test_a_port_is_a_path_of_numbers(text: str, wanted: bool) -> None:
    assert is_port_path(text) is wanted


def test_the_way_up() -> None:
    assert [parent_of(p) for p in ("2-1.4.1", "2-1.4", "2-1", "usb2", "")] == [
        "2-1.4", "2-1", "usb2", "", "",
    ]  # fmt: skip
