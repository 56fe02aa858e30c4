"""What the kernel says of devices that come, go and change: NETLINK_KOBJECT_UEVENT.

What this decides: who is believed (only the kernel: sender port 0, kernel's group, credentials of
pid 0; any process may write to a netlink socket's port), how a message is read, and that lost
messages are themselves news (``lost``). What it leaves to others: what a device is. A message is a
hint to look at sysfs, never a fact: it carries what the kernel took from the device, late and
perhaps not at all.

    add@/devices/.../usb1/1-1/1-1.2 NUL ACTION=add NUL DEVPATH=... NUL SUBSYSTEM=usb NUL ...

    source = open_uevents()
    heard = source.read()         # heard.events, heard.lost
"""

from __future__ import annotations

import errno
import struct
from _socket import (
    AF_NETLINK,
    MSG_TRUNC,
    SCM_CREDENTIALS,
    SO_PASSCRED,
    SO_RCVBUF,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOL_SOCKET,
    socket,
)

from edgewarden.kernel.libc import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Datagrams(Protocol):
        """What of a socket is used here."""

        def fileno(self) -> int:
            """Descriptor to wait for."""

        def recvmsg(
            self, size: int, room: int, /
        ) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
            """As socket.recvmsg."""

        def close(self) -> None:
            """End."""


# <linux/netlink.h>, <asm-generic/socket.h>; kobject_uevent.c broadcasts to group 1, udev to 2.
NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
SO_RCVBUFFORCE = 33
ACTIONS = frozenset(
    ("add", "remove", "change", "move", "online", "offline", "bind", "unbind")
)  # fmt: skip
"""kobject_actions, lib/kobject_uevent.c."""

DATAGRAM_BYTES = 8192
"""UEVENT_BUFFER_SIZE is 2048 (<linux/kobject.h>), and the head before it."""
RECEIVE_BYTES = 1 << 20
"""A hub with all that is behind it says some hundred messages at once, 1.5 KiB of room each."""
DATAGRAMS_PER_READ = 256
"""A storm of plugging must not keep the caller's loop from its other descriptors: about 5 ms."""
MAX_FIELD_CHARS = 1024
_UCRED = struct.Struct("=III")
_ROOM = 64


class Uevent:
    """One message.

    Attributes:
        action: of ACTIONS.
        path: below sysfs's root, without a leading slash (``devices/...``).
        subsystem: ``usb``, ``tty``, ``net``, ...
    """

    __slots__ = ("action", "path", "subsystem")

    def __init__(self, action: str, path: str, subsystem: str) -> None:
        self.action = action
        self.path = path
        self.subsystem = subsystem


class Heard:
    """What one reading gave: messages in order, and whether the kernel dropped some."""

    __slots__ = ("events", "lost")

    def __init__(self, events: list[Uevent], lost: bool) -> None:
        self.events = events
        self.lost = lost


class Uevents:
    """A subscribed socket. Does not block; one thread; ``close`` unsubscribes.

    Attributes:
        refused: messages that the kernel did not send or that did not parse; they were not used.
    """

    __slots__ = ("_socket", "refused")

    def __init__(self, subscribed: Datagrams) -> None:
        self._socket = subscribed
        self.refused = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Heard:
        """Messages waiting, from at most DATAGRAMS_PER_READ datagrams.

        Raises:
            HardwareFault: the socket is broken for good.
        """
        events: list[Uevent] = []
        lost = False
        for _ in range(DATAGRAMS_PER_READ):
            try:
                data, ancillary, flags, sender = self._socket.recvmsg(DATAGRAM_BYTES, _ROOM)
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise refused("recv(uevent)", fault.errno or 0) from fault
                lost = True
                continue
            event = None
            if not flags & MSG_TRUNC and is_kernel(sender, ancillary):
                event = parse_uevent(data)
            if event is None:
                self.refused += 1
            else:
                events.append(event)
        return Heard(events, lost)

    def close(self) -> None:
        self._socket.close()


def open_uevents() -> Uevents:
    """Subscribe to the kernel's messages in this network namespace.

    Raises:
        HardwareFault: the kernel has none, or refuses.
    """
    try:
        found = socket(
            AF_NETLINK, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT
        )
    except OSError as fault:
        raise refused("socket(NETLINK_KOBJECT_UEVENT)", fault.errno or 0) from fault
    try:
        try:
            found.setsockopt(SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        except OSError:  # no CAP_NET_ADMIN in this user namespace: what the limit allows
            found.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES)
        found.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
        found.bind((0, KERNEL_GROUP))
    except OSError as fault:
        found.close()
        raise refused("bind(uevent)", fault.errno or 0) from fault
    return Uevents(found)


def is_kernel(sender: object, ancillary: list[tuple[int, int, bytes]]) -> bool:
    """Whether a datagram came from the kernel itself.

    Args:
        sender: (netlink port, groups) as recvmsg gives it.
        ancillary: as recvmsg gives it; must hold exactly one message, credentials of pid 0, uid 0.
    """
    if sender != (0, KERNEL_GROUP) or len(ancillary) != 1:
        return False
    level, kind, data = ancillary[0]
    if level != SOL_SOCKET or kind != SCM_CREDENTIALS or len(data) != _UCRED.size:
        return False
    return _UCRED.unpack(data)[:2] == (0, 0)


def parse_uevent(data: bytes) -> Uevent | None:
    """One message; None when it is none that the kernel makes."""
    if not data.endswith(b"\0"):
        return None
    try:
        head, *pairs = data[:-1].decode("utf-8").split("\0")
    except UnicodeDecodeError:
        return None
    action, at, path = head.partition("@")
    fields: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            return None
        if key in ("ACTION", "DEVPATH", "SUBSYSTEM"):
            if key in fields or len(value) > MAX_FIELD_CHARS:
                return None
            fields[key] = value
    if not at or action not in ACTIONS or fields.get("ACTION") != action:
        return None
    if not path.startswith("/") or fields.get("DEVPATH") != path or ".." in path:
        return None
    return Uevent(action, path[1:], fields.get("SUBSYSTEM", ""))
