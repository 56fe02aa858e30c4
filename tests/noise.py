"""Text that the spool cannot make much shorter, for tests in which a spool or a disk fills.

noise(2000, 7)      # 2000 printable characters, the same for the same seed; deflated 1700
"""

from __future__ import annotations

import random

_PRINTABLE = bytes(32 + n % 95 for n in range(256))


def noise(length: int, seed: int) -> str:
    """Printable ASCII."""
    return random.Random(seed).randbytes(length).translate(_PRINTABLE).decode()
