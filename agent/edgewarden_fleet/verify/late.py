"""Evidence that nobody asked for: made on a timer while the gateway was cut off, kept in its audit
chain, judged when that record came, with its age stated.

The record's own rules held before (pipeline.py): signature, chain, no replay. Then the evidence
inside is believed as any other is, but in the place of a challenge it is chained
(appraise/appraisal.py, ``admit_late``): made after the record that it names, before the one that
carries it. It says what the gateway was then. It never takes the place of a verdict on challenged
evidence, its freshness is at most a warning, and no continuity token is spent in it.

Whatever does not hold is a finding, ``bad_late_evidence``: a gateway signed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgewarden.appraise import appraisal
from edgewarden.appraise.quotes import Enrolled
from edgewarden.appraise.references import Sets
from edgewarden.errors import WireRefusal
from edgewarden.ports import Signer
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, encode_result
from edgewarden.wire.facts import Severity
from edgewarden.wire.record import Record, RecordClass, RecordTime
from edgewarden.wire.topics import Topic
from edgewarden_fleet.store import attestation as kept
from edgewarden_fleet.store import late, records, registry, submodules
from edgewarden_fleet.store.appraised import Kept
from edgewarden_fleet.store.late import Late
from edgewarden_fleet.verify import appraising
from edgewarden_fleet.verify.appraising import Facts, Given
from edgewarden_fleet.verify.bundle import encode_facts
from edgewarden_fleet.verify.pipeline import Verifier

AUDIT = RecordClass.AUDIT


class LateEvidence:
    """Judges evidence inside records. Used by the ingest thread alone."""

    def __init__(
        self,
        verifier: Verifier,
        signer: Signer,
        sets: Callable[[float], Sets],
        required: Sequence[str],
    ) -> None:
        self._verifier = verifier
        self._db = verifier.db
        self._signer = signer
        self._sets = sets
        self._required = required

    def take(self, record: Record, now_utc_s: float) -> None:
        """Judge the evidence inside an accepted audit record."""
        try:
            given = self._given(record, now_utc_s)
            facts = self._facts(given, record.time, now_utc_s)
        except WireRefusal as refusal:
            records.add_finding(
                self._db, record.device, "bad_late_evidence", Severity.HIGH,
                f"evidence in audit {record.seq}: {refusal}", now_utc_s,
                int(record.record_class), record.seq,
            )  # fmt: skip
            return
        judged = appraising.judge(given, facts, self._sets(now_utc_s), self._required)
        result = appraising.result(given, judged.appraisal, judged.policy_hash, now_utc_s, 0)
        signer = self._signer
        data = cose.seal(encode_result(result), ContentType.RESULT, signer.kid, signer.sign)
        told = Late(
            record.seq, result.overall.label, record.time.wall_ns / 1e9, facts.age_s, now_utc_s
        )
        late.add(self._db, told, Kept(given.message, data, encode_facts(facts)), result)

    def _given(self, record: Record, now_utc_s: float) -> Given:
        message = record.body.get("evidence")
        if record.record_class is not AUDIT or not isinstance(message, bytes):
            raise WireRefusal("bad_evidence", "not an evidence message in an audit record")
        envelope = cose.open_envelope(message, ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
        topic = Topic(self._verifier.tenant, record.device, "e", "evidence")
        identity = self._verifier.identity_of(envelope, topic, now_utc_s)
        given = appraising.open_given(envelope.payload, identity.public_key, message)
        if (given.claims.tenant, given.claims.device) != (topic.tenant, topic.device):
            raise WireRefusal("wrong_topic", "it names another gateway than its certificate")
        named = given.claims.heads.get(AUDIT, (0, b""))[0]
        anchor = records.hash_at(self._db, record.device, AUDIT, named)
        appraisal.admit_late(given.claims, record.boot_id, record.seq, record.prev, anchor)
        return given

    def _facts(self, given: Given, made: RecordTime, now_utc_s: float) -> Facts:
        evidence, device = given.claims, given.claims.device
        registered = registry.find(self._db, device)
        if registered is None:
            raise WireRefusal("unregistered", "the device is not in the registry")
        ak_public = registry.ak_public(self._db, device)
        return Facts(
            grade=registered.grade,
            revoked=registered.revoked,
            key_boot=kept.key_boot(self._db, device, evidence.report_key),
            asked_utc_s=0.0,
            expires_utc_s=0.0,
            received_utc_s=now_utc_s,
            hashes={
                c: records.hash_at(self._db, device, c, seq)
                for c, (seq, _) in evidence.heads.items()
            },
            # Marks of later boots say nothing of an earlier one: the whole stands for itself.
            enrolled=None if ak_public is None else Enrolled(ak_public),
            late=True,
            age_s=age_s(made, now_utc_s),
            detached=submodules.statements(self._db, device, evidence.submods),
        )


def age_s(made: RecordTime, now_utc_s: float) -> float | None:
    """How old a record is; None when nothing vouched for its gateway's clock."""
    if made.uncertainty_ms is None or made.state == "unsynced":
        return None
    return max(0.0, now_utc_s - made.wall_ns / 1e9)
