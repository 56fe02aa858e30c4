"""A stranger's verifier believes what mosquitto_sub prints of ours, and nothing that was altered.

The records come from the journal and the fleet's CA, through a real Mosquitto. The verifier
(stranger/verify.py) was written from docs/wire-format.md; it runs in an interpreter that has
pycose and has no edgewarden.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.memory import MemoryChain
from edgewarden.record.spool import DiskSpool
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cbor, cose, evidence, quoted
from edgewarden.wire.record import MEMORY, Kind, RecordClass, encode_record, record_hash
from edgewarden.wire.topics import record_topic
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.certificates import Authority
from tests.broker import HOST, Broker, Pki
from tests.fakes.clock import FakeClock
from tests.features import skip_missing
from tests.vectors import make
from tests.vectors.fixed import ORDER
from tests.wire import samples

ROOT = Path(__file__).resolve().parents[2]
VERIFY = ROOT / "tests" / "system" / "stranger" / "verify.py"
DEVICE = "gw-test"
Line = tuple[str, bytes]

pytestmark = pytest.mark.needs("mosquitto", "mosquitto_sub")


@dataclass(frozen=True)
class World:
    """What the stranger is given: lines of mosquitto_sub and the CA certificate.

    Attributes:
        first_key: the report key of the gateway's first start, as a thief would have it.
        who: the identity key, for starts that a test makes itself.
    """

    lines: list[Line]
    ca: Path
    python: str
    first_key: FileSigner
    who: Introduction


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter that has pycose and has no edgewarden."""
    probe = (
        "import cbor2, cryptography, pycose, importlib.util\n"
        "assert importlib.util.find_spec('edgewarden') is None"
    )
    for found in (ROOT / ".venv-peers" / "bin" / "python", Path(sys.executable)):
        if found.exists():
            done = subprocess.run([found, "-I", "-c", probe], capture_output=True, check=False)
            if done.returncode == 0:
                return str(found)
    skip_missing("pycose")


def published(
    folder: Path, identity: FileSigner, x5chain: tuple[bytes, ...], first_key: FileSigner
) -> list[Line]:
    """What a gateway would publish after its start: two starts, so that keys change once."""
    clock = FakeClock(wall_ns=1_767_225_600 * 10**9, uncertainty_ms=40, state="ntp")
    spool = DiskSpool(folder, cap_bytes=8 << 20)
    messages: list[Line] = []
    try:
        for report_key in (first_key, FileSigner.generate()):
            journal = Journal(spool, DEVICE, clock, report_key)
            journal.introduce(Introduction(identity, x5chain, "0.1.0"))
            for _ in range(3):
                clock.advance(1)
                journal.event(RecordClass.ALARM, samples.EVENT)
                journal.batch(samples.READINGS, [samples.EVENT], {"proc.launch": 3})
            journal.attestation(bytes(32), journal.heads())
            who = Introduction(identity, x5chain, "0.1.0")
            messages += in_memory(journal, MemoryChain(DEVICE, clock, report_key, who))
        for record_class in RecordClass:
            topic = record_topic("main", DEVICE, record_class)
            rows = spool.peek(record_class, 0, 1000, 1 << 30)
            messages += [(topic, row.data) for row in rows]
    finally:
        spool.close()
    for kind, place, payload in (
        (cose.ContentType.STATUS, "s/status", evidence.encode_status(samples.STATUS)),
        (cose.ContentType.EVIDENCE, "e/evidence", quoted.encode_payload(samples.CLAIMS, None)),
    ):
        data = cose.seal(payload, kind, identity.kid, identity.sign, x5chain)
        messages.append((f"ew/1/main/{DEVICE}/{place}", data))
    return messages


