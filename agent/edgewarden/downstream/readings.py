"""A device's payload to values: a flat JSON object, or one JSON value under the topic's last level.

Pure. What a person with `mosquitto_pub` or `curl` would type:

    mosquitto_pub -t temperature -m 21.5                    temperature = 21.5
    mosquitto_pub -t press-1/state -m '{"open": true}'      open = true
    curl -d '{"temperature": 21.5}' https://gw:8883/readings

Rules, in order; each breach refuses the whole payload, by name:

1. at most MAX_PAYLOAD_BYTES of strict UTF-8        ``payload_too_long``, ``not_utf8``
2. JSON: no key twice, no NaN, no number beyond a double, no integer beyond 2**53
                                                    ``not_json``, ``duplicate_key``, ``bad_number``
3. an object of at most MAX_VALUES plain values     ``too_many_values``, ``bad_value``
   or one plain value, where there is a topic to name it
4. names are SenML names (RFC 8428 §4.5.1), text is printable and short   ``bad_name``, ``bad_text``

null yields nothing. A payload that is no JSON is refused: nothing is guessed from text.
"""

from __future__ import annotations

import json
import math
import re

from edgewarden.errors import WireRefusal

MAX_PAYLOAD_BYTES = 4096
MAX_VALUES = 64
MAX_TEXT_CHARS = 256
MAX_EXACT_INTEGER = 2**53
"""RFC 8259 §6: beyond this two readers may disagree about an integer."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:._]{0,63}")

Values = dict[str, float | str | bool]


def read_payload(data: bytes, topic: str = "") -> Values:
    """The values in a payload.

    Args:
        topic: of MQTT; its last level names a lone value. "" where there is none.

    Raises:
        WireRefusal: see the module.
    """
    if len(data) > MAX_PAYLOAD_BYTES:
        raise WireRefusal("payload_too_long", f"{len(data)} bytes, at most {MAX_PAYLOAD_BYTES}")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise WireRefusal("not_utf8", f"byte {fault.start}") from None
    try:
        body = json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except (ValueError, RecursionError) as fault:
        raise WireRefusal("not_json", str(fault)[:128]) from None
    if not isinstance(body, dict):
        if not topic:
            raise WireRefusal("bad_value", "not an object of names and values")
        body = {topic.rsplit("/", 1)[-1]: body}
    if len(body) > MAX_VALUES:
        raise WireRefusal("too_many_values", f"{len(body)}, at most {MAX_VALUES}")
    return {_name(name): _value(value) for name, value in body.items() if value is not None}


def _pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise WireRefusal("duplicate_key", "one name twice in one object")
    return body


def _constant(text: str) -> object:
    raise WireRefusal("bad_number", f"{text} is no number of JSON")


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise WireRefusal("bad_name", f"{name[:64]!r} is no name of a reading")
    return name


def _value(value: object) -> float | str | bool:
    if isinstance(value, str):
        if len(value) > MAX_TEXT_CHARS or not value.isprintable():
            raise WireRefusal("bad_text", f"not printable, or over {MAX_TEXT_CHARS} characters")
        return value
    if isinstance(value, int) and abs(value) > MAX_EXACT_INTEGER:
        raise WireRefusal("bad_number", "an integer beyond 2**53")
    if isinstance(value, float) and not math.isfinite(value):
        raise WireRefusal("bad_number", "a number beyond a double")
    if not isinstance(value, int | float):
        raise WireRefusal("bad_value", "a value is a list or an object")
    return value
