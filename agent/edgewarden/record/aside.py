"""Records that a broker will never take, kept where a person finds them: one file each.

Decides how much is kept. Leaves to the journal the signed gap record that names each, and to the
uplink which records these are (link/window.py, rule 7).

* A file holds the signed record as it would have been published; its name is class and sequence:
  ``audit-0000000000000042.cose``. `edgewarden-fleet verify` reads it.
* keep() returns after the fsync of file and folder. The same record twice is one file.
* At most MAX_RECORDS. A full box takes no more and nothing is thrown out of it: a broker that
  refuses everything must not empty the spool into it. A person empties it.

    Aside(Path("/var/lib/edgewarden/link/aside")).keep(stored)
"""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.ports import Stored
from edgewarden.record.segment import renamed_errors, sync_folder
from edgewarden.wire.record import RecordClass

FOLDER = "link/aside"
"""Below the state folder, which is root's: what link may write there is listed in its unit."""
SUFFIX = ".cose"
MAX_RECORDS = 32
"""4 MB of the longest records; thirty-two refusals of content are a broker's fault, not theirs."""


class Aside:
    """See the module's docstring. Storage thread only; blocks on the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, record: Stored) -> bool:
        """Make one record durable here; False when the box is full.

        Raises:
            DiskFull, HardwareFault: nothing was kept.
        """
        label = RecordClass(record.record_class).label
        path = self._folder / f"{label}-{record.seq:016d}{SUFFIX}"
        with renamed_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists() and len(list(self._folder.glob(f"*{SUFFIX}"))) >= MAX_RECORDS:
                return False
            building = path.with_suffix(".new")
            with building.open("wb") as out:
                out.write(record.data)
                out.flush()
                os.fsync(out.fileno())
            building.rename(path)
            sync_folder(self._folder)
        return True
