"""USB devices from a recorded sysfs: what becomes a fact, and what is refused by which name."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgewarden.sense.usb import (
    DEVICES,
    MAX_DESCRIPTOR_BYTES,
    MAX_DEVICES,
    Refusal,
    device_names,
    is_root_hub,
    parse_descriptors,
    printable,
    read_device,
)
from edgewarden.wire.peripherals import UNREADABLE
from hw.rigs.usbtree import blob_of, records
from tests.sense.usbtrees import plugged, read, view

FTDI = blob_of(records()["ftdi"])


def refusal(blob: bytes) -> str:
    with pytest.raises(Refusal) as caught:
        parse_descriptors(blob)
    assert str(caught.value) in UNREADABLE
    return str(caught.value)


def test_a_device_becomes_facts(tmp_path: Path) -> None:
    facts = read(plugged(tmp_path, ("ftdi", "1-1.2")), "1-1.2")
    assert facts is not None
    assert (facts.port, facts.vid, facts.pid, facts.serial) == ("1-1.2", 0x0403, 0x6001, "A100Y922")
    assert (facts.interfaces, facts.refusal, facts.authorized) == (((255, 255, 255),), "", True)
    assert facts.descriptors == hashlib.sha256(FTDI).digest()


def test_a_device_that_is_not_authorised_is_known_as_well(tmp_path: Path) -> None:
    tree = plugged(tmp_path)
    (tree.sys / DEVICES / "usb1" / "authorized_default").write_text("0\n")
    tree.plug("badusb", "1-1.2")
    assert not list((tree.sys / DEVICES).glob("1-1.2:*"))
    facts = read(tree, "1-1.2")
    assert facts is not None
    assert (facts.authorized, facts.interfaces) == (False, ((3, 1, 1), (255, 255, 255)))


def test_every_configuration_counts_also_one_that_is_not_chosen(tmp_path: Path) -> None:
    tree = plugged(tmp_path, ("nic", "2-2"), ("disk", "2-1"))
    nic, disk = read(tree, "2-2"), read(tree, "2-1")
    assert nic is not None
    assert disk is not None
    assert (2, 6, 0) in nic.interfaces  # CDC Ethernet, in its second configuration
    assert (8, 6, 0x62) in disk.interfaces  # UAS, an alternate setting
    assert not list((tree.sys / DEVICES).glob("2-2:2.*"))


def test_names_are_devices_in_the_order_of_their_places(tmp_path: Path) -> None:
    tree = plugged(tmp_path, ("disk", "2-1"), ("ftdi", "1-1.10"), ("cp210x", "1-1.2"))
    (tree.sys / DEVICES / "1-1.2.999999").mkdir()
    (tree.sys / DEVICES / "usbx").mkdir()
    with view(tree) as made:
        assert device_names(made) == ["usb1", "1-1", "1-1.2", "1-1.10", "usb2", "2-1"]


def test_a_flood_of_devices_is_cut(tmp_path: Path) -> None:
    tree = plugged(tmp_path)
    for i in range(MAX_DEVICES + 50):
        (tree.sys / DEVICES / f"3-{i % 254 + 1}.{i // 254 + 1}").mkdir()
    with view(tree) as made:
        names = device_names(made)
        assert len([name for name in names if not is_root_hub(name)]) == MAX_DEVICES


def test_no_flood_hides_a_root_hub(tmp_path: Path) -> None:
    """Sorted by name they come last: 4,096 interfaces before them, and this was a machine without
    USB, where nothing can be refused."""
    tree = plugged(tmp_path)
    for i in range(5000):
        (tree.sys / DEVICES / f"1-1.{i % 254 + 1}:1.{i // 254}").mkdir()
    for i in range(MAX_DEVICES):
        (tree.sys / DEVICES / f"1-{i % 254 + 1}.{i // 254 + 1}").mkdir()
    with view(tree) as made:
        assert [name for name in device_names(made) if is_root_hub(name)] == ["usb1", "usb2"]


def test_another_device_at_the_same_place_is_never_mixed_in(tmp_path: Path) -> None:
    """A directory is held over a swap: its facts and writes end, they never reach the other."""
    tree = plugged(tmp_path, ("ftdi", "1-1.2"))
    with view(tree) as made:
        fd = made.directory(f"{DEVICES}/1-1.2")
        before = read_device(made, fd, "1-1.2")
        tree.unplug("1-1.2")
        tree.plug("badusb", "1-1.2")
        assert before is not None
        assert read_device(made, fd, "1-1.2") is None
        with pytest.raises(FileNotFoundError):
            made.open(fd, "authorized", os.O_WRONLY)
        os.close(fd)


# --- what cannot be relied on --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("blob", "name"),
    [
        (b"", "descriptors_too_short"),
        (FTDI[:17], "descriptors_too_short"),
        (FTDI + bytes(MAX_DESCRIPTOR_BYTES), "descriptors_too_long"),
        (b"\x11" + FTDI[1:], "descriptors_torn"),
        (FTDI[:18], "descriptors_torn"),  # says one configuration, has none
        (FTDI[:-1], "descriptors_torn"),
        (FTDI + b"\0", "descriptors_torn"),
        (FTDI[:17] + b"\x00" + FTDI[18:], "descriptors_torn"),
        (FTDI[:17] + b"\x02" + FTDI[18:], "descriptors_torn"),
        (FTDI[:17] + b"\xff" + FTDI[18:], "descriptors_torn"),
        (FTDI[:27] + b"\x00" + FTDI[28:], "descriptors_torn"),  # an interface of length 0
        (FTDI[:27] + b"\x08" + FTDI[28:], "descriptors_torn"),
        (FTDI[:28] + b"\x02" + FTDI[29:], "descriptors_torn"),  # a configuration inside another
        (FTDI[:20] + struct.pack("<H", 8) + FTDI[22:], "descriptors_torn"),
    ],
)  # fmt: skip
def test_a_blob_that_is_not_whole_is_refused(blob: bytes, name: str) -> None:
    assert refusal(blob) == name


def test_too_many_kinds_of_interface_are_refused() -> None:
    interfaces = [[0, 0, 0xFF, i, 0, []] for i in range(65)]
    config = [{"attributes": 0x80, "power": 50, "interfaces": interfaces}]
    assert refusal(blob_of({**records()["ftdi"], "config": config})) == "too_many_interfaces"


@given(st.binary(max_size=200) | st.builds(lambda tail: FTDI[:18] + tail, st.binary(max_size=200)))
def test_no_blob_raises_anything_but_a_named_refusal(blob: bytes) -> None:
    name = ""
    try:
        parse_descriptors(blob)
    except Refusal as fault:
        name = str(fault)
    assert name in ("", *UNREADABLE)


@given(st.integers(0, len(FTDI) - 1), st.integers(0, 255))
@example(18, 41)
@example(43, 16)
def test_one_byte_changed_is_refused_or_read_otherwise_but_never_hides_an_interface(
    at: int, value: int
) -> None:
    bad = bytearray(blob_of(records()["badusb"]))
    bad[at] = value
    try:
        _, interfaces = parse_descriptors(bytes(bad))
    except Refusal:
        return
    changed = at in range(27, 36)  # the first interface descriptor itself
    # A descriptor that says it reaches over the second one: the kernel goes by the same lengths;
    # what it does not see gets no driver (drivers/usb/core/config.c).
    swallowed = at in (18, 36, 43) and at + value > 50
    assert changed or swallowed or (3, 1, 1) in interfaces


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("idVendor", "0403 \n", ""),
        ("idVendor", "zzzz\n", "bad_number"),
        ("idVendor", "\n", "bad_number"),
        ("idVendor", "0x403\n", "bad_number"),
        ("devnum", "1e3\n", "bad_number"),
        ("devnum", "9" * 20, "bad_number"),
        ("idProduct", "6002\n", "descriptors_differ"),
        ("bDeviceClass", "09\n", "descriptors_differ"),
        ("serial", "x" * 127 + "\n", "bad_serial"),
    ],
)  # fmt: skip
def test_odd_attributes_are_refused(tmp_path: Path, name: str, text: str, wanted: str) -> None:
    tree = plugged(tmp_path, ("ftdi", "1-1.2"))
    (tree.sys / DEVICES / "1-1.2" / name).write_text(text)
    facts = read(tree, "1-1.2")
    assert facts is not None
    assert facts.refusal == wanted


def test_a_device_without_descriptors_is_unreadable_and_one_without_ids_is_gone(
    tmp_path: Path,
) -> None:
    tree = plugged(tmp_path, ("ftdi", "1-1.2"), ("cp210x", "1-1.3"))
    (tree.sys / DEVICES / "1-1.2" / "descriptors").unlink()
    facts = read(tree, "1-1.2")
    assert facts is not None
    assert (facts.refusal, facts.descriptors) == ("unreadable", b"")
    for entry in list((tree.sys / DEVICES / "1-1.3").iterdir()):
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    assert read(tree, "1-1.3") is None


@given(st.text())
def test_strings_are_printable(text: str) -> None:
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"A\x1b[31m\x00\n", "A\\x1b[31m\\x00"),
        (b"\xff\xfe\n", "\\xff\\xfe"),
        (b"\xe2\x80\xae\n", "\\u202e"),
    ],
)  # fmt: skip
def test_a_serial_number_cannot_draw_on_a_terminal(tmp_path: Path, raw: bytes, shown: str) -> None:
    tree = plugged(tmp_path, ("ftdi", "1-1.2"))
    (tree.sys / DEVICES / "1-1.2" / "serial").write_bytes(raw)
    facts = read(tree, "1-1.2")
    assert facts is not None
    assert facts.serial == shown
