"""Facts become records: sequence, chain, time, signature, and only then the disk.

Decides what stands in a record and what happens when there is no room for it. Leaves to the spool
what is durable, to storage.py when a commit is due.

* The spool's head is the only counter: a record that could not be stored used no sequence.
* Signed before stored; the drain never re-encodes. A retry signs anew, and nobody saw the first
  try.
* The first record of every class after a start introduces the report key: signed by the identity
  key, with its certificate chain, so that a stranger with the CA certificate can check everything
  behind it.
* A filesystem that others filled nearly up takes no bulk (DiskTight): what is stored of it stays,
  since giving it up would help whoever fills the disk and nobody else.
* Room is made by evicting the oldest bulk segment, its signed gap record first. MAX_EVICTIONS
  bounds the loop.

    journal = Journal(spool, "gw-demo", clock, report_key)
    journal.introduce(Introduction(identity_key, x5chain, "0.1.0"))
    journal.event(RecordClass.ALARM, event)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from edgewarden.errors import EdgewardenError, HardwareFault, OurFault
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, Instant, Loss, Signer, Spool, Stored
from edgewarden.record.aside import Aside
from edgewarden.record.fresh import Fresh
from edgewarden.record.segment import DiskFull
from edgewarden.record.wear import EVIDENCE, JOURNAL, Wear, collector_of, weights
from edgewarden.wire import cbor, cose
from edgewarden.wire.burst import Part, spell_readings
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Heads
from edgewarden.wire.facts import Event, event_to_map
from edgewarden.wire.record import (
    MAX_RECORD_BYTES,
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    RecordTime,
    decode_record,
    encode_record,
    record_hash,
)

MAX_EVICTIONS = 64
"""Segments given up for one record: all of a full spool (8 a share, 8 MB each) several times
over.
"""
MAX_EVENT_BYTES = 32 * 1024
"""Encoded detail of one event; beyond it the detail is replaced by its length, the event stays."""
SPOOL_FULL, DISK_FULL = "spool full", "disk full"
"""Reasons in gap records: our own bound, or a disk that others filled."""
ENVELOPE_BYTES = 2048
"""What an envelope with a two-certificate chain adds to a payload, with room to spare."""

T = TypeVar("T")


class SpoolFull(HardwareFault):
    """The bound is reached and nothing may be evicted for this record; it was not stored."""

    default_code = "EW-SPL-007"


class DiskTight(SpoolFull):
    """The filesystem has less left than bulk leaves alone ([spool] free_percent)."""

    default_code = "EW-SPL-006"


class Unstorable(Exception):
    """A batch is too long for one record, or holds a fact that has no encoding: split it."""


@dataclass(frozen=True, slots=True)
class Introduction:
    """Who vouches for the report key.

    Attributes:
        signer: the identity key.
        x5chain: its certificates, DER, leaf first.
        agent: this program's version.
    """

    signer: Signer
    x5chain: tuple[bytes, ...]
    agent: str


class Journal:
    """Writes records. Storage thread only; every method blocks on the key and the disk.

    Args:
        spool: where records go; closed by whoever closes the journal.
        device: this gateway's id.
        clock: time of each record.
        signer: the report key, new at every start.
        wear: counts whose facts the bytes are; outlives the journal.
        fresh: keeps what was written last, for the uplink; outlives it, too.

    Raises (each writing method): SpoolFull, DiskFull, HardwareFault. Nothing was stored then.
    """

    def __init__(
        self,
        spool: Spool,
        device: str,
        clock: Clock,
        signer: Signer,
        wear: Wear | None = None,
        fresh: Fresh | None = None,
    ) -> None:
        self.spool = spool
        self._wear = wear or Wear()
        self._fresh = fresh or Fresh()
        self._device = device
        self._clock = clock
        self._signer = signer
        self._evictions: list[Loss] = []

    def introduce(self, who: Introduction) -> None:
        """Open every class with the report key; audit first, since gap records go there.

        Nothing is evicted for it: a gap record needs the introduction in front of it.
        """
        self._finish_eviction()
        for record_class in (RecordClass.AUDIT, RecordClass.ALARM, RecordClass.BULK):
            acked = self.spool.state()[record_class].acked
            body = introduction_of(self._signer, who, acked)
            stored = self._seal(record_class, Kind.REPORT_KEY, body, who)
            size_bytes = self._spare(partial(self.spool.put, [stored]))
            self._is_durable(stored, {JOURNAL: 1}, size_bytes)

    def event(self, record_class: RecordClass, event: Event) -> int:
        """Store one event as a record of its own; return its sequence."""
        by = {collector_of(event): 1}
        return self._write(record_class, Kind.EVENT, fit_event(event), by)

    def batch(
        self, readings: Sequence[Part], events: Sequence[Event], counts: Mapping[str, int]
    ) -> int:
        """Store a batch of bulk facts; return its sequence.

        Raises:
            Unstorable: nothing was stored; try with less.
        """
        anchor = self._clock.now()
        body: dict[str, object] = {
            "readings": fit_readings(readings, anchor),
            "events": [fit_event(e) for e in events],
            "counts": dict(counts),
        }
        by = weights(readings, events)
        return self._write(RecordClass.BULK, Kind.BATCH, body, by, record_time_of(anchor))

    def attestation(self, evidence: bytes, heads: Heads) -> int:
        """Store that evidence (its SHA-256) was given while these were the heads; return the
        sequence.
        """
        body: dict[str, object] = {
            "evidence": evidence,
            "heads": {int(c): [seq, digest] for c, (seq, digest) in heads.items()},
        }
        return self._write(RecordClass.AUDIT, Kind.ATTESTATION, body, {EVIDENCE: 1})

    def evidence(self, message: bytes) -> int:
        """Store evidence itself, for a verifier that cannot be reached; return the sequence."""
        body: dict[str, object] = {"evidence": message}
        return self._write(RecordClass.AUDIT, Kind.EVIDENCE, body, {EVIDENCE: 1})

    def end_of_memory(
        self, kid: bytes, head: tuple[int, bytes], records: list[bytes], *, more: bool
    ) -> int:
        """Store how far a chain in memory came (memory.py), and of its records those that nobody
        has accepted; return the sequence.

        Args:
            more: another such record follows with the rest.
        """
        body: dict[str, object] = {"key": kid, "last": head[0], "hash": head[1]}
        body |= {"records": records, "more": more}
        return self._write(RecordClass.AUDIT, Kind.MEMORY, body, {JOURNAL: 1})

    def heads(self) -> Heads:
        """class -> (sequence, hash) of the latest durable record."""
        return {RecordClass(c): head for c, head in self.spool.heads().items()}

    def explain_losses(self) -> list[Loss]:
        """Write a gap record for everything the spool found damaged; return what it was."""
        found = self.spool.losses()
        for loss in found:
            self._put_gap(loss)
        return found

    def set_aside(self, record_class: int, seq: int, why: str, box: Aside) -> bool:
        """Move the oldest unaccepted record out of the way (aside.py); False without room for it.

        The order: durable in the box, then a signed gap record, then accepted. A power cut in
        between costs a second copy, never the record.
        """
        found = self.spool.peek(record_class, seq - 1, 1, MAX_RECORD_BYTES)
        if not found or found[0].seq != seq or not box.keep(found[0]):
            return False
        record = decode_record(cose.open_envelope(found[0].data, ContentType.RECORD).payload)
        digest = record_hash(found[0].data)
        self._put_gap(Loss(int(record_class), seq, seq, record.prev, digest, why))
        self.spool.ack(record_class, seq)
        return True

    def take_evictions(self) -> list[Loss]:
        """What was evicted since the last call; gap records are written already."""
        taken, self._evictions = self._evictions, []
        return taken

    def _write(
        self,
        record_class: RecordClass,
        kind: str,
        body: Mapping[str, object],
        by: Mapping[str, int],
        time: RecordTime | None = None,
    ) -> int:
        """Seal and store, making room as long as there is something to evict.

        Args:
            by: whose facts these are (wear.py).
        """
        if record_class is RecordClass.BULK and self.spool.tight():
            raise DiskTight(
                "the filesystem of the spool is nearly full: bulk is not stored",
                next_step="free space on the filesystem of the state directory",
            )
        for _ in range(MAX_EVICTIONS):
            stored = self._seal(record_class, kind, body, time=time)
            try:
                if self.spool.room_for(record_class, len(stored.data)):
                    self._is_durable(stored, by, self.spool.put([stored]))
                    return stored.seq
                reason = SPOOL_FULL
            except DiskFull:
                reason = DISK_FULL
            if self._evict(reason):
                continue
            # The ballast is for what must not wait; bulk is dropped and counted instead.
            if record_class is RecordClass.BULK or reason == SPOOL_FULL:
                break
            if not self.spool.lend_ballast():
                break
        raise SpoolFull(
            f"no room for a record of class {record_class.label}",
            next_step="restore the uplink or free space; see [spool] cap_bytes and cap_percent",
        )

    def _evict(self, reason: str) -> bool:
        """Give up the oldest bulk segment; False when there is none to give."""
        loss = self._spare(lambda: self.spool.victim(reason))
        if loss is None:
            return False
        if loss.first > loss.last:  # all of it was acknowledged: room without a loss
            self.spool.evict(loss)
            return True
        try:
            self._put_gap(loss)
        except DiskFull:
            # Others ate the ballast: the order "gap record first" cannot be kept, its contents can.
            self.spool.evict(loss)
            self._put_gap(loss)
        self._evictions.append(loss)
        return True

    def _finish_eviction(self) -> None:
        """A power cut between a gap record and the deletion leaves that record as the newest of
        audit; what it gave up would be sent, and given up and counted once more."""
        head = self.spool.state()[RecordClass.AUDIT].durable
        with contextlib.suppress(EdgewardenError):  # damaged, say: told as ever
            for newest in self.spool.peek(RecordClass.AUDIT, head - 1, 1, MAX_RECORD_BYTES):
                opened = cose.open_envelope(newest.data, ContentType.RECORD)
                record = decode_record(opened.payload)
                last = record.body.get("last")
                evicts = record.body.get("reason") in (SPOOL_FULL, DISK_FULL)
                if record.kind == Kind.GAP and evicts and isinstance(last, int):
                    self.spool.finish(RecordClass.BULK, last)

    def _put_gap(self, loss: Loss) -> None:
        body: dict[str, object] = {
            "class": loss.record_class,
            "first": loss.first,
            "last": loss.last,
            "before": loss.before,
            "after": loss.after,
            "reason": loss.reason,
        }
        stored = self._seal(RecordClass.AUDIT, Kind.GAP, body)
        size_bytes = self._spare(lambda: self.spool.put_gap(stored, loss))
        self._is_durable(stored, {JOURNAL: 1}, size_bytes)

    def _is_durable(self, stored: Stored, by: Mapping[str, int], size_bytes: int) -> None:
        self._wear.add(by, size_bytes)
        self._fresh.add(stored)

    def _spare(self, work: Callable[[], T]) -> T:
        """Do work; on a full disk once more with the ballast's room."""
        try:
            return work()
        except DiskFull:
            if not self.spool.lend_ballast():
                raise
            return work()

    def _seal(
        self,
        record_class: RecordClass,
        kind: str,
        body: Mapping[str, object],
        who: Introduction | None = None,
        time: RecordTime | None = None,
    ) -> Stored:
        """The next record of a class, signed; takes no sequence until it is stored."""
        head, digest = self.spool.heads().get(record_class, (0, NO_PREDECESSOR))
        record = Record(
            device=self._device,
            boot_id=self._clock.boot_id(),
            record_class=record_class,
            seq=head + 1,
            prev=digest,
            time=time or record_time_of(self._clock.now()),
            kind=kind,
            body=dict(body),
        )
        data = sealed(record, ContentType.RECORD, who or self._signer)
        return Stored(int(record_class), record.seq, data)


