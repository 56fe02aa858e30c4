"""Free ports of loopback for programs that cannot be handed a socket.

A port that the kernel chose and that was closed again is one it gives to the next who asks for any:
a client of anybody's, or the very one who knocks there too early and then speaks to himself. These
lie where it chooses none, and no process is given one twice before it had all of them.

    port = free_port()
    first = free_port(neighbours=2)     # first + 1 is free, too
"""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST, LAST = 10_000, 65_535
FEWEST = 1000


def outside(first: int, last: int) -> range:
    """Where the kernel, which chooses from first to last, chooses none; everything, if it must."""
    below, above = range(LOWEST, first), range(max(last + 1, LOWEST), LAST)
    return next((found for found in (below, above) if len(found) >= FEWEST), range(LOWEST, LAST))


def _in_turn() -> Iterator[int]:
    first, last = (int(word) for word in KERNELS.read_text().split())
    places = outside(first, last)
    begin = random.SystemRandom().randrange(len(places))  # another process begins elsewhere
    for number in itertools.count(begin):
        yield places[number % len(places)]


_NEXT = _in_turn()


def free_port(neighbours: int = 1) -> int:
    """A port on which nobody listens; with neighbours the first of so many in a row."""
    row: list[int] = []
    for port in _NEXT:
        row = [*row, port] if row and port == row[-1] + 1 else [port]
        with contextlib.ExitStack() as stack:
            try:
                for one in row:  # on every address: whoever has one of them has the port
                    stack.enter_context(socket.create_server(("0.0.0.0", one)))
            except OSError:
                row = []
                continue
        if len(row) == neighbours:
            return row[0]
    raise AssertionError("it never ends")
