"""What the two sides of a test network do, as programs: started in a namespace, told by arguments,
they print JSON and end by themselves.

    python net_tools.py serve 10.77.0.2 fd77::2 -- 9001 9002       until the end of stdin
    python net_tools.py connect tcp 10.77.0.2 9001 20              20 tries: [errno or "", ms]
    python net_tools.py says 10.77.0.2 9003                        takes one, and stdin to it
    python net_tools.py hears 10.77.0.2 9003                       connects, and hears once
    python net_tools.py spray 10.77.0.3 10.77.0.2 9 2.0            UDP to both for 2 s at most
    python net_tools.py hold 10.77.0.1 1883 1500 9 mqtt SOURCE...  opens and keeps
    python net_tools.py knock fd77::1 1883 400 fd77::3             SYNs, and no answer waited for
    python net_tools.py storm 10.77.0.1 1883 9                     CONNECT, again and again
    python net_tools.py publish 10.77.0.1 1883 60 10.77.0.9 plain  what a device does, 60 times
    python net_tools.py syn 10.77.0.1 1883 5 SOURCE|random|every   raw SYNs for 5 s
    python net_tools.py udp 10.77.0.1 9 5 SOURCE|random|every      raw UDP for 5 s
    python net_tools.py end 10.77.0.1 1883 10.77.0.8 HOW           one session and its end, or a lie
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import random
import resource
import select
import signal
import socket
import struct
import sys
import time

CONNECT_S = 3.0
"""The kernel answers a connect, or nobody does."""
ECHO_S = 30.0
"""A program answers a datagram, and may stand still."""
HEAR_S = 120.0
"""What is to be heard is said when a gate was started meanwhile."""
EVERY = 100_000
PUBLISH_S = 2.0
"""A device that waits longer for its broker has lost the reading."""
PAUSE_S = 0.03
"""60 publishes must stay well below what one address may: 40 at once, 20 a second."""


def family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve(arguments: list[str]) -> None:
    at = arguments.index("--")
    listeners, datagrams = [], []
    for address in arguments[:at]:
        for port in arguments[at + 1 :]:
            tcp = socket.socket(family(address), socket.SOCK_STREAM)
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((address, int(port)))
            tcp.listen(1024)
            udp = socket.socket(family(address), socket.SOCK_DGRAM)
            udp.bind((address, int(port)))
            listeners.append(tcp)
            datagrams.append(udp)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([*listeners, *datagrams, sys.stdin], [], [])
        if sys.stdin in ready:
            return
        for one in ready:
            if one in listeners:
                one.accept()[0].close()
            else:
                data, sender = one.recvfrom(2048)
                with contextlib.suppress(OSError):
                    one.sendto(data, sender)


def connect(arguments: list[str]) -> None:
    kind, address, port, tries = arguments[0], arguments[1], int(arguments[2]), int(arguments[3])
    print(json.dumps([_try(kind, address, port) for _ in range(tries)]))


def _try(kind: str, address: str, port: int) -> tuple[str, float]:
    """What became of one try, and how long it took in ms."""
    stream = kind == "tcp"
    with socket.socket(family(address), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as s:
        s.settimeout(CONNECT_S)
        began = time.perf_counter()
        try:
            s.connect((address, port))
            if not stream:
                s.settimeout(ECHO_S)
                s.send(b"hello")
                s.recv(16)
            said = ""
        except TimeoutError:
            said = "TIMEOUT"
        except OSError as fault:
            said = errno.errorcode.get(fault.errno or 0, str(fault))
        return said, (time.perf_counter() - began) * 1000


def says(arguments: list[str]) -> None:
    address, port = arguments
    with socket.create_server((address, int(port)), family=family(address)) as listener:
        print("ready", flush=True)
        with listener.accept()[0] as s:
            for line in sys.stdin:
                s.sendall(line.encode())


def hears(arguments: list[str]) -> None:
    address, port = arguments
    with socket.create_connection((address, int(port)), ECHO_S) as s:
        s.settimeout(HEAR_S)
        print("ready", flush=True)
        try:
            print(s.recv(64).decode().strip(), flush=True)
        except TimeoutError:
            print("nothing", flush=True)


def spray(arguments: list[str]) -> None:
    *targets, port, seconds = arguments
    counts: dict[str, dict[str, int]] = {target: {} for target in targets}
    sockets = {t: socket.socket(family(t), socket.SOCK_DGRAM) for t in targets}
    end = time.monotonic() + float(seconds)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while time.monotonic() < end and not told:
        for target, s in sockets.items():
            try:
                s.sendto(b"x", (target, int(port)))
                said = "sent"
            except OSError as fault:
                said = errno.errorcode.get(fault.errno or 0, "?")
            counts[target][said] = counts[target].get(said, 0) + 1
        time.sleep(0.0002)
    print(json.dumps(counts))


# A real CONNECT of MQTT 3.1.1 with a keep-alive of 65535 s: SlowITe's.
_ID = struct.Struct(">H")


def mqtt_connect(name: str, keepalive_s: int = 65535) -> bytes:
    client = name.encode()
    body = b"\x00\x04MQTT\x04\x02" + _ID.pack(keepalive_s) + _ID.pack(len(client)) + client
    return bytes([0x10, len(body)]) + body


def hold(arguments: list[str]) -> None:
    """Open as many connections as it gets, say CONNECT (or begin TLS), and keep them."""
    address, port, most, seconds, what, *sources = arguments
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(most) + 64, int(most) + 64))
    end = time.monotonic() + float(seconds)
    kept: list[socket.socket] = []
    tried = 0
    poll = select.poll()
    opening: dict[int, socket.socket] = {}
    while time.monotonic() < end:
        while len(opening) < 64 and len(kept) + len(opening) < int(most):
            s = socket.socket(family(address), socket.SOCK_STREAM)
            s.setblocking(False)
            if sources:
                s.bind((sources[tried % len(sources)], 0))
            tried += 1
            if s.connect_ex((address, int(port))) not in (0, errno.EINPROGRESS):
                s.close()
                break
            opening[s.fileno()] = s
            poll.register(s, select.POLLOUT)
        for fd, _ in poll.poll(50):
            s = opening.pop(fd)
            poll.unregister(fd)
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                s.close()
                continue
            with contextlib.suppress(OSError):
                s.send(mqtt_connect(f"slow{len(kept)}") if what == "mqtt" else b"\x16\x03\x01\x02")
            kept.append(s)
        if len(kept) >= int(most):
            time.sleep(0.05)
    alive = 0
    for s in kept:
        with contextlib.suppress(BlockingIOError):
            try:
                if s.recv(16) == b"":
                    continue
            except ConnectionError:
                continue
        alive += 1
    print(json.dumps({"tried": tried, "opened": len(kept), "kept": alive}))


def knock(arguments: list[str]) -> None:
    """Begin connections and give each up at once."""
    address, port, times, source = arguments
    for _ in range(int(times)):
        with socket.socket(family(address), socket.SOCK_STREAM) as s:
            s.setblocking(False)
            s.bind((source, 0))
            s.connect_ex((address, int(port)))


def storm(arguments: list[str]) -> None:
    """Connect, say CONNECT, close, as fast as it goes."""
    address, port, seconds = arguments[0], int(arguments[1]), float(arguments[2])
    end = time.monotonic() + seconds
    done = tried = 0
    while time.monotonic() < end:
        tried += 1
        with socket.socket(family(address), socket.SOCK_STREAM) as s:
            s.settimeout(0.05)
            with contextlib.suppress(OSError):
                s.connect((address, port))
                s.send(mqtt_connect(f"storm{tried}", 60))
                done += 1
    print(json.dumps({"tried": tried, "done": done}))


def publish(arguments: list[str]) -> None:
    """A device that connects, publishes with QoS 1 and leaves, again and again."""
    address, port, times, source, how = arguments
    took: list[float] = []
    failed: dict[str, int] = {}
    for i in range(int(times)):
        began = time.perf_counter()
        try:
            _publish_once(address, int(port), source, how == "tls", f"device{i}")
            took.append((time.perf_counter() - began) * 1000)
        except OSError as fault:
            name = type(fault).__name__
            failed[name] = failed.get(name, 0) + 1
        time.sleep(PAUSE_S)
    took.sort()
    p95 = took[int(len(took) * 0.95) - 1] if took else None
    print(json.dumps({"ok": len(took), "of": int(times), "p95_ms": p95, "failed": failed}))


def _publish_once(address: str, port: int, source: str, tls: bool, name: str) -> None:
    with socket.create_connection((address, port), PUBLISH_S, (source, 0)) as plain:
        plain.settimeout(PUBLISH_S)
        s = plain
        if tls:
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            s = context.wrap_socket(plain)
        s.sendall(mqtt_connect(name, 60))
        if s.recv(4)[:1] != b"\x20":
            raise OSError("no CONNACK")
        topic = b"t/" + name.encode()
        body = _ID.pack(len(topic)) + topic + _ID.pack(1) + b"21.5"
        s.sendall(bytes([0x32, len(body)]) + body)
        if s.recv(4)[:1] != b"\x40":
            raise OSError("no PUBACK")
        s.sendall(b"\xe0\0")
        s.close()


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _packet(source: bytes, target: bytes, port: int, protocol: int) -> bytes:
    sport = random.randint(1024, 65535)
    if protocol == socket.IPPROTO_TCP:
        return _segment((source, sport), (target, port), random.getrandbits(32), 0, SYN)
    body = struct.pack(">HHHH", sport, port, 16, 0) + b"floodfld"
    return _ip(source, target, protocol, body)


def _segment(
    sender: tuple[bytes, int],
    target: tuple[bytes, int],
    seq: int,
    ack: int,
    flags: int,
    data: bytes = b"",
) -> bytes:
    ports = sender[1], target[1]
    body = struct.pack(">HHIIBBHHH", *ports, seq % 2**32, ack, 0x50, flags, 64240, 0, 0) + data
    pseudo = sender[0] + target[0] + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(body))
    padding = b"\0" * (len(body) % 2)
    body = body[:16] + struct.pack(">H", _checksum(pseudo + body + padding)) + body[18:]
    return _ip(sender[0], target[0], socket.IPPROTO_TCP, body)


def _ip(source: bytes, target: bytes, protocol: int, body: bytes) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0, source, target
    )
    return header + body


def raw(arguments: list[str], protocol: int) -> None:
    """Raw packets from one source, from random ones of 10.0.0.0/8, or from EVERY of 10.100.0.0/14
    in turn."""
    address, port, seconds, source = arguments
    target = socket.inet_aton(address)
    packets = []
    for i in range(EVERY if source == "every" else 20000):
        if source == "random":
            a, b, c = random.randint(100, 200), random.randint(0, 255), random.randint(1, 254)
            sender = bytes([10, a, b, c])
        elif source == "every":
            sender = bytes([10, 100 + (i >> 16), (i >> 8) & 255, i & 255])
        else:
            sender = socket.inet_aton(source)
        packets.append(_packet(sender, target, int(port), protocol))
    out = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    end = time.monotonic() + float(seconds)
    sent = 0
    while time.monotonic() < end:
        at = sent % len(packets)
        for packet in packets[at : at + 200]:
            with contextlib.suppress(OSError):
                out.sendto(packet, (address, 0))
        sent += 200
    print(json.dumps({"sent": sent}))


FIN, SYN, RST, ACK = 1, 2, 4, 16
# linux/tcp.h: the only way to learn a connection's numbers; off without a window probe.
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21
SO_ATTACH_FILTER = 26
OFF, RECV_QUEUE, SEND_QUEUE = -1, 1, 2
LIES = {"fin-hole": (FIN | ACK, 1), "rst-ahead": (RST | ACK, 7), "rst-behind": (RST | ACK, -1)}
"""Flags, and how far from what is expected: what conntrack or we might take for an end, and the
service's TCP does not."""


