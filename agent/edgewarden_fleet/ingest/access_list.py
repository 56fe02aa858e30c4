"""The broker's access list in a file, for brokers without the dynamic-security plugin.

Such a broker reads the file when it starts and when it is told to. Each time the registry's set of
boards changes: the file is written anew, with a denial by name for each that is revoked or replaced
and with the topics of those whose name is not their device's, whole or not at all, and the
operator's ``broker.reload`` command is run. Without that command the change waits for the broker's
next start, and that is said.

What failed is tried again, at first after FIRST_RETRY_S, and each failure is said: until then a
revoked board may still speak at the broker. ``acl.untold`` lies beside the list from before it is
written until the broker was told, so that another start of `serve` goes on with it.

    access = AccessList(folder, "main", ("systemctl", "reload", "mosquitto"))
    access.follow(db, now_mono_s)     # cheap; from the worker's thread, when it looks at its timers
"""

from __future__ import annotations

import logging
import math
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from edgewarden.errors import PeerUnavailable
from edgewarden_fleet.ca.broker import acl
from edgewarden_fleet.ca.programs import run
from edgewarden_fleet.store.registry import sessions

RELOAD_S = 10.0
"""A reload is a signal; a restart of a broker with a full queue takes seconds."""

FIRST_RETRY_S, LAST_RETRY_S = 5.0, 300.0
"""A broker that starts is there in seconds; one that is down reads the list when it starts."""
_MOST_DOUBLINGS = 6

log = logging.getLogger("edgewarden_fleet.broker")


class AccessList:
    """See the module. Args: the broker's folder, the tenant, the command (may be empty)."""

    def __init__(self, folder: Path, tenant: str, reload: Sequence[str]) -> None:
        self._path = folder / "acl"
        self._tenant = tenant
        self._reload = tuple(reload)
        self._untold = folder / "acl.untold"
        self._version: object = None
        self._again_mono_s, self._failed = math.inf, 0

    def follow(self, db: sqlite3.Connection, now_mono_s: float) -> None:
        """Make the file what the registry says, and the broker read it."""
        version = db.execute("PRAGMA data_version").fetchone()[0], db.total_changes
        if version == self._version and now_mono_s < self._again_mono_s:
            return
        may, gone = sessions(db)
        later = {name: device for name, device in may.items() if name != device}
        text = acl(self._tenant, gone, later)
        self._version, self._again_mono_s = version, math.inf
        try:
            if self._path.read_text() != text:
                self._untold.touch()
                self._write(text)
            if self._untold.exists():
                self._tell()
                self._untold.unlink()
        except (OSError, PeerUnavailable) as fault:
            again_s = min(FIRST_RETRY_S * 2**self._failed, LAST_RETRY_S)
            self._failed = min(self._failed + 1, _MOST_DOUBLINGS)
            self._again_mono_s = now_mono_s + again_s
            log.error(
                "access list not in force error=%r again_s=%g code=EW-NET-022", str(fault), again_s
            )
            return
        if self._failed:
            log.warning("access list in force after attempts that failed")
        self._failed = 0

    def _write(self, text: str) -> None:
        fresh = self._path.with_name(".acl")
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        fresh.replace(self._path)

    def _tell(self) -> None:
        if not self._reload:
            log.warning(
                "access list written, broker not told code=EW-NET-022 next=%r",
                "restart the broker, or set broker.reload in fleet.toml",
            )
            return
        status, said = run(self._reload, RELOAD_S)
        if status != 0:
            raise PeerUnavailable(
                f"broker.reload failed status={status}: {said}",
                code="EW-NET-022",
                next_step="correct broker.reload in fleet.toml, or restart the broker",
            )
