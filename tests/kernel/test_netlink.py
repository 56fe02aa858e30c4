"""The proc connector: datagrams read strictly, losses said aloud, storms gathered."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from socket import SO_RCVBUF, SOL_SOCKET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.kernel import netlink
from edgewarden.kernel.netlink import (
    PROC_EVENT_EXEC,
    PROC_EVENT_EXIT,
    PROC_EVENT_FORK,
    PROC_EVENT_PTRACE,
    PROC_EVENT_UID,
    RESYNC,
    Gatherer,
    ProcConnector,
    ProcEvent,
    open_proc_connector,
    parse_datagram,
)
from tests.waiting import wait_until


def datagram(what: int, data: bytes, idx: int = 1, kind: int = 3) -> bytes:
    event = struct.pack("=IIQ", what, 0, 5) + data
    message = struct.pack("=IIIIHH", idx, 1, 0, 0, len(event), 0) + event
    return struct.pack("=IHHII", 16 + len(message), kind, 0, 0, 0) + message


FORK = struct.pack("=IIII", 10, 10, 20, 20)
THREAD = struct.pack("=IIII", 10, 10, 21, 20)
EXIT = struct.pack("=IIII", 20, 20, 256, 17)


def seen(data: bytes) -> tuple[int, int, int] | None:
    event = parse_datagram(data)
    return None if event is None else (event.kind, event.pid, event.other)


def test_forks_execs_and_exits_of_processes_are_read() -> None:
    assert seen(datagram(PROC_EVENT_FORK, FORK)) == (PROC_EVENT_FORK, 20, 10)
    assert seen(datagram(PROC_EVENT_EXEC, struct.pack("=II", 7, 7))) == (PROC_EVENT_EXEC, 7, 0)
    assert seen(datagram(PROC_EVENT_EXIT, EXIT)) == (PROC_EVENT_EXIT, 20, 256)


def test_threads_are_of_no_interest() -> None:
    assert seen(datagram(PROC_EVENT_FORK, THREAD)) == (PROC_EVENT_FORK, 0, 10)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        datagram(PROC_EVENT_FORK, FORK)[:-1],
        datagram(PROC_EVENT_FORK, FORK[:4]),
        datagram(PROC_EVENT_FORK, FORK, idx=2),
        datagram(PROC_EVENT_FORK, FORK, kind=2),
    ],
)
def test_what_does_not_add_up_is_refused(data: bytes) -> None:
    assert parse_datagram(data) is None


@given(st.binary(max_size=200))
def test_garbage_raises_nothing(garbage: bytes) -> None:
    event = parse_datagram(garbage)
    assert event is None or len(garbage) >= 52


@pytest.fixture
def connector() -> Iterator[ProcConnector]:
    opened = open_proc_connector()
    yield opened
    opened.close()


@pytest.mark.needs("root", "proc-connector")
def test_a_child_is_seen_from_fork_to_exit(connector: ProcConnector) -> None:
    child = subprocess.Popen(["/bin/false"])
    child.wait(30)
    found: list[tuple[int, int]] = []

    def whole_life() -> bool:
        found.extend((e.kind, e.pid) for e in connector.read() if e.pid == child.pid)
        return (PROC_EVENT_EXIT, child.pid) in found

    wait_until(whole_life)
    assert found == [(k, child.pid) for k in (PROC_EVENT_FORK, PROC_EVENT_EXEC, PROC_EVENT_EXIT)]


@pytest.mark.needs("root", "proc-connector")
def test_a_reader_that_was_too_slow_is_told_to_resync(connector: ProcConnector) -> None:
    connector._socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 1)  # the kernel's least
    script = "i=0; while [ $i -lt 200 ]; do (:); i=$((i+1)); done"
    subprocess.run(["sh", "-c", script], check=True, timeout=120)
    assert RESYNC in [event.kind for event in connector.read()]


@pytest.mark.needs("root", "proc-connector")
def test_another_process_cannot_forge_an_event(connector: ProcConnector) -> None:
    port = connector._socket.getsockname()[0]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, netlink.NETLINK_CONNECTOR) as liar:
        # Refused by the kernel itself is as good.
        with contextlib.suppress(ConnectionRefusedError, PermissionError):
            liar.sendto(datagram(PROC_EVENT_EXEC, struct.pack("=II", 4242, 4242)), (port, 0))
        events = connector.read()
    assert 4242 not in [event.pid for event in events]


def event(kind: int, pid: int) -> ProcEvent:
    return ProcEvent(kind, pid, 0, 1)


def test_nothing_happened_is_nothing_to_tell() -> None:
    gatherer = Gatherer()
    assert gatherer.give() is None
    gatherer.take([event(PROC_EVENT_FORK, 1)])
    told = gatherer.give()
    assert told is not None
    assert (told.forks, told.execs, told.exits, told.resync) == (1, 0, 0, False)
    assert gatherer.give() is None


def test_a_storm_is_counted_whole_and_named_in_part() -> None:
    gatherer = Gatherer()
    gatherer.take([event(PROC_EVENT_EXEC, n) for n in range(1, 501)])
    told = gatherer.give()
    assert told is not None
    assert told.execs == 500
    assert [e.pid for e in told.events] == list(range(1, netlink.GATHER_EVENTS + 1))
    assert told.resync


def test_a_loss_asks_for_a_resync() -> None:
    gatherer = Gatherer()
    gatherer.take([event(RESYNC, 0)])
    told = gatherer.give()
    assert told is not None
    assert (told.resync, told.events) == (True, [])
    assert (gatherer.losses, gatherer.total) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        (PROC_EVENT_UID, (7, 7, 1000, 0), (7, 1000)),  # a set-uid program
        (PROC_EVENT_UID, (7, 7, 0, 0), (0, 0)),  # root stays root
        (PROC_EVENT_UID, (7, 7, 1000, 1000), (0, 1000)),  # a daemon lets go of its rights
        (PROC_EVENT_UID, (8, 7, 1000, 0), (7, 1000)),  # a thread
        (PROC_EVENT_PTRACE, (7, 7, 9, 9), (7, 9)),
        (PROC_EVENT_PTRACE, (8, 7, 9, 9), (7, 9)),  # by one of its threads
        (PROC_EVENT_PTRACE, (7, 7, 0, 0), (0, 0)),  # it let go
    ],
)
def test_who_becomes_root_or_is_taken_hold_of(
    kind: int, fields: tuple[int, int, int, int], expected: tuple[int, int]
) -> None:
    assert seen(datagram(kind, struct.pack("=IIII", *fields))) == (kind, *expected)
