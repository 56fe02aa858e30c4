"""The technician's control socket: one line of JSON each way, then the server closes.

    -> {"schema":"edgewarden.control/1","command":"status"}
    <- {"schema":"edgewarden.status/1", ...}
    <- {"schema":"edgewarden.control-refusal/1", ...}     when it was refused

Decides which bytes are a request and which an answer, and refuses everything else by name:
``too_long``, ``not_utf8``, ``not_json``, ``not_one_line``, ``duplicate_key``, ``not_an_object``,
``bad_field`` (naming its path), ``unknown_schema``, ``unknown_command``.

Requests are closed: an unknown field is refused. Answers are open: within schema/1 fields may be
added, so a reader takes what it knows and checks that (``check_shape``). What it leaves to others:
who may ask (the socket's mode and group, daemon/control.py), what is answered (daemon/link.py).
"""

from __future__ import annotations

import base64
import binascii
import json
from enum import StrEnum

from edgewarden.errors import OurFault, PeerFault, WireRefusal
from edgewarden.plain import dataclass

MAX_REQUEST_BYTES = 4096
"""A question holds 60 bytes; one for evidence carries a challenge of 400."""
MAX_ANSWER_BYTES = 1024 * 1024
"""32 ports and 200 findings stay below 200 KiB; 1,000 observed programs with paths of 500 bytes too
stay below it."""

REQUEST_SCHEMA = "edgewarden.control/1"
REFUSAL_SCHEMA = "edgewarden.control-refusal/1"


class Command(StrEnum):
    """What link answers."""

    STATUS = "status"
    FINDINGS = "findings"
    SENSORS = "sensors"
    OBSERVED = "observed"
    EVIDENCE = "evidence"
    DEVICES = "devices"
    WATCH = "watch"

    @property
    def schema(self) -> str:
        """Schema of the answer."""
        return f"edgewarden.{self.value}/1"


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Attributes:
        challenge: for EVIDENCE, the message of the verifier; else b"".
        sensor: for WATCH, its name; else "".
        after: for WATCH, the number of the last read that was shown; 0 for none.
    """

    command: Command
    challenge: bytes = b""
    sensor: str = ""
    after: int = 0


class Refused(PeerFault):
    """The server's own refusal, as it worded it."""

    default_code = "EW-WIRE-001"


Shape = type | tuple[type, ...] | list["Shape"] | dict[str, "Shape"]
"""A type or several; ``[shape]`` for a list; a map of names for an object; ``{"*": shape}`` for an
object whose names are data."""

_TEXT_OR_NULL = (str, type(None))
_NUMBER = (int, float)
_NUMBER_OR_NULL = (int, float, type(None))

SENSOR: Shape = {"state": str, "readings": int, "bad_frames": int, "silent_s": _NUMBER_OR_NULL}

STATUS: Shape = {
    "device": str,
    "version": str,
    "verdict": str,
    "reasons": [{"code": str, "text": str, "next": str}],
    "attestation": {"result": str, "age_s": _NUMBER_OR_NULL},
    "identity": {"grade": str, "certificate": {"serial": str, "not_after_utc": str}},
    "clock": {"state": str, "uncertainty_s": _NUMBER_OR_NULL},
    "uplink": {"connected": bool, "since_utc": _TEXT_OR_NULL, "reconnects": int},
    "spool": {"*": {"next": int, "durable": int, "acked": int, "bytes": int, "evicted": int}},
    "enforcement": {
        "exec": {"tier": str, "mode": str, "allowed": int, "denied": int, "would_deny": int}
    },
    "sensors": {"*": SENSOR},
    "config": {"version": int, "state": str, "signed_by": str},
    "footprint": {
        "pss_bytes": int,
        "cpu_s": _NUMBER,
        "written_bytes_day": int,
        "written_span_s": _NUMBER,
    },
}
"""What a reader of status relies on (surface.md); ``peripherals`` and ``network`` join it with the
releases that deliver them."""

