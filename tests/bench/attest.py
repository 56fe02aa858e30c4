"""What attestation costs: an appraisal on the verifier, evidence on a board with a TPM.

    attest.appraise     from bytes to a verdict at G2, whole evidence of a gateway not seen before:
                        envelope, chain, signatures, quote, certification, facets
    attest.rate         the same per second on one core, digest form of gateways that are known
    attest.evidence     the attester at G2 with swtpm behind tpm2-abrmd: measured, quoted, signed
    attest.bytes        evidence at G2 in digest form, three chains, a chain of two certificates

Neither keeps anything: what the store costs is `fleet.verify-single`'s. The peer is the bare
arithmetic: four ECDSA verifications; or what the same TPM takes for the two commands without which
there is no evidence, a quote and a signature, each alone.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.appraise import quotes
from edgewarden.appraise.quotes import Enrolled
from edgewarden.appraise.references import Sets
from edgewarden.ports import Quoter, Signer
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import MAX_EVIDENCE_BYTES, encode_evidence
from edgewarden.wire.quoted import encode_payload, qualifying, shortened, whole
from edgewarden.wire.record import RecordClass
from edgewarden.wire.topics import Topic
from edgewarden.wire.tpm_quote import QUOTE_PCRS
from edgewarden_fleet.ca.settings import DEFAULT_REQUIRED
from edgewarden_fleet.verify import appraising
from edgewarden_fleet.verify.appraising import Facts
from edgewarden_fleet.verify.pipeline import Verifier
from tests.bench.place import CannotMeasure, Place
from tests.bench.rows import HIGHER, Figure, Spec, middle
from tests.fleet.makers import NOW, TENANT, Board, Desk

RUNS = 5
APPRAISALS = 400
EVIDENCES = 40
VERIFICATIONS = 4
"""Of whole evidence: the leaf, the message, the quote, the certification."""

SPECS = (
    Spec("attest.appraise", "an appraisal of whole evidence at G2, bytes to verdict", "ms", 1.0),
    Spec("attest.rate", "appraisals of digest form at G2 a second and core", "1/s", 2000, HIGHER),
    Spec("attest.evidence", "evidence made at G2 with swtpm and a resource manager", "ms", 5.0),
    Spec("attest.bytes", "evidence at G2 in digest form", "bytes", 2048),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file; the gateway's first, in a process that holds no fleet yet."""
    failed: CannotMeasure | None = None
    try:
        yield from _evidence(place.folder)
    except CannotMeasure as fault:
        failed = fault
    desk = Desk(place.folder, durable=False)
    try:
        yield from _appraisals(desk)
    finally:
        desk.close()
    if failed is not None:
        raise failed


def _appraisals(desk: Desk) -> Iterator[Figure]:
    board = Board(desk, tpm=True)
    assert board.tpm is not None
    board.heads = {c: (1000, bytes(32)) for c in RecordClass}
    claims = encode_evidence(board.claims(bytes(32)))
    word = whole(board.tpm.quote(qualifying(bytes(32), claims)))
    full = board.seal_evidence(encode_payload(claims, word))
    issuing = board.x5chain[1]
    board.x5chain = board.x5chain[:1]
    short = board.seal_evidence(encode_payload(claims, shortened(word, word)))
    enrolled = Enrolled(board.tpm.ak_public, word.keys, word.pcrs)
    facts = Facts("G2", False, board.boot_id, NOW - 1, NOW + 60, NOW, enrolled=enrolled)
    sets: Sets = {}

    topic = Topic(TENANT, board.device, "e", "evidence")

    def once(message: bytes, verifier: Verifier) -> None:
        envelope = cose.open_envelope(message, ContentType.EVIDENCE, MAX_EVIDENCE_BYTES)
        if len(envelope.x5chain) == 1:
            envelope = replace(envelope, x5chain=(*envelope.x5chain, issuing))
        identity = verifier.identity_of(envelope, topic, NOW)
        given = appraising.open_given(envelope.payload, identity.public_key, message)
        if appraising.judge(given, facts, sets, DEFAULT_REQUIRED).vouched is None:
            raise CannotMeasure("the quote did not hold")

    def first(message: bytes) -> None:
        quotes._certified.cache_clear()  # a gateway not seen before; its issuer was
        once(message, Verifier(desk.db, [desk.root.certificate], TENANT))

    def known(message: bytes) -> None:
        once(message, desk.verifier)

    bare = _bare_ms()
    against = f"{VERIFICATIONS} bare ECDSA verifications {VERIFICATIONS * bare:.2f} ms"
    single = middle(_each_ms(first, full, APPRAISALS) for _ in range(RUNS))
    yield Figure("attest.appraise", single, against, RUNS, f"{len(full)} bytes")
    rate = middle(_per_core_s(known, short) for _ in range(RUNS))
    yield Figure("attest.rate", rate, against, RUNS, f"{len(short)} bytes")
    yield Figure("attest.bytes", float(len(short)), "2 kB of the issue", 1)


