"""Bodies of the enrolment service's requests and answers: one JSON object with exactly its fields.

Decides which bytes are a body: at most ``MAX_MESSAGE_BYTES``, each key once, the schema named, no
field missing and none besides. Refusals: ``too_long``, ``bad_request``. Left to others: what the
fields mean (enrol.py, renewal.py).

    load(b'{"schema":"edgewarden.x/1","a":"b"}', "edgewarden.x/1", {"a"})["a"] == "b"
"""

from __future__ import annotations

import json

from edgewarden.errors import WireRefusal

MAX_MESSAGE_BYTES = 32 * 1024
"""A CSR is 0.5 kB, a chain of two certificates 1.5 kB; 32 kB leaves room for foreign CA chains."""


def dump(body: dict[str, object]) -> bytes:
    """The bytes of a body."""
    return json.dumps(body, separators=(",", ":")).encode()


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise WireRefusal("bad_request", "a key stands twice")
    return body


def load(data: bytes, schema: str, keys: set[str]) -> dict[str, object]:
    """Read a body; raises WireRefusal."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise WireRefusal("too_long", f"{len(data)} bytes, limit {MAX_MESSAGE_BYTES}")
    try:
        body = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise WireRefusal("bad_request", "not JSON") from None
    if not isinstance(body, dict) or body.get("schema") != schema:
        raise WireRefusal("bad_request", f"schema is not {schema}")
    if set(body) != keys | {"schema"}:
        raise WireRefusal("bad_request", "not exactly the fields of this message")
    return body


def schema_of(data: bytes) -> str:
    """The schema that a body names, "" when it names none; nothing else of it is believed yet."""
    if len(data) > MAX_MESSAGE_BYTES:
        return ""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    schema = body.get("schema") if isinstance(body, dict) else None
    return schema if isinstance(schema, str) else ""


def text_of(body: dict[str, object], key: str) -> str:
    """A field that is text; raises WireRefusal("bad_request"). JSON can spell half of a pair of
    UTF-16, which is a str in Python and no text: it has no bytes."""
    value = body[key]
    if not isinstance(value, str):
        raise WireRefusal("bad_request", f"{key} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise WireRefusal("bad_request", f"{key} is not text") from None
    return value
