"""Files below /proc/PID, as bytes and as what they say.

Two kinds: ``stat``, ``status``, ``cgroup`` and the link ``exe`` come from the kernel's own
structures and answer at once; ``cmdline`` lies in the process's memory and may never answer
(patient.py), so it is only read there. Everything is bounded, and text is data: never split, run or
formatted.

    parse_stat(read("/proc/1", "stat"))      # ("systemd", 0, 5)
"""

from __future__ import annotations

import contextlib
import os
import stat

from edgewarden.wire.units import unit_of

STAT_BYTES = 1024
"""/proc/N/stat is at most about 350 bytes."""
STATUS_BYTES = 2048
"""/proc/N/status is about 1,400 bytes; Uid is in its ninth line, CapEff near its end."""
CGROUP_BYTES = 4096
MACHINE_STAT_BYTES = 1 << 16
"""/proc/stat: a line a CPU and one with every interrupt."""
MAX_COMMAND_BYTES = 256
MAX_PATH_BYTES = 512
SUB_UID_MIN = 100_000
"""login.defs(5): from here on users are subordinate to another."""
DELETED = " (deleted)"
"""What the kernel appends to /proc/N/exe of an unlinked file (fs/d_path.c)."""
_UNIT_ENDS = (".service", ".scope", ".socket", ".mount")


def read(folder: str, file: str, count: int) -> bytes:
    """The first ``count`` bytes, b"" when the process is gone or refuses."""
    try:
        fd = os.open(f"{folder}/{file}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, count)
    except OSError:
        return b""
    finally:
        os.close(fd)


def link(folder: str, name: str) -> str:
    """What a link says, "" when it may not be read; kernel threads have no exe."""
    try:
        return text(os.readlink(os.fsencode(f"{folder}/{name}"))[:MAX_PATH_BYTES])
    except OSError:
        return ""


def text(data: bytes) -> str:
    """Bytes of a process as text: what is not UTF-8 is shown escaped, never raised."""
    return data.rstrip(b"\0").decode("utf-8", "backslashreplace")


def parse_stat(data: bytes) -> tuple[str, int, int] | None:
    """Return comm, parent and start time (clock ticks after boot) of a /proc/N/stat line, else
    None.

    comm may hold spaces, parentheses and newlines: it ends at the LAST ``)`` (proc(5)).
    """
    head, closed, tail = data.rpartition(b")")
    _, opened, comm = head.partition(b"(")
    fields = tail.split()
    if not closed or not opened or len(fields) < 20:
        return None
    try:
        return text(comm), int(fields[1]), int(fields[19])
    except ValueError:
        return None


def forks_ever(proc: str = "/proc") -> int:
    """Forks and threads since boot by the kernel's own counter (proc(5), stat: processes)."""
    _, found, rest = read(proc, "stat", MACHINE_STAT_BYTES).partition(b"\nprocesses ")
    number = rest.partition(b"\n")[0]
    return int(number) if found and number.isdigit() else 0


def parse_status(data: bytes) -> tuple[int, int, int]:
    """Return tracer, real and effective user of /proc/N/status; -1 for what cannot be told.

    Not the owner of /proc/N: that reads root for every process that is not dumpable (proc(5)). The
    name, in the first line, is escaped by the kernel: it cannot hold a line's end.
    """
    uids = _fields(data, b"\nUid:\t")
    tracer = _fields(data, b"\nTracerPid:\t")
    return (
        tracer[0] if tracer else 0,
        uids[0] if uids else -1,
        uids[1] if len(uids) > 1 else -1,
    )


def user_of(uid: int, pid: str) -> str:
    """Who answers for a process when looking at it takes long: its real user, who cannot become
    another one without privilege. Subordinate users (subuid(5)) are their owner's, whoever that is:
    one. Root's processes answer for themselves: what holds one is no reason to miss the others.
    """
    return pid if uid == 0 else str(min(uid, SUB_UID_MIN))


def parse_capabilities(data: bytes) -> int:
    """The effective capabilities of /proc/N/status as a mask, 0 when it cannot be told."""
    _, found, rest = data.partition(b"\nCapEff:\t")
    try:
        return int(rest.partition(b"\n")[0], 16) if found else 0
    except ValueError:
        return 0


def _fields(data: bytes, name: bytes) -> list[int]:
    _, found, rest = data.partition(name)
    words = rest.partition(b"\n")[0].split(b"\t")
    return [int(w) for w in words] if found and all(w.isdigit() for w in words) else []


def parse_unit(data: bytes) -> str:
    """The unit of /proc/N/cgroup, of the unified hierarchy or of systemd's own: the one that
    systemd made. What lies below it was named by whoever runs in it."""
    for line in data.split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if number == b"0" or controllers == b"name=systemd":
            unit = (unit_of(text(path)) or ("",))[-1]
            if unit.endswith(_UNIT_ENDS):
                return unit[:MAX_COMMAND_BYTES]
    return ""


def loose_folder(path: str) -> str:
    """The first folder on the way to ``path`` that everybody can write, "" when there is none or
    it cannot be told. May wait: a folder can lie on a filesystem that does not answer."""
    at = 0
    while (at := path.find("/", at + 1)) > 0:
        with contextlib.suppress(OSError, ValueError):
            if os.stat(path[:at]).st_mode & stat.S_IWOTH:
                return path[:at]
    return ""
