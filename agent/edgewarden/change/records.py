"""The files confinement keeps for itself: its record and its proofs, whole and root's alone.

What this decides: how a file takes the place of the last one (temporary name, fsync, rename, fsync
of the folder), and that a record others may write is not believed. What it leaves to others: what
stands in them (confine/record.py, wire/gate_files.py).

    write(Path("/var/lib/edgewarden/confinement/applied"), applied.dump())
"""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.confine.record import MAX_BYTES, PROVED_NAME, Proved
from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.wire.gate_files import CONFINED_NAME, ExecTier

FILE_MODE, FOLDER_MODE = 0o644, 0o755


def record_proof(state_dir: str, run_dir: str, tier: ExecTier, proved: Proved) -> None:
    """What `verify` saw, for gate (the tier) and for status (the gaps).

    Raises:
        HardwareFault: EW-EXEC-042.
    """
    write(Path(run_dir, PROVED_NAME), proved.dump())
    write(Path(state_dir, "policy", CONFINED_NAME), tier.dump())


def forget_proof(state_dir: str, run_dir: str) -> None:
    """Nothing is claimed any more."""
    Path(run_dir, PROVED_NAME).unlink(missing_ok=True)
    Path(state_dir, "policy", CONFINED_NAME).unlink(missing_ok=True)


def fetch(where: Path) -> bytes:
    """A record of ours: root's, and nobody else may write it."""
    with where.open("rb") as file:
        entry = os.fstat(file.fileno())
        if entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
            raise OperatorFault(
                f"{where} is not root's alone",
                code="EW-EXEC-015",
                next_step="chown root:root and chmod go-w it, then look at who changed it",
            )
        return file.read(MAX_BYTES + 1)


def write(where: Path, data: bytes) -> None:
    """Whole or not at all, and on the disk before anything else is done."""
    fresh = where.with_name(f".{where.name}.edgewarden-new")
    try:
        where.parent.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, FILE_MODE)
        with open(fd, "wb") as file:
            os.fchmod(fd, FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(fd)
        fresh.rename(where)
        folder = os.open(where.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as fault:
        fresh.unlink(missing_ok=True)
        raise failed(f"{where}: {os.strerror(fault.errno or 0)}") from fault


def failed(text: str) -> HardwareFault:
    return HardwareFault(
        f"confinement could not be put in place or taken back: {text}",
        code="EW-EXEC-042",
        next_step="`edgewarden confine revert` takes back what is there; see `journalctl -b`",
    )