FINDING: Shape = {
    "id": str,
    "code": str,
    "severity": int,
    "text": str,
    "first_utc": _TEXT_OR_NULL,
    "last_utc": _TEXT_OR_NULL,
    "count": int,
}

PROGRAM: Shape = {
    "decision": str,
    "reason": str,
    "sha256": str,
    "path": str,
    "rule": str,
    "uid": int,
    "count": int,
}

LISTENER: Shape = {"state": str, "address": str, "sessions": int, "code": str, "why": str}
BEHIND: Shape = {
    "tier": str,
    "why": str,
    "state": str,
    "key_sha256": str,
    "lineage": int,
    "place": str,
    "protocol": str,
    "seen_s": _NUMBER_OR_NULL,
    "sessions": int,
    "readings": int,
    "refused": {"*": int},
}
"""A device behind the gateway."""

READ: Shape = {
    "age_s": _NUMBER,
    "bytes": int,
    "hex": str,
    "more": int,
    "readings": [
        {
            "name": str,
            "value": (str, int, float, bool),
            "unit": str,
            "quality": str,
            "raw": (str, int, float, bool, type(None)),
            "why": [str],
        }
    ],
}
"""What one read of a port brought."""

SHAPES: dict[Command, Shape] = {
    Command.STATUS: STATUS,
    Command.FINDINGS: {"device": str, "findings": [FINDING]},
    Command.SENSORS: {"device": str, "sensors": {"*": SENSOR}},
    Command.OBSERVED: {"device": str, "observed": [PROGRAM], "others": int},
    Command.EVIDENCE: {"device": str, "evidence": str},
    Command.DEVICES: {"device": str, "listener": LISTENER, "devices": {"*": BEHIND}},
    Command.WATCH: {
        "device": str,
        "sensor": str,
        "state": SENSOR,
        "next": int,
        "missed": int,
        "lines": [READ],
    },
}

_FIELDS = {Command.EVIDENCE: {"challenge"}, Command.WATCH: {"sensor", "after"}}
"""What a question holds besides its schema and command."""


def encode_request(request: Request) -> bytes:
    """The line that asks."""
    body: dict[str, object] = {"schema": REQUEST_SCHEMA, "command": request.command.value}
    if request.command is Command.EVIDENCE:
        body["challenge"] = base64.b64encode(request.challenge).decode()
    if request.command is Command.WATCH:
        body |= {"sensor": request.sensor, "after": request.after}
    return json.dumps(body, separators=(",", ":")).encode() + b"\n"


def parse_request(line: bytes) -> Request:
    """Read a request with its newline.

    Raises:
        WireRefusal: by name, see the module.
    """
    body = _object(line, MAX_REQUEST_BYTES)
    _schema(body, REQUEST_SCHEMA)
    command = body.get("command")
    if not isinstance(command, str) or command not in list(Command):
        raise WireRefusal("unknown_command", f"{command!r:.64}")
    known = {"schema", "command"}
    known |= _FIELDS.get(Command(command), set())
    extra = sorted(set(body) - known)
    if extra:
        raise WireRefusal("bad_field", f"{extra[0][:64]} is not known")
    if command == Command.WATCH:
        check_shape(body, {"sensor": str, "after": int})
        return Request(Command.WATCH, b"", str(body["sensor"]), int(str(body["after"])))
    if command != Command.EVIDENCE:
        return Request(Command(command))
    try:
        challenge = base64.b64decode(str(body.get("challenge", "")), validate=True)
    except (ValueError, binascii.Error):
        raise WireRefusal("bad_field", "challenge is not base64") from None
    return Request(Command.EVIDENCE, challenge)