def _each_ms(work: Callable[[bytes], object], message: bytes, times: int = EVIDENCES) -> float:
    """The median of many, by the wall clock."""

    def once() -> float:
        began = time.perf_counter()
        work(message)
        return (time.perf_counter() - began) * 1000

    return middle(once() for _ in range(times))


def _per_core_s(work: Callable[[bytes], None], message: bytes) -> float:
    """How many a core does in a second of its own time: others on the machine do not count."""
    began = time.thread_time()
    for _ in range(APPRAISALS):
        work(message)
    return APPRAISALS / (time.thread_time() - began)


def _bare_ms() -> float:
    key, algorithm = ec.generate_private_key(ec.SECP256R1()), ec.ECDSA(hashes.SHA256())
    signature, public = key.sign(b"x" * 1000, algorithm), key.public_key()
    began = time.perf_counter()
    for _ in range(APPRAISALS):
        public.verify(signature, b"x" * 1000, algorithm)
    return (time.perf_counter() - began) * 1000 / APPRAISALS


def _evidence(folder: Path) -> Iterator[Figure]:
    try:
        import tpm2_pytss  # noqa: F401

        from edgewarden.kernel.tpm import Tpm
        from edgewarden.trust.tpmkey import TpmKey
        from hw.rigs.tpm import Bus, SoftTpm
    except ImportError as fault:
        raise CannotMeasure(f"no TPM binding here: {fault}") from fault
    with Bus(folder / "bus") as bus:
        os.environ.update(bus.environment)
        with SoftTpm(folder / "tpm", bus) as soft, Tpm(soft.tcti) as tpm:
            key = TpmKey.generate(tpm)
            made, alone = [], []
            for _ in range(RUNS):  # by turns: what else the machine does falls on both
                made.append(_made_ms(folder, key, key.quoter()))
                quote = _each_ms(lambda data: tpm.quote_alone(data, QUOTE_PCRS), bytes(32))
                alone.append((quote, _each_ms(key.sign, bytes(32))))
    quote, sign = (middle(one[i] for one in alone) for i in range(2))
    yield Figure(
        "attest.evidence", middle(made),
        f"the same TPM: a quote alone {quote:.2f}, a signature alone {sign:.2f} ms", RUNS,
        "after the first, which hashes every file",
    )  # fmt: skip


def _made_ms(folder: Path, key: Signer, quoter: Quoter) -> float:
    from tests.daemon.test_attester import Rig

    rig = Rig(folder)
    rig.attester._signer, rig.attester._quoter = key, quoter

    async def made() -> float:
        await rig.attester.make(bytes(32))
        spent_ms: list[float] = []
        for _ in range(EVIDENCES):
            began = time.perf_counter()
            await rig.attester.make(bytes(32))
            spent_ms.append((time.perf_counter() - began) * 1000)
        return middle(spent_ms)

    return asyncio.run(made())
