"""The counters of our nftables table, asked of the kernel over netlink.

Not through libnftables 1.0.6: to list counters it fetches every element of every set first (16 ms
where there are 5,000, while execs wait), and what it resets it prints from a cache of before
(measured both).

    counters = Counters(); counters.read() == {"c0": 3}; counters.read() is None without our table
"""

from __future__ import annotations

import struct
from _socket import (
    AF_NETLINK,
    MSG_DONTWAIT,
    SOCK_CLOEXEC,
    SOCK_RAW,
    socket,
)

from edgewarden.kernel.libc import refused

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_INET = 1
NFT_MSG_NEWOBJ, NFT_MSG_GETOBJ = 18, 19
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFTA_COUNTER_PACKETS = 2
NFT_OBJECT_COUNTER = 1
NLA_TYPE_MASK = 0x3FFF

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG_BYTES = 4
_NLATTR = struct.Struct("=HH")
DATAGRAM_BYTES = 32768
MOST_DATAGRAMS = 64
"""1024 counters of 100 bytes are four."""


class Counters:
    """One socket. Does not block: the kernel makes each part of its answer when it is read."""

    __slots__ = ("_request", "_socket")

    def __init__(self, table: str) -> None:
        """Raises HardwareFault where the kernel refuses."""
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as fault:
            raise refused("socket(netfilter)", fault.errno or 0) from fault
        body = (
            bytes([NFPROTO_INET, 0, 0, 0])
            + _attribute(NFTA_OBJ_TABLE, table.encode() + b"\0")
            + _attribute(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_bytes(4, "big"))
        )
        kind = (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_GETOBJ
        head = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, NLM_F_REQUEST | NLM_F_DUMP, 1, 0)
        self._request = head + body

    def read(self) -> dict[str, int] | None:
        """Packets of each counter; None where the table has none, or is not there.

        Raises:
            HardwareFault: the kernel refuses.
        """
        found: dict[str, int] = {}
        try:
            self._socket.send(self._request)
            for _ in range(MOST_DATAGRAMS):
                if parse(self._socket.recv(DATAGRAM_BYTES, MSG_DONTWAIT), found):
                    break
        except OSError as fault:
            raise refused("dump(nftables counters)", fault.errno or 0) from fault
        return found or None


def parse(data: bytes, found: dict[str, int]) -> bool:
    """Add a datagram's counters; True at the end of the answer."""
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        if kind in (NLMSG_DONE, NLMSG_ERROR) or length < _NLMSGHDR.size:
            return True
        if kind == (NFNL_SUBSYS_NFTABLES << 8) | NFT_MSG_NEWOBJ:
            parts = _attributes(data[at + _NLMSGHDR.size + _NFGENMSG_BYTES : at + length])
            packets = _attributes(parts.get(NFTA_OBJ_DATA, b"")).get(NFTA_COUNTER_PACKETS, b"")
            name = parts.get(NFTA_OBJ_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
            if len(packets) == 8:
                found[name] = int.from_bytes(packets, "big")
        at += (length + 3) & ~3
    return False


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + _NLATTR.size <= len(data):
        length, number = _NLATTR.unpack_from(data, at)
        if length < _NLATTR.size:
            break
        found[number & NLA_TYPE_MASK] = data[at + _NLATTR.size : at + length]
        at += (length + 3) & ~3
    return found


def _attribute(number: int, value: bytes) -> bytes:
    length = _NLATTR.size + len(value)
    return _NLATTR.pack(length, number) + value + bytes(-length % 4)
