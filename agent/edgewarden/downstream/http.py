"""As much of HTTP/1.1 (RFC 9112) as curl needs to hand something over, and not a byte more.

Pure: bytes in, a request or a refusal out. Leaves to listener.py the reading, to desk.py the
answers. Three requests there are:

    GET /nonce        200 {"schema":"edgewarden.device-nonce/1","nonce":HEX,"valid_s":60}
    POST /evidence    200 {"schema":"edgewarden.device-verdict/1","tier":...,"why":...}
    POST /readings    204

Refused, with the status that says why: a head of more than MAX_HEAD_BYTES (431), anything that is
not a request line and fields (400), two lengths or a transfer coding (400: who disagrees about
where a request ends can smuggle another), another version (505), another path (404) or method
(405), no length where there is a body (411), too long a body (413).
"""

from __future__ import annotations

import json

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass

MAX_HEAD_BYTES = 4096
"""curl's is 150 bytes."""
MAX_BODY_BYTES = 4096
"""A PSA token is 1 kB at most, 64 readings 4 kB."""
END = b"\r\n\r\n"
PATHS = {"/nonce": "GET", "/evidence": "POST", "/readings": "POST"}
_REASONS = {
    200: "OK", 204: "No Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 408: "Request Timeout", 411: "Length Required",
    413: "Content Too Large", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
    505: "HTTP Version Not Supported",
}  # fmt: skip
_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""RFC 9110 §5.6.2: what a field's name is made of."""
_CONTROL = frozenset(map(chr, (*range(9), *range(10, 32), 127)))
"""RFC 9110 §5.5: not in a field's value; around it are only space and tab."""


@dataclass(frozen=True, slots=True)
class Head:
    """One request without its body.

    Attributes:
        length: of the body.
        close: the connection ends after the answer.
        waits: the client sends its body only after "100 Continue".
    """

    path: str
    length: int
    close: bool
    waits: bool


class Refused(WireRefusal):
    """A request that is not answered as it wished; ends the connection."""

    def __init__(self, status: int, name: str, text: str) -> None:
        super().__init__(name, text)
        self.status = status


def parse_head(data: bytes) -> Head:
    """Read a head with its empty line; raises Refused."""
    if len(data) > MAX_HEAD_BYTES or not data.endswith(END):
        raise Refused(431, "http_too_long", f"a head of more than {MAX_HEAD_BYTES} bytes")
    try:
        lines = data[: -len(END)].decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise Refused(400, "bad_http", "a head that is not ASCII") from None
    parts = lines[0].split(" ")
    if len(parts) != 3:
        raise Refused(400, "bad_http", "not METHOD PATH VERSION")
    if parts[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise Refused(505, "http_version", "neither HTTP/1.1 nor 1.0")
    fields = _fields(lines[1:])
    if parts[1] not in PATHS:
        raise Refused(404, "http_path", "it is /nonce, /evidence or /readings")
    if parts[0] != PATHS[parts[1]]:
        raise Refused(405, "http_method", f"{parts[1]} takes {PATHS[parts[1]]}")
    if "transfer-encoding" in fields:
        raise Refused(400, "bad_http", "a transfer coding; give a length")
    length = _length(fields, parts[0] == "POST")
    options = {o.strip(" \t") for o in fields.get("connection", "").lower().split(",")}
    close = "close" in options or (parts[2] == "HTTP/1.0" and "keep-alive" not in options)
    waits = fields.get("expect", "").lower() == "100-continue"
    return Head(parts[1], length, close, waits)


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or set(name) - _TOKEN or _CONTROL & set(value):
            raise Refused(400, "bad_http", "a line that is no field")
        if name.lower() in fields:
            raise Refused(400, "bad_http", f"{name[:32]} twice")
        fields[name.lower()] = value.strip(" \t")
    return fields


def _length(fields: dict[str, str], wanted: bool) -> int:
    text = fields.get("content-length")
    if text is None:
        if wanted:
            raise Refused(411, "http_length", "a body needs a length")
        return 0
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Refused(400, "bad_http", "a length that is none")
    if int(text) > MAX_BODY_BYTES:
        raise Refused(413, "http_too_long", f"a body of more than {MAX_BODY_BYTES} bytes")
    return int(text)


def answer(status: int, body: dict[str, object] | None = None, close: bool = False) -> bytes:
    """One response."""
    data = b"" if body is None else json.dumps(body).encode() + b"\n"
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\n"
    if data:
        head += "Content-Type: application/json\r\n"
    if status != 204:
        head += f"Content-Length: {len(data)}\r\n"
    return (head + ("Connection: close\r\n" if close else "") + "\r\n").encode() + data
