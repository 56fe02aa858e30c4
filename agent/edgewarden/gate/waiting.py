"""The one place where gate sleeps: its descriptors, and who is called when one has something.

What this decides: that between an exec that can be answered in passing (exec/quick.py) and the next
there is as little of gate as can be; whoever was let go is behind it on the same processor. What it
leaves to others: what happens then (daemon/gate.py), which sleep is worth while (exec/quick.py).

epoll, not poll: poll asks every descriptor each time, on the way into sleep and out of it. Two of
them: one for all, and one for all but execs, which the bell looks at.

    waiting = Waiting(time.monotonic)
    waiting.watch(fd, handler)
    waiting.poll(due_mono - now_mono, 64)     # [(fd, events), ...]
"""

from __future__ import annotations

import os
from _thread import allocate_lock, stack_size, start_new_thread
from select import EPOLLIN, epoll

from edgewarden.errors import HardwareFault
from edgewarden.kernel.fanotify import FAN_MODIFY, open_group, parse_events

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.fanotify import Group

LOOK_S = 0.005
"""How late the thread may notice that ``due_mono`` became earlier: as long as a report may wait."""
STACK_BYTES = 256 * 1024
"""Of the thread; what of it is used stays locked in memory."""


class Waiting:
    """See the module.

    Attributes:
        bell: for who sleeps in a read of the exec group.
        poll: seconds and how many at most -> what is ready; as epoll's own, with nothing between.
    """

    __slots__ = ("_handlers", "_others", "_poll", "bell", "poll")

    def __init__(self, mono_s: Callable[[], float]) -> None:
        self._poll, self._others = epoll(), epoll()
        self.poll: Callable[[float, int], list[tuple[int, int]]] = self._poll.poll
        self.bell = Bell(self._others.poll, mono_s)
        self._handlers: dict[int, Callable[[int], None]] = {}

    def watch(
        self, fd: int, handler: Callable[[int], None], events: int = EPOLLIN, twin_fd: int = -1
    ) -> None:
        """Have ``handler(events)`` called; once more for a descriptor changes what was said.

        Args:
            twin_fd: the same file opened once more, for the bell, where the kernel says a thing
                only once to each: a mount table, proc(5). Never forgotten.
        """
        _register(self._poll, fd, events)
        _register(self._others, fd if twin_fd < 0 else twin_fd, events)
        self._handlers[fd] = handler

    def watch_execs(self, fd: int, handler: Callable[[int], None]) -> None:
        """As ``watch``, for the exec group: the bell does not ring for it."""
        _register(self._poll, fd, EPOLLIN)
        self._handlers[fd] = handler

    def forget(self, fd: int) -> None:
        """Call nobody any more; twice is harmless."""
        if self._handlers.pop(fd, None) is not None:
            for each in (self._poll, self._others):
                try:
                    each.unregister(fd)
                except OSError:  # closed already, or an exec group: it is not there
                    continue

    def call(self, fd: int, events: int) -> None:
        """Call the handler; an earlier one of the same round may have ended it."""
        handler = self._handlers.get(fd)
        if handler is not None:
            handler(events)

    def close(self) -> None:
        """No method may be called any more."""
        self.bell.end()
        self._poll.close()
        self._others.close()


def _register(one: epoll, fd: int, events: int) -> None:
    try:
        one.register(fd, events)
    except FileExistsError:
        one.modify(fd, events)


