"""What the verifier does in a second, in one process, beside the signature check alone.

The ingest worker's own commit (store, chain, facts; groups of up to 128 messages; SQLite, WAL,
synchronous=FULL) gets real records of one gateway with real certificates: small audit events and
bulk batches of 20 readings, three to one. The peer is ECDSA verification of as many messages of the
same lengths, and nothing else.

    fleet.verify-single     verified and stored records per second, ours / bare verifications
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.wire.facts import Reading
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ingest.worker import GROUP, Delivery, Worker
from edgewarden_fleet.verify.pipeline import Incoming
from tests.bench.place import CannotMeasure, Place
from tests.bench.rows import HIGHER, Figure, Spec, middle
from tests.fleet.makers import Board, Desk, Made, unconnected

RUNS = 5
RECORDS = 4 * GROUP
BATCH = 20

SPECS = (
    Spec("fleet.verify-single", "records verified and stored per second in one process, ours / bare"
         " ECDSA verifications", "x", 0.2, HIGHER),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figure of this file."""
    desk = Desk(place.folder)
    try:
        board = Board(desk)
        worker = Worker(
            desk.db, desk.verifier, desk.appraiser, lambda _: None, lambda: desk.now,
            unconnected(place.folder),
        )  # fmt: skip
        for record_class in (RecordClass.AUDIT, RecordClass.BULK):
            _commit(worker, [board.introduce(record_class)])
        pairs = [_run(desk, worker, board) for _ in range(RUNS)]
        if desk.refused():
            raise CannotMeasure(f"the verifier refused {desk.refused()}")
    finally:
        desk.close()
    own, bare = (middle(pair[i] for pair in pairs) for i in (0, 1))
    yield Figure(
        "fleet.verify-single", middle(a / b for a, b in pairs), f"{bare:.0f} bare verifications/s",
        RUNS, f"{own:.0f} records/s, a commit per {GROUP}",
    )  # fmt: skip


def _run(desk: Desk, worker: Worker, board: Board) -> tuple[float, float]:
    """(records, bare verifications) per second."""
    made = [_make(board, i) for i in range(RECORDS)]
    before = _stored(desk)
    began = time.perf_counter()
    for at in range(0, RECORDS, GROUP):
        _commit(worker, made[at : at + GROUP])
    own = RECORDS / (time.perf_counter() - began)
    if _stored(desk) - before != RECORDS:
        raise CannotMeasure(f"{_stored(desk) - before} of {RECORDS} records were stored")
    key, algorithm = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    signed = [(m.data, key.sign(m.data, algorithm)) for m in made]
    public = key.public_key()
    began = time.perf_counter()
    for data, signature in signed:
        public.verify(signature, data, algorithm)
    return own, RECORDS / (time.perf_counter() - began)


def _make(board: Board, i: int) -> Made:
    if i % 4:
        return board.event()
    values = [
        Reading("env", f"channel{n % 5}", "Cel", 20 + n / 7, board.boot_ns) for n in range(BATCH)
    ]
    return board.batch(*values)


def _commit(worker: Worker, made: list[Made]) -> None:
    """What the worker's thread does with a group, without the thread."""
    worker._commit([Delivery(Incoming(m.topic, m.data), _nothing) for m in made])


def _nothing() -> None:
    """Acknowledges to nobody: there is no broker here."""


def _stored(desk: Desk) -> int:
    return len(desk.stored("gw-demo", RecordClass.AUDIT)) + len(
        desk.stored("gw-demo", RecordClass.BULK)
    )
