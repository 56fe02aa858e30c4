"""gate under a wall clock that the test steps: ``stepped.py FILE gate.py ARGUMENTS``.

FILE holds the nanoseconds (int64, native) that are added to CLOCK_REALTIME, read at each look from
a mapping, so that gate opens nothing for it. What the kernel writes (ctime) stays as it is: for
gate that is the same as a clock that was set.
"""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time

_STEP = struct.Struct("=q")
_REAL_NS = time.time_ns


def main(step_file: str, program: str, arguments: list[str]) -> None:
    """Patch the clock, then be the program."""
    with open(step_file, "rb") as file:
        shown = mmap.mmap(file.fileno(), _STEP.size, mmap.MAP_SHARED, mmap.PROT_READ)
    time.time_ns = lambda: _REAL_NS() + _STEP.unpack_from(shown)[0]
    sys.argv = [program, *arguments]
    runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
