"""Records that a gateway signed while its disk took nothing (r/memory, wire/record.py).

Such a chain belongs to one report key and to nothing else: its first record introduces the key,
signed by the identity key; its numbers are its own, and no chain of a class knows of them. The
rules, in order:

1. envelope, chain or known key, signature, payload: as for any record (pipeline.py). What comes
   before its introduction waits for it (``pending``)
2. the first record, and only that, introduces; it is number 1             ``wrong_signer``
3. no other report key was introduced since, by its place in audit         ``stale_key``
4. continuity within the chain (judge/continuity.py): ``fork``, or next, gap, reordered. The same
   bytes again are a duplicate, whenever they come: they change nothing, and no session says how far
   such a chain was acknowledged

Then the facts inside are looked at. The end of a chain is told by a record in audit, kind memory,
of the same key, which may carry what nobody had accepted: that is taken here too, without rule 3,
since its place in the chain of audit says when it was. What is missing then is a finding
(``memory_gap``). A chain that stands open when audit introduces another key has been cut: the
process ended while its disk took nothing (``memory_cut``).
"""

from __future__ import annotations

import sqlite3

from edgewarden.errors import WireRefusal
from edgewarden.judge import continuity
from edgewarden.judge.continuity import Offer, Outcome
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType, Envelope
from edgewarden.wire.facts import Severity
from edgewarden.wire.record import (
    MAX_RECORD_BYTES,
    MAX_SEQ,
    MEMORY,
    Kind,
    Record,
    decode_record,
    label_of,
    record_hash,
)
from edgewarden.wire.topics import Topic
from edgewarden_fleet.store import memory, records, registry
from edgewarden_fleet.verify import facts, ratchet
from edgewarden_fleet.verify.pipeline import Incoming, Verdict, Verifier

MAX_CARRIED = 4096
"""Records inside one record of kind memory; 96 kB hold fewer."""


