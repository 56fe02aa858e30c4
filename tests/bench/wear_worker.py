"""An hour of commits, as fast as the disk takes them; prints what they cost the device, as JSON.

    python -m tests.bench.wear_worker FOLDER {ours|dense|bare|rollback|idle} COMMITS PAYLOAD_BYTES

FOLDER lies on a filesystem of its own whose block device nobody else writes to: the device's own
counter of written sectors is the figure. Everything is the real thing but the clock. What a real
hour would write beside the commits is brought about: ext4's own journal after each of them (its
thread writes it each 5 s, a commit comes each 10), a syncfs each WRITE_BACK_S.

* ours: records of PAYLOAD_BYTES through journal and spool, each accepted once it is durable. The
  readings in them are site.py's.
* dense: the same with text that is hardly made shorter: how much of it the packing is.
* bare: the same bytes into one SQLite table that only grows, WAL, synchronous=FULL.
* rollback: as bare, without a log: what a commit costs that journals by copying. A control.
* idle: the host sensor's readings and evidence's record each five minutes, PAYLOAD_BYTES ignored.

    {"payload": 5898240, "device": 17694720, "commits": 360, "own_fsyncs": 360}
"""

from __future__ import annotations

import ctypes
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from edgewarden.ports import Stored
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.spool import DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.sense.host import HostSensor, HostSettings
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.burst import Part, spell_readings
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.record import RecordClass
from tests.bench.site import Site
from tests.fakes.clock import FakeClock
from tests.noise import noise

SECTOR = 512
"""Documentation/block/stat.rst: whatever the device's own blocks are."""
SYNTHETIC_S = 10
WRITE_BACK_S = 30
"""vm.dirty_expire_centisecs: a page that nobody syncs is written after half a minute."""
ATTESTATION_EACH = 30
"""Commits: five minutes, [attestation] period_s."""
CAP_BYTES = 256 << 20
READS_NS = 400_000_000
"""Between two reads of all ports: ten seconds of it are 16 kB."""
FRAME_BYTES = 200
"""Of a record, around its readings."""
CERTIFICATE = bytes(600)
WAIT_S = 60.0


