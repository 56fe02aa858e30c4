"""Listeners on this machine: both ways to list them say the same, and whose they are."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import HardwareFault
from edgewarden.inventory import sockets
from edgewarden.inventory.sockets import Sockets, ephemeral_ports, parse_table
from edgewarden.kernel import sockdiag
from edgewarden.wire.processes import Listener

TCP = (
    b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout "
    b"inode\n"
    b"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 "
    b"640 1 00000000a0071c34 100 0 0 10 0\n"
    b"   1: 0100007F:8AA0 0100007F:8E43 06 00000000:00000000 03:00000D4C 00000000     0        0 "
    b"0 3 0000000019b77694\n"
)
TCP6 = (
    b"  sl  local_address                         remote_address                        st "
    b"tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    b"   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A "
    b"00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n"
)


@contextmanager
def listening(family: int, kind: int, address: str) -> Iterator[int]:
    with socket.socket(family, kind) as made:
        made.bind((address, 0))
        if kind == socket.SOCK_STREAM:
            made.listen()
        yield made.getsockname()[1]


@pytest.mark.parametrize("diag", [True, False])
@pytest.mark.parametrize(
    ("family", "kind", "address", "protocol"),
    [
        (socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1", "tcp"),
        (socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", "udp"),
        (socket.AF_INET6, socket.SOCK_STREAM, "::1", "tcp"),
        (socket.AF_INET6, socket.SOCK_DGRAM, "::1", "udp"),
    ],
)
def test_a_real_listener_is_seen_with_its_owner(
    diag: bool, family: int, kind: int, address: str, protocol: str
) -> None:
    under_test = Sockets(diag=diag)
    try:
        assert under_test.source == ("sock_diag" if diag else "/proc/net")
        with listening(family, kind, address) as port:
            # Others on this machine may have the same number in another protocol.
            bound = protocol, address, port
            [found] = [
                one
                for one in under_test.listeners()
                if (one.protocol, one.address, one.port) == bound
            ]
            assert found.uid == os.getuid()
            assert under_test.owner(found, [1, os.getpid()]) in (os.getpid(), None)
            assert under_test.owner(found, [os.getpid()]) == os.getpid()
            assert under_test.owner(found, [999_999_999]) is None
        assert found not in under_test.listeners()
    finally:
        under_test.close()


def test_where_netlink_is_closed_the_table_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed() -> sockdiag.Diag:
        raise HardwareFault("EAFNOSUPPORT", code="EW-EXEC-020", next_step="none")

    monkeypatch.setattr(sockets, "open_diag", closed)
    under_test = Sockets()
    assert (under_test.source, under_test.period_s) == ("/proc/net", sockets.SLOW_S)
    with listening(socket.AF_INET, socket.SOCK_STREAM, "127.0.0.1") as port:
        assert port in [one.port for one in under_test.listeners()]


def test_a_table_is_read_as_the_kernel_writes_it() -> None:
    assert parse_table(TCP, socket.AF_INET, sockdiag.TCP_LISTEN) == [("127.0.0.1", 8080, 1000, 640)]
    assert parse_table(TCP6, socket.AF_INET6, sockdiag.TCP_LISTEN) == [("::1", 22, 0, 77)]


@given(st.binary(max_size=400), st.sampled_from([socket.AF_INET, socket.AF_INET6]))
def test_any_table_is_read_or_skipped(noise: bytes, family: int) -> None:
    for data in (noise, TCP + noise, TCP.replace(b"0100007F", noise)):
        for address, port, uid, inode in parse_table(data, family, sockdiag.TCP_LISTEN):
            Listener("tcp", address, port, uid, inode)


@given(st.binary(max_size=300))
def test_any_answer_of_the_kernels_is_read_or_skipped(noise: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        diag = sockdiag.Diag(made)
        found: list[sockdiag.Found] = []
        with suppress(HardwareFault):
            diag._read(noise, lambda body: found.append(sockdiag._found(body)))
        assert len(found) <= 10


def test_ephemeral_ports_are_a_range() -> None:
    assert 1024 < ephemeral_ports().start < ephemeral_ports().stop <= 65536
    assert 40000 in ephemeral_ports("/nowhere")


def body(port: int) -> bytes:
    """A listener of 127.0.0.1, as sock_diag tells it."""
    at = port.to_bytes(2, "big"), bytes(2), bytes([127, 0, 0, 1, *bytes(12)]), bytes(16)
    return sockdiag._ANSWER.pack(socket.AF_INET, sockdiag.TCP_LISTEN, 0, 0, *at, *[0] * 6, 1000, 7)


def test_what_the_kernel_says_again_is_the_very_list_of_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = [body(80)]
    monkeypatch.setattr(
        sockdiag.Diag, "_ask", lambda self, f, p, s, take: [take(one) for one in said]
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        diag = sockdiag.Diag(made)
        question = socket.AF_INET, socket.IPPROTO_TCP, 1 << sockdiag.TCP_LISTEN
        first = diag.dump(*question)
        assert first == [("127.0.0.1", 80, 1000, 7)]
        assert diag.dump(*question) is first
        said.append(body(443))
        assert [port for _, port, *_ in diag.dump(*question)] == [80, 443]
        said.pop()
        assert diag.dump(*question) == first
        said += [body(1000 + n) for n in range(sockdiag.MOST_KEPT)]
        many = diag.dump(*question)
        assert diag.dump(*question) == many
        assert diag.dump(*question) is not many, "too many to keep"


def test_unchanged_listeners_are_the_very_tuple_of_before() -> None:
    class Kernel:
        said: tuple[list[sockdiag.Found], ...] = ([("0.0.0.0", 22, 0, 1)], [], [], [])

        def dump(self, family: int, protocol: int, states: int) -> list[sockdiag.Found]:
            return self.said[(family == socket.AF_INET6) + 2 * (protocol == socket.IPPROTO_UDP)]

        def close(self) -> None:
            pass

    under_test = Sockets(diag=False)
    kernel = Kernel()
    under_test._diag = kernel  # type: ignore[assignment]
    first = under_test.listeners()
    assert first == (Listener("tcp", "0.0.0.0", 22, 0, 1),)
    assert under_test.listeners() is first
    kernel.said = (*kernel.said[:3], [("::", 53, 0, 2)])
    assert Listener("udp", "::", 53, 0, 2) in under_test.listeners()
    under_test.close()