class Bell:
    """For the loop to sleep in a read of the exec group, while programs start one after the other.

    Between two starts gate sleeps either in epoll and reads afterwards, or in the read itself,
    which is 10 us less of somebody's exec (docs/adr/0037-asking-the-kernel-who-it-is.md). Only an
    event of the group ends a read. So a second thread looks at everything else meanwhile, and when
    something is there or due it writes to a file in memory that the group watches.

        if bell.may_sleep(group, due_mono):   # its reads wait from here on
            ... read, until bell.rung ...
            bell.wake(group)                  # and from here on they do not

    What must not happen, and why it does not:

    1. A ring that nobody hears: it waits in the group for a read that is not there yet. One too
       many does no harm.
    2. A ring behind a thousand starts in the queue: ``rung`` is set before, to be looked at after
       each start.
    3. A thread that ended or never rings: ``start`` tries the bell with a group of its own, and the
       end of the thread rings for the last time; nobody sleeps here again. Should even that fail,
       guard misses a heartbeat.
    4. The thread keeps the interpreter while others keep the processor from it: ``start`` gives it
       gate's priority.

    All methods are for the loop; the thread touches nothing but the attributes of this object.

    Attributes:
        due_mono: when the loop is to wake up; may be changed while it sleeps.
        rung: whether the thread rang in this sleep.
    """

    __slots__ = (
        "_asleep", "_ended", "_fd", "_go", "_group", "_looking", "_mono_s", "_others",
        "_started", "_works", "due_mono", "rung",
    )  # fmt: skip

    def __init__(
        self, others: Callable[[float, int], list[tuple[int, int]]], mono_s: Callable[[], float]
    ) -> None:
        """Make the file that is rung by.

        Args:
            others: seconds and how many at most -> what is ready, but execs.
            mono_s: CLOCK_MONOTONIC in seconds.
        """
        self._mono_s = mono_s
        self.due_mono = 0.0
        self.rung = False
        self._others = others
        self._group: Group | None = None
        self._go = allocate_lock()
        self._go.acquire()
        self._asleep = self._ended = self._looking = self._started = self._works = False
        memory = os.memfd_create("edgewarden-bell", os.MFD_CLOEXEC)
        try:
            # By its name: the kernel tells nobody of what is written through the descriptor that
            # memfd_create returns.
            self._fd = os.open(f"/proc/self/fd/{memory}", os.O_RDWR | os.O_CLOEXEC)
        finally:
            os.close(memory)

    def start(self) -> bool:
        """Try the bell, and start the thread; False where this kernel does not ring it."""
        self._works = self._is_heard()
        if self._works:
            stack_size(STACK_BYTES)
            try:
                start_new_thread(self._run, ())
                self._started = True
            except RuntimeError:  # no room for a thread
                self._works = False
            finally:
                stack_size(0)
        return self._works

    def _is_heard(self) -> bool:
        try:
            group = open_group(permission=False)
        except HardwareFault:
            return False
        try:
            group.hang_bell(self._fd)
            self._ring()
            events = list(parse_events(group.read_bytes()))
        except (HardwareFault, OSError):
            return False
        finally:
            group.close()
        for event in events:
            event.close()
        return [event.mask for event in events] == [FAN_MODIFY]

    def may_sleep(self, group: Group, due_mono: float) -> bool:
        """Make reads of ``group`` wait, until ``wake``; False: they do not, sleep elsewhere.

        Args:
            group: enforcing.
            due_mono: when the bell rings at the latest.
        """
        if not self._works:
            return False
        if group is not self._group:
            try:
                group.hang_bell(self._fd)
            except HardwareFault:
                self._works = False
                return False
            self._group = group
        self.due_mono = due_mono
        self.rung = False
        self._asleep = True
        os.set_blocking(group.fd, True)
        if not self._looking:
            self._looking = True
            self._go.release()
        if self._is_gone():  # asked last: whoever ends after this has seen us asleep
            self.wake(group)
            return False
        return True

    def _is_gone(self) -> bool:
        return not self._works

    def wake(self, group: Group) -> None:
        """The sleep is over: reads of ``group`` wait no more."""
        self._asleep = False
        os.set_blocking(group.fd, False)

    def end(self) -> None:
        """The thread ends; no method may be called any more."""
        self._ended = True
        if not self._started:
            os.close(self._fd)
        elif self._go.locked():
            self._go.release()

    def _run(self) -> None:
        try:
            while self._go.acquire() and not self._ended:
                self._look()
        finally:
            self._works = False
            self.rung = True
            self._ring()
            os.close(self._fd)

    def _look(self) -> None:
        while self._asleep:
            wait_s = min(LOOK_S, max(0.0, self.due_mono - self._mono_s()))
            if self._others(wait_s, 1) or self._mono_s() >= self.due_mono:
                break
        self._looking = False  # before the ring: who goes to sleep after it calls us again
        if self._asleep:
            self.rung = True
            self._ring()

    def _ring(self) -> None:
        os.pwrite(self._fd, b"!", 0)