def sealed(
    record: Record,
    content: ContentType,
    by: Signer | Introduction,
    limit_bytes: int = MAX_RECORD_BYTES - ENVELOPE_BYTES,
) -> bytes:
    """A record's signed bytes: by the report key, or by the identity key with its chain.

    Raises:
        Unstorable: longer than the limit, or a fact in it has no encoding.
    """
    try:
        payload = encode_record(record)
    except OurFault as fault:
        raise Unstorable(str(fault)) from fault
    if len(payload) > limit_bytes:
        raise Unstorable(f"{len(payload)} bytes")
    signer, chain = (by.signer, by.x5chain) if isinstance(by, Introduction) else (by, ())
    return cose.seal(payload, content, signer.kid, signer.sign, chain)


def fit_event(event: Event) -> dict[str, object]:
    """The event's map; a detail too long or too odd to store is replaced by a word about it.

    An event is never refused for what a sensor put into it: an alarm oddly dressed is an alarm.
    """
    body: dict[str, object] = {**event_to_map(event)}
    try:
        length = len(cbor.encode(body["detail"]))  # type: ignore[arg-type]
    except EdgewardenError as fault:
        body["detail"] = {"unstorable": str(fault)[:200]}
    else:
        if length > MAX_EVENT_BYTES:
            body["detail"] = {"truncated_bytes": length}
    return body


def fit_readings(readings: Sequence[Part], anchor: Instant) -> cbor.Spelt:
    """The pack of a batch, spelt; raises Unstorable where a reading has no encoding."""
    try:
        return spell_readings(readings, anchor.boot_ns)
    except OurFault as fault:
        raise Unstorable(str(fault)) from fault


def introduction_of(signer: Signer, who: Introduction, acked: int) -> dict[str, object]:
    """The body that introduces a report key."""
    return {"key": signer.public_key(), "agent": who.agent, "acked": acked}


def record_time_of(now: Instant) -> RecordTime:
    """A clock's moment as a record states it."""
    return RecordTime(now.boot_ns, now.wall_ns, now.uncertainty_ms, now.state)
