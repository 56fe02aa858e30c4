"""The settings that link runs with: the newest good ones, kept against the day they are broken.

Rules in order:

1. Settings without a fault are used, and their files are copied to state/link/last-good/
(atomically).
2. Settings with faults: the copies are used, every fault is remembered and shown by status.
3. Faults and no copy: there is nothing to run with; the faults are raised.

HUP asks again (``recheck``): a faulty file changes nothing that runs, a good one that differs asks
for a restart.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.plain import dataclass
from edgewarden.probe.disk import Disk
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.files import read_loaded, settings_files
from edgewarden.settings.lenient import LAST_GOOD, read_leniently
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load
from edgewarden.wire.manifest import files_digest


@dataclass(frozen=True, slots=True)
class Running:
    """What link runs with.

    Attributes:
        settings: the tree.
        files: the files it came from, in load order.
        digest: files_digest of them: what ``config.version`` counts and evidence carries.
        faults: of a newer version that is not in use.
    """

    settings: Settings
    files: tuple[Path, ...]
    digest: bytes
    faults: tuple[str, ...]


def choose(path: str) -> Running:
    """Read the settings, or fall back to the last good ones.

    Raises:
        SettingsFaults: they have faults and there are no last good ones.
    """
    try:
        settings = read_loaded(path, Disk()).settings
    except SettingsFaults as faulty:
        kept = Path(read_leniently(path, Disk()).settings.paths.state, LAST_GOOD)
        files = tuple(sorted(kept.glob("*.toml"))) if kept.is_dir() else ()
        if not files:
            raise
        sources = [SourceFile(str(f), f.read_text()) for f in files]
        texts = tuple(str(fault) for fault in faulty.faults)
        return Running(load(sources).settings, files, _digest(files), texts)
    files = tuple(Path(name) for name in settings_files(path, Disk()))
    _keep(Path(settings.paths.state), files)
    return Running(settings, files, _digest(files), ())


def recheck(path: str, running: Running) -> tuple[bool, tuple[str, ...]]:
    """Return (restart wanted, faults) of the settings as they are now."""
    try:
        read_loaded(path, Disk())
    except SettingsFaults as faulty:
        return False, tuple(str(fault) for fault in faulty.faults)
    files = tuple(Path(name) for name in settings_files(path, Disk()))
    return _digest(files) != running.digest, ()


def _digest(files: tuple[Path, ...]) -> bytes:
    return files_digest(file.read_bytes() for file in files)


def _keep(state: Path, files: tuple[Path, ...]) -> None:
    """Copy the good files; a disk that refuses costs the copy, never the start."""
    kept = state / LAST_GOOD
    try:
        kept.mkdir(parents=True, exist_ok=True)
        for old in kept.glob("*.toml"):
            if int(old.name[:2]) >= len(files):
                old.unlink()
        for index, file in enumerate(files):
            target = kept / f"{index:02d}-{file.name}"
            data = file.read_bytes()
            if target.exists() and target.read_bytes() == data:
                continue
            for old in kept.glob(f"{index:02d}-*.toml"):
                old.unlink()
            fresh = kept / ".new"
            with fresh.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            fresh.rename(target)
    except (OSError, ValueError, HardwareFault):
        return
