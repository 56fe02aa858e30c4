"""Challenge and appraisal: the verifier's half of attestation, around the pure room appraise/.

* A session status (s/status) is believed when chain, registry and signature hold and it is newer
  than every one before: a later connect of the current boot, or another boot whose heads reach
  past every introduction and status of other boots (``stale_session`` otherwise).
  It sets the redelivery floor of every class (judge/continuity.py) and earns a challenge.
* A challenge is 32 random bytes, kept with the heads stored at that moment, signed, answerable once
  and for a while. Also sent when a new report key is introduced, on a timer, and to whoever is on
  line when the fleet starts.
* Evidence is believed as a status is; then its nonce is consumed, whatever comes after; then a
  TPM's part is held to the enrolled key (appraise/quotes.py) and all of it judged; a signed result
  goes back to the gateway and is kept with the evidence. Where the digest form was not enough, the
  next challenge asks for the whole, and comes soon.
* The continuity token it presents is judged (ratchet.py); the next one rides in the result.
* The heads it names are kept, due after one nonce lifetime: a record that was named and does not
  come is withheld, and another one with its number is a fork (judge/continuity.py).

Nothing here blocks but the store; nothing is sent from here: ``Outgoing`` messages are returned.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass, replace

from edgewarden.appraise import appraisal
from edgewarden.appraise import references as reference_sets
from edgewarden.appraise.appraisal import Appraisal, IssuedNonce
from edgewarden.errors import WireRefusal
from edgewarden.judge import continuity
from edgewarden.ports import Signer
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType, Envelope
from edgewarden.wire.evidence import (
    MAX_EVIDENCE_BYTES,
    NONCE_BYTES,
    Challenge,
    Evidence,
    Status,
    Tier,
    decode_status,
    encode_challenge,
    encode_result,
)
from edgewarden.wire.facts import Severity
from edgewarden.wire.record import MAX_SEQ, RecordClass
from edgewarden.wire.topics import Topic
from edgewarden_fleet.ca.settings import Attestation
from edgewarden_fleet.store import (
    appraised,
    quotes,
    records,
    references,
    registry,
    submodules,
)
from edgewarden_fleet.store import attestation as kept
from edgewarden_fleet.store import continuity as threads
from edgewarden_fleet.verify import appraising, ratchet
from edgewarden_fleet.verify.appraising import Facts, Given, Judged, judge
from edgewarden_fleet.verify.bundle import encode_facts
from edgewarden_fleet.verify.chain import Identity
from edgewarden_fleet.verify.late import LateEvidence
from edgewarden_fleet.verify.memory import MemoryChains
from edgewarden_fleet.verify.pipeline import Incoming, Verdict, Verifier
from edgewarden_fleet.verify.references import Loaded, load

RESULT_PERIODS = 3
"""A result is good for three challenges: one lost answer on a cellular link is no news, three
are."""
HURRY_S = 3.0
"""Least time between two challenges of one device that are not on the timer: connect and
introduction come together."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to publish."""

    topic: str
    payload: bytes


