"""Ports that are given to nobody else between their choice and their use."""

from __future__ import annotations

import socket

import pytest

from hw.rigs import ports
from hw.rigs.ports import KERNELS, LAST, LOWEST, free_port, outside


@pytest.mark.parametrize(
    ("first", "last", "found"),
    [
        (32_768, 60_999, range(LOWEST, 32_768)),
        (1024, 60_999, range(61_000, LAST)),
        (1024, 65_535, range(LOWEST, LAST)),
        (10_500, 65_000, range(LOWEST, LAST)),
    ],
)
def test_they_lie_where_the_kernel_chooses_none(first: int, last: int, found: range) -> None:
    assert outside(first, last) == found


def test_none_is_given_twice_and_none_is_the_kernels() -> None:
    found = [free_port() for _ in range(200)]
    assert len(set(found)) == 200
    first, last = (int(word) for word in KERNELS.read_text().split())
    assert set(found) <= set(outside(first, last))
    for port in found[-3:]:
        socket.create_server(("127.0.0.1", port)).close()


def test_who_listens_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_NEXT", iter(range(a := free_port(6), a + 6)))
    with socket.create_server(("127.0.0.1", a + 1)):
        assert free_port(neighbours=2) == a + 2
    assert free_port() == a + 4
