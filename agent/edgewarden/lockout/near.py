"""Which paths may be looked at without waiting for somebody else.

What this decides: a stat goes through every mount on its way, and a server behind one of them that
hangs would hang gate. A path is near when no mount on its way is of an unknown or foreign kind
(exec/marks.py, WATCHABLE).

    is_near(b"/usr/bin/sudo", frozenset((b"/mnt/nfs",)))
"""

from __future__ import annotations


def is_near(path: bytes, slow: frozenset[bytes]) -> bool:
    """Whether no mount point of ``slow`` lies on the way to ``path``."""
    at = len(path)
    while at > 0:
        at = path.rfind(b"/", 0, at)
        if at > 0 and path[:at] in slow:
            return False
    return b"/" not in slow
