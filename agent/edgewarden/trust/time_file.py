"""The floor of the clock, kept over restarts and boots: state/link/time.

Written beside and renamed; a cut leaves the old file or the new one, and an old floor is only a
lower one. A file that cannot be read is none: the build's date is the floor then. Never a reason to
end anything. Blocks on the disk; executor, or before there is a loop.

    keep(state_dir, Kept(boot_id, floor_ns, boot_ns, None)); read(state_dir)
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from edgewarden.errors import WireRefusal
from edgewarden.wire.timing import Kept, decode_kept, encode_kept

FOLDER, NAME = "link", "time"


def read(state_dir: Path) -> Kept | None:
    """What was kept; None when there is nothing to believe."""
    try:
        return decode_kept((state_dir / FOLDER / NAME).read_bytes()[:1024])
    except (OSError, WireRefusal):
        return None


def keep(state_dir: Path, kept: Kept) -> bool:
    """Keep it; False when the disk refuses: the next try is soon enough."""
    path = state_dir / FOLDER / NAME
    building = path.with_name(f".{NAME}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        building.unlink(missing_ok=True)
        fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, encode_kept(kept))
            os.fsync(fd)
        finally:
            os.close(fd)
        building.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            building.unlink(missing_ok=True)
        return False
    return True
