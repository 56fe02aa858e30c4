"""Writing what gate reads: state/policy/exec.table and gate.conf, whole or not at all.

What this decides: how a file takes the place of the last one (temporary name, fsync, rename, fsync
of the directory; root-owned, 0644), so that a power cut leaves the old or the new one and gate
never sees half of it. What it leaves to others: the bytes (judge/exec_table.py,
wire/gate_files.py), and telling gate to reload (run/gate.sock).

Runs in the policy one-shot and in the supervisor, never in gate: fsync may take seconds on an SD
card.

    write_policy("/var/lib/edgewarden", table_bytes, config_bytes)
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault

TABLE_NAME = "exec.table"
CONFIG_NAME = "gate.conf"
POLICY_DIRECTORY = "policy"
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
"""Readable by link, which puts the policy's digest into its evidence."""


def write_policy(state_dir: str, table_bytes: bytes, config_bytes: bytes) -> None:
    """Put both files in place; the directory is made if it is missing.

    Raises:
        HardwareFault: the disk refuses; what was there before is still there.
    """
    where = os.path.join(state_dir, POLICY_DIRECTORY)
    try:
        os.makedirs(where, DIRECTORY_MODE, exist_ok=True)
    except OSError as fault:
        raise _refused(where, fault) from fault
    write_whole(where, TABLE_NAME, table_bytes)
    write_whole(where, CONFIG_NAME, config_bytes)


def write_generation(state_dir: str, name: str, generation: int) -> None:
    """Remember the highest generation, before its table is in place.

    Raises:
        HardwareFault: the disk refuses.
    """
    where = os.path.join(state_dir, POLICY_DIRECTORY)
    try:
        os.makedirs(where, DIRECTORY_MODE, exist_ok=True)
    except OSError as fault:
        raise _refused(where, fault) from fault
    write_whole(where, name, b"%d\n" % generation)


def write_whole(directory: str, name: str, data: bytes) -> None:
    """Write one file so that its name always leads to a whole one.

    Raises:
        HardwareFault: the disk refuses.
    """
    fresh = os.path.join(directory, f".{name}.new")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh, flags, FILE_MODE)
        try:
            os.fchmod(fd, FILE_MODE)  # whatever the umask says
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(fresh, os.path.join(directory, name))
        sync_directory(directory)
    except OSError as fault:
        raise _refused(os.path.join(directory, name), fault) from fault


def sync_directory(directory: str) -> None:
    """Make renames in the directory survive a power cut.

    Raises:
        OSError: the disk refuses.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(path: str, fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"{path}: {os.strerror(fault.errno or 0)}",
        code="EW-EXEC-013",
        next_step="free space on the disk, or check that it is not read-only",
        path=path,
        errno=fault.errno,
    )