def in_memory(journal: Journal, chain: MemoryChain) -> list[Line]:
    """What that gateway signs while its disk takes nothing; the last one goes to the disk."""
    chain.behind = journal.heads()[RecordClass.AUDIT][0]
    for _ in range(3):
        chain.event(RecordClass.ALARM, samples.EVENT)
    chain.batch(samples.READINGS, [samples.EVENT], {})
    sent = [row.data for row in chain.rest()]
    end = chain.head, chain.digest
    journal.end_of_memory(chain.kid, end, sent[-1:], more=False)
    topic = record_topic("main", DEVICE, MEMORY)
    return [(topic, data) for data in sent[:-1]]


def through_mosquitto(folder: Path, messages: list[Line]) -> list[Line]:
    """Publish everything and return what mosquitto_sub prints."""
    pki = Pki(folder / "pki")

    def client(program: str, name: str, *more: str) -> subprocess.CompletedProcess[str]:
        cert, key = pki.issue(name)
        tls = ["--cafile", str(pki.ca), "--cert", str(cert), "--key", str(key)]
        where = ["-h", HOST, "-p", str(broker.port), "-V", "mqttv5", "-q", "1", "-i", name]
        return subprocess.run([program, *where, *tls, *more], check=True, capture_output=True,
                              text=True, timeout=120)  # fmt: skip

    with Broker(folder / "broker", pki) as broker:
        listen = ["-c", "-x", "600", "-t", "ew/1/#", "-F", "%t %x"]
        client("mosquitto_sub", "fleet", *listen, "-E")
        for number, (topic, data) in enumerate(messages):
            file = folder / f"{number}.cose"
            file.write_bytes(data)
            client("mosquitto_pub", DEVICE, "-t", topic, "-f", str(file))
        count = ["-C", str(len(messages)), "-W", "60"]
        printed = client("mosquitto_sub", "fleet", *listen, *count).stdout
    lines = [line.split(" ") for line in printed.splitlines()]
    return [(topic, bytes.fromhex(digits)) for topic, digits in lines]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, python: str) -> World:
    folder = tmp_path_factory.mktemp("stranger")
    now = time.time()
    root_key, issuing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = Authority(certificates.make_root(root_key, "main", now), root_key)
    between = certificates.make_issuing(root, issuing_key, "main", now)
    identity = FileSigner.generate()
    leaf = certificates.make_gateway(
        Authority(between, issuing_key), identity.private_key().public_key(), "main", DEVICE, now
    )
    ca = folder / "ca.pem"
    ca.write_text(certificates.pem(root.certificate))
    chain = (certificates.der(leaf), certificates.der(between))
    first_key = FileSigner.generate()
    messages = published(folder / "spool", identity, chain, first_key)
    who = Introduction(identity, chain, "0.1.0")
    return World(through_mosquitto(folder, messages), ca, python, first_key, who)


def verdicts(world: World, lines: list[Line], ca: Path | None = None) -> list[str]:
    """One line of the stranger's verifier for each message."""
    done = subprocess.run(
        [world.python, "-I", str(VERIFY), str(ca or world.ca)],
        input="".join(f"{topic} {data.hex()}\n" for topic, data in lines),
        capture_output=True, text=True, check=False, timeout=300, cwd="/",
    )  # fmt: skip
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert len(said) == len(lines)
    assert done.returncode == (1 if any(line.startswith("refused") for line in said) else 0)
    return said


def records(world: World, label: str) -> list[Line]:
    return [line for line in world.lines if line[0].endswith(f"/r/{label}")]


def test_ours_are_accepted(world: World) -> None:
    said = verdicts(world, world.lines)
    assert [line for line in said if not line.startswith("accepted")] == []
    for label, kind in (("alarm", "event"), ("bulk", "batch")):
        shown = [line.split(f" {label} ")[1] for line in said if f" {label} " in line]
        assert shown == [f"{n + 1} {'report-key' if n in (0, 4) else kind} next" for n in range(8)]
    assert sum(line.endswith((" status", " evidence")) for line in said) == 2
    kinds = ["report-key", "event", "event", "event"]
    assert [line.split(" memory ")[1] for line in said if "/r/memory " in line] == [
        f"{n} {kind} next" for _ in range(2) for n, kind in enumerate(kinds, start=1)
    ]
    ends = [line.split(" next ")[1] for line in said if " memory next " in line]
    assert ends == ["carries 1, refused 0, memory_gap 0"] * 2
    assert [line for line in said if "memory_cut" in line] == []


