"""Where records go while the disk takes none, and how the storage comes back from there.

Decides when the disk is asked again, whether what came back is the spool that went away, and what
of the backlog can be read meanwhile. Leaves to memory.py the records, to storage.py the work.

1. In: a commit was refused because the filesystem is read-only or answers with I/O errors
   (segment.DiskRefuses). Every file of the spool is closed, so that the filesystem can be
   unmounted, checked and mounted again under a running link: the kernel lets go of no ext4 that
   has stopped itself before that.
2. Meanwhile: every LOOK_S one small file is written and synced beside the segments, by its path.
   The backlog is read where it can be, file by file, opened and closed; never beyond the head that
   was durable.
3. Back: the spool is opened anew. It must hold the heads that this process made durable
   (spool.py): what lies under a filesystem that is not mounted is another spool. The
   chain in memory ends with a record in audit that names how far it came and carries what nobody
   accepted of it.

    refuge = Refuge(chain, state_dir, open_journal, clock)
    refuge.enter(heads, audit_head); ...; journal = refuge.open(state)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.plain import dataclass
from edgewarden.ports import ClassState, Clock, Stored
from edgewarden.record.journal import Journal
from edgewarden.record.lock import NAME as LOCK
from edgewarden.record.memory import MemoryChain
from edgewarden.record.segment import DiskRefuses, renamed_errors
from edgewarden.record.spool import FOLDER
from edgewarden.wire.record import RecordClass

LOOK_S = 5.0
"""Between two questions to the disk: a person who mounts it again waits no longer for it."""
PIECE_BYTES = 96 * 1024
"""Of unaccepted records in one record of audit; one alone is never longer (memory.RECORD_BYTES)."""
PROBE = "probe"

Known = Mapping[int, tuple[int, bytes]]
"""class -> (sequence, hash) of the last record that this process made durable."""


@dataclass(frozen=True, slots=True)
class Picture:
    """For status.

    Attributes:
        since_ns: CLOCK_BOOTTIME when the disk was given up; None while it is used.
        signed: records signed in memory since the start.
        waiting: of these, accepted by nobody yet.
    """

    since_ns: int | None = None
    signed: int = 0
    waiting: int = 0


class Refuge:
    """See the module's docstring. Storage thread only.

    Args:
        state_dir: its folder ``spool`` is the one that is asked.
        open_journal: opens the spool with the heads that it must hold.
    """

    def __init__(
        self,
        chain: MemoryChain,
        state_dir: Path,
        open_journal: Callable[[Known], Journal],
        clock: Clock,
    ) -> None:
        self.chain = chain
        self.since_ns: int | None = None
        self._state_dir = state_dir
        self._folder = state_dir / FOLDER
        self._open_journal = open_journal
        self._clock = clock
        self._known: Known = {}
        self._look_ns = 0

    def enter(self, known: Known, audit_head: int) -> None:
        """The disk refuses: from now on.

        Args:
            known: what this process made durable there; it must hold that when it comes back.
            audit_head: the last sequence of audit on it, whoever wrote it.
        """
        if not self.chain.head:
            self.chain.behind = audit_head
        self.since_ns = self._clock.mono_ns()
        self._look_ns = self.since_ns + round(LOOK_S * 1e9)
        self._known = dict(known)

    def know(self, heads: Known) -> None:
        """The disk took more before it refused again."""
        self._known = dict(heads)

    def leave(self) -> None:
        """The disk has everything again."""
        self.since_ns = None

    def due(self) -> bool:
        """Whether it is time to ask the disk."""
        return self._clock.mono_ns() >= self._look_ns

    def open(self, state: Mapping[int, ClassState]) -> Journal:
        """The journal on the disk again.

        Args:
            state: what was durable and accepted when the disk was given up, and since.

        Raises:
            EdgewardenError: the disk still refuses, or it is not the same spool.
        """
        self._look_ns = self._clock.mono_ns() + round(LOOK_S * 1e9)
        with renamed_errors(self._folder):
            self._probe()
        journal = self._open_journal(self._known)
        found = journal.spool.state()
        for c in RecordClass:
            if found[c].durable < state[c].durable:
                journal.spool.close()
                raise HardwareFault(
                    f"{self._folder} ends before what was durable",
                    code="EW-SPL-011",
                    next_step="mount the filesystem of the state directory",
                )
            journal.spool.ack(c, state[c].acked)
        return journal

    def _probe(self) -> None:
        """Write, sync and remove a file where a spool is; makes nothing where there is none."""
        os.stat(self._folder / LOCK)
        path = self._folder / PROBE
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
        path.unlink()

    def pieces(self) -> Iterator[tuple[list[Stored], bool]]:
        """What nobody accepted, in parts that a record of audit can carry, and whether another one
        follows. One part is empty where there is nothing: the end of a chain is told in any case.
        """
        part: list[Stored] = []
        size_bytes = 0
        for record in self.chain.rest():
            if part and size_bytes + len(record.data) > PIECE_BYTES:
                yield part, True
                part, size_bytes = [], 0
            part.append(record)
            size_bytes += len(record.data)
        yield part, False

    def last_known(self) -> dict[int, ClassState]:
        """The counters of a spool that cannot be opened for writing.

        Raises:
            EdgewardenError: there is none, or it cannot be read either.
        """
        from edgewarden.record import reader  # 2 MB that only an ill disk asks for

        return {int(c): state for c, state in reader.stat(self._state_dir).items()}

    def peek(self, record_class: int, after: int, count: int, max_bytes: int) -> list[Stored]:
        """As ports.Spool.peek, without holding a file open.

        Raises:
            EdgewardenError: it cannot be read at present.
        """
        from edgewarden.record import reader

        head = self._known.get(record_class, (0, b""))[0]
        found: list[Stored] = []
        if after < head:
            for record in reader.iterate(self._state_dir, RecordClass(record_class), after, head):
                if found and (len(found) >= count or len(record.data) > max_bytes):
                    break
                found.append(record)
                max_bytes -= len(record.data)
        if not found:
            raise DiskRefuses("what waits on the disk cannot be read at present")
        return found

    def picture(self) -> Picture:
        """For status."""
        state = self.chain.state()
        return Picture(self.since_ns, state.durable, state.durable - state.acked)
