"""The read side of the spool, for people: also when the agent is dead, also while it lives.

Decides what is on the disk and whether it fits together; changes nothing, not even a file's name.
Leaves to beside.py how a file is opened, believing to whoever hands in the keys. A living agent
deletes meanwhile what is accepted or evicted: a file that went away is no fault, and what may be
missing is asked last.

    verify(Path("/var/lib/edgewarden"), verifier_for).ok
    for stored in iterate(state_dir, RecordClass.ALARM): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.plain import dataclass, field
from edgewarden.ports import ClassState, Stored
from edgewarden.record.beside import is_gone, opened
from edgewarden.record.rows import Mark, RowDamaged, read_each, read_marks, read_rows
from edgewarden.record.salvage import newest_of
from edgewarden.record.segment import BAD_SUFFIX, SUFFIX, file_bytes, parse_name, renamed_errors
from edgewarden.record.spool import FOLDER
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType, Envelope, Verify
from edgewarden.wire.record import (
    MAX_RECORD_BYTES,
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    decode_record,
    record_hash,
)

MAX_FAULTS = 50
"""Faults listed per report; more are counted."""
_END = 1 << 62

KeyVerifier = Callable[[bytes], Verify]
"""COSE_Key -> verify function; raises WireRefusal for a bad key (trust.keys.verifier_for)."""
ChainVerifier = Callable[[tuple[bytes, ...]], Verify]
"""x5chain -> verify function of its leaf; raises EdgewardenError when the chain does not hold."""


@dataclass(slots=True)
class ClassReport:
    """What verify() found in one class.

    Attributes:
        first, last: of the records present; 0 when there is none.
        gaps: (first, last) of what a gap record explains.
        signed: signatures that hold.
        unknown_key: records whose report key is not introduced in what is left of the spool.
        faults: (sequence or 0, text); at most MAX_FAULTS.
    """

    records: int = 0
    first: int = 0
    last: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    signed: int = 0
    unknown_key: int = 0
    bad_segments: list[str] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    fault_count: int = 0

    def fault(self, seq: int, text: str) -> None:
        """Note what does not fit."""
        self.fault_count += 1
        if len(self.faults) < MAX_FAULTS:
            self.faults.append((seq, text))


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verify() found."""

    classes: dict[RecordClass, ClassReport]

    @property
    def ok(self) -> bool:
        """Nothing is damaged, altered, or missing without a gap record."""
        return all(not c.fault_count and not c.bad_segments for c in self.classes.values())


@dataclass(frozen=True, slots=True)
class _Left:
    """From here on records went away while they were read."""

    first: int


@dataclass(frozen=True, slots=True)
class _Gap:
    first: int
    last: int
    before: bytes
    after: bytes


def stat(state_dir: Path) -> dict[RecordClass, ClassState]:
    """The counters that the agent would show, from the disk alone.

    Raises:
        OperatorFault, HardwareFault: no spool (EW-SPL-005); a newest segment cannot be read.
    """
    marks: dict[int, Mark] = {}
    sizes: dict[RecordClass, int] = {}
    for c in RecordClass:
        folder = _folder(state_dir, c)
        with renamed_errors(folder):
            sizes[c] = sum(file_bytes(f) for f in folder.glob("*"))
        for number, mark in _newest_marks(folder, c).items():
            marks[number] = _later(marks.get(number, Mark()), mark)
    return {
        c: ClassState(
            next=marks.get(c, Mark()).head + 1,
            durable=marks.get(c, Mark()).head,
            acked=marks.get(c, Mark()).acked,
            bytes=sizes[c],
            evicted=marks.get(c, Mark()).evicted,
        )
        for c in RecordClass
    }


def _newest_marks(folder: Path, c: RecordClass) -> dict[int, Mark]:
    while newest := _segments(folder)[-1:]:
        try:
            with newest_of(c.label), opened(newest[0]) as db:
                return read_marks(db, c)
        except EdgewardenError:
            if _segments(folder)[-1:] == newest:
                raise
    return {}


def iterate(
    state_dir: Path, record_class: RecordClass, after: int = 0, upto: int = _END
) -> Iterator[Stored]:
    """Records of a class on the disk, after < seq <= upto, in order, accepted ones included.

    Raises:
        OperatorFault: EW-SPL-005, there is no spool.
        HardwareFault: a segment cannot be read; records before it were yielded.
    """
    paths = _segments(_folder(state_dir, record_class))
    for path, behind in zip(paths, [*map(_first, paths[1:]), _END], strict=True):
        if behind > after + 1 and _first(path) <= upto:
            with opened(path) as db:
                yield from read_rows(db, record_class, after, min(behind, upto + 1))


