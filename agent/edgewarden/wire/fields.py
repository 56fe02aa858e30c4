"""The typed gate of the messages around appraisal: one decoded map, taken apart field by field.

Each method reads one field or refuses by the message's own name, saying which field does not fit.

    f = Fields(payload, "bad_status", {0, 1})
    f.uint(0), f.identifier(1)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from edgewarden.errors import WireRefusal
from edgewarden.wire import cbor
from edgewarden.wire.record import RecordClass, is_identifier

MAX_FIELDS_BYTES = 8 * 1024
"""The longest of these messages is evidence in full, 2.7 kB."""
GRADES = ("G0", "G0+", "G1", "G2", "G3")
"""Identity grades, weakest first (docs/attestation.md)."""
_CLASSES: dict[object, RecordClass] = {int(c): c for c in RecordClass}


class Fields:
    """The typed gate: takes one decoded map apart and names the field that does not fit."""

    def __init__(
        self,
        payload: bytes,
        refusal: str,
        keys: set[int],
        may: frozenset[int] = frozenset(),
        fits: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.refusal = refusal
        body = cbor.decode(payload, MAX_FIELDS_BYTES, fits)
        if not isinstance(body, dict) or body.keys() - may != keys:
            raise WireRefusal(refusal, "not exactly the fields of this message")
        self.body = body

    def no(self, key: int, why: str) -> WireRefusal:
        return WireRefusal(self.refusal, f"field {key} {why}")

    def uint(self, key: int) -> int:
        value = self.body[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise self.no(key, "is not an unsigned integer")
        return value

    def text(self, key: int, limit: int = 128) -> str:
        value = self.body[key]
        if not isinstance(value, str) or len(value) > limit:
            raise self.no(key, f"is not text of at most {limit} characters")
        return value

    def identifier(self, key: int) -> str:
        value = self.text(key)
        if not is_identifier(value):
            raise self.no(key, "is not an identifier")
        return value

    def blob(self, key: int, *lengths: int) -> bytes:
        value = self.body[key]
        if not isinstance(value, bytes) or (lengths and len(value) not in lengths):
            raise self.no(key, f"is not a byte string of {lengths}")
        return value

    def grade(self, key: int) -> str:
        value = self.text(key)
        if value not in GRADES:
            raise self.no(key, "is not a grade")
        return value

    def truth(self, key: int) -> bool:
        value = self.body[key]
        if not isinstance(value, bool):
            raise self.no(key, "is not true or false")
        return value

    def entries(self, key: int) -> dict[object, object]:
        value = self.body[key]
        if not isinstance(value, dict) or len(value) > 16:
            raise self.no(key, "is not a map of at most 16 entries")
        return value

    def names(self, key: int, allowed: frozenset[str]) -> dict[str, object]:
        named = self.entries(key)
        if not named.keys() <= allowed:
            raise self.no(key, "has an unknown name")
        return cast("dict[str, object]", named)

    def classes(self, key: int) -> dict[RecordClass, object]:
        entries = self.entries(key)
        if not entries.keys() <= _CLASSES.keys():
            raise self.no(key, "has an unknown class")
        return {_CLASSES[number]: value for number, value in entries.items()}

    def sequences(self, key: int) -> dict[RecordClass, int]:
        out: dict[RecordClass, int] = {}
        for record_class, value in self.classes(key).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise self.no(key, "has a sequence that is not an unsigned integer")
            out[record_class] = value
        return out

    def constant(self, key: int, value: int | str) -> None:
        if type(self.body[key]) is not type(value) or self.body[key] != value:
            raise self.no(key, f"is not {value}")
