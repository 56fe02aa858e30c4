"""The verifier: one message in, one verdict out; believes nothing it cannot check.

Neither the broker nor the topic is trusted: a topic only says which device a message claims to be
of. In order, for records:

 1. topic                          ``bad_topic``; another tenant ``wrong_tenant``
 2. envelope (wire/cose.py)        ``too_long`` ... ``bad_header``
 3. key: an introduction carries its certificate chain (chain.py), the registry must hold its key
    and not have revoked the device (``unregistered``, ``revoked``); it may have ended only if the
    same key has a newer one that has not (``cert_expired``): a backlog outlives certificates.
    Anything else is signed by an introduced report key, waits for it a while (``pending``), or is
    ``unknown_key``
 4. signature                      ``bad_signature``
 5. payload (wire/record.py)       ``bad_record``; device or class other than the topic's:
    ``wrong_topic``
 6. the signer may sign this kind  ``wrong_signer``: identity key for introductions, report key for
    the rest
 7. the key is in force at that place of the chain: introduced before, not yet followed by another
                                   (judge/report_keys.py)
                                   ``stale_key``: a report key stolen from an earlier start signs
                                   nothing new
 8. continuity (judge/)            ``replay``, ``fork``; else next, gap, reordered, duplicate

Records of a chain in memory (r/memory) go by memory.py from 2 on.

A fork puts its device into quarantine (ratchet.py). Only after 8 are the facts inside looked at
(facts.py). Every refusal is counted per device and reason. Runs inside the caller's transaction; a
message is acknowledged to the broker after that has been committed, refused ones too.

    verdict = Verifier(db, roots, tenant).take(Incoming(topic, payload), now_utc_s)
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cryptography import x509

from edgewarden.errors import WireRefusal
from edgewarden.judge import continuity, report_keys
from edgewarden.judge.continuity import Gap, GapNote, Judgement, Offer, Outcome
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.wire import cose, topics
from edgewarden.wire.cose import ContentType, Envelope
from edgewarden.wire.facts import Severity
from edgewarden.wire.record import (
    MAX_RECORD_BYTES,
    MEMORY,
    Kind,
    Record,
    RecordClass,
    decode_record,
    label_of,
    record_hash,
)
from edgewarden.wire.topics import Topic
from edgewarden_fleet.store import continuity as threads
from edgewarden_fleet.store import gaps, records, registry
from edgewarden_fleet.verify import facts, ratchet
from edgewarden_fleet.verify.chain import Identity, check_issuing, read_chain

PENDING_S = 600.0
"""How long a message waits for the introduction of its key; a gateway's window is sent in
seconds."""
KEYS_CACHED = 4096
"""Parsed public keys kept; one per gateway and start."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as the broker delivered it."""

    topic: str
    payload: bytes
    dup: bool = False
    retain: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a message.

    Attributes:
        device: whose it is; "" when not even that is known.
        outcome: a continuity outcome, ``pending``, or the refusal's name.
        accepted: stored and believed.
        introduced: a report key became known with it.
    """

    device: str
    outcome: str
    accepted: bool
    why: str = ""
    introduced: bool = False


class Verifier:
    """Verifies records against the fleet's roots and one store. Used by one thread.

    Args:
        grace_s: how long after its registered certificate has ended a gateway is still believed.
            Only renewal gives any (desk/renewal.py).
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        roots: Sequence[x509.Certificate],
        tenant: str,
        grace_s: float = 0.0,
    ) -> None:
        self.db = db
        self.roots = tuple(roots)
        self.tenant = tenant
        self._grace_s = grace_s
        self.on_evidence: Callable[[Record, float], None] = lambda record, now_utc_s: None
        self.on_memory_end: Callable[[Record, float], None] = lambda record, now_utc_s: None
        self.on_new_key: Callable[[Record, bytes, float], None] = lambda record, kid, now_utc_s: (
            None
        )
        self.on_memory: Callable[[Topic, Incoming, float], Verdict] = _no_memory
        self._keys: OrderedDict[bytes, cose.Verify] = OrderedDict()
        self._chains: OrderedDict[tuple[bytes, ...], Identity] = OrderedDict()

    def take(self, message: Incoming, now_utc_s: float) -> Verdict:
        """Verify one record message and store what is to be stored."""
        device = ""
        try:
            topic = self.parse_topic(message.topic)
            device = topic.device
            take = self.on_memory if topic.name == label_of(MEMORY) else self._record
            return take(topic, message, now_utc_s)
        except WireRefusal as refusal:
            return self.refuse(device, message, refusal, now_utc_s)

    def parse_topic(self, text: str) -> Topic:
        """The topic, of this fleet's tenant; raises WireRefusal."""
        topic = topics.parse(text)
        if topic.tenant != self.tenant:
            raise WireRefusal("wrong_tenant", f"{topic.tenant!r} is not this fleet's tenant")
        return topic

    def refuse(
        self, device: str, message: Incoming, refusal: WireRefusal, now_utc_s: float
    ) -> Verdict:
        """Count and remember a refusal; devices that were never registered share one row."""
        why = refusal.text.removeprefix(refusal.name).removeprefix(": ")
        known = device if device and registry.find(self.db, device) else ""
        records.add_refusal(
            self.db, known, message.topic, refusal.name, why, message.payload, now_utc_s
        )
        return Verdict(device, refusal.name, False, why)

    def identity_of(
        self, envelope: Envelope, topic: Topic, now_utc_s: float, revoked_too: bool = False
    ) -> Identity:
        """Believe a message that carries its own chain: chain, registry, signature, in that order.

        Raises:
            WireRefusal: see the module's docstring.
        """
        identity = self._chain(envelope.x5chain)
        check_issuing(identity, now_utc_s)
        if (identity.tenant, identity.device) != (topic.tenant, topic.device):
            raise WireRefusal("wrong_topic", f"{identity.device} speaks on {topic.device}'s topic")
        if key_id(identity.public_key) != envelope.kid:
            raise WireRefusal("bad_header", "kid is not that of the certificate's key")
        known = registry.find(self.db, topic.device)
        if known is None or known.public_key != identity.public_key:
            raise WireRefusal("unregistered", "the certificate's key is not in the registry")
        if now_utc_s > max(identity.ends_utc_s, known.not_after_utc_s + self._grace_s):
            raise WireRefusal("cert_expired", "it has ended, and this key has no newer one")
        if known.revoked and not revoked_too:
            raise WireRefusal("revoked", "the device is revoked")
        cose.check_signature(envelope, identity.verify)
        return identity

    def _chain(self, x5chain: tuple[bytes, ...]) -> Identity:
        """The gateway that a chain names: what stands in it does not change, dates are checked by
        the caller each time."""
        found = self._chains.get(x5chain)
        if found is None:
            found = self._chains[x5chain] = read_chain(x5chain, self.roots)
            if len(self._chains) > KEYS_CACHED:
                self._chains.popitem(last=False)
        return found

    def drop_overdue(self, now_utc_s: float) -> int:
        """Refuse what waited too long for its key; returns how many."""
        late = records.overdue(self.db, now_utc_s - PENDING_S)
        for device, held in late:
            refusal = WireRefusal("unknown_key", "its key was never introduced")
            self.refuse(device, Incoming(held.topic, held.data), refusal, now_utc_s)
        return len(late)

    def _record(self, topic: Topic, message: Incoming, now_utc_s: float) -> Verdict:
        envelope = cose.open_envelope(message.payload, ContentType.RECORD, MAX_RECORD_BYTES)
        introduces = bool(envelope.x5chain)
        if introduces:
            self.identity_of(envelope, topic, now_utc_s)
        elif not self._signed_by_report_key(envelope, topic):
            return self.hold(topic, message, envelope, now_utc_s)
        record = decode_record(envelope.payload)
        if record.device != topic.device or record.record_class.label != topic.name:
            raise WireRefusal("wrong_topic", "device or class differs from the topic's")
        if introduces is not (record.kind == Kind.REPORT_KEY):
            raise WireRefusal("wrong_signer", f"kind {record.kind!r} is not this key's to sign")
        key = _introduced_key(record) if introduces else None
        if key is None:
            self._check_in_force(record, envelope.kid)
        digest = record_hash(message.payload)
        judged = self._continue(record, digest, message, now_utc_s)
        if not judged.accepted:
            return Verdict(topic.device, str(judged.outcome), False, judged.why)
        if judged.outcome is not Outcome.NEXT:
            place = record.device, record.record_class
            self._explain(*place, gaps.beside(self.db, *place, record.seq))
        if key is None:
            facts.keep(self.db, record, now_utc_s)
            self._note_gap(record, now_utc_s)
            if record.kind == Kind.EVIDENCE:
                self.on_evidence(record, now_utc_s)
            elif record.kind == Kind.MEMORY:
                self.on_memory_end(record, now_utc_s)
        introduced = key is not None and self._introduce(record, key, now_utc_s)
        return Verdict(topic.device, str(judged.outcome), True, judged.why, introduced)

    def _signed_by_report_key(self, envelope: Envelope, topic: Topic) -> bool:
        """Check the signature; False when the key is not known yet."""
        known = registry.find(self.db, topic.device)
        if known is None:
            raise WireRefusal("unregistered", "the device is not in the registry")
        if known.revoked:
            raise WireRefusal("revoked", "the device is revoked")
        key = records.report_key(self.db, topic.device, envelope.kid)
        if key is None:
            return False
        cose.check_signature(envelope, self._verify_with(key))
        return True

    def hold(
        self, topic: Topic, message: Incoming, envelope: Envelope, now_utc_s: float
    ) -> Verdict:
        """Keep a message until its key is introduced, or for PENDING_S."""
        crowded_out = records.hold(
            self.db, topic.device, envelope.kid, message.topic, message.dup, message.payload,
            now_utc_s,
        )  # fmt: skip
        for held in crowded_out:
            refusal = WireRefusal("unknown_key", "made room while it waited for its introduction")
            self.refuse(topic.device, Incoming(held.topic, held.data), refusal, now_utc_s)
        return Verdict(topic.device, "pending", False, "its key is not introduced yet")

    def _continue(
        self, record: Record, digest: bytes, message: Incoming, now_utc_s: float
    ) -> Judgement:
        """Judge continuity and store what the judgement says."""
        device, record_class = record.device, record.record_class
        self._go_on(record, digest, now_utc_s)
        chain = records.chain_of(self.db, device, record_class)
        around = replace(
            records.neighbours(self.db, device, record_class, record.seq),
            claimed=records.claimed_at(self.db, device, record_class, record.seq),
        )
        judged = continuity.judge(
            chain, Offer(record.seq, record.prev, digest, message.dup), around
        )
        if judged.outcome in (Outcome.REPLAY, Outcome.FORK):
            refusal = WireRefusal(str(judged.outcome), judged.why)
            self.refuse(device, message, refusal, now_utc_s)
            if judged.outcome is Outcome.FORK:
                records.add_finding(
                    self.db, device, "fork", Severity.CRITICAL, judged.why, now_utc_s,
                    int(record_class), record.seq, message.payload,
                )  # fmt: skip
                ratchet.suspect(self.db, device, ratchet.FORK, judged.why, now_utc_s)
            return judged
        if judged.outcome is Outcome.DUPLICATE:
            records.save_chain(self.db, device, record_class, judged.chain, duplicate=True)
            return judged
        outcome = str(judged.outcome)
        records.add_record(self.db, record, digest, outcome, message.payload, now_utc_s)
        late = judged.outcome is Outcome.REORDERED
        records.save_chain(
            self.db, device, record_class, judged.chain, stored_utc_s=now_utc_s, reordered=late
        )
        if judged.missing is not None:
            gaps.open_gap(self.db, device, record_class, judged.missing, now_utc_s)
        if late:
            gaps.fill(self.db, device, record_class, record.seq)
        return judged

    def _go_on(self, record: Record, digest: bytes, now_utc_s: float) -> None:
        """An introduction says where a chain goes on that an operator has left open."""
        place = (record.device, record.record_class)
        if record.kind != Kind.REPORT_KEY or not threads.is_open(self.db, *place):
            return
        if records.hash_at(self.db, *place, record.seq) == digest:
            return  # delivered again
        before = records.hash_at(self.db, *place, record.seq - 1)
        cut = record.seq
        if before is not None and before != record.prev:  # the other history begins further down
            cut = min(cut, threads.lowest_fork(self.db, *place) or cut)
        threads.go_on_at(self.db, *place, cut, now_utc_s)

    def _check_in_force(self, record: Record, kid: bytes) -> None:
        """Refuse a key outside its stretch of the chain; see rule 7."""
        place = (record.device, record.record_class)
        if records.key_in_force(self.db, *place, record.seq) == kid:
            return
        known = records.introductions(self.db, record.device)
        why = report_keys.refusal(kid, record.record_class, record.seq, known)
        if why:
            raise WireRefusal("stale_key", why)

    def _introduce(self, record: Record, key: bytes, now_utc_s: float) -> bool:
        """Remember the key; True when it is new, and then look again at what waited for it."""
        version = record.body.get("agent")
        fresh = records.add_report_key(
            self.db, record, key_id(key), key,
            version[:64] if isinstance(version, str) else "", now_utc_s,
        )  # fmt: skip
        if record.record_class is RecordClass.AUDIT:
            self.on_new_key(record, key_id(key), now_utc_s)
        if fresh:
            self.release(record.device, key_id(key), now_utc_s)
        return fresh

    def release(self, device: str, kid: bytes, now_utc_s: float) -> None:
        """Look again at what waited for a key."""
        for held in records.release(self.db, device, kid):
            self.take(Incoming(held.topic, held.data, held.dup), now_utc_s)

    def _note_gap(self, record: Record, now_utc_s: float) -> None:
        """Keep a signed gap statement and match it with the gaps that are open."""
        if record.kind != Kind.GAP:
            return
        note = _gap_note(record)
        if note is None:
            records.add_finding(
                self.db, record.device, "unreadable_facts", Severity.MEDIUM,
                "a gap statement cannot be read", now_utc_s, int(record.record_class), record.seq,
            )  # fmt: skip
            return
        gaps.add_note(self.db, record.device, *note)
        place, said = (record.device, note[0]), note[1]
        inside = gaps.unexplained(self.db, *place, said.first, said.last)
        self._explain(*place, inside)

    def _explain(self, device: str, record_class: RecordClass, found: Sequence[Gap]) -> None:
        """Match open gaps with signed statements, whichever of the two came first.

        A record changes the gaps beside it, a statement those inside it: never all that stand open.
        """
        notes = gaps.notes(self.db, device, record_class) if found else []
        for gap in found:
            for statement, why in notes:
                if continuity.explains(statement, gap):
                    gaps.explain(self.db, device, record_class, gap.first, why)

    def _verify_with(self, cose_key: bytes) -> cose.Verify:
        """The verify function of a key, parsed once."""
        verify = self._keys.get(cose_key)
        if verify is None:
            verify = self._keys[cose_key] = verifier_for(cose_key)
            if len(self._keys) > KEYS_CACHED:
                self._keys.popitem(last=False)
        return verify


def _no_memory(topic: Topic, message: Incoming, now_utc_s: float) -> Verdict:
    raise WireRefusal("bad_topic", "this verifier takes no chains in memory")


def _introduced_key(record: Record) -> bytes:
    key = record.body.get("key")
    if not isinstance(key, bytes):
        raise WireRefusal("bad_record", "an introduction without a key")
    verifier_for(key)
    return key


def _gap_note(record: Record) -> tuple[RecordClass, GapNote, str] | None:
    body = record.body
    gone, first, last = body.get("class"), body.get("first"), body.get("last")
    before, after, why = body.get("before"), body.get("after"), body.get("reason")
    if gone not in (1, 2, 3) or type(gone) is not int:
        return None
    if type(first) is not int or type(last) is not int or not 1 <= first <= last < 2**53:
        return None
    if not isinstance(before, bytes) or not isinstance(after, bytes) or not isinstance(why, str):
        return None
    return RecordClass(gone), GapNote(first, last, before, after), why[:200]
