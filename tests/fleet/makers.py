"""A fleet without sockets and a gateway without a board: real keys, real certificates, real bytes.

``Desk`` is CA, store, verifier and appraiser of one tenant. ``Board`` signs what a gateway signs,
in order, and hands out the exact messages; a test sends them as they are, in another order, twice,
altered or not at all.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import (
    Challenge,
    Evidence,
    Status,
    decode_challenge,
    encode_evidence,
    encode_status,
)
from edgewarden.wire.facts import OCSF, Event, Reading, Severity, event_to_map, readings_to_senml
from edgewarden.wire.manifest import manifest_digest
from edgewarden.wire.quoted import encode_payload, qualifying, whole
from edgewarden.wire.record import (
    NO_PREDECESSOR,
    Kind,
    Record,
    RecordClass,
    RecordTime,
    encode_record,
    record_hash,
)
from edgewarden.wire.references import ReferenceSet, set_id
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.settings import DEFAULT_REQUIRED, Attestation
from edgewarden_fleet.ingest.access_list import AccessList
from edgewarden_fleet.ingest.admission import Admission
from edgewarden_fleet.store import gaps, references, registry
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify.attest import Appraiser, Outgoing
from edgewarden_fleet.verify.pipeline import Incoming, Verdict, Verifier
from edgewarden_fleet.verify.references import sign
from tests.fakes.tpm import SoftTpm

NOW = 1_900_000_000.0
"""When these tests happen, in seconds since 1970."""
TENANT = "main"
CODE = manifest_digest([("edgewarden/__init__.py", bytes(32))])
VERSION = "0.1.0"
SECRET = b"TEST-ONLY continuity secret 32 b"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def unconnected(folder: Path) -> Admission:
    """What keeps a broker's list, without a broker: it never asks."""
    return Admission(TENANT, AccessList(folder, TENANT, ()))


def authority(now: float = NOW) -> tuple[Authority, Authority]:
    """Root and issuing CA."""
    root_key, issuing_key = new_key(), new_key()
    root = Authority(certificates.make_root(root_key, TENANT, now), root_key)
    return root, Authority(certificates.make_issuing(root, issuing_key, TENANT, now), issuing_key)


