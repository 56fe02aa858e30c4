"""The data path on the gateway: signing, committing, and reading NMEA, each beside its bare peer.

    data.sign     a record of 100 readings sealed as COSE_Sign1   against   ECDSA alone, same bytes
    data.encode   facts to deterministic CBOR   against   cbor2 on the same map
    data.commit   the whole way of such a record to the disk (encode, sign, journal, spool)
                  against   one INSERT of the same bytes per commit into a bare SQLite table, WAL,
                  synchronous=FULL, same disk
    data.fsyncs   fsync and fdatasync per commit, counted by strace in a run of its own
    serial.nmea   bytes to readings through a pipe   against   os.read and split on newlines

Ours and the peer take turns within a run, so that a slow moment of the disk meets both.
"""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.daemon.clock import SystemClock
from edgewarden.ports import Stored
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.spool import DiskSpool
from edgewarden.serial.nmea import NmeaDecoder
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.facts import Reading, readings_to_senml
from edgewarden.wire.record import (
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    RecordTime,
    encode_record,
)
from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import HIGHER, Figure, Spec, middle

RUNS = 5
COMMITS = 60
"""Commits per run and side: 0.1 s on this machine's disk, a quarter of a minute on a slow card."""
SEALS = 300
READINGS = 100
"""Per record: what ten seconds of two talkative ports gather."""
COUNTED_COMMITS = 200
SENTENCES = 20_000
READ_BYTES = 512
"""What a reader finds after a poll at 115,200 baud and some tens of milliseconds."""

