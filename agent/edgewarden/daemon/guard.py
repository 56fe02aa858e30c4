"""guard: the process whose only power is to end a gate that stalls.

A stopped or stuck responder makes every exec on a guarded filesystem wait for ever, PID 1's
included; a dead one makes none wait. So, in order:

1. Whoever connects and is not root is sent away. The kernel says who (SO_PEERCRED).
2. The connection's process is held by a pidfd, taken while the connection lives: no reuse of its
   number can redirect the signal. One gate at a time.
3. It is told how often a gate was killed within TRIP_WINDOW_S; what to do about it is gate's to
   know.
4. SILENCE_S and LAST_WORD_S without a heartbeat: SIGKILL by pidfd, and one more trip. A connection
   that ended while its process lives counts as silence; a process that ended is no trip.
5. A heartbeat wakes nobody: it says when it was sent, and guard looks when the last one it knows of
   is SILENCE_S old. Of what it says no more is believed than can be: not sent later than now, nor
   (but for its way here) before the look that did not find it.
6. A look that comes LATE_S late is guard's own fault: on a machine that was suspended, or so loaded
   that guard itself did not run, gate gets GRACE_S to say something, once in a silence.
7. Two looks LAST_WORD_S apart must find nothing: where the machine stood still as a whole guard may
   be the first to run, and gate's heartbeat the next thing that happens.
8. Told to end, it ends at once and nobody with it: gate finds its successor at the socket, or is
   ending too. Told to follow its parent, it ends with it, but not before the gate it watches.

Who watches guard is systemd: ALIVE_S after ALIVE_S it hears WATCHDOG=1, and a guard that is silent
for WatchdogSec gets SIGKILL and a successor, which finds gate's next connection at the socket.

From then on it opens, executes, logs and imports nothing; everything it uses is in locked memory.

    python3 -I -S .../daemon/guard.py 3        # 3: a listening AF_UNIX seqpacket socket,
    run/guard.sock
"""

from __future__ import annotations

import gc
import os
import sys
import time
from _socket import socket
from select import POLLIN, poll

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.daemon.notify import Notifier
from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.kernel.process import accept_connection, lock_memory, open_pidfd, signal_pidfd
from edgewarden.kernel.signals import SIGINT, SIGKILL, SIGTERM, set_wakeup_fd, signal
from edgewarden.wire.local import MAX_MESSAGE_BYTES, Heartbeat, TripInfo, encode, parse

SILENCE_S = 2.5
"""Two of an idle gate's heartbeats, four of a busy one's. With LAST_WORD_S, four tenths of a second
are left of the three within which an exec that waits for a hung gate is to go on, for the signal
and for a machine at work."""
LATE_S, GRACE_S = 0.5, 1.0
LAST_WORD_S = 0.1
"""After SILENCE_S, not within it: looks would then fall before the second of an idle gate's beats,
and guard wake twice as often."""
ALONE_S = 1.0
"""Between two looks while there is no gate to watch."""
ALIVE_S = 3.0
"""A third of the unit's WatchdogSec."""
TRIP_WINDOW_S = 600.0
MAX_TRIPS = 32
"""More are not told apart: three put gate into observe."""


