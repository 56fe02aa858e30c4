"""The head of each class once more beside its segments: a second word, not the first.

Decides nothing: it is believed where it says more than the segments do (spool.py). A log that was
damaged or cut short is read by SQLite as if its last commits had never been, and the next record
would be signed under a number that is used. After each commit the head is written here, without
fsync: behind the disk by what the kernel has not written yet, ahead of it never. What is not what
was written says nothing.

* While there is a log: an extended attribute of it, 45 bytes. On ext4 that stands in the inode of
  the log, whose block the journal writes for each commit anyway, within 5 s. As a file, which
  it was, it cost a block each half minute.
* What the attributes of logs say is put into the file ``heads`` before a start touches them: SQLite
  takes a log away. There, too, where attributes cannot be had.
* The file says besides which segment of a class is being written, from its first commit on until
  it is closed. If the log of that one is gone at a start, nobody knows how far it went: its class
  goes on behind all that a segment can hold (lane.py, SPAN), and what that skips is a loss.

    heads = Heads(Path("/var/lib/edgewarden/spool"))
    heads.read()                                 # {1: (42, digest)}; {} where there is none
    heads.write({1: (43, digest)}, {1: log})
    heads.closing(1, (43, digest))               # before the log is taken away
"""

from __future__ import annotations

import contextlib
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

from edgewarden.record.rows import SPAN
from edgewarden.record.salvage import restart_digest
from edgewarden.record.segment import SUFFIX, parse_name, segment_name, side_files
from edgewarden.wire.record import RecordClass

NAME = "user.head"
FILE = "heads"
LOGS = "*/*-wal"
_ONE = struct.Struct(">BQ32s")
_SUM = struct.Struct(">I")
_WRITTEN = 0x80
"""Added to a class: first sequence and predecessor of the segment that is being written."""
ENTRIES_AT_MOST = 8
"""There are three classes, twice; a file longer than this is not ours. It is always as long: within
one sector and never cut, it is after any end what it was before a write or behind it."""
_NOBODY = 0
"""Fills it up: no class has this number."""

Said = dict[int, tuple[int, bytes]]
"""Class -> sequence and hash."""


class Heads:
    """See the module. Storage thread only; raises nothing: doing without it is not a fault.

    Args:
        folder: of the spool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = folder / FILE
        self._told: dict[int, tuple[Path, tuple[int, bytes]]] = {}
        self._in_file = False
        self._said: Said = {}
        self._written: Said = {}

    def read(self) -> Said:
        """What is known as of the last write that reached the disk; kept in the file from now on.

        Before the segments are opened.
        """
        in_file = self._read_file()
        found = {c: head for c, head in in_file.items() if c < _WRITTEN}
        with contextlib.suppress(OSError):
            for log in self._folder.glob(LOGS):
                with contextlib.suppress(OSError):
                    found = _later(found, _heads_in(os.getxattr(log, NAME, follow_symlinks=False)))
        for number, (first, before) in in_file.items():
            c, last = number & ~_WRITTEN, first + SPAN - 1
            if number >= _WRITTEN and self._is_gone(c, first, before):
                found = _later(found, {c: (last, restart_digest(c, first, last))})
        self._said = found
        if found != in_file:
            self._write_file(durable=True)
        return found

    def _is_gone(self, c: int, first: int, before: bytes) -> bool:
        """A segment was written, and neither its log is there nor one that came after it."""
        try:
            folder = self._folder / RecordClass(c).label
            if side_files(folder / segment_name(first, before))[0].exists():
                return False
            names = [parse_name(path.name) for path in folder.glob(f"*{SUFFIX}")]
        except (ValueError, OSError):
            return False
        return all(name is None or name[0] <= first for name in names)

    def write(self, heads: Mapping[int, tuple[int, bytes]], logs: Mapping[int, Path]) -> None:
        """Put what was committed; the kernel writes it when it likes.

        Args:
            logs: class -> the log that it is in, for each that has one.
        """
        self._said = dict(heads)
        for c, log in logs.items():
            if self._in_file or self._told.get(c) == (log, heads[c]):
                continue
            try:
                os.setxattr(log, NAME, _spelt({c: heads[c]}), follow_symlinks=False)
            except OSError:
                self._in_file = True
            else:
                self._told[c] = log, heads[c]
        names = {c: parse_name(log.name.removesuffix("-wal")) for c, log in logs.items()}
        written = self._written | {c: name for c, name in names.items() if name is not None}
        began, self._written = written != self._written, written
        if began or self._in_file:
            self._write_file(durable=began)

    def closing(self, c: int, head: tuple[int, bytes]) -> None:
        """The segment that is being written will be closed, its log taken away."""
        if self._written.pop(c, None) is not None:
            self._said[c] = head
            self._write_file(durable=True)

    def _read_file(self) -> Said:
        with contextlib.suppress(OSError):
            fd = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                return _heads_in(os.read(fd, _ONE.size * ENTRIES_AT_MOST + _SUM.size + 1))
            finally:
                os.close(fd)
        return {}

    def _write_file(self, *, durable: bool) -> None:
        entries = self._said | {c | _WRITTEN: name for c, name in self._written.items()}
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self._file, flags, 0o600)
            try:
                os.pwrite(fd, _spelt(entries, ENTRIES_AT_MOST), 0)
                if durable:
                    os.fdatasync(fd)
            finally:
                os.close(fd)


def _later(one: Said, other: Said) -> Said:
    return one | {c: head for c, head in other.items() if head[0] > one.get(c, (-1, b""))[0]}


def _spelt(heads: Mapping[int, tuple[int, bytes]], entries: int = 1) -> bytes:
    body = b"".join(_ONE.pack(c, head, digest) for c, (head, digest) in heads.items())
    body += _ONE.pack(_NOBODY, 0, b"") * (entries - len(heads))
    return body + _SUM.pack(zlib.crc32(body))


def _heads_in(data: bytes) -> Said:
    body, kept = data[: -_SUM.size], data[-_SUM.size :]
    if len(body) % _ONE.size or len(body) > _ONE.size * ENTRIES_AT_MOST:
        return {}
    if len(kept) != _SUM.size or _SUM.unpack(kept)[0] != zlib.crc32(body):
        return {}
    entries = _ONE.iter_unpack(body)
    return {number: (head, digest) for number, head, digest in entries if number != _NOBODY}
