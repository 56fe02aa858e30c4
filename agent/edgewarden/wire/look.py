"""What the privileged look leaves for link: one sealed file, replaced whole.

Decides the bytes. The look (inventory/look.py, root) writes RUN/look; link, which may not see
another user's program, environment or descriptors, reads it. Lean, as gate's files are: the look
starts every minute, and dataclasses alone would double what it imports.

    data = dump(Look(boot_ns, (Looked(7, 100, "/usr/sbin/d", "", 12, 3, (), (991,)),), (), 0, 0))
    look = load(data)

Rules, in order: too_long, too_short, bad_magic, bad_stamp (wire/lean.py), bad_length, bad_value.
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen, seal, unseal

MAGIC = b"EWLOOK02"
MAX_LOOK_BYTES = 4 << 20
MAX_LOOKED = 16_384
MAX_TEXT_BYTES = 512
MAX_VARIABLES = 3
MAX_INODES = 64
"""Sockets named for each process: enough to say whose a listener is."""

_HEAD = struct.Struct("<QIIII")  # boot_ns, processes, silent, left out, unread
_ENTRY = struct.Struct("<IQiiHHBB")  # ... lengths of exe and folder, variables, inodes
_LENGTH = struct.Struct("<H")
_INODE = struct.Struct("<Q")
_PID = struct.Struct("<I")


class Looked(Frozen):
    """One process, as root saw it.

    Attributes:
        pid, start_ticks: which.
        exe: its program, with " (deleted)" where it is.
        loose_folder: the first folder on its way that everybody can write, "" none.
        descriptors, sockets: open files, and the sockets among them; -1 unknown.
        preload: variables of its environment that load foreign code, NAME=VALUE.
        inodes: of its sockets, the first MAX_INODES.
    """

    __slots__ = (
        "descriptors",
        "exe",
        "inodes",
        "loose_folder",
        "pid",
        "preload",
        "sockets",
        "start_ticks",
    )
    pid: int
    start_ticks: int
    exe: str
    loose_folder: str
    descriptors: int
    sockets: int
    preload: tuple[str, ...]
    inodes: tuple[int, ...]


class Look(Frozen):
    """One look at all processes.

    Attributes:
        boot_ns: CLOCK_BOOTTIME when it began.
        processes: those that were there from beginning to end of being looked at.
        silent: pids whose environment did not answer.
        left_out: processes more than there was time or room for.
        unread: processes whose environment was not read, the silent ones among them.
    """

    __slots__ = ("boot_ns", "left_out", "processes", "silent", "unread")
    boot_ns: int
    processes: tuple[Looked, ...]
    silent: tuple[int, ...]
    left_out: int
    unread: int


def dump(look: Look) -> bytes:
    """The file, never longer than ``load`` takes: texts are cut, and of the processes those that
    stand first are in it; the others are counted."""
    silent = look.silent[:MAX_LOOKED]
    room = MAX_LOOK_BYTES - len(seal(MAGIC, b"")) - _HEAD.size - _PID.size * len(silent)
    parts: list[bytes] = []
    for one in look.processes[:MAX_LOOKED]:
        entry = _packed(one)
        room -= len(entry)
        if room < 0:
            break
        parts.append(entry)
    left_out = look.left_out + len(look.processes) - len(parts)
    head = _HEAD.pack(look.boot_ns, len(parts), len(silent), left_out, look.unread)
    return seal(MAGIC, b"".join([head, *parts, *(_PID.pack(pid) for pid in silent)]))


def _packed(one: Looked) -> bytes:
    exe, folder = _cut(one.exe), _cut(one.loose_folder)
    variables = [_cut(variable) for variable in one.preload[:MAX_VARIABLES]]
    inodes = one.inodes[:MAX_INODES]
    head = _ENTRY.pack(
        one.pid, one.start_ticks, one.descriptors, one.sockets, len(exe), len(folder),
        len(variables), len(inodes),
    )  # fmt: skip
    parts = [head, exe, folder]
    for data in variables:
        parts += [_LENGTH.pack(len(data)), data]
    return b"".join([*parts, *(_INODE.pack(inode) for inode in inodes)])


def load(data: bytes) -> Look:
    """Read it.

    Raises:
        WireRefusal: the names in the module's rules.
    """
    body = unseal(MAGIC, data, most=MAX_LOOK_BYTES)
    reader = _Reader(body)
    boot_ns, count, silent, left_out, unread = reader.take(_HEAD)
    if count > MAX_LOOKED or silent > MAX_LOOKED:
        raise WireRefusal("bad_value", f"{count} processes, {silent} silent")
    processes = tuple(_entry(reader) for _ in range(count))
    pids = tuple(reader.take(_PID)[0] for _ in range(silent))
    if reader.at != len(body):
        raise WireRefusal("bad_length", f"{len(body) - reader.at} bytes too many")
    return Look(boot_ns, processes, pids, left_out, unread)


def _entry(reader: _Reader) -> Looked:
    pid, ticks, descriptors, sockets, n_exe, n_folder, variables, inodes = reader.take(_ENTRY)
    if max(n_exe, n_folder) > MAX_TEXT_BYTES or variables > MAX_VARIABLES or inodes > MAX_INODES:
        raise WireRefusal("bad_value", f"process {pid}: lengths")
    exe, folder = reader.text(n_exe), reader.text(n_folder)
    preload = tuple(_variable(reader) for _ in range(variables))
    found = tuple(reader.take(_INODE)[0] for _ in range(inodes))
    return Looked(pid, ticks, exe, folder, descriptors, sockets, preload, found)


def _variable(reader: _Reader) -> str:
    (length,) = reader.take(_LENGTH)
    if length > MAX_TEXT_BYTES:
        raise WireRefusal("bad_value", "a variable's length")
    return reader.text(length)


class _Reader:
    """Walks over the body; what is not there is refused."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, layout: struct.Struct) -> tuple[int, ...]:
        end = self.at + layout.size
        if end > len(self.body):
            raise WireRefusal("bad_length", f"ends at byte {len(self.body)}")
        found = layout.unpack_from(self.body, self.at)
        self.at = end
        return found

    def text(self, length: int) -> str:
        end = self.at + length
        if end > len(self.body):
            raise WireRefusal("bad_length", f"ends at byte {len(self.body)}")
        data = self.body[self.at : end]
        self.at = end
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            raise WireRefusal("bad_value", "not UTF-8") from None


def _cut(text: str) -> bytes:
    data = text.encode("utf-8", "backslashreplace")
    return data[:MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
