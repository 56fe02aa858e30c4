"""The segments of one class, oldest to newest; only the newest is written.

Decides which file a record goes to and which files can be deleted. Leaves to spool.py the bounds
over all classes, and to the journal the gap records.

* A segment's records end where the next segment's name begins: what a half-finished commit may
  have left behind the end of an older file is not there for anybody.
* A new segment begins at SEGMENT bytes or SPAN sequences, whichever comes first. SPAN is what
  makes a lost head harmless: behind a damaged newest file the next record takes its first sequence
  + SPAN, which that file cannot have reached, so that no sequence is used twice.
* A damaged file is renamed to ``.bad``, the last of which stay for a while (bad.py). Its good rows
  go on in a file of its name (salvage.py), and what is missing between them is reported. A row that
  is missing in a file that reads well was lost so before a start; it is reported unless ``told``
  says that it was.
* A file that the disk does not give, though it takes commits, is damaged in the end (patience.py).
* Opening looks into the newest file only, however full the spool is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

from edgewarden.errors import HardwareFault
from edgewarden.ports import Loss, Stored
from edgewarden.record.bad import BadFiles
from edgewarden.record.patience import Patience
from edgewarden.record.rows import SPAN, Mark, SegmentDamaged
from edgewarden.record.salvage import DAMAGED, UNKNOWN, Sieve, holes, predecessor_of, restart_digest
from edgewarden.record.segment import (
    DiskFull,
    Segment,
    SegmentFile,
    Unreadable,
    remove_files,
    renamed_errors,
    scan_folder,
    segment_name,
    sync_folder,
)
from edgewarden.wire.record import NO_PREDECESSOR, record_hash

UNRECORDED = "evicted from a full disk"


class Lane:
    """One class's files. Blocks on the disk; storage thread only.

    Raises DiskFull, HardwareFault. Damage is not raised but put into ``damage`` and stepped over.
    """

    def __init__(self, folder: Path, record_class: int, segment_bytes: int, bad_bytes: int) -> None:
        self.folder = folder
        self.record_class = record_class
        self.segment_bytes = segment_bytes
        self.damage: list[Loss] = []
        self.told = 0  # the highest sequence that a gap record speaks of
        self.commits = 0  # of all classes: the disk takes what it is given
        self.closing: Callable[[Lane], None] = lambda _: None  # a log that is about to go away
        self._patience = Patience()
        self.marks: dict[int, Mark] = {}
        self._active: Segment | None = None
        self._goes_on = False  # the newest file may be appended to
        self._reading: tuple[SegmentFile, Segment] | None = None
        with renamed_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._files, bad = scan_folder(folder)
        self._bad = BadFiles(bad, bad_bytes)
        self.head, self.digest = self._open_newest()

    def _open_newest(self) -> tuple[int, bytes]:
        """Open and check the newest file; return the head that it, or its damage, names."""
        newest_bad = self._bad.files[-1] if self._bad.files else None
        if self._files and (newest_bad is None or newest_bad.first <= self._files[-1].first):
            try:
                return self._adopt(self._files[-1])
            except (SegmentDamaged, Unreadable):
                newest_bad = self._quarantine(self._files[-1])
                self._recall_marks()
                self._report_bad(self._bad.files[:-1])
                last = newest_bad.first + SPAN - 1
                losses, digest = self._rescue(newest_bad, last, None)
                self.damage.extend(losses)
                return last, digest
        self._report_bad(self._bad.files)
        if newest_bad is None:
            return 0, NO_PREDECESSOR
        self._recall_marks()
        last = newest_bad.first + SPAN - 1
        return last, restart_digest(self.record_class, newest_bad.first, last)

    def _rescue(self, bad: SegmentFile, last: int, after: bytes | None) -> tuple[list[Loss], bytes]:
        """Put the good rows of a damaged file into a new one.

        Args:
            after: the hash of the record ``last``; None: nobody knows it, or how far the file went.

        Returns: what is missing up to ``last``, and ``after`` or what stands for it.
        """
        sieve = Sieve(self.record_class, bad.first, bad.before)
        path = self.folder / segment_name(bad.first, bad.before)
        try:
            sieve.rewrite(bad.path, path, last)
            with contextlib.closing(Segment.open(path)) as kept:
                kept.commit([], self._marks_at(last, after or sieve.digest_at(last)))
                kept.seal()
            if sieve.kept:
                file = SegmentFile(path, bad.first, bad.before)
                file.measure()
                self._files = sorted([*self._files, file], key=lambda f: f.first)
            else:
                remove_files(path)
        except HardwareFault:  # nothing of it can be read, or there is no room: all of it is lost
            sieve = Sieve(self.record_class, bad.first, bad.before)
            with contextlib.suppress(OSError):
                remove_files(path)
        digest = after or sieve.digest_at(last)
        return [*sieve.losses, *sieve.rest(last, digest)], digest

    def _report_bad(self, files: Sequence[SegmentFile]) -> None:
        """Files found damaged before this start, but those whose rows went on in another."""
        kept = {file.first for file in self._files}
        self.damage.extend(self._loss_of(f, DAMAGED) for f in files if f.first not in kept)

    def _adopt(self, file: SegmentFile) -> tuple[int, bytes]:
        """Check a file and take its marks. The first record opens it for writing: a start on a full
        disk makes no file."""
        with contextlib.closing(Segment.open_sealed(file.path)) as segment:
            segment.check()
            self.marks = segment.marks(self.record_class)
            if (mark := self.marks.get(self.record_class)) is None:
                raise SegmentDamaged(f"{file.path.name} has no mark of its own class")
        self._goes_on = segment.is_current
        self._report_bad(self._bad.files)
        return mark.head, mark.digest

    def _recall_marks(self) -> None:
        """Take cursors from the file before a damaged one: late, and late is only sent twice."""
        if self._files:
            with (
                contextlib.suppress(SegmentDamaged, Unreadable),
                contextlib.closing(Segment.open_sealed(self._files[-1].path)) as segment,
            ):
                self.marks = segment.marks(self.record_class)

    def _loss_of(self, file: SegmentFile, reason: str) -> Loss:
        """The whole of a file as a loss: up to the next one, which tells its own, or to the end of
        its span."""
        later = (f for f in (*self._files, *self._bad.files) if f.first > file.first)
        if (after := min(later, key=lambda f: f.first, default=None)) is not None:
            last, digest = after.first - 1, after.before
            return Loss(self.record_class, file.first, last, file.before, digest, reason)
        last, c = file.first + SPAN - 1, self.record_class
        return Loss(c, file.first, last, file.before, restart_digest(c, file.first, last), reason)

    def _quarantine(self, file: SegmentFile) -> SegmentFile:
        """Rename a damaged file out of the way."""
        self._stop_reading()
        self._files.remove(file)
        return self._bad.take(file)

    def trim_bad(self) -> None:
        """Give up what is too much of damaged files."""
        self._bad.trim(self._says_more)

    def _says_more(self, bad: SegmentFile) -> bool:
        """Whether a damaged file says what no durable record does: how far the numbers went, behind
        the last good file; or a loss that waits for its gap record."""
        if not self._files or bad.first > self._files[-1].first:
            return True
        last = self._loss_of(bad, DAMAGED).last
        return any(loss.first <= last and bad.first <= loss.last for loss in self.damage)

    def continue_from(self, head: int, digest: bytes) -> None:
        """Another class's mark knows a later head than our file: go on behind it, in a new one."""
        self._seal_active()
        self.head, self.digest = head, digest

    def resume(self, head: int, digest: bytes) -> None:
        """Go on behind a head in a new file, whatever lies behind it: nobody has seen that."""
        self._close_active()
        while self._files and self._files[-1].first > head:
            self._discard(self._files[-1])
        self._goes_on = False
        self.head, self.digest = head, digest

    def note_missing(self, upto: int) -> None:
        """Records behind ``upto`` without a file: evicted when a full disk took no gap record."""
        if self._files and self._files[0].first - 1 > upto and not self._bad.files:
            last, after = self._files[0].first - 1, self._files[0].before
            self.damage.append(Loss(self.record_class, upto + 1, last, UNKNOWN, after, UNRECORDED))

    def append(self, records: Sequence[Stored], marks: Mapping[int, Mark]) -> int:
        """Commit records behind the head, which moves when the disk has them; as Segment.commit."""
        last = records[-1].seq if records else self.head
        active = self._open_active()
        if active.size_bytes() >= self.segment_bytes or last - self._files[-1].first >= SPAN:
            self._seal_active()
            active = self._open_active()
        try:
            size_bytes = active.commit(records, marks)
        except DiskFull:
            raise
        except HardwareFault:
            # What a failed fsync left behind is anybody's guess: go on in a new file.
            self._close_active()
            self._goes_on = False
            raise
        self.marks = dict(marks)
        if records:
            self.head, self.digest = last, record_hash(records[-1].data)
        self._files[-1].measure()
        return size_bytes

    def _open_active(self) -> Segment:
        """The segment that the next record goes to: the newest, or a new one."""
        if self._active is None:
            self._stop_reading()
            self._active = Segment.open(self._files[-1].path) if self._goes_on else self._begin()
            self._goes_on = True
        return self._active

    def _begin(self) -> Segment:
        """Make the next segment, with the marks as they stand before any record of it."""
        first, path = self.head + 1, self.folder / segment_name(self.head + 1, self.digest)
        if self._files and self._files[-1].first == first:  # made before, never filled
            segment = Segment.open(path)
            if segment.is_current:
                return segment
            segment.close()
            self._files.pop()
        segment = Segment.create(path, self._marks_at(self.head, self.digest))
        self._files.append(SegmentFile(path, first, self.digest))
        return segment

    def _marks_at(self, head: int, digest: bytes) -> dict[int, Mark]:
        own = replace(self.marks.get(self.record_class, Mark()), head=head, digest=digest)
        return {**self.marks, self.record_class: own}

    def rotate(self) -> None:
        """End the newest segment by an empty one, if it holds any record."""
        if self._files and self._files[-1].first <= self.head:
            self._seal_active()
            self._open_active()
            self._files[-1].measure()

    def _seal_active(self) -> None:
        if self._active is not None:
            with contextlib.suppress(HardwareFault):  # a full disk keeps the log: read from there
                self._active.seal()
            self._close_active()
            self._files[-1].measure()
        self._goes_on = False

    def peek(self, after: int, count: int, max_bytes: int) -> list[Stored]:
        """Records with seq > after, in order: at most count, and max_bytes unless one is longer."""
        found, room = list[Stored](), max_bytes
        for file, below, behind in (span for span in self._spans() if span[1] > after + 1):
            expected = max(after + 1, file.first)
            try:
                for row in self._segment(file).rows(self.record_class, after, below):
                    if row.seq > expected:
                        self._note_hole(expected, row.seq - 1, predecessor_of(row))
                    expected = row.seq + 1
                    if found and (len(found) >= count or len(row.data) > room):
                        return found
                    found.append(row)
                    room -= len(row.data)
            except (SegmentDamaged, Unreadable) as fault:
                if isinstance(fault, Unreadable):
                    self._stop_reading()
                    if found:
                        return found
                    if self._patience.lasts(file.first, self.commits):
                        raise
                self._give_up(file)
                if len(found) >= count:
                    return found
                more = self.peek(found[-1].seq if found else after, count - len(found), room)
                fits = not found or (more and room >= len(more[0].data))
                return found + more if fits else found
            if expected < below:
                self._note_hole(expected, below - 1, behind)
            if len(found) >= count or room <= 0:
                break
        return found

    def _note_hole(self, first: int, last: int, after: bytes) -> None:
        """Records are missing in a file that reads well: reported, where that was not done."""
        fresh = max(first, self.told + 1)
        self.damage += holes(self.record_class, fresh, last, after, self.damage)

    def _give_up(self, file: SegmentFile) -> None:
        """A file turns out damaged while it is read: report it, go on with what is there."""
        if self._files[-1] is file:
            self._close_active()
            self._goes_on = False
            if file.first > self.head:  # no record in it: no loss, and nothing to look at later
                self._discard(file)
                return
            last, after = self.head, self.digest
        else:
            loss = self._loss_of(file, DAMAGED)
            last, after = loss.last, loss.after
        self.damage.extend(self._rescue(self._quarantine(file), last, after)[0])

    def _discard(self, file: SegmentFile) -> None:
        """Remove a file that holds no record: its successor takes the same name."""
        self._stop_reading()
        self._files.remove(file)
        with renamed_errors(file.path):
            remove_files(file.path)
            sync_folder(self.folder)

    def _segment(self, file: SegmentFile) -> Segment:
        """The open segment of a file: the one being written, or one other kept open for reading."""
        if self._active is not None and file is self._files[-1]:
            return self._active
        if self._reading is None or self._reading[0] is not file:
            self._stop_reading()
            self._reading = (file, Segment.open_sealed(file.path))
        return self._reading[1]

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading[1].close()
            self._reading = None

    def _spans(self) -> list[tuple[SegmentFile, int, bytes]]:
        """Each file with the first sequence that is no longer its own, and the hash before that."""
        ends = [*((f.first, f.before) for f in self._files[1:]), (self.head + 1, self.digest)]
        return [(f, first, before) for f, (first, before) in zip(self._files, ends, strict=False)]

    def oldest(self, acked: int, reason: str, short_bytes: int = 0) -> Loss | None:
        """What deleting the oldest file, or those of short_bytes, would lose; None: it is alone."""
        if len(self._files) < 2:
            return None
        sizes = accumulate(f.size_bytes for f in self._files[:-2])
        file, after = self._files[0], self._files[1 + sum(size < short_bytes for size in sizes)]
        first, before = file.first, file.before
        if acked >= after.first - 1:  # no commit has said so yet
            first, before = after.first, after.before
        elif acked >= first:
            file = [f for f in self._files if f.first <= acked][-1]
            try:
                rows = list(self._segment(file).rows(self.record_class, acked - 1, acked + 1))
            except HardwareFault:  # damaged, or not to be read: all of the file is told as lost
                rows = []
            if rows:
                first, before = acked + 1, record_hash(rows[0].data)
        return Loss(self.record_class, first, after.first - 1, before, after.before, reason)

    def drop_upto(self, seq: int) -> None:
        """Delete every file but the newest whose records all are <= seq."""
        before = len(self._files)
        while len(self._files) > 1 and self._files[1].first - 1 <= seq:
            file = self._files[0]
            if self._reading is not None and self._reading[0] is file:
                self._stop_reading()
            with renamed_errors(file.path):
                remove_files(file.path)
            self._files.pop(0)
        if len(self._files) < before:
            with renamed_errors(self.folder):
                sync_folder(self.folder)

    @property
    def second_first(self) -> int | None:
        """First sequence behind the oldest file; None when it is the newest too, and stays."""
        return self._files[1].first if len(self._files) > 1 else None

    def size_bytes(self) -> int:
        """Bytes on disk, logs and damaged files included."""
        return sum(f.size_bytes for f in self._files) + self._bad.size_bytes()

    def stays_bytes(self) -> int:
        """Of these, what is no record's to give back: damaged files, a newest without a record."""
        empty = [f for f in self._files[-1:] if f.first > self.head]
        return sum(f.size_bytes for f in empty) + self._bad.size_bytes()

    @property
    def log(self) -> Path | None:
        """The log that the newest records are in; None where they are in a file alone."""
        return self._active.log if self._active is not None else None

    def close(self) -> None:
        """Close both files; raises nothing."""
        self._stop_reading()
        self._close_active()

    def _close_active(self) -> None:
        if self._active is not None:
            self.closing(self)
            self._active.close()
            self._active = None
