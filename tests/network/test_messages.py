"""Bytes of the network area: the sealed table, two messages, NFLOG; nothing else gets through."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.network.counters import messages, take_counter
from edgewarden.network.nflog import parse_datagram, parse_ip
from edgewarden.wire.lean import seal
from edgewarden.wire.local import MODES, NameAnswer, NetworkVerdict, encode, parse
from edgewarden.wire.local_messages import DECISIONS
from edgewarden.wire.local_network import DIRECTIONS
from edgewarden.wire.network_table import MAGIC, Counter, NetworkTable, Unit

GOOD = NetworkTable(
    7, 3, 3600, 60, ("a.example.org",), (Unit(2, "s0", "system.slice/x.service"),),
    (Counter("c0", "egress-name", "cloud"), Counter("c1", "limit", "hold")), "chain s0 {\n}\n",
)  # fmt: skip


def test_a_table_is_what_was_written() -> None:
    assert NetworkTable.load(GOOD.dump()) == GOOD
    assert (GOOD.counters[0].by_name, GOOD.counters[0].direction) == (True, "egress")


HEAD = "generation 1\nrules 0\ndns 3600 60\n"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("", "bad_value"),
        ("generation 1\n", "bad_value"),
        ("generation x\nrules 0\ndns 3600 60\nbody\n", "bad_value"),
        ("rules 0\ngeneration 1\ndns 3600 60\nbody\n", "bad_value"),
        ("generation 1\nrules 0\ndns 60 3600\nbody\n", "bad_value"),
        ("generation 1\nrules 0\ndns 0 0\nbody\n", "bad_value"),
        (HEAD + "host\nbody\n", "bad_value"),
        (HEAD + "host a b\nbody\n", "bad_value"),
        (HEAD + "host a\n" * 65 + "body\n", "too_many"),
        (HEAD + "unit 2 s0 /x\nbody\n", "bad_value"),
        (HEAD + "unit 2 s0 ../x\nbody\n", "bad_value"),
        (HEAD + "unit 3 s0 a/b\nbody\n", "bad_value"),
        (HEAD + "counter c0 other a\nbody\n", "bad_value"),
        (HEAD + "counter c0 egress a\nhost a\nbody\n", "bad_value"),
        (HEAD + "more\nbody\n", "bad_value"),
    ],
)
def test_any_other_table_is_refused_by_name(text: str, name: str) -> None:
    with pytest.raises(WireRefusal) as refused:
        NetworkTable.load(seal(MAGIC, text.encode()))
    assert refused.value.name == name


@given(st.binary(max_size=200))
def test_no_bytes_make_a_table_by_chance(data: bytes) -> None:
    with pytest.raises(WireRefusal):
        NetworkTable.load(seal(MAGIC, data.replace(b"\nbody\n", b"")))


U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
RAW = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
VERDICTS = st.builds(
    NetworkVerdict, st.sampled_from(DECISIONS), st.sampled_from(DIRECTIONS),
    st.sampled_from(MODES), st.text(max_size=20).filter(lambda t: max(t, default="a") < "\ud800"),
    st.booleans(), st.integers(0, 255), RAW, U32, st.integers(0, 65535), U64, U64,
)  # fmt: skip


@given(VERDICTS)
def test_a_verdict_survives_the_wire(verdict: NetworkVerdict) -> None:
    assert parse(encode(verdict), NetworkVerdict) == verdict


@given(st.integers(0, 63), U64, U32, st.lists(st.binary(min_size=4, max_size=4), max_size=16))
def test_an_answer_survives_the_wire(
    host: int, generation: int, keep_s: int, addresses: list[bytes]
) -> None:
    answer = NameAnswer(host, generation, 4, keep_s, tuple(addresses))
    assert parse(encode(answer), NameAnswer) == answer


ANSWER = NameAnswer(1, 2, 4, 300, (b"\x0a\0\0\1", b"\x0a\0\0\2"))


@pytest.mark.parametrize("at", range(4, len(encode(ANSWER))))
def test_a_garbled_answer_is_refused_or_says_something_else(at: int) -> None:
    data = bytearray(encode(ANSWER))
    data[at] ^= 0xFF
    with contextlib.suppress(WireRefusal):
        assert parse(bytes(data), NameAnswer) != ANSWER


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_cut_message_is_refused(cut: int) -> None:
    for message in (ANSWER, NetworkVerdict("deny", "egress", "enforce", "r", False, 6, b"\0" * 4, 1,
                                           2, 3, 4)):  # fmt: skip
        data = encode(message)[:-cut]
        data = data[:2] + struct.pack("<H", len(data)) + data[4:]
        with pytest.raises(WireRefusal):
            parse(data, NameAnswer, NetworkVerdict)


# --- NFLOG ---------------------------------------------------------------------------------------


def attribute(number: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)


def datagram(*attributes: bytes, kind: int = 4 << 8) -> bytes:
    body = b"\x02\0\0\0" + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


V4 = bytes([0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0]) + socket.inet_aton("10.0.0.1") \
    + socket.inet_aton("10.0.0.2") + struct.pack(">HH", 40000, 443) + bytes(16)  # fmt: skip
V6 = bytes([0x60, 0, 0, 0, 0, 20, 17, 64]) + socket.inet_pton(socket.AF_INET6, "fd00::1") \
    + socket.inet_pton(socket.AF_INET6, "fd00::2") + struct.pack(">HH", 40000, 53)  # fmt: skip


def test_a_logged_packet_is_read() -> None:
    data = datagram(attribute(9, V4), attribute(10, b"c3\0"), attribute(11, b"\0\0\x03\xe8"))
    (seen,) = parse_datagram(data + datagram(attribute(10, b"c4\0"), kind=7))
    assert (seen.prefix, seen.uid, seen.protocol, seen.port) == ("c3", 1000, 6, 443)
    assert socket.inet_ntoa(seen.destination) == "10.0.0.2"
    assert parse_ip(V6) == (17, V6[8:24], V6[24:40], 53)


@pytest.mark.parametrize(
    "options", [b"\x11\0" + bytes(6), b"\x3c\0" + bytes(6) + b"\x11\0" + bytes(6)]
)
def test_options_in_front_hide_neither_protocol_nor_port(options: bytes) -> None:
    packet = V6[:6] + b"\0" + V6[7:40] + options + V6[40:]
    assert parse_ip(packet) == (17, V6[8:24], V6[24:40], 53)
    assert parse_ip(packet[: 40 + len(options)]) == (17, V6[8:24], V6[24:40], 0)


@given(st.binary(max_size=300))
def test_no_bytes_of_a_packet_raise(data: bytes) -> None:
    parse_ip(data)
    parse_datagram(data)
    parse_datagram(datagram(attribute(9, data), attribute(10, b"c1\0")))


def test_a_cut_packet_has_no_port() -> None:
    assert parse_ip(V4[:20]) == (6, V4[12:16], V4[16:20], 0)
    assert parse_ip(V4[:19]) is None
    assert parse_ip(b"") is None


# --- counters ------------------------------------------------------------------------------------


def counter(name: bytes, packets: int) -> bytes:
    value = attribute(2, packets.to_bytes(8, "big")) + attribute(
        1, (60 * packets).to_bytes(8, "big")
    )
    body = b"\x01\0\0\0" + attribute(2, name + b"\0") + attribute(4 | 0x8000, value)
    return struct.pack("=IHHII", 16 + len(body), (10 << 8) | 18, 2, 1, 0) + body


def counters_of(data: bytes) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, _, _, said in messages(data):
        take_counter(said[4:], found)
    return found


def test_counters_are_read() -> None:
    end = struct.pack("=IHHIIi", 20, 3, 2, 1, 0, 0)
    assert counters_of(counter(b"c0", 3) + counter(b"c1", 0) + end) == {"c0": 3, "c1": 0}


@given(st.binary(max_size=200))
def test_no_bytes_of_counters_raise(data: bytes) -> None:
    counters_of(data)
    counters_of(counter(b"c0", 1)[:-8] + data)
