"""The kernel's messages about devices: only its own are believed, and a loss is news."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from socket import SCM_CREDENTIALS, SOL_SOCKET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.kernel.uevent import DATAGRAM_BYTES, Uevents, is_kernel, parse_uevent
from hw.rigs.usbtree import InjectedUevents, uevent

PLUG = uevent("add", "devices/usb1/1-1", "usb", DEVTYPE="usb_device")
CREDENTIALS = (SOL_SOCKET, SCM_CREDENTIALS, struct.pack("=III", 0, 0, 0))


@pytest.fixture
def injected() -> Iterator[InjectedUevents]:
    made = InjectedUevents()
    yield made
    made.close()


def test_messages_come_in_order(injected: InjectedUevents) -> None:
    source = Uevents(injected)
    injected.inject(PLUG)
    injected.inject(uevent("remove", "devices/usb1/1-1", "usb"))
    heard = source.read()
    assert [(e.action, e.path, e.subsystem) for e in heard.events] == [
        ("add", "devices/usb1/1-1", "usb"), ("remove", "devices/usb1/1-1", "usb"),
    ]  # fmt: skip
    assert not heard.lost
    assert source.read().events == []


@pytest.mark.parametrize(
    ("sender", "uid"), [((4711, 1), 0), ((0, 2), 0), ((4711, 0), 0), ((0, 1), 1000)]
)
def test_what_the_kernel_did_not_send_is_not_used(
    injected: InjectedUevents, sender: tuple[int, int], uid: int
) -> None:
    source = Uevents(injected)
    injected.inject(PLUG, sender, uid)
    assert source.read().events == []
    assert source.refused == 1


@pytest.mark.parametrize(
    "ancillary",
    [
        [],
        [CREDENTIALS, CREDENTIALS],
        [(SOL_SOCKET, SCM_CREDENTIALS, b"")],
        [(SOL_SOCKET, SCM_CREDENTIALS + 1, CREDENTIALS[2])],
        [(SOL_SOCKET, SCM_CREDENTIALS, struct.pack("=III", 7, 0, 0))],
    ],
)
def test_without_the_kernels_credentials_nobody_is_the_kernel(
    ancillary: list[tuple[int, int, bytes]],
) -> None:
    assert is_kernel((0, 1), [CREDENTIALS])
    assert not is_kernel((0, 1), ancillary)


def test_a_loss_is_news_and_reading_goes_on(injected: InjectedUevents) -> None:
    source = Uevents(injected)
    injected.drop()
    injected.inject(PLUG)
    heard = source.read()
    assert heard.lost
    assert len(heard.events) == 1


def test_a_message_that_was_cut_is_refused(injected: InjectedUevents) -> None:
    source = Uevents(injected)
    injected.inject(PLUG + b"X=" + b"y" * DATAGRAM_BYTES + b"\0")
    whole = PLUG + b"X=" + b"y" * (DATAGRAM_BYTES - len(PLUG) - 3) + b"\0"
    assert len(whole) == DATAGRAM_BYTES
    injected.inject(whole + b"ACTION=remove\0")  # cut where a field ends, it would still parse
    assert source.read().events == []
    assert source.refused == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLUG[:-1],
        b"libudev\0" + PLUG,
        PLUG.replace(b"add@", b"add "),
        PLUG.replace(b"ACTION=add", b"ACTION=remove"),
        PLUG.replace(b"add", b"eat"),
        PLUG.replace(b"DEVPATH=/devices/usb1/1-1", b"DEVPATH=/devices/usb1/1-2"),
        PLUG.replace(b"/devices", b"devices"),
        PLUG.replace(b"/devices/usb1", b"/devices/.."),
        PLUG + b"SUBSYSTEM=net\0",
        PLUG + b"nothing\0",
        PLUG + b"\xff=1\0",
    ],
)
def test_what_the_kernel_does_not_write_is_refused(data: bytes) -> None:
    assert parse_uevent(PLUG) is not None
    assert parse_uevent(data) is None


@given(st.binary(max_size=300))
def test_no_bytes_raise(data: bytes) -> None:
    found = parse_uevent(data)
    assert found is None or not found.path.startswith("/")
