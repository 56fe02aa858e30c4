"""The privileged look: once a minute, what of other users' processes only root may see.

A one-shot (edgewarden-look.timer, or the supervisor): root with CAP_SYS_PTRACE and
CAP_DAC_READ_SEARCH, no network. It looks, writes RUN/look and ends; nothing with privilege stays in
memory and link stays without any (ADR 16).

    python3 -I -S .../inventory/look.py /run/edgewarden

What it reads of each process, in order: the link ``exe`` and the folders on its way, the sockets
among its descriptors, and, of its environment, LD_PRELOAD, LD_AUDIT and LD_LIBRARY_PATH. Nothing
else of the environment leaves this process. Reading it takes the other process's memory map and may
never come back: it is asked for in a thread that is left behind (patient.py), and that ends with
the process.

What it leaves to others: what any of it means (watch/), whether it is the same process still (link
compares the start time).
"""

from __future__ import annotations

import os
import sys
import time

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.inventory.patient import Patient
from edgewarden.inventory.procfiles import STAT_BYTES, link, loose_folder, parse_stat, read
from edgewarden.wire.look import MAX_INODES, MAX_LOOKED, Look, Looked, dump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "look"
VARIABLES = (b"LD_PRELOAD=", b"LD_AUDIT=", b"LD_LIBRARY_PATH=")
MAX_ENVIRON_BYTES = 1 << 17
"""MAX_ARG_STRLEN of <linux/binfmts.h>: a longer single variable does not exist."""
MAX_DESCRIPTORS = 65_536


def look(proc: str = "/proc", patient: Patient[bytes] | None = None) -> Look:
    """Look at every process once.

    Args:
        proc: where procfs hangs.
        patient: asks for environments; one of our own when None.
    """
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    asks = patient or Patient(lambda name: read(f"{proc}/{name}", "environ", MAX_ENVIRON_BYTES))
    places: dict[str, str] = {}
    found: dict[str, Looked] = {}
    for name in os.listdir(proc):
        if name.isdecimal() and len(found) < MAX_LOOKED:
            one = look_at(proc, name, places)
            if one is not None:
                found[name] = one
    environments = asks.ask(list(found))
    processes = tuple(
        _with(one, preload_of(environments.get(name, b""))) for name, one in found.items()
    )
    return Look(boot_ns, processes, tuple(sorted(int(name) for name in asks.stuck)))


def look_at(proc: str, name: str, places: dict[str, str]) -> Looked | None:
    """What the kernel's own structures say; None for kernel threads and for what is gone."""
    folder = f"{proc}/{name}"
    seen = parse_stat(read(folder, "stat", STAT_BYTES))
    exe = link(folder, "exe")
    if seen is None or not exe:
        return None
    where = exe.rpartition("/")[0]
    if where not in places:
        places[where] = loose_folder(exe) if exe.startswith("/") else ""
    descriptors, sockets, inodes = _sockets(f"{folder}/fd")
    return Looked(int(name), seen[2], exe, places[where], descriptors, sockets, (), inodes)


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
    """The variables that load foreign code; an empty one loads none."""
    out = []
    for variable in environment.split(b"\0"):
        if variable.startswith(VARIABLES) and not variable.endswith(b"="):
            out.append(variable.decode("utf-8", "backslashreplace"))
    return tuple(out[: len(VARIABLES)])


def _with(one: Looked, preload: tuple[str, ...]) -> Looked:
    return Looked(
        one.pid, one.start_ticks, one.exe, one.loose_folder, one.descriptors, one.sockets, preload,
        one.inodes,
    )  # fmt: skip


def keep(run_dir: str, data: bytes) -> None:
    """Replace RUN/look; link may read it, only root write it."""
    path = os.path.join(run_dir, NAME)
    fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
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
