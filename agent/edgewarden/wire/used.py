"""The highest generation of each area's table that gate has used: state/policy/used.

What this decides: the bytes, sealed lines ``AREA GENERATION`` in the order of AREAS. What it leaves
to others: what follows from them (lockout/forward.py, daemon/policy.py).

    load_used(dump_used({"exec": 9})) == {"exec": 9}
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import seal, unseal
from edgewarden.wire.local_messages import AREAS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

USED_NAME = "used"
MAGIC = b"EWUSED_1"
MAX_USED_BYTES = 256
MAX_GENERATION = (1 << 64) - 1
"""As the tables have it."""


def dump_used(used: Mapping[str, int]) -> bytes:
    """The bytes of the file."""
    lines = [f"{area} {used[area]}\n" for area in AREAS if area in used]
    return seal(MAGIC, "".join(lines).encode())


def load_used(data: bytes | None) -> dict[str, int]:
    """Read what ``dump_used`` wrote; {} without a file, or of one that is damaged."""
    if data is None:
        return {}
    try:
        text = unseal(MAGIC, data, most=MAX_USED_BYTES).decode("ascii")
    except (WireRefusal, UnicodeDecodeError):
        return {}
    found = {}
    for line in text.splitlines():
        area, _, number = line.partition(" ")
        if area not in AREAS or not number.isdigit() or int(number) > MAX_GENERATION:
            return {}
        found[area] = int(number)
    return found