def salvage(state_dir: Path, record_class: RecordClass) -> Iterator[Stored | EdgewardenError]:
    """iterate(), with its fault in the place of a record, or of all that follows in a segment; a
    segment that is deleted meanwhile is left out.

    Raises:
        OperatorFault: EW-SPL-005, there is no spool.
    """
    for found in _salvage(state_dir, record_class):
        if not isinstance(found, _Left):
            yield found


def _salvage(
    state_dir: Path, record_class: RecordClass, after: int = 0
) -> Iterator[Stored | EdgewardenError | _Left]:
    """salvage() of what is behind ``after``, and where records went away meanwhile."""
    paths = _segments(_folder(state_dir, record_class))
    for path, behind in zip(paths, [*map(_first, paths[1:]), _END], strict=True):
        first = max(_first(path), after + 1)
        if first >= behind:
            continue
        try:
            with opened(path) as db:
                for row in read_each(db, record_class, first - 1, behind):
                    yield row if isinstance(row, Stored) else RowDamaged(row)
        except EdgewardenError as fault:
            yield _Left(first) if is_gone(path) else fault


def verify(
    state_dir: Path, keys: KeyVerifier | None = None, chains: ChainVerifier | None = None
) -> VerifyReport:
    """Read everything once: shape, order, chain, gaps; signatures as far as keys are handed in.

    Args:
        keys: checks what a report key signed, once its introduction is seen.
        chains: checks the introductions themselves against a root the caller trusts.

    Raises:
        OperatorFault: EW-SPL-005, there is no spool.
    """
    reports = {c: ClassReport() for c in RecordClass}
    introduced, gaps = dict[bytes, Verify](), {int(c): list[_Gap]() for c in RecordClass}
    walks = dict[RecordClass, _Walk]()
    # Audit first: it holds the introductions of the keys that signed the others.
    for c in (RecordClass.AUDIT, RecordClass.ALARM, RecordClass.BULK):
        report, folder = reports[c], _folder(state_dir, c)
        report.bad_segments = sorted(f.name for f in folder.glob(f"*{BAD_SUFFIX}"))
        walks[c] = _Walk(c, report, introduced, gaps, keys, chains)
        walks[c].all_of(_salvage(state_dir, c))
    walks[RecordClass.AUDIT].goes_on(state_dir)  # for what was evicted since
    states = stat_or_nothing(state_dir)
    for c, walk in walks.items():
        walk.finish(states[c].acked if c in states else 0)
    return VerifyReport(reports)


