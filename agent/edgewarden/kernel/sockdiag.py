"""Sockets in one state, asked from the kernel by netlink (sock_diag) instead of by reading a table.

/proc/net/tcp walks every bucket of the hash of established connections to show a dozen listeners:
595 us where sock_diag, asked for one state, needs 13 (x86-64, 512 MB). What this decides: how an
answer is read. What it leaves to others: what a socket means (inventory/sockets.py).

    diag = open_diag()
    diag.dump(AF_INET, IPPROTO_TCP, 1 << TCP_LISTEN)    # [(address, port, uid, inode), ...]

Lean: gate imports this.
"""

from __future__ import annotations

import struct
import sys
from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    IPPROTO_TCP,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    inet_ntop,
    socket,
)

from edgewarden.errors import HardwareFault
from edgewarden.kernel.libc import refused

# <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>, <net/tcp_states.h>
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
TCP_CLOSE, TCP_LISTEN = 7, 10

_NLMSGHDR = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
"""family, protocol, extensions, padding, states; an empty socket id."""
_ANSWER = struct.Struct("=BBBB2s2s16s16sIIIIIIII")
"""family, state, timer, retransmits, source port, destination port (both big-endian), source,
destination, interface, cookie (2), expires, receive queue, send queue, uid, inode."""
ANSWER_BYTES = 65536
MOST_SOCKETS = 16_384
MOST_KEPT = 256
"""Sockets of one answer that the next is compared with: 30 kB; a gateway has some dozen."""
TIMEOUT_S = 1.0
"""The kernel answers at once; a second is a kernel that does not."""

INET_DIAG_CGROUP_ID = 21
_NLATTR = struct.Struct("=HH")

Found = tuple[str, int, int, int]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Diag:
    """A sock_diag socket; blocks for as long as the kernel takes to list."""

    def __init__(self, opened: socket) -> None:
        self._socket = opened
        self._sequence = 0
        self._kept: dict[tuple[int, int, int], tuple[list[bytes], list[Found]]] = {}

    def dump(self, family: int, protocol: int, states: int) -> list[Found]:
        """Address, port, uid and inode of each socket in one of ``states`` (1 << state); the very
        list of the last time where the kernel says the same. Not to be changed.

        Raises:
            HardwareFault: the kernel refuses.
        """
        said: list[bytes] = []
        self._ask(family, protocol, states, said.append)
        before, found = self._kept.get((family, protocol, states), (None, []))
        if said != before:
            found = [_found(body) for body in said]
            if len(said) <= MOST_KEPT:
                self._kept[family, protocol, states] = said, found
        return found

    def dump_with_groups(self, family: int, protocol: int, states: int) -> list[tuple[Found, int]]:
        """The same, each with the number of the control group that its socket was made in (the
        inode of its folder in cgroup2; 0 before Linux 5.8).

        Raises:
            HardwareFault: the kernel refuses.
        """
        found: list[tuple[Found, int]] = []
        self._ask(family, protocol, states, lambda body: found.append((_found(body), _group(body))))
        return found

    def _ask(self, family: int, protocol: int, states: int, take: Callable[[bytes], None]) -> None:
        self._sequence += 1
        request = _REQUEST.pack(family, protocol, 0, 0, states)
        head = _NLMSGHDR.pack(
            _NLMSGHDR.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP,
            self._sequence, 0,
        )  # fmt: skip
        try:
            self._socket.send(head + request)
            taken = 0
            while taken < MOST_SOCKETS:
                data, sender = self._socket.recvfrom(ANSWER_BYTES)
                if sender[0] != 0:
                    continue
                count = self._read(data, take)
                if count < 0:
                    break
                taken += count
        except OSError as fault:
            raise refused("sock_diag", fault.errno or 0) from fault

    def _read(self, data: bytes, take: Callable[[bytes], None]) -> int:
        """Take what one datagram says; how many sockets, or -1 when it was the last."""
        at = taken = 0
        while at + _NLMSGHDR.size <= len(data):
            length, kind, _, sequence, _ = _NLMSGHDR.unpack_from(data, at)
            if length < _NLMSGHDR.size or at + length > len(data):
                return -1
            body = data[at + _NLMSGHDR.size : at + length]
            if sequence == self._sequence:
                if kind == NLMSG_ERROR:
                    code = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                    raise refused("sock_diag", -code)
                if kind == NLMSG_DONE:
                    return -1
                if kind == SOCK_DIAG_BY_FAMILY and len(body) >= _ANSWER.size:
                    take(body)
                    taken += 1
            at += (length + 3) & ~3
        return taken

    def close(self) -> None:
        self._socket.close()


def _found(body: bytes) -> Found:
    family, _, _, _, port, _, source, *_, uid, inode = _ANSWER.unpack_from(body)
    family = AF_INET if family == AF_INET else AF_INET6
    address = inet_ntop(family, source[: 4 if family == AF_INET else 16])
    return address, int.from_bytes(port, "big"), uid, inode


def _group(body: bytes) -> int:
    at = _ANSWER.size
    while at + _NLATTR.size <= len(body):
        length, number = _NLATTR.unpack_from(body, at)
        if length < _NLATTR.size:
            break
        if number == INET_DIAG_CGROUP_ID and length == _NLATTR.size + 8:
            return int.from_bytes(body[at + _NLATTR.size : at + length], sys.byteorder)
        at += (length + 3) & ~3
    return 0


def open_diag() -> Diag:
    """A socket to ask with.

    Raises:
        HardwareFault: no sock_diag, or this process may not use netlink (EAFNOSUPPORT under
            systemd's RestrictAddressFamilies=).
    """
    try:
        made = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG)
    except OSError as fault:
        raise refused("socket(NETLINK_SOCK_DIAG)", fault.errno or 0) from fault
    made.settimeout(TIMEOUT_S)
    diag = Diag(made)
    try:
        diag.dump(AF_INET, IPPROTO_TCP, 1 << TCP_LISTEN)
    except HardwareFault:
        made.close()
        raise
    return diag