@pytest.mark.parametrize(
    ("label", "number"), [("alarm", 1), ("alarm", 4), ("bulk", 3), ("memory", 2)]
)
def test_a_flipped_bit_in_any_byte_is_refused(world: World, label: str, number: int) -> None:
    """Every byte: tag, heads, algorithm, type, kid, certificates, payload, r and s."""
    chain = records(world, label)
    topic, good = chain[number]
    altered = []
    for at in range(len(good)):
        data = bytearray(good)
        data[at] ^= 1 << (at % 8)
        altered.append((topic, bytes(data)))
    said = verdicts(world, [*chain[:number], *altered, chain[number]])
    assert [line for line in said[number:-1] if not line.startswith("refused ")] == []
    assert said[-1].startswith("accepted ")


def test_cut_extended_and_twin_are_refused(world: World) -> None:
    (introduction, (topic, good), *_) = records(world, "alarm")
    body = cbor.decode(good[1:])
    assert isinstance(body, list)
    s = int.from_bytes(body[3][32:], "big")
    body[3] = body[3][:32] + (ORDER - s).to_bytes(32, "big")
    bad = [good[:-1], good + b"\x00", b"\xd2" + cbor.encode(body)]
    said = verdicts(world, [introduction, *((topic, data) for data in bad)])
    names = [line.split()[1] for line in said[1:]]
    assert names == ["truncated", "trailing_bytes", "bad_signature"]


def test_order_loss_and_repetition_are_named(world: World) -> None:
    a = records(world, "alarm")
    said = verdicts(world, [a[0], a[3], a[1], a[1], a[4], a[2], a[5]])
    assert [" ".join(line.split()[-2:]) for line in said] == [
        "report-key next", "of 2", "event reordered", "event duplicate", "report-key next",
        "event reordered", "event next",
    ]  # fmt: skip
    assert said[1].endswith("4 event gap of 2")


def test_another_place_is_refused(world: World) -> None:
    introduction, first = records(world, "alarm")[:2]
    elsewhere = [
        (introduction[0].replace(DEVICE, "gw-other"), introduction[1]),
        (introduction[0].replace("alarm", "audit"), introduction[1]),
        (first[0].replace("r/alarm", "e/evidence"), first[1]),
        (first[0].replace("/alarm", "/fire"), first[1]),
    ]
    said = verdicts(world, [introduction, *elsewhere])
    assert [line.split()[1] for line in said[1:]] == [
        "wrong_topic", "wrong_topic", "wrong_type", "bad_topic"
    ]  # fmt: skip


def test_a_key_of_an_earlier_start_is_stale(world: World) -> None:
    """Whoever stole the first start's report key cannot go on with the chain."""
    a = records(world, "alarm")
    stolen = world.first_key
    forged = samples.record(
        record_class=RecordClass.ALARM, seq=len(a) + 1, prev=record_hash(a[-1][1])
    )
    data = cose.seal(encode_record(forged), cose.ContentType.RECORD, stolen.kid, stolen.sign)
    said = verdicts(world, [*a, (a[0][0], data)])
    assert said[-1].startswith("refused stale_key ")
    # Nor with a chain whose introductions were lost, once the next start is known.
    lost = samples.record(record_class=RecordClass.AUDIT, seq=1, prev=bytes(32))
    data = cose.seal(encode_record(lost), cose.ContentType.RECORD, stolen.kid, stolen.sign)
    said = verdicts(world, [*a, (records(world, "audit")[0][0], data)])
    assert said[-1].startswith("refused stale_key ")
    said = verdicts(world, [a[0], (records(world, "audit")[0][0], data)])
    assert said[-1].startswith("accepted ")
    # Out of order is not out of force: its own stretch of the chain is believed whenever it comes.
    said = verdicts(world, [a[0], a[4], a[3]])
    assert [line.split()[0] for line in said] == ["accepted"] * 3


