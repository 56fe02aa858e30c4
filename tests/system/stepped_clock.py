"""A process whose wall clock, and whose boot, a test rules.

    clock = SteppedClock(folder)
    card.start(clock.environment)
    clock.ahead(20 * YEAR_S); clock.stand_at(60.0); clock.another_boot()

The interpreter and OpenSSL of that process see one time (stepped_clock.c, preloaded), read from a
mapping: a step costs nothing and no call is made for it. Time since boot stays, as on a board.
libfaketime reads a file at every look or shows a step late, and cost a core (measured).
"""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
import uuid
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
YEAR_S = 365 * 86_400
_AHEAD, _WAITS = struct.Struct("=q"), struct.Struct("=q")


class SteppedClock:
    """The clock of the processes started with ``environment``.

    Args:
        folder: where the library and its files are put.

    Attributes:
        environment: what a process takes to be under it.
        boot_id: of the boot that the next process finds itself in.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        library, self._file, self._boot = folder / "clock.so", folder / "shown", folder / "boot_id"
        build = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SOURCE)]
        subprocess.run([*build, "-ldl"], check=True, timeout=60)
        self._file.write_bytes(bytes(_AHEAD.size + _WAITS.size))
        with self._file.open("r+b") as file:
            self._shown = mmap.mmap(file.fileno(), 0)
        self.another_boot()
        self.environment = {
            "LD_PRELOAD": str(library),
            "STEPPED_CLOCK": str(self._file),
            "STEPPED_BOOT_ID": str(self._boot),
        }

    def ahead(self, seconds: float) -> None:
        """Set it so far ahead of the machine's; negative for behind."""
        _AHEAD.pack_into(self._shown, 0, round(seconds * 10**9))

    def stand_at(self, utc_s: float) -> None:
        """Set it to a moment; it goes on from there."""
        self.ahead(utc_s - time.time())

    def another_boot(self) -> bytes:
        """The next process begins a boot with a name of its own, which is returned."""
        self.boot_id = os.urandom(16)
        self._boot.write_text(f"{uuid.UUID(bytes=self.boot_id)}\n")
        return self.boot_id

    def waits(self) -> int:
        """How often threads of such processes went to sleep until something happens, or a time."""
        return int(_WAITS.unpack_from(self._shown, _AHEAD.size)[0])
