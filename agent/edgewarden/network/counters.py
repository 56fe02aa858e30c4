"""Our nftables table as the kernel has it: its counters, and whether it is what we put there.

What this decides: that a table is ours while it is the one that we made (its handle), awake (its
flags), with the rules that it had then. A ruleset that somebody saved and loads again brings
a table of our name with old rules, and ``nft flush table`` leaves one with none. Rules are read
only when the kernel's rules have another generation than at the last look: others' changes, and
our own elements, cost one reading each. Elements of sets are not looked at: they come and go.

Not through libnftables 1.0.6: to list counters it fetches every element of every set first (16 ms
where there are 5,000, while execs wait), and what it resets it prints from a cache of before
(measured both).

    counters = Counters("edgewarden"); counters.read() == {"c0": 3}
    counters.read() is None; counters.state() == GONE      # without our table
"""

from __future__ import annotations

import errno
import struct
from _socket import (
    AF_NETLINK,
    MSG_DONTWAIT,
    SOCK_CLOEXEC,
    SOCK_RAW,
    socket,
)
from sys import byteorder

from edgewarden.errors import HardwareFault
from edgewarden.kernel.libc import refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x10, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NFNL_SUBSYS_NFTABLES = 10
NFPROTO_INET = 1
NFT_MSG_GETTABLE, NFT_MSG_GETRULE, NFT_MSG_GETGEN = 1, 7, 16
NFT_MSG_GETOBJ = 19
NFTA_TABLE_NAME, NFTA_TABLE_FLAGS, NFTA_TABLE_HANDLE, NFTA_RULE_TABLE, NFTA_GEN_ID = 1, 2, 4, 1, 1
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFTA_COUNTER_PACKETS = 2
NFT_OBJECT_COUNTER = 1
NLA_TYPE_MASK = 0x3FFF

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG_BYTES = 4
_NLATTR = struct.Struct("=HH")
DATAGRAM_BYTES = 32768
MOST_DATAGRAMS = 4096
"""1024 counters of 100 bytes are four; 4 MB of text come to so many rules at most."""
TRIES = 3
"""For an answer in parts, between which somebody changed the rules: it may lack something."""
WHOLE, CHANGED, GONE = "", "changed", "removed"
"""``Counters.state``; GONE also where there is another table of that name."""


class Counters:
    """One socket. Does not block: the kernel makes each part of its answer when it is read."""

    __slots__ = ("_generation", "_kept", "_sequence", "_socket", "_table")

    def __init__(self, table: str) -> None:
        """Raises HardwareFault where the kernel refuses."""
        try:
            self._socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
        except OSError as fault:
            raise refused("socket(netfilter)", fault.errno or 0) from fault
        self._table = table.encode() + b"\0"
        self._sequence = 0
        self._generation = b""
        self._kept: tuple[bytes, bytes, int] | None = None

    def read(self) -> dict[str, int] | None:
        """Packets of each counter; None where the table has none, or is not there.

        Raises:
            HardwareFault: the kernel refuses.
        """
        words = _attribute(NFTA_OBJ_TABLE, self._table) + _attribute(
            NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_bytes(4, "big")
        )
        found: dict[str, int] = {}
        for _ in range(TRIES):
            if self._ask(NFT_MSG_GETOBJ, words, lambda one: take_counter(one, found)):
                break
        return found or None

    def remember(self) -> None:
        """What the kernel has now is what we put there."""
        self._generation, self._kept = b"", None
        try:
            self.state()
        except HardwareFault:  # the next look remembers
            return

    def state(self) -> str:
        """Whether our table is WHOLE, CHANGED or GONE.

        Raises:
            HardwareFault: the kernel refuses.
        """
        generation = self._generation_now()
        if generation == self._generation:
            return WHOLE
        now = self._picture()
        if now is None:
            return WHOLE  # somebody is at it; the next look says
        if self._kept is None:
            self._kept = now
        if now != self._kept:
            return CHANGED if now[0] == self._kept[0] else GONE
        self._generation = generation
        return WHOLE

    def _generation_now(self) -> bytes:
        found: list[bytes] = []
        self._ask(NFT_MSG_GETGEN, b"", found.append, dump=False)
        return _attributes(found[0]).get(NFTA_GEN_ID, b"") if found else b""

    def _picture(self) -> tuple[bytes, bytes, int] | None:
        """The table's handle, its flags and what its rules come to; None where they changed
        while they were read."""
        found: list[bytes] = []
        words = _attribute(NFTA_TABLE_NAME, self._table)
        self._ask(NFT_MSG_GETTABLE, words, found.append, dump=False)
        if not found:
            return b"", b"", 0
        table = _attributes(found[0])
        rules: list[int] = []
        words = _attribute(NFTA_RULE_TABLE, self._table)
        if not self._ask(NFT_MSG_GETRULE, words, lambda one: rules.append(hash(one))):
            return None
        handle = table.get(NFTA_TABLE_HANDLE, b"")
        return handle, table.get(NFTA_TABLE_FLAGS, b""), hash(tuple(rules))

    def _ask(
        self, number: int, words: bytes, take: Callable[[bytes], object], *, dump: bool = True
    ) -> bool:
        """Give ``take`` the attributes of each message; False where the rules changed meanwhile.

        Raises:
            HardwareFault: the kernel refuses.
        """
        self._sequence += 1
        whole = True
        kind, flags = (NFNL_SUBSYS_NFTABLES << 8) | number, NLM_F_REQUEST
        body = bytes([NFPROTO_INET, 0, 0, 0]) + words
        flags |= NLM_F_DUMP if dump else 0
        head = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, self._sequence, 0)
        try:
            self._socket.send(head + body)
            for _ in range(MOST_DATAGRAMS):
                data = self._socket.recv(DATAGRAM_BYTES, MSG_DONTWAIT)
                for kind, flags, sequence, said in messages(data):
                    if sequence != self._sequence:
                        continue  # of a question that was given up
                    whole = whole and not flags & NLM_F_DUMP_INTR
                    if kind in (NLMSG_DONE, NLMSG_ERROR):
                        status = int.from_bytes(said[:4], byteorder, signed=True)
                        if status < 0 and status != -errno.ENOENT:
                            raise OSError(-status, "")
                        return whole
                    take(said[_NFGENMSG_BYTES:])
                    if not dump:
                        return whole
        except OSError as fault:
            raise refused("netlink(nftables)", fault.errno or 0) from fault
        return False


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, body) of each message of a datagram that is whole."""
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        length, kind, flags, sequence, _ = _NLMSGHDR.unpack_from(data, at)
        if length < _NLMSGHDR.size:
            return
        yield kind, flags, sequence, data[at + _NLMSGHDR.size : at + length]
        at += (length + 3) & ~3


def take_counter(said: bytes, found: dict[str, int]) -> None:
    """Add the counter that a message's attributes tell of."""
    parts = _attributes(said)
    packets = _attributes(parts.get(NFTA_OBJ_DATA, b"")).get(NFTA_COUNTER_PACKETS, b"")
    name = parts.get(NFTA_OBJ_NAME, b"").rstrip(b"\0").decode("ascii", "replace")
    if len(packets) == 8:
        found[name] = int.from_bytes(packets, "big")


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