class Appraiser:
    """Challenges gateways and judges their answers. Used by the ingest thread alone.

    Args:
        secret: what continuity tokens are made with (ca/folder.py).
    """

    def __init__(
        self, verifier: Verifier, signer: Signer, settings: Attestation, secret: bytes
    ) -> None:
        self._verifier = verifier
        self._db: sqlite3.Connection = verifier.db
        self._signer = signer
        self._settings = settings
        self._thread = ratchet.Thread(self._db, secret, verifier.tenant)
        verifier.on_evidence = LateEvidence(verifier, signer, self._sets, settings.required).take
        memory = MemoryChains(verifier)
        verifier.on_memory, verifier.on_memory_end = memory.take, memory.end
        verifier.on_new_key = memory.new_key
        self._loaded: Loaded | None = None
        self._loaded_at = 0
        self.released: dict[tuple[str, RecordClass], int] = {}
        """What the newest status of each gateway calls released (word.py)."""

    def take_status(self, message: Incoming, now_utc_s: float) -> tuple[Verdict, list[Outgoing]]:
        """Verify one s/status message."""
        device = ""
        try:
            topic = self._verifier.parse_topic(message.topic)
            device = topic.device
            status = self._status(topic, message, now_utc_s)
        except WireRefusal as refusal:
            return self._verifier.refuse(device, message, refusal, now_utc_s), []
        if not status.online:
            return Verdict(device, "offline", True), []
        return Verdict(device, "online", True), self.challenge_soon(device, now_utc_s)

    def take_evidence(self, message: Incoming, now_utc_s: float) -> tuple[Verdict, list[Outgoing]]:
        """Verify, appraise and answer one e/evidence message."""
        device = ""
        try:
            topic = self._verifier.parse_topic(message.topic)
            device = topic.device
            given = self._evidence(topic, message, now_utc_s)
            evidence = given.claims
            issued, asked = kept.consume_nonce(self._db, evidence.nonce, device, now_utc_s)
            appraisal.admit(evidence, issued, now_utc_s)
            assert issued is not None
            facts = self._facts(given, issued, asked, now_utc_s)
        except WireRefusal as refusal:
            return self._verifier.refuse(device, message, refusal, now_utc_s), []
        judged = judge(given, facts, self._sets(now_utc_s), self._settings.required)
        self._keep_tpm(device, judged, now_utc_s)
        verdict = judged.appraisal
        self._keep_heads(evidence, verdict, message.payload, now_utc_s)
        token = self._thread.take(evidence, verdict, now_utc_s)
        if verdict.facets["freshness"] is Tier.CONTRAINDICATED and not ratchet.is_bound(verdict):
            why = verdict.reasons.get("freshness", "")
            ratchet.suspect(self._db, device, ratchet.OLDER, why, now_utc_s)
        held = threads.quarantined(self._db, device)
        if held is not None:
            token, verdict = None, appraisal.in_quarantine(verdict, held.why)
            facts = replace(facts, quarantine=held.why)
        valid_s = RESULT_PERIODS * self._settings.period_s
        result = appraising.result(given, verdict, judged.policy_hash, now_utc_s, valid_s, token)
        data = self._seal(encode_result(result), ContentType.RESULT)
        number = kept.add_result(self._db, evidence, message.payload, result, data, now_utc_s)
        appraised.keep(self._db, number, device, encode_facts(facts))
        registry.seen(self._db, device, now_utc_s)
        out = Outgoing(str(replace(topic, name="result")), data)
        return Verdict(device, verdict.overall.label, True), [out]

    def challenge(self, device: str, now_utc_s: float) -> Outgoing:
        """Make, remember and sign one challenge."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        self.remember(device, nonce, now_utc_s, threads.step_of(self._db, device))
        return self.sign_challenge(device, nonce, now_utc_s)

    def remember(self, device: str, nonce: bytes, issued_utc_s: float, step: int) -> None:
        """Let evidence for this nonce in.

        Args:
            step: how far the gateway's thread of tokens had come when the nonce was made.
        """
        expires = issued_utc_s + self._settings.nonce_ttl_s
        kept.add_nonce(self._db, nonce, device, issued_utc_s, expires)
        threads.set_floor(self._db, device, nonce, step)

    def sign_challenge(self, device: str, nonce: bytes, now_utc_s: float) -> Outgoing:
        """The message of a challenge; nothing is remembered of it."""
        expires = now_utc_s + self._settings.nonce_ttl_s
        tenant = self._verifier.tenant
        whole = quotes.asked_whole(self._db, device)
        challenge = Challenge(tenant, device, nonce, int(now_utc_s), int(expires), whole)
        data = self._seal(encode_challenge(challenge), ContentType.NONCE)
        return Outgoing(str(Topic(tenant, device, "e", "nonce")), data)

    def challenge_soon(self, device: str, now_utc_s: float) -> list[Outgoing]:
        """Challenge unless that happened a moment ago."""
        known = registry.find(self._db, device)
        if known is None or known.revoked:
            return []
        if now_utc_s - kept.last_challenge(self._db, device) < HURRY_S:
            return []
        return [self.challenge(device, now_utc_s)]

    def challenge_due(self, now_utc_s: float) -> list[Outgoing]:
        """Challenge everybody on line whose time has come."""
        devices = kept.due(self._db, now_utc_s - self._settings.period_s)
        sent = [self.challenge(device, now_utc_s) for device in devices]
        for device in quotes.waiting(self._db):
            sent += self.challenge_soon(device, now_utc_s)
        return sent

    def _status(self, topic: Topic, message: Incoming, now_utc_s: float) -> Status:
        envelope = cose.open_envelope(message.payload, ContentType.STATUS, MAX_EVIDENCE_BYTES)
        identity = self._verifier.identity_of(envelope, topic, now_utc_s)
        status = decode_status(envelope.payload)
        _check_names(identity, status.tenant, status.device)
        numbers = (*status.acked.values(), *status.heads.values())
        if status.session_ns >= 2**63 or max(numbers, default=0) > MAX_SEQ:
            raise WireRefusal("bad_status", "a number is out of range")
        now = kept.current_session(self._db, topic.device)
        same = now is not None and (now.boot_id, now.session_ns) == (
            status.boot_id,
            status.session_ns,
        )
        if same and (message.retain or message.dup):
            return status
        if same and not status.online:  # the will of the very session
            kept.save_session(self._db, status, now_utc_s)
            return status
        self._check_newer(now, status)
        kept.save_session(self._db, status, now_utc_s)
        registry.seen(self._db, topic.device, now_utc_s)
        for record_class in RecordClass:
            chain = records.chain_of(self._db, topic.device, record_class)
            floor = status.acked.get(record_class, 0)
            self.released[topic.device, record_class] = floor
            begun = continuity.begin_session(chain, floor)
            records.save_chain(self._db, topic.device, record_class, begun)
        return status

    def _check_newer(self, now: kept.Session | None, status: Status) -> None:
        """A session starts once, and never behind what its gateway has signed since.

        Sequences go on across boots, so the heads in a status place it among introductions and
        other boots' statuses, in whatever order a broker hands them out.
        """
        if threads.is_open(self._db, status.device):
            return  # an operator's word: what stands in the way is the other history's
        heads = {c: status.heads.get(c, 0) for c in RecordClass}
        boot, known = status.boot_id, records.introductions(self._db, status.device)
        if any(i.boot_id != boot and i.seq > heads[i.record_class] for i in known):
            raise WireRefusal("stale_session", "a later boot has introduced its key")
        before = kept.session_of_boot(self._db, status.device, boot)
        if before is not None and status.session_ns <= before.session_ns:
            raise WireRefusal("stale_session", "a status of a session that is over")
        if now is None or now.boot_id == boot:
            return
        others = {c: now.heads.get(c, 0) for c in RecordClass}
        if any(heads[c] < others[c] for c in RecordClass):
            raise WireRefusal("stale_session", "its chains end before the present session's")
        if any(i.boot_id == boot and i.seq <= others[i.record_class] for i in known):
            raise WireRefusal("stale_session", "the present session began after this boot")
        if before is not None and heads == others:
            raise WireRefusal("stale_session", "a status of a boot that is over")

    def _evidence(self, topic: Topic, message: Incoming, now_utc_s: float) -> Given:
        envelope = cose.open_envelope(message.payload, ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
        envelope = self._completed(envelope, topic.device)
        identity = self._verifier.identity_of(envelope, topic, now_utc_s, revoked_too=True)
        given = appraising.open_given(envelope.payload, identity.public_key, message.payload)
        _check_names(identity, given.claims.tenant, given.claims.device)
        if given.tpm is not None and given.tpm.keys is not None:
            appraised.keep_issuing(self._db, topic.device, envelope.x5chain[1])
        return given

    def _completed(self, envelope: Envelope, device: str) -> Envelope:
        """Digest form leaves the issuing certificate out that the whole evidence carried."""
        if len(envelope.x5chain) != 1:
            return envelope
        issuing = appraised.issuing(self._db, device)
        if issuing is None:
            quotes.ask_whole(self._db, device)
            return envelope
        return replace(envelope, x5chain=(*envelope.x5chain, issuing))

    def _keep_heads(
        self, evidence: Evidence, judged: Appraisal, data: bytes, now_utc_s: float
    ) -> None:
        """Tell of what earlier evidence named in vain; remember what this one names."""
        device = evidence.device
        for record_class in RecordClass:
            gap = kept.withheld_by(self._db, device, record_class, now_utc_s)
            if gap is not None and kept.tell_once(self._db, device, record_class, gap):
                records.add_finding(
                    self._db, device, "withheld", Severity.HIGH,
                    f"{record_class.label} {gap.first} to {gap.last} were named by evidence and"
                    " did not come", now_utc_s, int(record_class), gap.last,
                )  # fmt: skip
        for record_class, (seq, digest) in evidence.heads.items():
            known = records.hash_at(self._db, device, record_class, seq) or records.claimed_at(
                self._db, device, record_class, seq
            )
            if known is not None and known != digest:
                records.add_fork(
                    self._db, device, f"evidence names another {record_class.label} {seq}",
                    now_utc_s, int(record_class), seq, data,
                )  # fmt: skip
                why = f"evidence names another {record_class.label} {seq}"
                ratchet.suspect(self._db, device, ratchet.FORK, why, now_utc_s)
        if judged.facets["freshness"] is not Tier.CONTRAINDICATED:
            due = now_utc_s + self._settings.nonce_ttl_s
            kept.add_claims(self._db, device, evidence.heads, due)

    def _facts(
        self, given: Given, issued: IssuedNonce, asked: kept.Asked, now_utc_s: float
    ) -> Facts:
        """What the store knows of the device at this moment."""
        evidence, device = given.claims, given.claims.device
        registered = registry.find(self._db, device)
        if registered is None:
            raise WireRefusal("unregistered", "the device is not in the registry")
        ak_public = registry.ak_public(self._db, device)
        return Facts(
            grade=registered.grade,
            revoked=registered.revoked,
            key_boot=kept.key_boot(self._db, device, evidence.report_key),
            asked_utc_s=asked.at_utc_s,
            expires_utc_s=issued.expires_utc_s,
            received_utc_s=now_utc_s,
            heads=asked.heads,
            hashes={
                c: records.hash_at(self._db, device, c, seq)
                for c, (seq, _) in evidence.heads.items()
            },
            withheld={
                c: (gap.first, gap.last)
                for c in RecordClass
                if (gap := kept.withheld_by(self._db, device, c, now_utc_s)) is not None
            },
            enrolled=None if ak_public is None else quotes.enrolled(self._db, device, ak_public),
            detached=submodules.statements(self._db, device, evidence.submods),
        )

    def _keep_tpm(self, device: str, judged: Judged, now_utc_s: float) -> None:
        """A quote that holds is remembered; what it did not say is asked for."""
        if judged.whole_wanted:
            quotes.ask_whole(self._db, device)
        if judged.vouched is not None:
            quotes.remember(self._db, device, judged.vouched, now_utc_s)

    def _sets(self, now_utc_s: float) -> reference_sets.Sets:
        """The sets that hold, read anew when one was added."""
        newest = references.newest(self._db)
        if self._loaded is None or self._loaded_at != newest:
            messages = [s.data for s in references.every(self._db)]
            self._loaded_at = newest
            self._loaded = load(messages, self._signer.public_key(), self._verifier.tenant)
            for set_id, why in self._loaded.bad.items():
                records.add_finding(
                    self._db, "", "bad_reference", Severity.HIGH,
                    f"reference set {set_id.hex()[:16]} does not count: {why}"[:200], now_utc_s,
                )  # fmt: skip
        return self._loaded.sets

    def _seal(self, payload: bytes, kind: ContentType) -> bytes:
        return cose.seal(payload, kind, self._signer.kid, self._signer.sign)


def _check_names(identity: Identity, tenant: str, device: str) -> None:
    if (identity.tenant, identity.device) != (tenant, device):
        raise WireRefusal("wrong_topic", "the message names another gateway than its certificate")
