"""Spools that are full when a test or a bench begins: real signed records, few commits.

The journal makes and signs each record and the spool stores it, as in service; only that a thousand
share a commit, and that bounds are not asked. `edgewarden spool verify` accepts what is made here.

    write(state, 1_000_000)                    audit events behind each other
    fill(state, 256 << 20)                     bulk and audit up to their share of the cap
    borrow(state, another)                     the same spool again, without copying what stays
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgewarden.daemon.clock import SystemClock
from edgewarden.ports import Signer, Stored
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.quota import Quotas
from edgewarden.record.segment import SUFFIX
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.record import RecordClass, record_hash
from tests.noise import noise

DEVICE = "gw-demo"
CAP_BYTES = 8 << 30
GROUP = 1000
TEXT_BYTES = 200
FILLING_BYTES = 4000
"""Of one reading where a spool is to be full: as much as a batch of a hundred."""


class Grouped:
    """A spool that commits a thousand records at once; everything else is the real one's."""

    def __init__(self, spool: DiskSpool) -> None:
        self._spool = spool
        self._waiting: list[Stored] = []
        self._heads = dict(spool.heads())

    def __getattr__(self, name: str) -> object:
        return getattr(self._spool, name)

    def heads(self) -> Mapping[int, tuple[int, bytes]]:
        return self._heads

    def room_for(self, record_class: int, size_bytes: int) -> bool:
        return True

    def tight(self) -> bool:
        return False

    def put(self, records: Sequence[Stored]) -> int:
        (record,) = records
        if self._waiting and record.record_class != self._waiting[-1].record_class:
            self.flush()
        self._waiting.append(record)
        self._heads[record.record_class] = (record.seq, record_hash(record.data))
        if len(self._waiting) >= GROUP:
            self.flush()
        return len(record.data)

    def flush(self) -> None:
        self._spool.put(self._waiting)
        self._waiting = []


def event(n: int) -> Event:
    told: dict[str, Plain] = {"n": n, "text": "x" * TEXT_BYTES}
    return Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, told)


def begun(
    state: Path, device: str, cap_bytes: int, who: tuple[Signer, tuple[bytes, ...]] | None
) -> tuple[DiskSpool, Grouped, Journal]:
    """A fresh spool with its keys introduced."""
    spool = DiskSpool(state / FOLDER, cap_bytes)
    grouped = Grouped(spool)
    journal = Journal(grouped, device, SystemClock(), FileSigner.generate())  # type: ignore[arg-type]
    identity, chain = who or (FileSigner.generate(), (b"leaf",))
    journal.introduce(Introduction(identity, chain, "test"))
    return spool, grouped, journal


def write(
    state: Path,
    count: int,
    device: str = DEVICE,
    who: tuple[Signer, tuple[bytes, ...]] | None = None,
) -> None:
    """count signed audit records of an event each."""
    spool, grouped, journal = begun(state, device, CAP_BYTES, who)
    try:
        for n in range(count):
            journal.event(RecordClass.AUDIT, event(n))
        grouped.flush()
    finally:
        spool.close()


def fill(
    state: Path,
    cap_bytes: int,
    device: str = DEVICE,
    who: tuple[Signer, tuple[bytes, ...]] | None = None,
) -> int:
    """Bulk and audit until neither finds room by itself; returns the bytes that lie there.

    There is no alarm but the introduction: the first one to come is the first there is.
    """
    spool, grouped, journal = begun(state, device, cap_bytes, who)
    try:
        share = Quotas().quota_bytes(cap_bytes, RecordClass.AUDIT)
        while spool.state()[RecordClass.AUDIT].bytes < share:
            for n in range(GROUP):
                journal.event(RecordClass.AUDIT, event(n))
        written = 0
        while spool.room_for(RecordClass.BULK, 2 * FILLING_BYTES):
            for _ in range(16):
                written += 1
                text = noise(FILLING_BYTES, written)
                journal.batch([Reading("s", "n", "", text, 1)], [], {})
            grouped.flush()
        return sum(one.bytes for one in spool.state().values())
    finally:
        spool.close()


def borrow(filled: Path, state: Path) -> None:
    """The spool of ``filled`` below ``state`` as well, each of both free to go its own way.

    A sealed segment is only read and unlinked, so it may have two names; whatever is written to is
    copied: the newest segment of each class, the heads, the lock.
    """
    for folder, _, names in os.walk(filled / FOLDER):
        there = state / FOLDER / Path(folder).relative_to(filled / FOLDER)
        there.mkdir(mode=0o700, parents=True, exist_ok=True)
        sealed = sorted(name for name in names if name.endswith(SUFFIX))[:-1]
        for name in names:
            if name in sealed:
                os.link(Path(folder, name), there / name)
            else:
                shutil.copy2(Path(folder, name), there / name)