SPECS = (
    Spec("data.sign", f"records of {READINGS} readings sealed as COSE_Sign1 per second, ours / bare"
         " ECDSA signatures of the same bytes", "x", 0.5, HIGHER),
    Spec("data.encode", f"time to encode a bulk record of {READINGS} readings, per reading", "us",
         8.0),
    Spec("data.commit", f"durable bulk records ({READINGS} readings each: encode, sign, one commit)"
         " per second, ours / bare SQLite inserts of the same bytes", "x", 0.2, HIGHER),
    Spec("data.fsyncs", "fsync and fdatasync calls per bulk commit", "calls", 1.35),
    Spec("serial.nmea", "processor time of framing, checking and decoding one NMEA sentence", "us",
         12.2),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    yield sign()
    yield encode()
    yield commit(place.folder)
    yield nmea()
    yield fsyncs(place.folder)


def readings(now_ns: int) -> list[Reading]:
    """A batch as two ports fill it."""
    return [
        Reading(("env", "gps")[i % 2], f"channel{i % 5}", "Cel", 21.0 + i / 7, now_ns - i * 10**7)
        for i in range(READINGS)
    ]


def bulk_record(clock: SystemClock, seq: int, prev: bytes) -> Record:
    """One bulk record of the batch."""
    now = clock.now()
    body: dict[str, object] = {
        "readings": readings_to_senml(readings(now.boot_ns), now.boot_ns),
        "events": [],
        "counts": {},
    }
    when = RecordTime(now.boot_ns, now.wall_ns, now.uncertainty_ms, now.state)
    return Record("gw-bench", clock.boot_id(), RecordClass.BULK, seq, prev, when, Kind.BATCH, body)


def rate(work: Callable[[], object], times: int) -> float:
    """How often work() runs per second."""
    gc.collect()
    began = time.perf_counter()
    for _ in range(times):
        work()
    return times / (time.perf_counter() - began)


def sign() -> Figure:
    """Sealing against signing."""
    clock, signer = SystemClock(), FileSigner.generate()
    key, algorithm = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    payload = encode_record(bulk_record(clock, 1, NO_PREDECESSOR))

    def ours() -> None:
        cose.seal(payload, cose.ContentType.RECORD, signer.kid, signer.sign)

    pairs = [
        (rate(ours, SEALS), rate(lambda: key.sign(payload, algorithm), SEALS)) for _ in range(RUNS)
    ]
    own, bare = middle(p[0] for p in pairs), middle(p[1] for p in pairs)
    return Figure(
        "data.sign", middle(a / b for a, b in pairs), f"{bare:.0f} bare signatures/s", RUNS,
        f"{own:.0f} records/s of {len(payload)} bytes",
    )  # fmt: skip


def encode() -> Figure:
    """Facts to bytes, against the encoder alone."""
    clock = SystemClock()
    record = bulk_record(clock, 1, NO_PREDECESSOR)
    value = cbor2.loads(encode_record(record))
    own, bare = (
        middle(1e6 / rate(work, SEALS) / READINGS for _ in range(RUNS))
        for work in (
            lambda: encode_record(bulk_record(clock, 1, NO_PREDECESSOR)),
            lambda: cbor2.dumps(value, canonical=True),
        )
    )
    return Figure("data.encode", own, f"{bare:.2f} us of cbor2 alone, canonical", RUNS)


def open_journal(folder: Path) -> Journal:
    """A journal on a fresh spool, its key introduced."""
    clock, signer, identity = SystemClock(), FileSigner.generate(), FileSigner.generate()
    journal = Journal(DiskSpool(folder, 256 << 20), "gw-bench", clock, signer)
    # Three certificates' worth of bytes stand for the chain: nobody verifies here.
    journal.introduce(Introduction(identity, (bytes(600), bytes(600)), "bench"))
    return journal


def write(journal: Journal, clock: SystemClock, count: int) -> None:
    """count commits of one bulk record."""
    for _ in range(count):
        journal.batch(readings(clock.now().boot_ns), [], {})


def open_bare(path: Path) -> sqlite3.Connection:
    """A bare table with the durability we promise."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("CREATE TABLE record (seq INTEGER PRIMARY KEY, data BLOB NOT NULL)")
    return db


def insert(db: sqlite3.Connection, rows: list[Stored]) -> None:
    """One commit per row."""
    for one in rows:
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO record VALUES (?, ?)", (one.seq, one.data))
        db.execute("COMMIT")


def commit(folder: Path) -> Figure:
    """Durable records against bare inserts of the same bytes, on the same disk."""
    clock = SystemClock()
    journal, db = open_journal(folder / "spool"), open_bare(folder / "bare.db")
    own: list[float] = []
    bare: list[float] = []
    try:
        write(journal, clock, 5)
        for _ in range(RUNS):
            head = journal.heads()[RecordClass.BULK][0]
            began = time.perf_counter()
            write(journal, clock, COMMITS)
            own.append(COMMITS / (time.perf_counter() - began))
            rows = journal.spool.peek(RecordClass.BULK, head, COMMITS, 1 << 30)
            if len(rows) != COMMITS:
                raise CannotMeasure(f"{len(rows)} of {COMMITS} records are in the spool")
            began = time.perf_counter()
            insert(db, rows)
            bare.append(COMMITS / (time.perf_counter() - began))
    finally:
        journal.spool.close()
        db.close()
    ratios = [a / b for a, b in zip(own, bare, strict=True)]
    return Figure(
        "data.commit", middle(ratios), f"{middle(bare):.0f} bare inserts/s", RUNS,
        f"{middle(own):.0f} records/s of {len(rows[0].data)} bytes,"
        f" {middle(own) * READINGS:.0f} readings/s",
    )  # fmt: skip


def fsyncs(folder: Path) -> Figure:
    """Counted by strace over a run of COUNTED_COMMITS minus one of none: opening costs some too."""
    if shutil.which("strace") is None:
        raise CannotMeasure("strace is not installed")
    calls = [_count(folder, f"counted-{commits}", commits) for commits in (0, COUNTED_COMMITS)]
    return Figure(
        "data.fsyncs", (calls[1] - calls[0]) / COUNTED_COMMITS,
        "one call per commit, and the checkpoints of the log", 1,
        f"{calls[1] - calls[0]} calls in {COUNTED_COMMITS} commits, checkpoints included",
    )  # fmt: skip


def _count(folder: Path, name: str, commits: int) -> int:
    out = folder / f"{name}.strace"
    command = [
        "strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", str(out),
        sys.executable, "-m", "tests.bench.data", str(folder / name), str(commits),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
    )
    if done.returncode != 0:
        raise CannotMeasure(f"strace ended with {done.returncode}: {done.stderr.decode()[-300:]}")
    return sum("sync(" in line for line in out.read_text().splitlines())


def nmea() -> Figure:
    """Decoding against reading and splitting, both out of a pipe."""
    body = "GPGGA,123519.00,4807.0380,N,01131.0000,E,1,08,0.9,545.4,M,46.9,M,,"
    check = 0
    for byte in body.encode():
        check ^= byte
    data = f"${body}*{check:02X}\r\n".encode() * SENTENCES
    pairs: list[tuple[float, float]] = []
    for _ in range(RUNS):
        decoder = NmeaDecoder("gps")
        spent = _pump(data, lambda chunk, d=decoder: d.feed(chunk, 7))  # type: ignore[misc]
        if decoder.counters.frames != SENTENCES or decoder.counters.bad:
            raise CannotMeasure(f"{decoder.counters.frames} of {SENTENCES} sentences were read")
        rest = [b""]

        def split(chunk: bytes, rest: list[bytes] = rest) -> None:
            *_, rest[0] = (rest[0] + chunk).split(b"\n")

        pairs.append((spent, _pump(data, split)))
    own, bare = (middle(p[i] for p in pairs) / SENTENCES * 1e6 for i in (0, 1))
    against = f"{bare:.2f} us of os.read and split"
    return Figure(
        "serial.nmea", own, against, RUNS,
        f"GGA with six channels in reads of {READ_BYTES} bytes; the target is a tenth of a core"
        " for 32 ports at 115,200 baud",
    )  # fmt: skip


def _pump(data: bytes, take: Callable[[bytes], object]) -> float:
    """Processor seconds of os.read and take() over data; the writing is not counted."""
    ours, theirs = os.pipe()
    spent = 0.0
    try:
        for at in range(0, len(data), READ_BYTES):
            os.write(theirs, data[at : at + READ_BYTES])
            began = time.perf_counter()
            take(os.read(ours, READ_BYTES))
            spent += time.perf_counter() - began
    finally:
        os.close(ours)
        os.close(theirs)
    return spent


if __name__ == "__main__":  # what strace counts
    _journal = open_journal(Path(sys.argv[1]))
    write(_journal, SystemClock(), int(sys.argv[2]))
    _journal.spool.close()