class Guard:
    """See the module.

    Args:
        listener: of run/guard.sock, non-blocking.
        told: readable once guard is to end: a signal's handler alone ends no wait (PEP 475).
    """

    def __init__(self, listener: socket, told: int) -> None:
        self.listener = listener
        self.told = told
        self.connection: socket | None = None
        self.pidfd = -1
        self.silence_s = 0.0
        self.excused = False
        self.end_s = 0.0
        """The silence that ends gate, once a look has found too much of it."""
        self.trips_mono: list[float] = []

    def look(self) -> None:
        """Wait until something must be done, hear what was said, and judge the silence."""
        wait_s = self.wait_s()
        started = time.monotonic()
        waiting = poll()
        waiting.register(self.told, POLLIN)
        waiting.register(self.listener.fileno(), POLLIN)
        if self.connection is not None:
            waiting.register(self.connection.fileno(), 0)  # its end alone: POLLHUP
        if self.pidfd >= 0:
            waiting.register(self.pidfd, POLLIN)
        ready = {fd for fd, _ in waiting.poll(int(wait_s * 1000) + 1)}
        if self.told in ready:
            return
        now = time.monotonic()
        self.silence_s += now - started
        self.hear(now)
        if self.pidfd >= 0 and self.pidfd in ready:
            self._forget()  # it has ended
        self.judge(now - started - wait_s)
        if self.listener.fileno() in ready:
            self._accept()

    def wait_s(self) -> float:
        """Until the next look."""
        if self.pidfd < 0:
            return ALONE_S
        return max(0.0, (self.end_s or SILENCE_S) - self.silence_s)

    def hear(self, now: float) -> None:
        """Take what gate said: the silence is as long as its last heartbeat is old."""
        while self.connection is not None:
            try:
                said = parse(self.connection.recv(MAX_MESSAGE_BYTES), Heartbeat)
            except BlockingIOError:
                return
            except (OSError, WireRefusal):  # the end of the connection parses as too_short
                self.connection.close()
                self.connection = None
                return
            age_s = now - said.mono_ns / 1e9
            if not 0.0 <= age_s <= self.silence_s + LATE_S:
                age_s = SILENCE_S - LATE_S
            self.silence_s = min(age_s, self.silence_s)
            self.excused, self.end_s = False, 0.0

    def judge(self, late_s: float) -> None:
        """End a gate that was silent for too long, unless it was guard that did not look."""
        if self.pidfd < 0 or self.silence_s < SILENCE_S:
            return
        if late_s >= LATE_S and not self.excused:
            self.silence_s, self.excused, self.end_s = SILENCE_S - GRACE_S, True, 0.0
        elif not self.end_s:
            self.end_s = self.silence_s + LAST_WORD_S
        elif self.silence_s >= self.end_s:
            self._kill()

    def _accept(self) -> None:
        found = accept_connection(self.listener)
        if found is None:
            return
        client, peer = found
        if peer.uid != 0 or self.pidfd >= 0:
            client.close()
            return
        try:
            pidfd = open_pidfd(peer.pid)
        except HardwareFault:
            client.close()
            return
        now = time.monotonic()
        self.trips_mono = [t for t in self.trips_mono if now - t < TRIP_WINDOW_S][-MAX_TRIPS:]
        told = TripInfo(len(self.trips_mono), int(TRIP_WINDOW_S), os.getpid())
        try:
            # Fails if the peer ended before its pidfd was taken: then the number may be another's.
            client.send(encode(told))
        except OSError:
            client.close()
            os.close(pidfd)
            return
        self.connection, self.pidfd = client, pidfd
        self.silence_s, self.excused, self.end_s = 0.0, False, 0.0

    def _kill(self) -> None:
        if signal_pidfd(self.pidfd, SIGKILL):
            self.trips_mono.append(time.monotonic())
        self._forget()

    def _forget(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def main(listen_fd: int, *, with_parent: bool = False) -> int:
    """Run guard.

    Args:
        listen_fd: a listening seqpacket socket, handed over by systemd or the supervisor.
        with_parent: end when the parent ends, once no gate is left to watch.

    Returns:
        0 after SIGTERM, or when the parent is gone; 64 (EX_USAGE) without a socket.
    """
    try:
        listener = socket(fileno=listen_fd)
    except OSError as fault:  # nothing there, or no socket
        sys.stderr.write(
            f"edgewarden guard: descriptor {listen_fd} is no socket: {fault.strerror} (EW-AGT-007);"
            " systemd's edgewarden-guard.socket or `edgewarden run` hands it over\n"
        )
        return 64
    listener.setblocking(False)
    stopping: list[int] = []

    def stop(number: int, _frame: object) -> None:
        stopping.append(number)

    told, tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    set_wakeup_fd(tell, warn_on_full_buffer=False)
    signal(SIGTERM, stop)
    signal(SIGINT, stop)
    parent = os.getppid()
    systemd = Notifier()
    gc.collect()
    try:
        lock_memory()
    except HardwareFault as fault:
        sys.stderr.write(f"edgewarden guard: {fault.text} ({fault.code}); goes on unlocked\n")
    gc.freeze()
    guard = Guard(listener, told)
    systemd.tell("READY=1")
    told_mono = time.monotonic()
    while not stopping:
        guard.look()
        now = time.monotonic()
        if now - told_mono >= ALIVE_S:
            told_mono = now
            systemd.tell("WATCHDOG=1")
        if with_parent and guard.pidfd < 0 and os.getppid() != parent:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), with_parent="--with-parent" in sys.argv[2:]))
