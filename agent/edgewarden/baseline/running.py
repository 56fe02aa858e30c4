"""What runs now and what systemd would start: programs with the subject that starts them, so that a
table can be asked about each before anybody enforces it.

What this decides: where to look. /proc for processes: real user, cgroup and the image of the parent
stand in for those of the moment at which the program was started. Unit files for services: the
first word of each ExecStart, ExecStartPre, ExecStartPost, ExecReload, ExecStop, by the unit's User,
and of a script the interpreters that its first line names, which the kernel asks gate about, too.
Words that systemd fills in (``%i``, ``$X``) and scripts' own children are not seen: that is what
observe mode is for.

What it leaves to others: the table, what follows (daemon/baseline.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping

from edgewarden.baseline.hashing import Content, Moving, Stamp, read_content
from edgewarden.baseline.paths import Paths
from edgewarden.baseline.survey import MAX_PROGRAM_BYTES
from edgewarden.plain import dataclass
from edgewarden.wire.baseline import Baseline
from edgewarden.wire.local_messages import UNKNOWN_UID
from edgewarden.wire.units import group_name

UNIT_FOLDERS = (
    "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
)  # fmt: skip
"""systemd.unit(5), "Unit File Load Path", the first one has the last word."""
MAX_UNITS = 5000
MAX_UNIT_BYTES = 1 << 20
MAX_PROCESSES = 32768
MANAGER = "/usr/lib/systemd/systemd"
MAX_INTERPRETERS, MAX_LINE_BYTES = 6, 256
"""execve(2): a script's interpreter may be a script, four times; BINPRM_BUF_SIZE."""

_COMMAND = re.compile(
    r"Exec(?:Start|StartPre|StartPost|Reload|Stop|StopPost)=[@:+!|-]*(/[^\s\"'%$]+)"
)
_USER = re.compile(r"User=([a-z_][a-z0-9_-]{0,31}|[0-9]{1,10})\s*")


@dataclass(frozen=True, slots=True)
class Starts:
    """A program and who starts it.

    Attributes:
        name: ``pid 17`` or the unit.
        path: of the program.
        sha256: of its content, b"" when it could not be read.
        uid: real user, UNKNOWN_UID when it cannot be told.
        parent: content of the image that starts it, b"" when it cannot be told.
        cgroup: "/..." in the unified hierarchy, "" when it cannot be told.
        device: st_dev of the filesystem it lies on, 0 when it cannot be told.
    """

    name: str
    path: str
    sha256: bytes
    uid: int
    parent: bytes
    cgroup: str
    device: int


class Contents:
    """Digests of files, from the last survey where it knows them."""

    def __init__(self, paths: Paths, known: Mapping[Stamp, Content], baseline: Baseline) -> None:
        self._paths = paths
        self._known = known
        self._baseline = {entry.path: entry.sha256 for entry in baseline.entries}

    def of_path(self, path: str) -> bytes:
        """Of a path of this system: as the baseline has it, else as it is on the disk."""
        found = self._paths.resolve(path)
        if found is None:
            return b""
        return self._baseline.get(found) or self._read(self._paths.real(found), found)

    def of_process(self, link: str, path: str) -> bytes:
        """Of the image that /proc/PID/exe, ``link``, leads to, whatever it is called by now.

        Nothing is asked of a filesystem that may hang.
        """
        if any(path.startswith(f"{point}/") for point in self._paths.barred_points if point != "/"):
            return b""
        try:
            content = self._known.get(Stamp.of(os.stat(link)))
        except OSError:
            return b""
        if content and content.kind:
            return content.sha256
        return self._read(link, path, follow=True)

    def _read(self, real: str, path: str, *, follow: bool = False) -> bytes:
        most = MAX_PROGRAM_BYTES
        try:
            return read_content(real, path, wants_md5=False, most=most, follow=follow)[1].sha256
        except (OSError, Moving):
            return b""


def processes(contents: Contents, proc: str = "/proc") -> Iterator[Starts]:
    """Every process that has an image."""
    images: dict[str, tuple[str, bytes]] = {}

    def image(pid: str) -> tuple[str, bytes]:
        if pid not in images:
            try:
                link = f"{proc}/{pid}/exe"
                path = os.readlink(link).removesuffix(" (deleted)")
                images[pid] = path, contents.of_process(link, path)
            except OSError:
                images[pid] = "", b""
        return images[pid]

    pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())[:MAX_PROCESSES]
    for pid in map(str, pids):
        path, sha256 = image(pid)
        status = _text(f"{proc}/{pid}/status")
        if not path or not status:
            continue
        uid = re.search(r"^Uid:\t(\d+)", status, re.MULTILINE)
        parent = re.search(r"^PPid:\t(\d+)", status, re.MULTILINE)
        group = re.search(r"^0::(/.*)$", _text(f"{proc}/{pid}/cgroup"), re.MULTILINE)
        yield Starts(
            f"pid {pid}",
            path,
            sha256,
            int(uid[1]) if uid else UNKNOWN_UID,
            image(parent[1])[1] if parent else b"",
            group[1] if group else "",
            _device(f"{proc}/{pid}/exe"),
        )


def services(
    contents: Contents, paths: Paths, uid_of: Callable[[str], int | None]
) -> Iterator[Starts]:
    """Every program that a unit file names."""
    manager = contents.of_path(MANAGER)
    seen: set[str] = set()
    for folder in UNIT_FOLDERS:
        for name in _names(paths, folder):
            if not name.endswith(".service") or name in seen or len(seen) >= MAX_UNITS:
                continue
            seen.add(name)
            here = paths.resolve(f"{folder}/{name}")
            text = _text(paths.real(here)) if here else ""  # a link to /dev/null: masked
            found = re.search(rf"^{_USER.pattern}$", text, re.MULTILINE)
            user = found[1] if found else "0"
            uid = int(user) if user.isdecimal() else uid_of(user)
            commands = re.findall(rf"^{_COMMAND.pattern}", text, re.MULTILINE)
            started = (one for path in commands for one in _with_interpreters(paths, path))
            for path, real in dict(started).items():
                yield Starts(
                    name,
                    path,
                    contents.of_path(path),
                    UNKNOWN_UID if uid is None else uid,
                    manager,
                    f"/system.slice/{group_name(name)}",
                    _device(real),
                )


def _with_interpreters(paths: Paths, path: str) -> Iterator[tuple[str, str]]:
    """A program and the interpreters that the kernel starts for a script, each with its place on
    this disk; nothing of what is not there: systemd would not find it either."""
    for _ in range(MAX_INTERPRETERS):
        found = paths.resolve(path)
        if found is None:
            return
        real = paths.real(found)
        yield path, real
        line = _text(real, MAX_LINE_BYTES).partition("\n")[0]
        words = line[2:].split(maxsplit=1) if line.startswith("#!") else []
        if not words or not words[0].startswith("/"):
            return
        path = words[0]


def _names(paths: Paths, folder: str) -> list[str]:
    here = paths.resolve(folder)
    try:
        return sorted(os.listdir(paths.real(here))) if here else []
    except OSError:
        return []


def _device(path: str) -> int:
    try:
        return os.stat(path).st_dev
    except OSError:
        return 0


def _text(path: str, most: int = MAX_UNIT_BYTES) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            return file.read(most).decode("utf-8", "replace")
    except OSError:
        return ""
