"""One good message of every kind, and the keys to sign them; tests change one thing at a time.

The keys are fixed and published: TEST-ONLY, worth nothing.
"""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cbor, cose
from edgewarden.wire.acknowledgement import Acknowledgement, InMemory, Run, Upto
from edgewarden.wire.evidence import (
    Challenge,
    Evidence,
    Result,
    Status,
    Tier,
    encode_evidence,
)
from edgewarden.wire.facts import (
    OCSF,
    Event,
    Quality,
    Reading,
    Severity,
    event_to_map,
    readings_to_senml,
)
from edgewarden.wire.ratchet import Issued, Spent
from edgewarden.wire.record import NO_PREDECESSOR, Kind, Record, RecordClass, RecordTime
from edgewarden.wire.references import ReferenceSet

BOOT_ID = bytes(range(16))
NONCE = bytes(range(32))
BOOT_NS, WALL_NS = 90_000_000_000, 1_767_225_600_000_000_000


def key(name: str) -> FileSigner:
    """The TEST-ONLY key of that name: its scalar is SHA-256 of a fixed sentence."""
    scalar = hashlib.sha256(f"edgewarden TEST-ONLY key: {name}".encode()).digest()
    return FileSigner(ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1()))


IDENTITY, REPORT, VERIFIER, STRANGER = map(key, ("identity", "report", "verifier", "stranger"))
TIME = RecordTime(BOOT_NS, WALL_NS, 40, "ntp")

EVENT = Event(
    OCSF.PROCESS_ACTIVITY, 1, Severity.LOW, BOOT_NS - 1_000_000,
    {"process": {"pid": 7, "file": {"path": "/usr/bin/true"}}}, code="EW-EXEC-003",
)  # fmt: skip
READINGS = (
    Reading("gps", "lat", "lat", 48.1173, BOOT_NS - 2_000_000_000),
    Reading("gps", "fix", "", True, BOOT_NS - 2_000_000_000),
    Reading("boiler", "state", "", "heating", BOOT_NS - 1_500_000_000),
    Reading("boiler", "rpm", "", 40000.0, BOOT_NS),
    Reading("boiler", "flow", "m3/s", 0.25, BOOT_NS, Quality.SUSPECT),
    Reading("boiler", "temperature", "Cel", 25.0, BOOT_NS, Quality.SUBSTITUTED, 400.5),
)
BATCH = {
    "readings": readings_to_senml(READINGS, BOOT_NS),
    "events": [event_to_map(EVENT)],
    "counts": {"proc.launch": 3},
}


def record(**changed: object) -> Record:
    """A record of the audit class, the first of its chain."""
    fields: dict[str, object] = {
        "device": "gw-test", "boot_id": BOOT_ID, "record_class": RecordClass.AUDIT, "seq": 1,
        "prev": NO_PREDECESSOR, "time": TIME, "kind": Kind.EVENT, "body": event_to_map(EVENT),
    }  # fmt: skip
    return Record(**{**fields, **changed})  # type: ignore[arg-type]


CHALLENGE = Challenge("main", "gw-test", NONCE, 1_767_225_600, 1_767_225_660)
EVIDENCE = Evidence(
    tenant="main",
    device="gw-test",
    nonce=NONCE,
    issued_utc_s=1_767_225_601,
    uptime_s=90,
    boot_id=BOOT_ID,
    version="0.1.0",
    report_key=REPORT.public_key(),
    grade="G0",
    measurements={
        "code": hashlib.sha256(b"code").digest(),
        "interpreter": hashlib.sha256(b"interpreter").digest(),
        "settings": hashlib.sha256(b"settings").digest(),
        "policy": b"",
        "cmdline": hashlib.sha256(b"cmdline").digest(),
        "programs": hashlib.sha256(b"programs").digest(),
        "ima": b"",
        "ima_pcr": b"",
    },
    bytecode="match",
    heads={RecordClass.ALARM: (1, bytes(range(32))), RecordClass.BULK: (7, bytes(range(1, 33)))},
    exec_tier="T1",
    exec_mode="learn",
    clock_state="ntp",
    uncertainty_ms=40,
    boot={"secure_boot": "absent", "ima": "absent"},
    spent=Spent(7, bytes(range(64, 96)), bytes(range(16))),
)
CLAIMS = encode_evidence(EVIDENCE)
RESULT = Result(
    tenant="main",
    device="gw-test",
    nonce=NONCE,
    issued_utc_s=1_767_225_602,
    expires_utc_s=1_767_226_202,
    grade="G0",
    overall=Tier.WARNING,
    facets={"identity": Tier.AFFIRMING, "policy": Tier.WARNING},
    reasons={"policy": "no policy file"},
    policy_hash=hashlib.sha256(b"appraisal policy").digest(),
    policy_id="edgewarden-appraisal-2",
    evidence=hashlib.sha256(b"evidence").digest(),
    token=Issued(8, bytes(range(96, 128))),
)
REFERENCES = ReferenceSet(
    tenant="main",
    release="spring",
    version="0.1.0",
    device="",
    issued_utc_s=1_767_225_600,
    not_before_utc_s=1_767_225_600,
    not_after_utc_s=1_767_825_600,
    retired_utc_s=None,
    least_version="0.0.9",
    root_of_trust="",
    values={"code": (hashlib.sha256(b"code").digest(),), "settings": (bytes(32), bytes(32))},
)
ACKNOWLEDGEMENT = Acknowledgement(
    "main",
    "gw-test",
    {RecordClass.AUDIT: Upto(12, bytes(32), 12), RecordClass.BULK: Upto(4, bytes(range(32)), 9)},
)
ACKNOWLEDGEMENT_IN_MEMORY = Acknowledgement(
    "main",
    "gw-test",
    {RecordClass.AUDIT: Upto(12, bytes(32), 12)},
    InMemory(bytes(range(8)), (Run(1, 4, bytes(32)), Run(7, 7, bytes(range(32))))),
)

STATUS = Status(
    tenant="main",
    device="gw-test",
    boot_id=BOOT_ID,
    session_ns=BOOT_NS,
    online=True,
    heads={RecordClass.ALARM: 1, RecordClass.AUDIT: 2, RecordClass.BULK: 7},
    acked={RecordClass.ALARM: 1, RecordClass.AUDIT: 0, RecordClass.BULK: 5},
)


def sealed(
    payload: bytes,
    kind: cose.ContentType = cose.ContentType.RECORD,
    signer: FileSigner = REPORT,
    x5chain: tuple[bytes, ...] = (),
) -> bytes:
    """A message as the gateway would send it."""
    return cose.seal(payload, kind, signer.kid, signer.sign, x5chain)


def assembled(
    protected: object = None,
    unprotected: object = None,
    payload: object = b"\xa0",
    signature: object = bytes(64),
    more: tuple[object, ...] = (),
) -> bytes:
    """A message put together by hand: every part may be wrong; the signature is not made."""
    if protected is None:
        protected = header()
    body = [protected, {} if unprotected is None else unprotected, payload, signature, *more]
    return b"\xd2" + cbor.encode(body)  # type: ignore[arg-type]


def header(changed: dict[int | str, object] | None = None, without: tuple[int, ...] = ()) -> bytes:
    """A protected header with labels changed, added or left out."""
    labels: dict[int | str, object] = {
        1: cose.ES256, 3: str(cose.ContentType.RECORD), 4: REPORT.kid
    }  # fmt: skip
    labels.update(changed or {})
    for label in without:
        del labels[label]
    return cbor.encode(labels)  # type: ignore[arg-type]
