"""The proc connector: every fork, exec and exit of the machine, from one netlink socket.

What this decides: how a datagram of the connector is read, and that a lost datagram is itself an
event (``RESYNC``): after ENOBUFS the kernel has dropped an unknown number, so whoever keeps an
inventory must sweep /proc. What it leaves to others: what the events mean. Threads are left out:
only whole processes fork and exit here.

``Gatherer`` makes a fork storm cheap for whoever is told: the first GATHER_EVENTS of a message one
by one, of the rest the counts, and ``resync`` as after a loss.

    source = open_proc_connector()
    gatherer.take(source.read())
    seen = gatherer.give()              # None when nothing happened
"""

from __future__ import annotations

import errno
import os
import struct
from _socket import (
    AF_NETLINK,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    socket,
)

from edgewarden.kernel.libc import refused

# <linux/netlink.h>, <linux/connector.h>, <linux/cn_proc.h>, <asm-generic/socket.h>
NETLINK_CONNECTOR = 11
NLMSG_DONE = 3
CN_IDX_PROC, CN_VAL_PROC = 1, 1
PROC_CN_MCAST_LISTEN = 1
PROC_EVENT_FORK = 0x00000001
PROC_EVENT_EXEC = 0x00000002
PROC_EVENT_UID = 0x00000004
PROC_EVENT_PTRACE = 0x00000100
PROC_EVENT_EXIT = 0x80000000
SO_RCVBUFFORCE = 33

RESYNC = 0
"""Kind of the event that stands for an unknown number of lost ones."""

_NLMSGHDR = struct.Struct("=IHHII")
_CN_MSG = struct.Struct("=IIIIHH")
_PROC_EVENT = struct.Struct("=IIQ")
"""what, cpu, timestamp_ns (CLOCK_MONOTONIC); the union of event data follows."""
_UNION = struct.Struct("=IIII")
"""fork: parent pid, parent tgid, child pid, child tgid; exit: pid, tgid, code, signal; uid: pid,
tgid, ruid, euid; ptrace: pid, tgid, tracer's pid, tracer's tgid."""
_TGID = struct.Struct("=II")
"""exec: pid, tgid."""

RECEIVE_BYTES = 4 << 20
"""A reader that stalls for a second keeps 255 of 40,000 events with the default 208 KiB: about 820
bytes each. 4 MiB are 5,000 events: GATHER_S of the worst storm seen (37,000 a second)."""
DATAGRAMS_PER_READ = 2048
"""A fork storm must not keep the caller's loop from its other descriptors: about 10 ms."""
DATAGRAM_BYTES = 4096
GATHER_S = 0.1
"""How long its reader may let events wait: ten messages a second."""
GATHER_EVENTS = 64


class ProcEvent:
    """One fork, exec or exit, a rise to root, a tracer's arrival, or RESYNC.

    Attributes:
        kind: PROC_EVENT_FORK, _EXEC, _EXIT, _UID, _PTRACE or RESYNC.
        pid: the process (the child, for a fork).
        other: the parent for a fork, the wait status for an exit, the real uid for _UID, the tracer
            for _PTRACE, else 0.
        mono_ns: CLOCK_MONOTONIC, nanoseconds.
    """

    __slots__ = ("kind", "mono_ns", "other", "pid")

    def __init__(self, kind: int, pid: int, other: int, mono_ns: int) -> None:
        self.kind = kind
        self.pid = pid
        self.other = other
        self.mono_ns = mono_ns


class ProcConnector:
    """A subscribed connector socket. Does not block; one thread; ``close`` unsubscribes."""

    __slots__ = ("_socket", "refused_datagrams")

    def __init__(self, subscribed: socket) -> None:
        self._socket = subscribed
        self.refused_datagrams = 0
        """Datagrams that did not come from the kernel or did not parse; they were not used."""

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[ProcEvent]:
        """Events waiting, from at most DATAGRAMS_PER_READ datagrams.

        Raises:
            HardwareFault: the socket is broken for good.
        """
        events: list[ProcEvent] = []
        for _ in range(DATAGRAMS_PER_READ):
            try:
                data, sender = self._socket.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise refused("recv(proc connector)", fault.errno or 0) from fault
                events.append(ProcEvent(RESYNC, 0, 0, 0))
                continue
            # Any process may send to a netlink socket's port; only port 0 is the kernel.
            event = parse_datagram(data) if sender[0] == 0 else None
            if event is None:
                self.refused_datagrams += 1
            elif event.pid:
                events.append(event)
        return events

    def close(self) -> None:
        self._socket.close()


