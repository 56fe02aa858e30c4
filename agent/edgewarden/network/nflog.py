"""Packets that our nftables rules log, from one netlink socket (NFLOG).

What this decides: how a message is read; that only the kernel's are. A packet is told by its first
bytes, with the rule's prefix and the socket's user. The kernel holds back what the rules do not
limit: each logs a few packets a second, so a read is bounded and a lost message (ENOBUFS) costs a
name, never the count, which the rules' own counters keep.

    log = open_nflog(17751)
    for seen in log.read(): seen.prefix, seen.uid, seen.address, seen.port
"""

from __future__ import annotations

import errno
import struct
from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, socket

from edgewarden.kernel.libc import refused

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_log.h>
NETLINK_NETFILTER = 12
NLM_F_REQUEST, NLM_F_ACK = 0x1, 0x4
NLMSG_ERROR = 2
NFNL_SUBSYS_ULOG = 4
NFULNL_MSG_PACKET, NFULNL_MSG_CONFIG = 0, 1
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH = 1, 2, 5
NFULNL_CFG_CMD_BIND = 1
NFULNL_COPY_PACKET = 2
NFULA_PAYLOAD, NFULA_PREFIX, NFULA_UID = 9, 10, 11
NLA_TYPE_MASK = 0x3FFF
AF_UNSPEC = 0

IPPROTO_TCP, IPPROTO_UDP = 6, 17
IPV6_OPTIONS = frozenset((0, 43, 60))
"""RFC 8200 section 4.1: hop by hop, routing, for the destination; whoever sends may put them in
front, and a record that stops at them tells neither protocol nor port."""
UNKNOWN_UID = 0xFFFFFFFF

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("=BBH")
_NLATTR = struct.Struct("=HH")
_MODE = struct.Struct(">IBx")
COPY_BYTES = 64
MESSAGES_PER_READ = 64
"""About a millisecond; the rest waits for the next round."""
DATAGRAM_BYTES = 8192


class Logged:
    """One packet.

    Attributes:
        prefix: what the rule says ("c3").
        uid: of the socket that sent it, UNKNOWN_UID for what came from outside.
        protocol: IANA number.
        source, destination: 4 or 16 bytes.
        port: destination port of TCP and UDP, else 0.
    """

    __slots__ = ("destination", "port", "prefix", "protocol", "source", "uid")

    def __init__(
        self, prefix: str, uid: int, protocol: int, source: bytes, destination: bytes, port: int
    ) -> None:
        self.prefix = prefix
        self.uid = uid
        self.protocol = protocol
        self.source = source
        self.destination = destination
        self.port = port


class NfLog:
    """A bound socket. Does not block; one thread; ``close`` unbinds the group.

    Attributes:
        lost: times the kernel said that messages were dropped.
    """

    __slots__ = ("_socket", "lost")

    def __init__(self, bound: socket) -> None:
        self._socket = bound
        self.lost = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> list[Logged]:
        """Packets waiting, from at most MESSAGES_PER_READ datagrams.

        Raises:
            HardwareFault: the socket is broken for good.
        """
        found: list[Logged] = []
        for _ in range(MESSAGES_PER_READ):
            try:
                data, sender = self._socket.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as fault:
                if fault.errno != errno.ENOBUFS:
                    raise refused("recv(nflog)", fault.errno or 0) from fault
                self.lost += 1
                continue
            if sender[0] == 0:  # any process may send to a port; only port 0 is the kernel
                found += parse_datagram(data)
        return found

    def close(self) -> None:
        self._socket.close()


def open_nflog(group: int) -> NfLog:
    """Bind a log group of this network namespace.

    Raises:
        HardwareFault: EBUSY where another process has it, EPERM without CAP_NET_ADMIN.
    """
    made = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)
    try:
        made.bind((0, 0))
        for number, attribute in (
            (NFULA_CFG_CMD, bytes([NFULNL_CFG_CMD_BIND])),
            (NFULA_CFG_MODE, _MODE.pack(COPY_BYTES, NFULNL_COPY_PACKET)),
            (NFULA_CFG_QTHRESH, (1).to_bytes(4, "big")),
        ):
            _configure(made, group, number, attribute)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return NfLog(made)


def _configure(made: socket, group: int, number: int, value: bytes) -> None:
    attribute = _attribute(number, value)
    body = bytes([AF_UNSPEC, 0]) + group.to_bytes(2, "big") + attribute
    kind = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG
    flags = NLM_F_REQUEST | NLM_F_ACK
    made.send(_NLMSGHDR.pack(_NLMSGHDR.size + len(body), kind, flags, number, 0) + body)
    answer = made.recv(DATAGRAM_BYTES)
    _, kind, _, _, _ = _NLMSGHDR.unpack_from(answer)
    (status,) = struct.unpack_from("=i", answer, _NLMSGHDR.size)
    if kind != NLMSG_ERROR or status != 0:
        raise refused("bind(nflog)", -status if kind == NLMSG_ERROR else errno.EPROTO)


def _attribute(number: int, value: bytes) -> bytes:
    length = _NLATTR.size + len(value)
    return _NLATTR.pack(length, number) + value + bytes(-length % 4)


def parse_datagram(data: bytes) -> list[Logged]:
    """Every packet message of a datagram; what does not hold together is left out."""
    found: list[Logged] = []
    at = 0
    while at + _NLMSGHDR.size <= len(data):
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(data, at)
        if length < _NLMSGHDR.size or at + length > len(data):
            break
        if kind == (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET:
            one = _packet(data[at + _NLMSGHDR.size + _NFGENMSG.size : at + length])
            if one is not None:
                found.append(one)
        at += (length + 3) & ~3
    return found


def _packet(attributes: bytes) -> Logged | None:
    payload, prefix, uid = b"", "", UNKNOWN_UID
    at = 0
    while at + _NLATTR.size <= len(attributes):
        length, number = _NLATTR.unpack_from(attributes, at)
        if length < _NLATTR.size or at + length > len(attributes):
            return None
        value = attributes[at + _NLATTR.size : at + length]
        number &= NLA_TYPE_MASK
        if number == NFULA_PAYLOAD:
            payload = value
        elif number == NFULA_PREFIX:
            prefix = value.rstrip(b"\0").decode("ascii", "replace")
        elif number == NFULA_UID and len(value) == 4:
            uid = int.from_bytes(value, "big")
        at += (length + 3) & ~3
    header = parse_ip(payload)
    return None if header is None else Logged(prefix, uid, *header)


def parse_ip(packet: bytes) -> tuple[int, bytes, bytes, int] | None:
    """Protocol, source, destination, destination port of a packet's first bytes (RFC 791, 8200)."""
    if len(packet) >= 20 and packet[0] >> 4 == 4:
        protocol, source, destination = packet[9], packet[12:16], packet[16:20]
        at = (packet[0] & 0x0F) * 4
    elif len(packet) >= 40 and packet[0] >> 4 == 6:
        protocol, source, destination, at = packet[6], packet[8:24], packet[24:40], 40
        while protocol in IPV6_OPTIONS and len(packet) >= at + 2:
            protocol, at = packet[at], at + 8 + 8 * packet[at + 1]
    else:
        return None
    has_port = protocol in (IPPROTO_TCP, IPPROTO_UDP) and len(packet) >= at + 4
    port = int.from_bytes(packet[at + 2 : at + 4], "big") if has_port else 0
    return protocol, source, destination, port