class Desk:
    """The operator's side in one process, with a clock that a test moves.

    Args:
        durable: wait for the disk as the real one does; tests that make thousands do not.
    """

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        self.now = NOW
        self.root, self.issuing = authority()
        self.db = open_store(folder / "fleet.db")
        if not durable:
            self.db.execute("PRAGMA synchronous = OFF")
        self.verifier_key = FileSigner.generate()
        self.settings = Attestation(300, 120, DEFAULT_REQUIRED)
        self.verifier = Verifier(self.db, [self.root.certificate], TENANT)
        self.appraiser = Appraiser(self.verifier, self.verifier_key, self.settings, SECRET)

    def close(self) -> None:
        self.db.close()

    def enrol(
        self, device: str, key: ec.EllipticCurvePrivateKey, days: float = 30,
        leaf: x509.Certificate | None = None,
    ) -> list[bytes]:  # fmt: skip
        """Register a device, by default with a certificate of our own making; its x5chain."""
        secret, board = os.urandom(32), registry.board_of(self.db, device)
        leaf = leaf or certificates.make_gateway(
            self.issuing, key.public_key(), TENANT, device, self.now, days, board
        )
        issued = registry.Issued(
            certificates.serial_hex(leaf),
            certificates.pem(leaf),
            leaf.not_valid_after_utc.timestamp(),
        )
        registry.add_token(self.db, secret, device, self.now, 60)
        public = FileSigner(key).public_key()
        registry.redeem(self.db, secret, device, TENANT, public, issued, self.now, board=board)
        return [certificates.der(leaf), certificates.der(self.issuing.certificate)]

    def enrol_tpm(self, device: str, ak_public: bytes) -> None:
        """Bind a device to a TPM, as activation does."""
        with transaction(self.db):
            self.db.execute("INSERT INTO enrolled_tpm VALUES (?, ?, ?)", (device, ak_public, NOW))
            self.db.execute("UPDATE device SET grade = 'G2' WHERE device = ?", (device,))

    def take(self, topic: str, data: bytes, *, dup: bool = False, retain: bool = False) -> Verdict:
        """One message through the verifier, as the ingest worker would."""
        message = Incoming(topic, data, dup, retain)
        with transaction(self.db):
            if topic.endswith("/status"):
                return self.appraiser.take_status(message, self.now)[0]
            if topic.endswith("/evidence"):
                return self.appraiser.take_evidence(message, self.now)[0]
            return self.verifier.take(message, self.now)

    def record(self, made: Made, *, dup: bool = False) -> Verdict:
        return self.take(made.topic, made.data, dup=dup)

    def connect(self, board: Board, acked: dict[RecordClass, int]) -> list[Outgoing]:
        """A verified status of a new session; the challenge it earns."""
        data = board.status(acked)
        with transaction(self.db):
            verdict, out = self.appraiser.take_status(
                Incoming(board.topic("s", "status"), data), self.now
            )
        assert verdict.outcome == "online", verdict
        return out

    def challenge(self, device: str) -> Challenge:
        with transaction(self.db):
            out = self.appraiser.challenge(device, self.now)
        envelope = cose.open_envelope(out.payload, ContentType.NONCE)
        return decode_challenge(envelope.payload)

    def reference(
        self, kind: str, digest: bytes, device: str = "", signer: FileSigner | None = None,
        **changes: object,
    ) -> bytes:  # fmt: skip
        """A signed set of one value, in force for ever unless told otherwise; its id."""
        version = VERSION if kind == "code" else ""
        plain = ReferenceSet(
            TENANT, "test", version, device, int(self.now), 0, None, None, "", "", {kind: (digest,)}
        )
        message = sign(replace(plain, **changes), signer or self.verifier_key)  # type: ignore[arg-type]
        with transaction(self.db):
            references.add(self.db, message, {}, self.now)
        return set_id(message)

    def refused(self, device: str = "gw-demo") -> dict[str, int]:
        rows = self.db.execute(
            "SELECT reason, sum(count) FROM refusal_count WHERE device = ? GROUP BY reason",
            (device,),
        )
        return dict(rows.fetchall())

    def stored(self, device: str, record_class: RecordClass) -> list[int]:
        rows = self.db.execute(
            "SELECT seq FROM record WHERE device = ? AND class = ? ORDER BY seq",
            (device, int(record_class)),
        )
        return [row[0] for row in rows]

    def gaps(self, device: str, record_class: RecordClass) -> list[tuple[int, int]]:
        return [(g.first, g.last) for g in gaps.unexplained(self.db, device, record_class)]


@dataclass(frozen=True)
class Made:
    """One record message."""

    topic: str
    data: bytes
    seq: int