class _Walk:
    """One class, record by record."""

    def __init__(
        self,
        record_class: RecordClass,
        report: ClassReport,
        introduced: dict[bytes, Verify],
        gaps: dict[int, list[_Gap]],
        keys: KeyVerifier | None,
        chains: ChainVerifier | None,
    ) -> None:
        self._class = record_class
        self._report = report
        self._introduced = introduced
        self._gaps = gaps
        self._keys = keys
        self._chains = chains
        self._digest = NO_PREDECESSOR
        # (first missing, last missing, hash before, hash that the next record names)
        self._holes: list[_Gap] = []
        self.damaged: set[int] = set()
        self.fronts = {1}  # what is missing from here on may have been accepted, and deleted

    def all_of(self, found: Iterator[Stored | EdgewardenError | _Left]) -> None:
        for one in found:
            if isinstance(one, Stored):
                self.take(one)
            elif isinstance(one, _Left):
                self.fronts.add(one.first)
            elif isinstance(one, RowDamaged):
                self.damaged.add(one.seq)
            else:
                self._report.fault(0, one.text)

    def goes_on(self, state_dir: Path) -> None:
        """What was written since."""
        last = self._report.last
        self.fronts.add(last + 1)
        for one in _salvage(state_dir, self._class, last):
            if isinstance(one, Stored):
                self.take(one)

    def take(self, stored: Stored) -> None:
        report = self._report
        try:
            envelope = cose.open_envelope(stored.data, ContentType.RECORD, MAX_RECORD_BYTES)
            record = decode_record(envelope.payload)
            self._check_signature(envelope, record)
        except EdgewardenError as fault:
            report.fault(stored.seq, fault.text)
            record = None
        if record is not None:
            self._check_place(stored, record)
            if record.kind == Kind.GAP:
                self._note_gap(stored.seq, record)
        report.records += 1
        report.first = report.first or stored.seq
        report.last, self._digest = stored.seq, record_hash(stored.data)

    def _check_place(self, stored: Stored, record: Record) -> None:
        report = self._report
        if (record.record_class, record.seq) != (self._class, stored.seq):
            report.fault(stored.seq, f"says it is {record.record_class.label}/{record.seq}")
            return
        expected = report.last + 1
        if stored.seq != expected:
            before = self._digest if report.records else NO_PREDECESSOR
            self._holes.append(_Gap(expected, stored.seq - 1, before, record.prev))
        elif record.prev != self._digest:
            report.fault(stored.seq, "does not follow its predecessor")

    def _check_signature(self, envelope: Envelope, record: Record) -> None:
        if record.kind == Kind.REPORT_KEY:
            if self._chains is not None:
                cose.check_signature(envelope, self._chains(envelope.x5chain))
                self._report.signed += 1
            key = record.body.get("key")
            if self._keys is not None and isinstance(key, bytes):
                self._introduced[_kid(key)] = self._keys(key)
        elif self._keys is not None:
            verify = self._introduced.get(envelope.kid)
            if verify is None:
                self._report.unknown_key += 1
            else:
                cose.check_signature(envelope, verify)
                self._report.signed += 1

    def _note_gap(self, seq: int, record: Record) -> None:
        body = record.body
        number, first, last = body.get("class"), body.get("first"), body.get("last")
        before, after = body.get("before"), body.get("after")
        if (
            isinstance(number, int)
            and number in self._gaps
            and isinstance(first, int)
            and isinstance(last, int)
            and isinstance(before, bytes)
            and isinstance(after, bytes)
        ):
            self._gaps[number].append(_Gap(first, last, before, after))
        else:
            self._report.fault(seq, "a gap record without class, first, last, before, after")

    def finish(self, acked: int) -> None:
        """Explain the holes, now that every gap record of audit is known."""
        report = self._report
        known = sorted(self._gaps[int(self._class)], key=lambda g: (g.first, g.last))
        for hole in self._holes:
            # What was accepted may be gone, but only from the front.
            at_front = hole.first in self.fronts
            start = max(hole.first, acked + 1) if at_front else hole.first
            if start > hole.last:
                continue
            used = _explain(start, hole, known)
            if used is None:
                odd = "damaged" if any(start <= n <= hole.last for n in self.damaged) else "missing"
                report.fault(start, f"{start} to {hole.last} are {odd} without a gap record")
            else:
                report.gaps.extend((g.first, g.last) for g in used)
        for seq in sorted(self.damaged):  # behind the last good one nothing shows that it is gone
            if seq > report.last and not any(g.first <= seq <= g.last for g in known):
                report.fault(seq, "it is damaged, and no good record is behind it")


def _explain(start: int, hole: _Gap, known: list[_Gap]) -> list[_Gap] | None:
    """Gap records that cover start..hole.last and end with the hash the next record names."""
    used, at = list[_Gap](), start
    for gap in known:
        if gap.first <= at <= gap.last <= hole.last:
            used.append(gap)
            at = gap.last + 1
    if at != hole.last + 1 or used[-1].after != hole.after:
        return None
    first = used[0]
    if first.first == hole.first and first.before not in (hole.before, bytes(32)):
        return None
    return used


def _later(one: Mark, other: Mark) -> Mark:
    newest = one if one.head >= other.head else other
    return Mark(
        newest.head,
        newest.digest,
        max(one.acked, other.acked),
        max(one.gone, other.gone),
        max(one.evicted, other.evicted),
    )


def stat_or_nothing(state_dir: Path) -> dict[RecordClass, ClassState]:
    """stat(), or nothing when a newest segment cannot be read."""
    try:
        return stat(state_dir)
    except OperatorFault:
        raise
    except EdgewardenError:
        return {}


def _kid(key: bytes) -> bytes:
    """RFC 9679 thumbprint, first bytes."""
    return record_hash(key)[: cose.KID_BYTES]


def _folder(state_dir: Path, record_class: RecordClass) -> Path:
    folder = state_dir / FOLDER / record_class.label
    with renamed_errors(folder):
        if folder.is_dir():
            return folder
    raise OperatorFault(
        f"there is no spool in {state_dir}",
        code="EW-SPL-005",
        next_step="check --state, or start link once",
    )


def _segments(folder: Path) -> list[Path]:
    with renamed_errors(folder):
        return sorted(f for f in folder.glob(f"*{SUFFIX}") if parse_name(f.name))


def _first(path: Path) -> int:
    parsed = parse_name(path.name)
    assert parsed is not None
    return parsed[0]