def open_proc_connector() -> ProcConnector:
    """Subscribe to the proc connector.

    Raises:
        HardwareFault: EPROTONOSUPPORT where the kernel has none, EPERM without CAP_NET_ADMIN.
    """
    try:
        found = socket(AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_CONNECTOR)
    except OSError as fault:
        raise refused("socket(NETLINK_CONNECTOR)", fault.errno or 0) from fault
    try:
        try:
            found.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        except OSError:  # no CAP_NET_ADMIN in this user namespace: what the limit allows
            found.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
        found.bind((0, CN_IDX_PROC))
        found.send(_subscription())
    except OSError as fault:
        found.close()
        raise refused("bind(proc connector)", fault.errno or 0) from fault
    return ProcConnector(found)


def _subscription() -> bytes:
    operation = struct.pack("=I", PROC_CN_MCAST_LISTEN)
    message = _CN_MSG.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(operation), 0) + operation
    length = _NLMSGHDR.size + len(message)
    return _NLMSGHDR.pack(length, NLMSG_DONE, 0, 0, os.getpid()) + message


def parse_datagram(data: bytes) -> ProcEvent | None:
    """One event; pid 0 for a well-formed one that is of no interest; None when refused."""
    head = _NLMSGHDR.size + _CN_MSG.size
    if len(data) < head + _PROC_EVENT.size:
        return None
    length, kind = _NLMSGHDR.unpack_from(data)[:2]
    idx, val, _, _, size, _ = _CN_MSG.unpack_from(data, _NLMSGHDR.size)
    if kind != NLMSG_DONE or (idx, val) != (CN_IDX_PROC, CN_VAL_PROC):
        return None
    if length > len(data) or head + size > len(data):
        return None
    what, _, mono_ns = _PROC_EVENT.unpack_from(data, head)
    try:
        return _event(what, data, head + _PROC_EVENT.size, mono_ns)
    except struct.error:
        return None


def _event(what: int, data: bytes, at: int, mono_ns: int) -> ProcEvent:
    if what == PROC_EVENT_EXEC:
        _, tgid = _TGID.unpack_from(data, at)
        return ProcEvent(what, tgid, 0, mono_ns)
    if what == PROC_EVENT_FORK:
        _, parent, child, tgid = _UNION.unpack_from(data, at)
        return ProcEvent(what, tgid if child == tgid else 0, parent, mono_ns)
    if what == PROC_EVENT_EXIT:
        pid, tgid, status, _ = _UNION.unpack_from(data, at)
        return ProcEvent(what, tgid if pid == tgid else 0, status, mono_ns)
    if what == PROC_EVENT_UID:
        # commit_creds() tells each change of users; of interest is only who is root (euid) without
        # having been (ruid): a set-uid program, or a set-uid program's way back.
        # Of any thread: it has the whole process's memory, and only it may hold the rights.
        _, tgid, ruid, euid = _UNION.unpack_from(data, at)
        return ProcEvent(what, tgid if ruid and not euid else 0, ruid, mono_ns)
    if what == PROC_EVENT_PTRACE:
        _, tgid, _, tracer = _UNION.unpack_from(data, at)  # tracer 0: it let go
        return ProcEvent(what, tgid if tracer else 0, tracer, mono_ns)
    return ProcEvent(what, 0, 0, mono_ns)


class Gathered:
    """What happened in one GATHER_S.

    Attributes:
        forks, execs, exits: all that happened.
        resync: some were lost or did not fit.
        events: the first GATHER_EVENTS.
    """

    __slots__ = ("events", "execs", "exits", "forks", "resync")

    def __init__(self) -> None:
        self.forks = 0
        self.execs = 0
        self.exits = 0
        self.resync = False
        self.events: list[ProcEvent] = []


class Gatherer:
    """Gathers events; see the module.

    Attributes:
        total: events since the start.
        losses: how often the kernel lost some.
    """

    __slots__ = ("_now", "losses", "total")

    def __init__(self) -> None:
        self.total = 0
        self.losses = 0
        self._now = Gathered()

    def take(self, events: list[ProcEvent]) -> None:
        """Add events."""
        now = self._now
        for event in events:
            if event.kind == RESYNC:
                self.losses += 1
                now.resync = True
                continue
            if event.kind == PROC_EVENT_FORK:
                now.forks += 1
            elif event.kind == PROC_EVENT_EXEC:
                now.execs += 1
            elif event.kind == PROC_EVENT_EXIT:
                now.exits += 1
            else:
                continue
            self.total += 1
            if len(now.events) < GATHER_EVENTS:
                now.events.append(event)
            else:
                now.resync = True

    def give(self) -> Gathered | None:
        """What was gathered since the last time; None when it is nothing."""
        given = self._now
        if not given.resync and not given.events:
            return None
        self._now = Gathered()
        return given
