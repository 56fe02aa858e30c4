"""The privileged look: once a minute, what of other users' processes only root may see.

A one-shot (edgewarden-look.timer, or the supervisor): root with CAP_SYS_PTRACE and
CAP_DAC_READ_SEARCH, no network. It looks, writes RUN/look and ends; nothing with privilege stays in
memory and link stays without any (ADR 16).

    python3 -I -S .../inventory/look.py /run/edgewarden

What it reads of each process, in order: the link ``exe`` and the folders on its way, the sockets
among its descriptors, and, of its environment, LD_PRELOAD, LD_AUDIT and LD_LIBRARY_PATH. Nothing
else of the environment is kept, let alone leaves this process. Reading it takes the other process's
memory map, and looking at a folder may lead to a filesystem that does not answer: both may never
come back and are asked for in a thread that is left behind (patient.py), and that ends with the
process.

Whatever a user has prepared, it ends within seconds (LOOK_S, one for each of the two that may not
answer, and the list of processes itself), holds some MB and leaves a file that link can read. What
there was no time or room for is counted in it, and it is those who took the most that are left out
(Turns).

What it leaves to others: what any of it means (watch/), whether it is the same process still (link
compares the start time).
"""

from __future__ import annotations

import os
import sys
import time
from heapq import heappop, heappush

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.inventory.patient import Patient
from edgewarden.inventory.procfiles import (
    STAT_BYTES,
    STATUS_BYTES,
    link,
    loose_folder,
    parse_stat,
    parse_status,
    read,
    user_of,
)
from edgewarden.wire.look import (
    MAX_INODES,
    MAX_LOOK_BYTES,
    MAX_LOOKED,
    MAX_TEXT_BYTES,
    Look,
    Looked,
    dump,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "look"
VARIABLES = (b"LD_PRELOAD=", b"LD_AUDIT=", b"LD_LIBRARY_PATH=")
ENVIRON = 1 << 17
"""MAX_ARG_STRLEN of <linux/binfmts.h>: a longer single variable does not exist."""
MAX_DESCRIPTORS = 16_384
"""20 ms of looking; more are that many."""
LOOK_S = 3.0
"""500 processes take 0.1 s on a workstation."""
SMALLEST_ENTRY = 64
"""About what a process takes in the file besides its texts (wire/look.py)."""


def look(
    proc: str = "/proc",
    patient: Patient[tuple[str, ...]] | None = None,
    places: Patient[str] | None = None,
    most_s: float = LOOK_S,
) -> Look:
    """Look at every process once.

    Args:
        proc: where procfs hangs.
        patient: asks for what of an environment is wanted, by pid; one of our own when None.
        places: asks a folder's path for a loose folder on it; one of our own when None.
        most_s: how long to look at processes; those left over are counted.
    """
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    asks = patient or Patient(lambda name: preload_of(read(f"{proc}/{name}", "environ", ENVIRON)))
    turns = Turns(_users(proc))
    found: dict[str, Looked] = {}
    room, end_s, before_s = MAX_LOOK_BYTES, time.monotonic() + most_s, time.monotonic()
    while (name := turns.take()) and room > 0 and len(found) < MAX_LOOKED and before_s < end_s:
        one = look_at(proc, name)
        now_s = time.monotonic()
        turns.charge(now_s - before_s)
        before_s = now_s
        if one is not None:
            found[name] = one
            room -= SMALLEST_ENTRY + len(one.exe) + 8 * len(one.inodes)
    left_out = turns.left + bool(name)
    asks_places = places or Patient(lambda path: loose_folder(f"{path}/"))
    loose = _loose_folders(found, turns, asks_places)
    environments = asks.ask(list(found), turns.user)
    asks.close()
    asks_places.close()
    processes = tuple(
        _with(one, loose.get(_folder(one), ""), environments.get(name, ()))
        for name, one in found.items()
    )
    unread = len(found.keys() - environments.keys())
    stuck = tuple(sorted(int(name) for name in asks.stuck))
    return Look(boot_ns, processes, stuck, left_out, unread)


class Turns:
    """Whose process is looked at next: that of the user who has cost least.

    An ordinary user can have as many processes as his limit allows, each with as many sockets and
    as long an environment. So he delays others by as much as they need themselves, and no more.

    Args:
        users: pid -> who answers for it (procfiles.user_of); the order within one is kept.
    """

    def __init__(self, users: dict[str, str]) -> None:
        self._users = users
        self._waiting: dict[str, list[str]] = {}
        for name, user in users.items():
            self._waiting.setdefault(_one_root(user, name), []).append(name)
        for names in self._waiting.values():
            names.reverse()
        self._queue = [(0.0, user) for user in self._waiting]
        self._turn = (0.0, "")
        self.left = len(users)

    def take(self) -> str:
        """The next pid, "" when there is none left."""
        if not self._queue:
            return ""
        self._turn = heappop(self._queue)
        self.left -= 1
        return self._waiting[self._turn[1]].pop()

    def charge(self, cost_s: float) -> None:
        """What looking at the one that was taken last has cost."""
        spent_s, user = self._turn
        if self._waiting[user]:
            heappush(self._queue, (spent_s + cost_s, user))

    def user(self, name: str) -> str:
        """Who answers for a pid."""
        return self._users[name]


def _one_root(user: str, name: str) -> str:
    """Root's processes wait in one row here: it is in nobody's interest to hold root up."""
    return "root" if user == name else user


def _users(proc: str) -> dict[str, str]:
    found = {}
    for name in os.listdir(proc):
        if name.isdecimal():
            uid = parse_status(read(f"{proc}/{name}", "status", STATUS_BYTES))[1]
            found[name] = user_of(uid, name)
    return found


def _loose_folders(found: dict[str, Looked], turns: Turns, places: Patient[str]) -> dict[str, str]:
    """Folder of a program -> the first one on its way that everybody can write. A folder may lie
    where nobody answers, so they are asked for with patience, each by its first user."""
    folders: dict[str, str] = {}
    for name, one in found.items():
        if one.exe.startswith("/"):
            folders.setdefault(_folder(one), name)
    return places.ask(list(folders), lambda path: turns.user(folders[path]))


def _folder(one: Looked) -> str:
    return one.exe.rpartition("/")[0]


def look_at(proc: str, name: str) -> Looked | None:
    """What the kernel's own structures say; None for kernel threads and for what is gone."""
    folder = f"{proc}/{name}"
    seen = parse_stat(read(folder, "stat", STAT_BYTES))
    exe = link(folder, "exe")
    if seen is None or not exe:
        return None
    descriptors, sockets, inodes = _sockets(f"{folder}/fd")
    return Looked(int(name), seen[2], exe, "", descriptors, sockets, (), inodes)


def _sockets(folder: str) -> tuple[int, int, tuple[int, ...]]:
    """Descriptors, sockets among them, and the first inodes; -1 where it may not be seen."""
    inodes: list[int] = []
    sockets = descriptors = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                descriptors += 1
                if descriptors > MAX_DESCRIPTORS:
                    break
                target = _target(entry.path)
                if target.startswith("socket:["):
                    sockets += 1
                    if len(inodes) < MAX_INODES and target[8:-1].isdecimal():
                        inodes.append(int(target[8:-1]))
    except OSError:
        return -1, -1, ()
    return descriptors, sockets, tuple(inodes)


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # closed meanwhile
        return ""


def preload_of(environment: bytes) -> tuple[str, ...]:
    """The variables that load foreign code; an empty one loads none. Of one that is there twice the
    last counts, as for the loader (elf/rtld.c, process_envvars)."""
    out = []
    data = b"\0" + environment
    for variable in VARIABLES:
        at = data.rfind(b"\0" + variable)
        if at >= 0:
            value = data[at + 1 : at + 1 + MAX_TEXT_BYTES].partition(b"\0")[0]
            if not value.endswith(b"="):
                out.append(value.decode("utf-8", "backslashreplace"))
    return tuple(out)


def _with(one: Looked, loose: str, preload: tuple[str, ...]) -> Looked:
    return Looked(
        one.pid, one.start_ticks, one.exe, loose, one.descriptors, one.sockets, preload, one.inodes
    )


def keep(run_dir: str, data: bytes) -> None:
    """Replace RUN/look; link may read it, only root write it."""
    path = os.path.join(run_dir, NAME)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with open(fd, "wb") as file:
        file.write(data)
    os.rename(f"{path}.new", path)


def main(run_dir: str, end: Callable[[int], None] = os._exit) -> None:
    """Look, keep, end; ends even where a thread still waits for an answer.

    Args:
        run_dir: as in [paths].
        end: ends the process.
    """
    code = 0
    try:
        keep(run_dir, dump(look()))
    except OSError as fault:
        sys.stderr.write(f"edgewarden look: {fault}\n")
        sys.stderr.flush()
        code = 1
    end(code)


if __name__ == "__main__":
    main(sys.argv[1])
