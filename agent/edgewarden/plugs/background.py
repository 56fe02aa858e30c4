"""One thread that looks at what is plugged in, so that whoever orders it never waits.

What this decides: one look at a time, the newest order wins, and no fault of a look ends the
thread. What it leaves to others: why a thread (docs/adr/0012-peripherals.md), when to look
(gate/peripherals.py), the look itself (look.py).

    background = Background(plugs.look)
    background.submit(Order("enforce", table)); background.take()      # fileno() says when
"""

from __future__ import annotations

import os
from _thread import allocate_lock, stack_size, start_new_thread

from edgewarden.errors import EdgewardenError, HardwareFault
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.judge.peripherals_table import PeripheralTable
    from edgewarden.plugs.look import Sight

STACK_BYTES = 512 * 1024
"""Of the second thread; what of it is used stays locked in memory."""


class Order(Frozen):
    """One look: in which mode, by which rules."""

    __slots__ = ("mode", "table")
    mode: str
    table: PeripheralTable


class Background:
    """One thread that does one order after the other; see the module.

    Args:
        look: (mode, table) -> sight.
    """

    def __init__(self, look: Callable[[str, PeripheralTable], Sight]) -> None:
        self._look = look
        self._order: Order | None = None
        self._sights: list[Sight | EdgewardenError] = []
        self._wake = allocate_lock()
        self._wake.acquire()
        self._ended = False
        self._ours, self._its = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        stack_size(STACK_BYTES)
        try:
            start_new_thread(self._run, ())
        finally:
            stack_size(0)

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            if self._ended:
                os.close(self._its)
                return
            order, self._order = self._order, None
            if order is None:
                continue
            sight: Sight | EdgewardenError
            try:
                sight = self._look(order.mode, order.table)
            except EdgewardenError as fault:
                sight = fault
            except Exception as fault:  # the thread must live on, whatever a device shows
                kind = type(fault).__name__
                sight = HardwareFault(f"looking at USB failed: {kind}: {fault}", code="EW-USB-002")
            self._sights.append(sight)
            # Full: the loop has been called already. Broken: it ended while this was looked at.
            _quietly(os.write, self._its, b"!")

    def submit(self, order: Order) -> None:
        self._order = order
        if self._wake.locked():
            self._wake.release()

    def take(self) -> list[Sight | EdgewardenError]:
        _quietly(os.read, self._ours, 4096)
        taken, self._sights = self._sights, []
        return taken

    def fileno(self) -> int:
        return self._ours

    def end(self) -> None:
        """The thread ends after the look it is at; no method may be called any more."""
        self._ended = True
        os.close(self._ours)
        if self._wake.locked():
            self._wake.release()


def _quietly(call: Callable[..., object], *arguments: object) -> None:
    try:
        call(*arguments)
    except (BlockingIOError, BrokenPipeError):
        return