class Board:
    """What a gateway signs, one start after the other.

    Args:
        tpm: its TLS key lives in a TPM, enrolled at grade G2.
    """

    def __init__(
        self, desk: Desk, device: str = "gw-demo", days: float = 30, *, tpm: bool = False
    ) -> None:
        self.device = device
        self.key = new_key()
        self.tpm = SoftTpm(self.key) if tpm else None
        self.identity = FileSigner(self.key)
        self.x5chain = desk.enrol(device, self.key, days)
        if self.tpm is not None:
            desk.enrol_tpm(device, self.tpm.ak_public)
        self.clear()

    def clear(self) -> None:
        """A board with an empty spool."""
        nothing = (0, NO_PREDECESSOR)
        self.heads: dict[RecordClass, tuple[int, bytes]] = dict.fromkeys(RecordClass, nothing)
        self.boot_ns = 5_000_000_000
        self.start()

    def start(self, *, reboot: bool = True) -> None:
        """A new start of link: a new report key; a new boot id unless told otherwise."""
        self.report = FileSigner.generate()
        if reboot:
            self.boot_id = os.urandom(16)

    def topic(self, group: str, name: str) -> str:
        return f"ew/1/{TENANT}/{self.device}/{group}/{name}"

    def build(self, c: RecordClass, kind: str, body: dict[str, object]) -> Record:
        """The next record of a class, not yet signed."""
        seq, prev = self.heads[c]
        self.boot_ns += 1_000_000_000
        time = RecordTime(self.boot_ns, int(NOW * 1e9), 20, "ntp")
        return Record(self.device, self.boot_id, c, seq + 1, prev, time, kind, body)

    def sign(
        self,
        record: Record,
        signer: FileSigner | None = None,
        x5chain: list[bytes] | None = None,
        *,
        advance: bool = True,
    ) -> Made:
        """Sign with any key and chain; by default what an honest gateway would use."""
        introduces = record.kind == Kind.REPORT_KEY
        signer = signer or (self.identity if introduces else self.report)
        chain = x5chain if x5chain is not None else (self.x5chain if introduces else [])
        data = cose.seal(encode_record(record), ContentType.RECORD, signer.kid, signer.sign, chain)
        if advance:
            self.heads[record.record_class] = (record.seq, record_hash(data))
        return Made(self.topic("r", record.record_class.label), data, record.seq)

    def introduce(self, c: RecordClass) -> Made:
        body: dict[str, object] = {"key": self.report.public_key(), "agent": VERSION, "acked": 0}
        return self.sign(self.build(c, Kind.REPORT_KEY, body))

    def event(self, c: RecordClass = RecordClass.AUDIT, **detail: object) -> Made:
        event = Event(
            OCSF.PROCESS_ACTIVITY, 1, Severity.INFORMATIONAL, self.boot_ns, detail or {"n": 1}
        )
        return self.sign(self.build(c, Kind.EVENT, dict(event_to_map(event))))

    def denied(self, digest: bytes, path: str = "/mnt/x/evil") -> Made:
        detail: dict[str, object] = {
            "action": "denied", "tier": "T2", "mode": "enforce", "rule": "default",
            "file": {"path": path, "sha256": digest}, "process": {"pid": 7, "uid": 0},
        }  # fmt: skip
        event = Event(OCSF.PROCESS_ACTIVITY, 1, Severity.HIGH, self.boot_ns, detail)
        return self.sign(self.build(RecordClass.ALARM, Kind.EVENT, dict(event_to_map(event))))

    def batch(self, *readings: Reading, counts: dict[str, int] | None = None) -> Made:
        body: dict[str, object] = {
            "readings": readings_to_senml(readings, self.boot_ns + 1_000_000_000),
            "events": [],
            "counts": counts or {},
        }
        return self.sign(self.build(RecordClass.BULK, Kind.BATCH, body))

    def gap(self, c: RecordClass, first: int, last: int, before: bytes, after: bytes) -> Made:
        body: dict[str, object] = {
            "class": int(c), "first": first, "last": last, "before": before, "after": after,
            "reason": "spool full",
        }  # fmt: skip
        return self.sign(self.build(RecordClass.AUDIT, Kind.GAP, body))

    def status(
        self, acked: dict[RecordClass, int], *, online: bool = True, **changes: object
    ) -> bytes:
        """A new session's status (or its will)."""
        if online:
            self.boot_ns += 1
        heads = {c: seq for c, (seq, _) in self.heads.items()}
        status = Status(TENANT, self.device, self.boot_id, self.boot_ns, online, heads, acked)
        status = replace(status, **changes)  # type: ignore[arg-type]
        return cose.seal(
            encode_status(status), ContentType.STATUS, self.identity.kid, self.identity.sign,
            self.x5chain,
        )  # fmt: skip

    def claims(self, nonce: bytes, **changes: object) -> Evidence:
        evidence = Evidence(
            tenant=TENANT,
            device=self.device,
            nonce=nonce,
            issued_utc_s=int(NOW),
            uptime_s=100,
            boot_id=self.boot_id,
            version=VERSION,
            report_key=self.report.public_key(),
            grade="G0" if self.tpm is None else "G2",
            measurements={"code": CODE, "settings": hashlib.sha256(b"settings").digest()},
            bytecode="match",
            heads={c: head for c, head in self.heads.items() if head[0]},
            exec_tier="T2",
            exec_mode="enforce",
            clock_state="ntp",
            uncertainty_ms=20,
            boot={"secure_boot": "absent", "ima": "absent"},
        )
        return replace(evidence, **changes)  # type: ignore[arg-type]

    def evidence(self, nonce: bytes, **changes: object) -> bytes:
        claims = encode_evidence(self.claims(nonce, **changes))
        word = None if self.tpm is None else whole(self.tpm.quote(qualifying(nonce, claims)))
        return self.seal_evidence(encode_payload(claims, word))

    def seal_evidence(self, payload: bytes) -> bytes:
        return cose.seal(
            payload, ContentType.EVIDENCE, self.identity.kid, self.identity.sign, self.x5chain
        )