def test_under_another_root_nothing_is_believed(world: World, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    other = tmp_path / "ca.pem"
    other.write_text(certificates.pem(certificates.make_root(key, "main", time.time())))
    said = verdicts(world, world.lines, other)
    assert {line.split()[1] for line in said} == {"bad_chain", "unknown_key"}


def test_the_vectors(world: World) -> None:
    """Good ones are accepted, bad ones refused; facts inside a record are not its matter."""
    vectors = make.vectors()
    ca = ROOT / "tests" / "vectors" / "ca.pem"
    good = [v for v in vectors if v.expect == "accepted" and v.key != samples.VERIFIER.public_key()]
    said = verdicts(world, [(v.topic, v.data) for v in good], ca)
    assert all(line.startswith("accepted ") for line in said)
    bad = [v for v in vectors if v.expect not in ("accepted", "bad_fact")]
    said = verdicts(world, [(v.topic, v.data) for v in [*good, *bad]], ca)[len(good) :]
    assert [v.name for v, line in zip(bad, said, strict=True) if "refused " not in line] == []


def test_what_is_missing_of_a_chain_in_memory_is_named(world: World) -> None:
    """Lost on the way: a hole, and what the end says did not come."""
    memory, audit = records(world, "memory")[:4], records(world, "audit")
    said = verdicts(world, [memory[0], memory[2], *audit[:3]])
    assert said[1].endswith("memory 3 event gap of 1")
    assert said[-1].endswith("carries 1, refused 0, memory_gap 2")
    said = verdicts(world, [memory[0], memory[2], memory[1], memory[1], memory[3], *audit[:3]])
    assert [line.rpartition(" ")[2] for line in said[2:5]] == ["reordered", "duplicate", "next"]
    assert said[-1].endswith("memory_gap 0")


def test_a_chain_in_memory_that_was_cut_or_goes_on_after_another_key(world: World) -> None:
    """The first start's end never comes; then the second's introduction does."""
    memory, audit = records(world, "memory")[:4], records(world, "audit")
    said = verdicts(world, [*memory[:3], *audit[:2], audit[3], memory[3]])
    kid = world.first_key.kid.hex()
    assert said[-2].endswith(f"gap of 1 memory_cut {kid}")
    assert said[-1].startswith("refused stale_key ")
    # An introduction that comes late, from before that chain, cuts nothing.
    said = verdicts(world, [*records(world, "memory")[4:6], audit[3], audit[0]])
    assert [line for line in said if "memory_cut" in line] == []


def test_a_chain_in_memory_forks_and_its_key_is_its_own(world: World) -> None:
    memory = records(world, "memory")
    stolen, topic = world.first_key, memory[0][0]
    forged = samples.record(
        record_class=RecordClass.ALARM, seq=2, prev=record_hash(memory[0][1])
    )  # fmt: skip

    def signed(kind: cose.ContentType) -> bytes:
        return cose.seal(encode_record(forged), kind, stolen.kid, stolen.sign)

    said = verdicts(world, [*memory[:2], (topic, signed(cose.ContentType.MEMORY)),
                            (topic, signed(cose.ContentType.RECORD)),
                            (memory[4][0], memory[5][1])])  # fmt: skip
    assert [line.split()[1] for line in said[2:]] == ["fork", "wrong_type", "unknown_key"]


def by(key: FileSigner, label: str, **more: object) -> Line:
    """A record of the test's own making, under a report key."""
    record = replace(samples.record(record_class=RecordClass.AUDIT), **more)  # type: ignore[arg-type]
    kind = cose.ContentType.MEMORY if label == "memory" else cose.ContentType.RECORD
    topic = f"ew/1/main/{DEVICE}/r/{label}"
    return topic, cose.seal(encode_record(record), kind, key.kid, key.sign)


def test_the_end_of_a_chain_in_memory_is_held_against_what_came(world: World) -> None:
    memory, audit = records(world, "memory")[:4], records(world, "audit")[:2]
    key = world.first_key
    seen = record_hash(memory[1][1])
    end = {"key": key.kid, "last": 2, "hash": seen, "records": [], "more": False}

    def told(**change: object) -> str:
        place = {"seq": 3, "prev": record_hash(audit[1][1]), "kind": Kind.MEMORY}
        last = by(key, "audit", body=end | change, **place)
        return verdicts(world, [*memory[:2], *audit, last])[-1]

    assert told().endswith("refused 0, memory_gap 0")
    assert told(more=True).endswith("refused 0, more")
    assert told(hash=bytes(32)).endswith(" fork")
    assert told(key=bytes(8)).endswith(" unreadable")
    assert told(last=0).endswith(" unreadable")


def test_who_may_sign_what_in_memory(world: World) -> None:
    """Another gateway's record, an introduction by the key itself, one without its place."""
    memory = records(world, "memory")[:2]
    key, prev = world.first_key, record_hash(memory[1][1])
    said = verdicts(world, [
        *memory,
        by(key, "memory", seq=3, prev=prev, device="gw-other"),
        by(key, "memory", seq=1, prev=bytes(32), kind=Kind.REPORT_KEY,
           body={"key": key.public_key(), "agent": "0.1.0", "acked": 0, "behind": 0}),
    ])  # fmt: skip
    assert [line.split()[1] for line in said[2:]] == ["wrong_topic", "wrong_signer"]
    chain = MemoryChain(DEVICE, FakeClock(), FileSigner.generate(), world.who)
    chain.behind = -1
    chain.event(RecordClass.ALARM, samples.EVENT)
    said = verdicts(world, [(memory[0][0], row.data) for row in chain.rest()])
    assert [line.split()[1] for line in said] == ["bad_record", "unknown_key"]


class NextBoot(FakeClock):
    """After a restart of the board: its clock begins anew."""

    def boot_id(self) -> bytes:
        return b"b" * 16


@pytest.mark.parametrize(
    ("behind", "boots", "later"),
    [((1, 2), "one", "b"), ((2, 1), "one", "a"), ((1, 1), "one", "b"), ((1, 1), "two", "b")],
)
def test_of_two_chains_in_memory_the_later_one_ends_the_other(
    world: World, behind: tuple[int, int], boots: str, later: str
) -> None:
    """By the place in audit; in one place by the clock of one boot, else by the order they came."""
    clock, chains = FakeClock(wall_ns=1_767_225_600 * 10**9), {}
    for name, place in zip("ab", behind, strict=True):
        chain = chains[name] = MemoryChain(DEVICE, clock, FileSigner.generate(), world.who)
        chain.behind = place
        chain.event(RecordClass.ALARM, samples.EVENT)
        chain.event(RecordClass.ALARM, samples.EVENT)
        clock.advance(1)
        if boots == "two":
            clock = NextBoot(boot_ns=1)
    topic = record_topic("main", DEVICE, MEMORY)
    a, b = ([(topic, row.data) for row in chains[name].rest()] for name in "ab")
    said = verdicts(world, [*a[:2], *b[:2], a[2], b[2]])
    told = dict(zip("ab", said[-2:], strict=True))
    assert told[later].startswith("accepted ")
    assert told["a" if later == "b" else "b"].startswith("refused stale_key ")
    if boots == "one" and behind == (1, 1):  # what came first is no matter within one boot
        said = verdicts(world, [*b[:2], *a[:1], b[2]])
        assert said[-1].startswith("accepted ")