class Device:
    """The block device below a folder."""

    def __init__(self, folder: Path) -> None:
        number = folder.stat().st_dev
        self._stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
        self._folder = folder
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.own_fsyncs = 0
        self._libc = ctypes.CDLL(None, use_errno=True)

    def let_pass(self, n: int) -> None:
        """What the kernel would have written by commit n without being asked."""
        for log in (*self._folder.rglob("*-wal"), *self._folder.glob("*.db")):
            self._commit_journal(log)
        if n % (WRITE_BACK_S // SYNTHETIC_S) == 0:
            self._settle()

    def _commit_journal(self, path: Path) -> None:
        """Of ext4: the transaction in which this file's times stand; its data is durable
        already."""
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            self.own_fsyncs += 1
        finally:
            os.close(fd)

    def _settle(self) -> None:
        if self._libc.syncfs(self._fd):
            raise OSError(ctypes.get_errno(), "syncfs")

    def written_bytes(self) -> int:
        """Since it was set up, with all that is dirty."""
        self._settle()
        return int(self._stat.read_text().split()[6]) * SECTOR


class Counting(DiskSpool):
    """The spool, and how many bytes of records it was given."""

    given = 0

    def put(self, records: Sequence[Stored]) -> int:
        """See DiskSpool."""
        size_bytes = super().put(records)
        self.given += sum(len(one.data) for one in records)
        return size_bytes


def payload(site: Site, boot_ns: int, size_bytes: int) -> list[Part]:
    """Reads of a site's ports, in order, whose record is close to size_bytes and not longer."""
    parts: list[Part] = []
    left, seen_ns = size_bytes - FRAME_BYTES, boot_ns - SYNTHETIC_S * 1_000_000_000
    while True:
        for part in site.look(seen_ns):
            size = len(spell_readings([part], boot_ns))
            if size > left:
                return [*parts, part[: len(part) * left // size]]
            parts.append(part)
            left -= size
        seen_ns += READS_NS


def noises(site: Site, boot_ns: int, size_bytes: int) -> list[Part]:
    """As much of a text that nothing makes much shorter."""
    left, seed = size_bytes - FRAME_BYTES, boot_ns
    parts: list[Part] = []
    while left > 100:
        length = min(1000, left - 50)
        parts.append(Reading("s", "n", "", noise(length, seed + left), boot_ns))
        left -= length + 20
    return parts


def ours(
    folder: Path,
    commits: int,
    size_bytes: int,
    device: Device,
    made: Callable[[Site, int, int], list[Part]] = payload,
) -> tuple[int, int]:
    """(payload, device) bytes of records through journal and spool, read and accepted."""
    clock, identity = FakeClock(), FileSigner.generate()
    spool = Counting(folder / "spool", CAP_BYTES)
    journal = Journal(spool, "gw-wear", clock, FileSigner.generate())
    journal.introduce(Introduction(identity, (CERTIFICATE, CERTIFICATE), "wear"))
    before, held, site = device.written_bytes(), spool.given, Site(seed=1)
    for n in range(commits):
        clock.advance(SYNTHETIC_S)
        seq = journal.batch(made(site, clock.now().boot_ns, size_bytes), [], {})
        if len(spool.peek(RecordClass.BULK, seq - 1, 1, 1 << 20)) != 1:
            raise SystemExit("a record is not where it was put")
        spool.ack(RecordClass.BULK, seq)
        device.let_pass(n)
    spent = device.written_bytes() - before
    spool.close()
    return spool.given - held, spent


def bare(
    folder: Path, commits: int, size_bytes: int, device: Device, mode: str = "WAL"
) -> tuple[int, int]:
    """(payload, device) bytes of the same into one table."""
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute(f"PRAGMA journal_mode={mode}")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE record (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    before, given = device.written_bytes(), 0
    for n in range(commits):
        one = Stored(int(RecordClass.BULK), n, os.urandom(size_bytes))
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO record VALUES (?, ?)", (one.seq, one.data))
        db.execute("COMMIT")
        given += size_bytes
        device.let_pass(n)
    spent = device.written_bytes() - before
    db.close()
    return given, spent


def idle(folder: Path, commits: int, _size_bytes: int, device: Device) -> tuple[int, int]:
    """(payload, device) bytes of a gateway of which nothing is asked."""
    clock, identity = FakeClock(), FileSigner.generate()
    opened: list[Counting] = []

    def open_journal() -> Journal:
        opened.append(Counting(folder / "spool", CAP_BYTES))
        return Journal(opened[0], "gw-wear", clock, identity)

    storage = StorageThread(
        open_journal,
        Introduction(identity, (CERTIFICATE, CERTIFICATE), "wear"), clock,
        bulk_commit_s=SYNTHETIC_S, bulk_commit_bytes=1 << 16,
    )  # fmt: skip
    storage.start()

    def take(fact: Event | Reading) -> None:
        if isinstance(fact, Reading):
            storage.submit_reading(fact)
        else:
            storage.submit_event(fact, RecordClass.BULK)

    host = HostSensor(HostSettings(str(folder)), take, clock)
    before, held = device.written_bytes(), opened[0].given
    for n in range(commits):
        clock.advance(SYNTHETIC_S)
        host.look()
        storage.flush().result(WAIT_S)
        if n % ATTESTATION_EACH == 0:
            storage.attest(bytes(2000), storage.heads()).result(WAIT_S)
        for record_class, state in storage.state().items():
            storage.ack(record_class, state.durable)
        device.let_pass(n)
    spent = device.written_bytes() - before
    storage.stop()
    return opened[0].given - held, spent


KINDS: dict[str, Callable[[Path, int, int, Device], tuple[int, int]]] = {
    "ours": ours,
    "dense": partial(ours, made=noises),
    "bare": bare,
    "idle": idle,
    "rollback": partial(bare, mode="DELETE"),
}


def main(folder: str, kind: str, commits: str, size_bytes: str) -> None:
    """Work and tell."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    device = Device(place)
    given, spent = KINDS[kind](place, int(commits), int(size_bytes), device)
    told = {"payload": given, "device": spent, "commits": int(commits)}
    print(json.dumps(told | {"own_fsyncs": device.own_fsyncs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