def end(arguments: list[str]) -> None:
    """One MQTT session and how it ends: ``fin``, ``reset``, ``garbage`` (the broker ends it, and
    nothing more is said here), or one of LIES. Says "done", and keeps what is left until the end
    of stdin."""
    address, port, source, how = arguments
    s = socket.create_connection((address, int(port)), PUBLISH_S, (source, 0))
    s.settimeout(PUBLISH_S)
    s.sendall(mqtt_connect("ends"))
    s.recv(4)
    s.sendall(b"\x32\x07\0\x01t\0\x0121")
    s.recv(4)
    if how == "fin":
        s.sendall(b"\xe0\0")
        s.close()
    elif how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.close()
    elif how == "garbage":
        s.sendall(b"\0\0\0\0")
    else:
        time.sleep(0.5)  # our own delayed ACK must not come after the lie
        _lie(s, *LIES[how])
    print("done", flush=True)
    sys.stdin.read()


def _lie(s: socket.socket, flags: int, off: int) -> None:
    numbers = []
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    for queue in (SEND_QUEUE, RECV_QUEUE):
        s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
        numbers.append(s.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ) % 2**32)
    s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, OFF)
    _deafen(s)
    ends = [(socket.inet_aton(a), p) for a, p in (s.getsockname(), s.getpeername())]
    seq, ack = numbers
    packets = [_segment(ends[0], ends[1], seq + max(off, 0), ack, flags)]
    if off < 0:
        # Half a PINGREQ, for which the broker's TCP owes us a delayed ACK: until it comes, the
        # number before it is the last one that anybody on the way has seen acknowledged.
        packets.insert(0, _segment(ends[0], ends[1], seq, ack, ACK, b"\xc0"))
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as out:
        for packet in packets:
            out.sendto(packet, (s.getpeername()[0], 0))


def _deafen(s: socket.socket) -> None:
    """Let our own TCP hear no answer, which it would answer."""
    refuse_all = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))  # BPF: return 0
    s.setsockopt(
        socket.SOL_SOCKET,
        SO_ATTACH_FILTER,
        struct.pack("HxxxxxxP", 1, ctypes.addressof(refuse_all)),
    )


if __name__ == "__main__":
    {
        "serve": serve,
        "connect": connect,
        "says": says,
        "hears": hears,
        "spray": spray,
        "hold": hold,
        "knock": knock,
        "storm": storm,
        "publish": publish,
        "syn": lambda a: raw(a, socket.IPPROTO_TCP),
        "udp": lambda a: raw(a, socket.IPPROTO_UDP),
        "end": end,
    }[sys.argv[1]](sys.argv[2:])
