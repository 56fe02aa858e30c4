"""Names of sensors and channels as parts of topics and ids, whatever they are.

A channel's name can come from a sensor's wire (a JSON key). In a topic ``/`` would open another
level, ``+`` and ``#`` are refused by brokers, and Home Assistant's ids know letters, digits, _ and
- alone. Rules:

1. A name of 1 to 48 of those characters, without ``--``, stays as it is.
2. Any other is what is left of it (at most 30 characters), ``--`` and 16 hexadecimal digits of its
   SHA-256: two names never make one part, short of a collision in 64 bits.

    part("temperature") == "temperature"
    part("a/b") == "a_b--c14cddc033f64b9d"
"""

from __future__ import annotations

import hashlib
import re

MAX_PART = 48
_PLAIN = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_PART}}}")
_OTHER = re.compile(r"[^A-Za-z0-9_-]+|-{2,}")
_KEPT = 30
_DIGITS = 16
MAX_LABEL = 64
"""Characters of a name that people read."""


def part(name: str) -> str:
    """The name as one level of a topic."""
    if _PLAIN.fullmatch(name) and "--" not in name:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{_OTHER.sub('_', name)[:_KEPT]}--{digest[:_DIGITS]}"


def label(name: str) -> str:
    """The name for people: nothing that moves a cursor, not too long."""
    return "".join(c if c.isprintable() else "?" for c in name[:MAX_LABEL])
