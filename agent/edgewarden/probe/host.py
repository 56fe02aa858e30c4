"""The board at this moment: memory and heat, from /proc and /sys. Blocks for microseconds; absent
is None."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_THERMAL = Path("/sys/class/thermal")


def available_bytes(meminfo: Path = _MEMINFO) -> int | None:
    """MemAvailable (proc(5)), in bytes."""
    try:
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def is_orphaned(folder: str) -> bool:
    """Whether a folder belongs to a user that this machine no longer knows."""
    try:
        pwd.getpwuid(os.stat(folder).st_uid)
    except KeyError:
        return True
    except OSError:
        return False
    return False


def hottest_mc(thermal: Path = _THERMAL) -> int | None:
    """The hottest thermal zone, thousandths of a degree Celsius."""
    found = []
    for zone in sorted(thermal.glob("thermal_zone*/temp")):
        try:
            found.append(int(zone.read_text()))
        except (OSError, ValueError):
            continue  # a zone whose sensor is asleep says EAGAIN or nothing
    return max(found, default=None)