def encode_answer(body: dict[str, object]) -> bytes:
    """The line that answers.

    Raises:
        OurFault: the handler made something that is no JSON object of at most MAX_ANSWER_BYTES.
    """
    try:
        line = json.dumps(body, separators=(",", ":"), allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError, RecursionError) as fault:
        raise OurFault(f"an answer is no JSON: {fault}") from fault
    if len(line) > MAX_ANSWER_BYTES:
        raise OurFault(f"an answer holds {len(line)} bytes, at most {MAX_ANSWER_BYTES}")
    return line


def encode_refusal(name: str, text: str, code: str, next_step: str) -> bytes:
    """The line that says no, cut to a length that always fits."""
    body: dict[str, object] = {"schema": REFUSAL_SCHEMA, "name": name, "text": text[:512]}
    return encode_answer({**body, "code": code, "next": next_step[:512]})


def parse_answer(line: bytes, command: Command) -> dict[str, object]:
    """Read the answer to a command, checked as far as its schema promises.

    Raises:
        WireRefusal: by name, see the module.
        Refused: the server refused the request.
    """
    body = _object(line, MAX_ANSWER_BYTES)
    if body.get("schema") == REFUSAL_SCHEMA:
        check_shape(body, {"name": str, "text": str, "code": str, "next": str})
        text, code, step = str(body["text"]), str(body["code"]), str(body["next"])
        raise Refused(text, code=code, next_step=step)
    _schema(body, command.schema)
    check_shape(body, SHAPES[command])
    return body


def check_shape(value: object, shape: Shape, path: str = "") -> None:
    """Hold a JSON value to a shape; names the path of the first thing that differs.

    Raises:
        WireRefusal: ``bad_field``.
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise WireRefusal("bad_field", f"{path or 'answer'} is not an object")
        if "*" in shape:
            for name, inner in value.items():
                check_shape(inner, shape["*"], f"{path}.{name}".lstrip("."))
            return
        for name, wanted in shape.items():
            if name not in value:
                raise WireRefusal("bad_field", f"{path}.{name}".lstrip(".") + " is missing")
            check_shape(value[name], wanted, f"{path}.{name}".lstrip("."))
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise WireRefusal("bad_field", f"{path} is not a list")
        for index, item in enumerate(value):
            check_shape(item, shape[0], f"{path}[{index}]")
    elif not isinstance(value, shape) or (isinstance(value, bool) and not _takes_bool(shape)):
        raise WireRefusal("bad_field", f"{path} is a {type(value).__name__}")


def _takes_bool(shape: type | tuple[type, ...]) -> bool:
    """A truth value is an int to Python, and none to us unless the shape says so."""
    return bool in (shape if isinstance(shape, tuple) else (shape,))


def _schema(body: dict[str, object], wanted: str) -> None:
    if body.get("schema") != wanted:
        raise WireRefusal("unknown_schema", f"{body.get('schema')!r:.64}, wanted {wanted}")


def _object(line: bytes, max_bytes: int) -> dict[str, object]:
    """One line of strict JSON: an object, no duplicate keys, no NaN, nothing after it."""
    if len(line) > max_bytes:
        raise WireRefusal("too_long", f"{len(line)} bytes, at most {max_bytes}")
    if not line.endswith(b"\n") or line.count(b"\n") != 1:
        raise WireRefusal("not_one_line", f"{line.count(bytes([10]))} newlines")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise WireRefusal("not_utf8", f"byte {fault.start}") from None
    try:
        body = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except RecursionError:
        raise WireRefusal("not_json", "nested too deeply") from None
    except ValueError as fault:  # JSONDecodeError, and int() refusing thousands of digits
        raise WireRefusal("not_json", str(fault)[:128]) from None
    if not isinstance(body, dict):
        raise WireRefusal("not_an_object", type(body).__name__)
    return body


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    body: dict[str, object] = {}
    for name, value in pairs:
        if name in body:
            raise WireRefusal("duplicate_key", f"{name[:64]!r}")
        body[name] = value
    return body


def _constant(text: str) -> object:
    raise WireRefusal("not_json", f"{text} is no number of JSON (RFC 8259 section 6)")
