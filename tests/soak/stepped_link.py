"""link under a wall clock that the ordeal steps: ``stepped_link.py FILE SETTINGS``.

FILE holds the nanoseconds (int64, native) that are added to CLOCK_REALTIME, read from a mapping at
each look. libfaketime would do the same to OpenSSL as well and takes half a core for it (measured);
tests/system/test_no_clock.py has that case.
"""

from __future__ import annotations

import mmap
import struct
import sys
import time

_STEP = struct.Struct("=q")
_REAL = time.clock_gettime_ns


def main(step_file: str, settings: str) -> int:
    """Patch the clock, then be link."""
    with open(step_file, "rb") as file:
        shown = mmap.mmap(file.fileno(), _STEP.size, mmap.MAP_SHARED, mmap.PROT_READ)

    def stepped(clock: int) -> int:
        step_ns = _STEP.unpack_from(shown)[0] if clock == time.CLOCK_REALTIME else 0
        return _REAL(clock) + int(step_ns)

    time.clock_gettime_ns = stepped
    time.time_ns = lambda: stepped(time.CLOCK_REALTIME)
    time.time = lambda: stepped(time.CLOCK_REALTIME) / 1e9
    from edgewarden.daemon import lean

    return lean.main(settings)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
