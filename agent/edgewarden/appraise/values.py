"""Values that references are made of, where they are more than a file's digest.

version_key("1.10.0") > version_key("1.9.3")
firmware_digest({0: bytes(32), ..., 9: bytes(32)})
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

FIRMWARE_PCRS = range(10)
"""What a boot leaves behind before user space; PCR 10 is IMA's and moves."""


def version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Order of versions: numbers by value, the rest as text; 1.10.0 is above 1.9.3."""
    parts = version.replace("-", ".").replace("+", ".").split(".")
    return tuple((int(p), "") if p.isascii() and p.isdigit() else (-1, p) for p in parts)


def firmware_digest(pcrs: Mapping[int, bytes]) -> bytes:
    """The reference value of a boot: SHA-256 over the values of PCR 0 to 9."""
    return hashlib.sha256(b"".join(pcrs[n] for n in FIRMWARE_PCRS)).digest()