class MemoryChains:
    """Verifies records of chains in memory. Used by the ingest thread alone."""

    def __init__(self, verifier: Verifier) -> None:
        self._verifier = verifier
        self._db: sqlite3.Connection = verifier.db

    def take(
        self, topic: Topic, message: Incoming, now_utc_s: float, carried: bool = False
    ) -> Verdict:
        """Verify one r/memory message, or what a record in audit carries; raises WireRefusal."""
        envelope = cose.open_envelope(message.payload, ContentType.MEMORY, MAX_RECORD_BYTES)
        if envelope.x5chain:
            self._verifier.identity_of(envelope, topic, now_utc_s)
        elif not self._signed_by_known_key(envelope, topic):
            return self._verifier.hold(topic, message, envelope, now_utc_s)
        record = decode_record(envelope.payload)
        if record.device != topic.device:
            raise WireRefusal("wrong_topic", "device differs from the topic's")
        introduces = record.kind == Kind.REPORT_KEY and record.seq == 1
        if bool(envelope.x5chain) is not introduces:
            raise WireRefusal("wrong_signer", f"kind {record.kind!r} is not this key's to sign")
        kid = envelope.kid
        if introduces:
            kid = self._introduce(record, now_utc_s)
        if not carried and memory.is_over(self._db, record.device, kid):
            raise WireRefusal("stale_key", "another key was introduced since")
        verdict = self._continue(record, kid, message, now_utc_s)
        if introduces and verdict.accepted:
            self._verifier.release(record.device, kid, now_utc_s)
        return verdict

    def end(self, record: Record, now_utc_s: float) -> None:
        """Take an accepted audit record of kind memory."""
        body = record.body
        kid, last, digest = body.get("key"), body.get("last"), body.get("hash")
        carried, more = body.get("records"), body.get("more")
        signer = records.key_in_force(self._db, record.device, record.record_class, record.seq)
        if (
            not isinstance(kid, bytes) or kid != signer or not isinstance(digest, bytes)
            or type(last) is not int or not 1 <= last <= MAX_SEQ
            or not isinstance(carried, list) or len(carried) > MAX_CARRIED
        ):  # fmt: skip
            self._tell(record, "unreadable_facts", Severity.MEDIUM, "an end of memory", now_utc_s)
            return
        topic = Topic(self._verifier.tenant, record.device, "r", label_of(MEMORY))
        for data in carried:
            if isinstance(data, bytes):
                self._take_carried(topic, Incoming(str(topic), data), now_utc_s)
        stored = memory.neighbours(self._db, record.device, kid, last).same
        if stored is not None and stored != digest:
            self._fork(record, f"audit names another record {last} in memory", b"", now_utc_s)
        if more is not True:
            missing = memory.end(self._db, record.device, kid, last)
            if missing:
                text = f"{missing} of {last} records made in memory did not come"
                self._tell(record, "memory_gap", Severity.MEDIUM, text, now_utc_s)

    def _take_carried(self, topic: Topic, message: Incoming, now_utc_s: float) -> None:
        try:
            self.take(topic, message, now_utc_s, carried=True)
        except WireRefusal as refusal:
            self._verifier.refuse(topic.device, message, refusal, now_utc_s)

    def new_key(self, record: Record, kid: bytes, now_utc_s: float) -> None:
        """Audit introduces a report key: another one's chain that stands open has been cut."""
        if memory.cut(self._db, record.device, kid, record.seq):
            text = "restarted while its disk took nothing: what waited in memory is lost"
            self._tell(record, "memory_cut", Severity.HIGH, text, now_utc_s)

    def _signed_by_known_key(self, envelope: Envelope, topic: Topic) -> bool:
        """Check the signature; False when the chain is not introduced yet."""
        device = registry.find(self._db, topic.device)
        if device is None:
            raise WireRefusal("unregistered", "the device is not in the registry")
        if device.revoked:
            raise WireRefusal("revoked", "the device is revoked")
        known = memory.find(self._db, topic.device, envelope.kid)
        if known is None:
            return False
        cose.check_signature(envelope, verifier_for(known.cose_key))
        return True

    def _introduce(self, record: Record, now_utc_s: float) -> bytes:
        key, behind = record.body.get("key"), record.body.get("behind")
        if not isinstance(key, bytes):
            raise WireRefusal("bad_record", "an introduction without a key")
        if type(behind) is not int or not 0 <= behind <= MAX_SEQ:
            raise WireRefusal("bad_record", "an introduction without its place in audit")
        verifier_for(key)
        kid = key_id(key)
        known = memory.find(self._db, record.device, kid)
        if known is None:
            memory.begin(self._db, record, kid, key, behind, now_utc_s)
        return kid

    def _continue(self, record: Record, kid: bytes, message: Incoming, now_utc_s: float) -> Verdict:
        device, digest = record.device, record_hash(message.payload)
        known = memory.find(self._db, device, kid)
        assert known is not None
        around = memory.neighbours(self._db, device, kid, record.seq)
        offer = Offer(record.seq, record.prev, digest, dup=True)
        judged = continuity.judge(known.head, offer, around)
        if judged.outcome is Outcome.FORK:
            refusal = WireRefusal("fork", judged.why)
            self._verifier.refuse(device, message, refusal, now_utc_s)
            self._fork(record, f"in memory: {judged.why}", message.payload, now_utc_s)
        if not judged.accepted:
            return Verdict(device, str(judged.outcome), False, judged.why)
        row = memory.add(self._db, record, kid, digest, judged.chain, message.payload, now_utc_s)
        facts.keep(self._db, record, now_utc_s, (MEMORY, row))
        return Verdict(device, str(judged.outcome), True, judged.why)

    def _fork(self, record: Record, why: str, data: bytes, now_utc_s: float) -> None:
        records.add_finding(
            self._db, record.device, "fork", Severity.CRITICAL, why, now_utc_s,
            MEMORY, record.seq, data,
        )  # fmt: skip
        ratchet.suspect(self._db, record.device, ratchet.FORK, why, now_utc_s)

    def _tell(
        self, record: Record, kind: str, severity: Severity, text: str, now_utc_s: float
    ) -> None:
        place = int(record.record_class), record.seq
        records.add_finding(self._db, record.device, kind, severity, text, now_utc_s, *place)
