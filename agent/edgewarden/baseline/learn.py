"""A baseline from this machine, and the one that is kept: what `policy learn`, `policy diff` and
dpkg's hook have in common.

What this decides: where a survey starts, and that a kept file which is damaged or not root's is
refused by name instead of being used. What it leaves to others: writing (daemon/policy.py), the
policy, gate.

    found = learn(Machine(), (), kept_stamps("/var/lib/edgewarden/policy"), started_ns=now)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgewarden.baseline.folders import FOLDERS_NAME, MAX_FOLDERS_BYTES, Folders, steady_devices
from edgewarden.baseline.hashing import (
    MAX_SEEN_BYTES,
    Content,
    Moving,
    Stamp,
    load_seen,
    read_content,
)
from edgewarden.baseline.packages import Packages, read_packages
from edgewarden.baseline.paths import Paths, barred_mounts
from edgewarden.baseline.survey import (
    DEFAULT_ROOTS,
    MAX_PROGRAM_BYTES,
    NOTHING_BEFORE,
    Since,
    Survey,
    survey,
)
from edgewarden.errors import HardwareFault, OperatorFault, WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.baseline import MAX_BASELINE_BYTES, Baseline, Entry

BASELINE_NAME = "baseline"
SEEN_NAME = "baseline.seen"
DATABASE = "/var/lib/dpkg"
MAX_MOUNTINFO_BYTES = 4 << 20
_LEARN = "run `edgewarden policy learn`"


@dataclass(frozen=True, slots=True)
class Machine:
    """The system that is looked at: this one, or a recorded tree.

    Attributes:
        root: "/" or the folder of a tree.
        mountinfo: where the mount table stands; "" for a tree, which is entered everywhere.
    """

    root: str = "/"
    mountinfo: str = "/proc/self/mountinfo"

    def paths(self) -> Paths:
        """Its paths, looked at anew.

        Raises:
            HardwareFault: the mount table cannot be read: nothing could be told apart.
        """
        return Paths(self.root, barred_mounts(self._mounts()) if self.mountinfo else frozenset())

    def steady(self) -> frozenset[int] | None:
        """Devices whose folders' times can be relied on; None, all of them, for a tree.

        Raises:
            HardwareFault: as ``paths``.
        """
        return steady_devices(self._mounts()) if self.mountinfo else None

    def _mounts(self) -> str:
        try:
            with open(self.mountinfo, "rb") as file:
                return file.read(MAX_MOUNTINFO_BYTES + 1).decode("utf-8", "surrogateescape")
        except OSError as fault:
            raise HardwareFault(
                f"{self.mountinfo}: {fault.strerror}",
                code="EW-POL-005",
                next_step="mount /proc and try again",
            ) from fault


@dataclass(frozen=True, slots=True)
class Learned:
    """A survey, and the packages it was made with."""

    survey: Survey
    packages: Packages


def learn(
    machine: Machine,
    more_roots: Sequence[str],
    known: Mapping[Stamp, Content],
    *,
    started_ns: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    since: Since = NOTHING_BEFORE,
) -> Learned:
    """Look at the system, or at what of it changed since; takes seconds.

    Raises:
        OperatorFault: no dpkg database, or more programs than fit.
        HardwareFault: the mount table cannot be read.
    """
    paths = machine.paths()
    packages = read_packages(paths, DATABASE)
    roots = (*DEFAULT_ROOTS, *more_roots)
    found = survey(
        paths, packages, roots, known, started_ns=started_ns, progress=progress, since=since
    )
    return Learned(found, packages)


def some(machine: Machine, names: Iterable[str]) -> Baseline:
    """A baseline of these files alone, for a system that has none; what is absent is left out."""
    paths = machine.paths()
    entries: dict[str, Entry] = {}
    for name in names:
        path = paths.resolve(name)
        if path is None or path in entries:
            continue
        try:
            real = paths.real(path)
            status, found = read_content(real, path, wants_md5=False, most=MAX_PROGRAM_BYTES)
        except (OSError, Moving):
            continue
        if found.kind:
            entries[path] = Entry(path, found.sha256, status.st_size, found.kind)
    return Baseline(tuple(entries[path] for path in sorted(entries)), dict(paths.links))


def kept(folder: str) -> Baseline | None:
    """The baseline in a folder; None when there is none.

    Raises:
        OperatorFault: EW-POL-003, it is damaged or not root's alone.
    """
    data = _read(folder, BASELINE_NAME, MAX_BASELINE_BYTES)
    try:
        return None if data is None else Baseline.load(data)
    except WireRefusal as refusal:
        raise _damaged(folder, BASELINE_NAME, refusal.text) from refusal


def kept_stamps(folder: str) -> dict[Stamp, Content]:
    """What the last survey read; {} when there is nothing, or nothing that can be believed: then
    everything is read again."""
    try:
        data = _read(folder, SEEN_NAME, MAX_SEEN_BYTES)
        return {} if data is None else load_seen(data)
    except (WireRefusal, OperatorFault):
        return {}


def kept_folders(folder: str) -> Folders | None:
    """The folders that the last survey saw; None when there are none that can be believed."""
    try:
        data = _read(folder, FOLDERS_NAME, MAX_FOLDERS_BYTES)
        return None if data is None else Folders.load(data)
    except (WireRefusal, OperatorFault):
        return None


def _read(folder: str, name: str, most: int) -> bytes | None:
    path = os.path.join(folder, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _damaged(folder, name, os.strerror(fault.errno or 0)) from fault
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
            raise _damaged(folder, name, "not a file of root's")
        if status.st_mode & 0o022:
            raise _damaged(folder, name, "others may write it")
        return file.read(most + 1)


def _damaged(folder: str, name: str, why: str) -> OperatorFault:
    return OperatorFault(f"{folder}/{name}: {why}", code="EW-POL-003", next_step=_LEARN)
