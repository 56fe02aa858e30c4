"""As much of HTTP as curl needs; every other request is refused with its status and name."""

from __future__ import annotations

import pytest

from edgewarden.downstream.http import MAX_HEAD_BYTES, Head, Refused, answer, parse_head

HOST = b"Host: gw:8883\r\n"
CURL = (
    b"POST /readings HTTP/1.1\r\nHost: gw:8883\r\nUser-Agent: curl/7.88.1\r\nAccept: */*\r\n"
    b"Content-Length: 4096\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
)
TAKEN: list[tuple[bytes, Head]] = [
    (b"GET /nonce HTTP/1.1\r\n\r\n", Head("/nonce", 0, False, False)),
    (b"GET /nonce HTTP/1.1\r\nConnection: Close\r\n\r\n", Head("/nonce", 0, True, False)),
    (b"GET /nonce HTTP/1.1\r\nConnection: closely\r\n\r\n", Head("/nonce", 0, False, False)),
    (b"GET /nonce HTTP/1.1\r\nConnection: te ,\tclose\r\n\r\n", Head("/nonce", 0, True, False)),
    (b"GET /nonce HTTP/1.0\r\n\r\n", Head("/nonce", 0, True, False)),
    (b"GET /nonce HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", Head("/nonce", 0, False, False)),
    (CURL, Head("/readings", 4096, False, False)),
    (b"POST /evidence HTTP/1.1\r\nexpect: 100-Continue\r\ncontent-length:0\r\n\r\n",
     Head("/evidence", 0, False, True)),
]  # fmt: skip


@pytest.mark.parametrize(("data", "head"), TAKEN)
def test_what_is_taken(data: bytes, head: Head) -> None:
    assert parse_head(data) == head


def post(fields: bytes) -> bytes:
    return b"POST /readings HTTP/1.1\r\n" + fields + b"\r\n"


GET = b"GET /nonce HTTP/1.1\r\n"
REFUSED: list[tuple[bytes, int, str]] = [
    (GET + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n\r\n", 431, "http_too_long"),
    (GET, 431, "http_too_long"),
    (GET + b"X: \xff\r\n\r\n", 400, "bad_http"),
    (b"GET  /nonce HTTP/1.1\r\n\r\n", 400, "bad_http"),
    (b"GET /nonce\r\n\r\n", 400, "bad_http"),
    (b"GET /nonce HTTP/2\r\n\r\n", 505, "http_version"),
    (b"GET /metrics HTTP/1.1\r\n\r\n", 404, "http_path"),
    (b"GET /nonce?x=1 HTTP/1.1\r\n\r\n", 404, "http_path"),
    (b"POST /nonce HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 405, "http_method"),
    (b"GET /readings HTTP/1.1\r\n\r\n", 405, "http_method"),
    (GET + b"no field\r\n\r\n", 400, "bad_http"),
    (GET + b"nocolon\r\n\r\n", 400, "bad_http"),
    (GET + b": x\r\n\r\n", 400, "bad_http"),
    (GET + b"X : x\r\n\r\n", 400, "bad_http"),
    (GET + b" folded: x\r\n\r\n", 400, "bad_http"),
    (GET + b"X: a\rb\r\n\r\n", 400, "bad_http"),
    (GET + b"X: a\0b\r\n\r\n", 400, "bad_http"),
    (GET + b"X: a\x7fb\r\n\r\n", 400, "bad_http"),
    (post(b"Content-Length: \x0c1\r\n"), 400, "bad_http"),
    (GET + b"X: a\nContent-Length: 5\r\n\r\n", 400, "bad_http"),
    (post(b"Content-Length: 1\r\ncontent-length: 2\r\n"), 400, "bad_http"),
    (post(b"Transfer-Encoding: chunked\r\n"), 400, "bad_http"),
    (post(b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_http"),
    (post(b""), 411, "http_length"),
    (post(b"Content-Length: +1\r\n"), 400, "bad_http"),
    (post(b"Content-Length: 0x1\r\n"), 400, "bad_http"),
    (post(b"Content-Length: 9999999999\r\n"), 400, "bad_http"),
    (post(b"Content-Length: 4097\r\n"), 413, "http_too_long"),
    (GET + b"Content-Length: 4097\r\n\r\n", 413, "http_too_long"),
]


@pytest.mark.parametrize(("data", "status", "name"), REFUSED)
def test_what_is_refused(data: bytes, status: int, name: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_head(data)
    assert (refused.value.status, refused.value.name) == (status, name)


@pytest.mark.parametrize(
    ("status", "body", "close", "sent"),
    [
        (204, None, False, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (400, None, True, b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n"
                          b"Connection: close\r\n\r\n"),
        (200, {"a": 1}, False, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                               b'Content-Length: 9\r\n\r\n{"a": 1}\n'),
    ],
)  # fmt: skip
def test_an_answer(status: int, body: dict[str, object] | None, close: bool, sent: bytes) -> None:
    assert answer(status, body, close) == sent
