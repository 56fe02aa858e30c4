"""What is said to a proxy, what of its answer is believed. Real ones: tests/system/test_ways.py."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from edgewarden.errors import PeerUnavailable
from edgewarden.link.tunnel import MAX_HEAD_BYTES, Proxy, read_head, through

SECRET = ("gw", "s3cr:et")
HOST, PORT = "broker.example.org", 8883


def wait() -> float:
    return 10.0


@contextlib.contextmanager
def answering(*parts: bytes, then: bytes = b"") -> Iterator[tuple[socket.socket, list[bytes]]]:
    """A peer that answers each message of ours with the next part; what it heard is kept."""
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []

    def run() -> None:
        with theirs, contextlib.suppress(OSError):
            for part in parts:
                heard.append(theirs.recv(4096))
                theirs.sendall(part)
            theirs.sendall(then)
            theirs.shutdown(socket.SHUT_WR)
            while theirs.recv(4096):
                pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with ours:
            yield ours, heard
    finally:
        thread.join(60)


def http(who: tuple[str, str] | None = None) -> Proxy:
    return Proxy("http", "proxy", 3128, lambda: who)


def socks(who: tuple[str, str] | None = None) -> Proxy:
    return Proxy("socks5", "proxy", 1080, lambda: who)


SOCKS_OK = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x22\xb3"


# --- HTTP CONNECT --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 Connection established\r\n\r\n",
        b"HTTP/1.0 200\r\nVia: x\r\n\r\n",
        b"HTTP/1.1 204 Odd but well\r\n\r\n",
    ],
)
def test_an_http_proxy_lets_us_through_and_nothing_behind_its_answer_is_read(answer: bytes) -> None:
    with answering(answer, then=b"\x16\x03\x03") as (connection, heard):
        through(http(), connection, HOST, PORT, wait)
        assert connection.recv(3) == b"\x16\x03\x03"
    assert heard == [
        b"CONNECT broker.example.org:8883 HTTP/1.1\r\nHost: broker.example.org:8883\r\n\r\n"
    ]


def test_credentials_are_basic_and_go_to_the_proxy_alone() -> None:
    with answering(b"HTTP/1.1 200 OK\r\n\r\n") as (connection, heard):
        through(http(SECRET), connection, "2001:db8::1", 443, wait)
    word = base64.b64encode(b"gw:s3cr:et")
    assert b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n" in heard[0]
    assert b"\r\nProxy-Authorization: Basic " + word + b"\r\n" in heard[0]
    assert "s3cr" not in repr(http(SECRET))


@pytest.mark.parametrize(
    ("answer", "who", "words"),
    [
        (b"HTTP/1.1 407 Auth\r\n\r\n", None, "wants credentials (407)"),
        (b"HTTP/1.1 407 Auth\r\n\r\n", SECRET, "refuses the credentials (407)"),
        (b"HTTP/1.1 403 Filtered\r\n\r\n", None, "answered 403 Filtered"),
        (b"HTTP/1.1 503 a\x1b[31mb\x07\r\n\r\n", None, "answered 503 a[31mb"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", None, "does not answer as an HTTP proxy"),
        (b"HTTP/2 200\r\n\r\n", None, "does not answer as an HTTP proxy"),
    ],
)
def test_an_http_proxy_that_refuses_is_named(
    answer: bytes, who: tuple[str, str] | None, words: str
) -> None:
    with answering(answer) as (connection, _), pytest.raises(PeerUnavailable) as caught:
        through(http(who), connection, HOST, PORT, wait)
    assert caught.value.code == "EW-NET-014"
    assert words in caught.value.text
    assert "s3cr" not in str(caught.value)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"x" * (MAX_HEAD_BYTES + 1)])
def test_an_answer_that_ends_early_or_never_is_refused(answer: bytes) -> None:
    with answering(answer) as (connection, _), pytest.raises(ConnectionError):
        through(http(), connection, HOST, PORT, wait)


def test_time_is_asked_for_before_each_byte() -> None:
    left = iter([5.0, 5.0, 5.0])

    def ending() -> float:
        found = next(left, None)
        if found is None:
            raise TimeoutError("over")
        return found

    with answering() as (connection, _), pytest.raises((TimeoutError, ConnectionError)):
        read_head(connection, ending)
    with answering(then=b"HTTP/1.1 200 and so on, byte by byte") as (connection, _):
        left = iter([5.0, 5.0])
        with pytest.raises(TimeoutError):
            read_head(connection, ending)


# --- SOCKS5 --------------------------------------------------------------------------------------


def test_a_socks_proxy_resolves_the_name_for_us() -> None:
    with answering(b"\x05\x00", SOCKS_OK, then=b"tls") as (connection, heard):
        through(socks(), connection, HOST, PORT, wait)
        assert connection.recv(3) == b"tls"
    assert heard[0] == b"\x05\x01\x00"
    assert heard[1] == b"\x05\x01\x00\x03\x12broker.example.org" + (8883).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("192.0.2.7", b"\x01\xc0\x00\x02\x07"),
        ("2001:db8::7", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x07"),
    ],
)
def test_a_socks_proxy_is_told_an_address_as_one(host: str, asked: bytes) -> None:
    """As a name it would be the proxy's DNS's to answer, which has no such name."""
    with answering(b"\x05\x00", SOCKS_OK, then=b"tls") as (connection, heard):
        through(socks(), connection, host, PORT, wait)
    assert heard[1] == b"\x05\x01\x00" + asked + (8883).to_bytes(2, "big")


@pytest.mark.parametrize(
    "bound", [b"\x01\x7f\x00\x00\x01\x00\x01", b"\x04" + bytes(18), b"\x03\x02ab\x00\x01"]
)
def test_the_bound_address_is_read_to_its_end(bound: bytes) -> None:
    with answering(b"\x05\x00", b"\x05\x00\x00" + bound, then=b"tls") as (connection, _):
        through(socks(), connection, HOST, PORT, wait)
        assert connection.recv(3) == b"tls"


def test_user_and_password_are_given_when_asked() -> None:
    with answering(b"\x05\x02", b"\x01\x00", SOCKS_OK) as (connection, heard):
        through(socks(SECRET), connection, HOST, PORT, wait)
    assert heard[:2] == [b"\x05\x02\x00\x02", b"\x01\x02gw\x07s3cr:et"]


def test_a_proxy_that_wants_none_is_not_told_them() -> None:
    with answering(b"\x05\x00", SOCKS_OK) as (connection, heard):
        through(socks(SECRET), connection, HOST, PORT, wait)
    assert not any(b"s3cr" in said for said in heard)


@pytest.mark.parametrize(
    ("parts", "who", "words"),
    [
        ([b"\x04\x5a"], None, "does not answer as a SOCKS5 proxy"),
        ([b"HT"], None, "does not answer as a SOCKS5 proxy"),
        ([b"\x05\xff"], None, "wants credentials"),
        ([b"\x05\x02"], None, "wants credentials"),
        ([b"\x05\x02", b"\x01\x01"], SECRET, "refuses the credentials"),
        ([b"\x05\x00", b"\x05\x02\x00\x01"], None, "not allowed by its rules"),
        ([b"\x05\x00", b"\x05\x63\x00\x01"], None, "reply 99"),
        ([b"\x05\x00", b"\x05\x00\x00\x09"], None, "an address of type 9"),
    ],
)
def test_a_socks_proxy_that_refuses_is_named(
    parts: list[bytes], who: tuple[str, str] | None, words: str
) -> None:
    with answering(*parts) as (connection, _), pytest.raises(PeerUnavailable) as caught:
        through(socks(who), connection, HOST, PORT, wait)
    assert caught.value.code == "EW-NET-014"
    assert words in caught.value.text
