"""/etc/ld.so.preload: libraries that the loader puts into every program.

Decides nothing but what stands there; whether it is news is for inventory/watcher.py.

    read_preload()        # ("/usr/lib/arm-linux-gnueabihf/libarmmem.so",)
"""

from __future__ import annotations

import os

PATH = "/etc/ld.so.preload"
MAX_BYTES = 4096


def read_preload(path: str = PATH) -> tuple[str, ...]:
    """The libraries named, () when there is no such file; ld.so(8): separated by white space."""
    if not os.access(path, os.F_OK):  # nearly always, and each two seconds: no fault is made of it
        return ()
    try:
        with open(path, "rb", buffering=0) as file:
            return tuple(file.read(MAX_BYTES).decode("utf-8", "backslashreplace").split())
    except OSError:
        return ()
