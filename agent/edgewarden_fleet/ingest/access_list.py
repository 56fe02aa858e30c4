"""The broker's access list in a file, for brokers without the dynamic-security plugin.

Such a broker reads the file when it starts and when it is told to. Each time the registry's set of
boards changes: the file is written anew, with a denial by name for each that is revoked or replaced
and with the topics of those whose name is not their device's, whole or not at all, and the
operator's ``broker.reload`` command is run. Without that command the change waits for the broker's
next start, and that is said.

    access = AccessList(folder, "main", ("systemctl", "reload", "mosquitto"))
    access.follow(db)       # cheap; from the worker's thread, each time it looks at its timers
"""

from __future__ import annotations

import logging
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

log = logging.getLogger("edgewarden_fleet.broker")


class AccessList:
    """See the module. Args: the broker's folder, the tenant, the command (may be empty)."""

    def __init__(self, folder: Path, tenant: str, reload: Sequence[str]) -> None:
        self._path = folder / "acl"
        self._tenant = tenant
        self._reload = tuple(reload)
        self._version: object = None

    def follow(self, db: sqlite3.Connection) -> None:
        """Make the file what the registry says, if it is not."""
        version = db.execute("PRAGMA data_version").fetchone()[0], db.total_changes
        if version == self._version:
            return
        may, gone = sessions(db)
        later = {name: device for name, device in may.items() if name != device}
        text = acl(self._tenant, gone, later)
        try:
            if self._path.read_text() != text:
                self._write(text)
                self._tell()
        except (OSError, PeerUnavailable) as fault:
            log.error("access list not applied error=%r code=EW-NET-022", str(fault))
        self._version = version

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
            log.error("broker.reload failed code=EW-NET-022 status=%s said=%r", status, said)
