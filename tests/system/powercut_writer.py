"""The process that the power-cut tests stop, copy and kill: a storage thread under a seeded load.

    python -m tests.system.powercut_writer STATE_DIR SEED SYNCHRONOUS

After every commit one JSON line on stdout says what status would call durable: ``{"durable":
{class: [seq, hash]}, "acked": {...}, "since": n}``, ``since`` being the alarm records since SQLite
last copied its log into the file. Everything is exercised: puts, rotation, acknowledgements,
deletion, eviction.

The negative control is here and not in the product: SYNCHRONOUS is written over the product's
constant.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from edgewarden.daemon.clock import SystemClock
from edgewarden.record import segment
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.record import RecordClass
from tests.noise import noise

CAP_BYTES = 12 << 20
"""An alarm segment is then 150 kB: hundreds of records, so that it rotates under way."""


class Report:
    """Prints a line after each commit; called on the storage thread."""

    def __init__(self, storage: StorageThread, folder: Path) -> None:
        self._storage = storage
        self._folder = folder / "alarm"
        self._seen: tuple[str, int] = ("", 0)
        self._copied_at = 0

    def __call__(self) -> None:
        heads, state = self._storage.heads(), self._storage.state()
        newest = max(self._folder.glob("*.seg"), key=lambda p: p.name, default=None)
        seen = (newest.name, newest.stat().st_mtime_ns) if newest else ("", 0)
        alarm = heads[RecordClass.ALARM][0]
        if seen != self._seen:
            self._seen, self._copied_at = seen, alarm
        line = {
            "durable": {c.label: [seq, digest.hex()] for c, (seq, digest) in heads.items()},
            "acked": {RecordClass(c).label: s.acked for c, s in state.items()},
            "evicted": state[RecordClass.BULK].evicted,
            "since": alarm - self._copied_at,
        }
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def load(storage: StorageThread, chance: random.Random) -> None:
    """Fill bulk to its bound, then write everything until somebody ends the process."""
    while storage.state()[RecordClass.BULK].evicted == 0:
        for _ in range(40):
            storage.submit_reading(Reading("s", "n", "", noise(2000, chance.randrange(1 << 32)), 1))
        storage.flush().result()
    while True:
        for _ in range(chance.randint(1, 20)):
            record_class = chance.choices(list(RecordClass), [80, 10, 10])[0]
            detail = {"text": "x" * chance.randint(0, 400)}
            event = Event(OCSF.HEALTH, 1, Severity.LOW, 1, detail)
            storage.submit_event(event, record_class)
        for _ in range(chance.randint(0, 30)):
            # Of each batch some packs and some does not.
            text = chance.choice(["x" * 2000, noise(2000, chance.randrange(1 << 32))])
            text = text[: chance.randint(0, 2000)]
            storage.submit_reading(Reading("s", "n", "", text, 1))
        storage.flush().result()
        for c, state in storage.state().items():
            if chance.random() < (0.02 if c == RecordClass.BULK else 0.2):
                storage.ack(c, chance.randint(state.acked, state.durable))


def main(state_dir: str, seed: str, synchronous: str) -> None:
    segment.SYNCHRONOUS = synchronous
    clock, folder = SystemClock(), Path(state_dir) / FOLDER
    storage = StorageThread(
        lambda: Journal(DiskSpool(folder, CAP_BYTES), "gw-cut", clock, FileSigner.generate()),
        Introduction(FileSigner.generate(), (b"leaf",), "test"),
        clock,
        bulk_commit_s=0.05,
        bulk_commit_bytes=8192,
    )
    storage.watch(Report(storage, folder))
    storage.start()
    load(storage, random.Random(seed))


if __name__ == "__main__":
    main(*sys.argv[1:])
