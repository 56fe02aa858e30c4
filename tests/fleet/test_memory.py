"""Chains in memory at the verifier: one report key, numbers of its own, an end that is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.record.journal import Introduction
from edgewarden.record.memory import MemoryChain
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.acknowledgement import InMemory, Run, decode_acknowledgement
from edgewarden.wire.cose import ContentType, open_envelope
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.record import MEMORY, Kind, RecordClass, record_hash
from edgewarden.wire.topics import record_topic
from edgewarden_fleet.store import continuity, memory, registry, views
from edgewarden_fleet.verify.memory import MAX_CARRIED
from edgewarden_fleet.verify.pipeline import Incoming, Verdict, Verifier
from edgewarden_fleet.verify.word import Word
from tests.fakes.clock import FakeClock
from tests.fleet.makers import TENANT, Board, Desk, Made

DEVICE = "gw-demo"
TOPIC = record_topic(TENANT, DEVICE, MEMORY)
ALARM, AUDIT, BULK = RecordClass


class Stage:
    """A desk, a board whose classes are introduced, and a chain of the board's report key."""

    def __init__(self, folder: Path) -> None:
        self.desk = Desk(folder, durable=False)
        self.board = Board(self.desk, DEVICE)
        for c in RecordClass:
            self.desk.record(self.board.introduce(c))
        self.chain = self.make()

    def make(self) -> MemoryChain:
        """A chain of the report key that the board has now."""
        clock = FakeClock(boot_ns=6_000_000_000)
        boot_id = self.board.boot_id
        clock.boot_id = lambda: boot_id  # type: ignore[method-assign]
        who = Introduction(self.board.identity, tuple(self.board.x5chain), "0.1.0")
        chain = MemoryChain(DEVICE, clock, self.board.report, who)
        (chain.behind,) = self.desk.db.execute(
            "SELECT head_seq FROM chain WHERE device = ? AND class = ?", (DEVICE, int(AUDIT))
        ).fetchone()
        return chain

    def alarms(self, count: int, chain: MemoryChain | None = None) -> list[bytes]:
        """So many alarms; everything that waits in the chain."""
        chain = chain or self.chain
        for n in range(count):
            chain.event(ALARM, Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, {"n": n}))
        return [record.data for record in chain.rest()]

    def send(self, *messages: bytes) -> list[str]:
        return [self.desk.take(TOPIC, data).outcome for data in messages]

    def end(
        self, carried: list[bytes], last: int | None = None, digest: bytes | None = None,
        key: bytes | None = None, *, more: bool = False,
    ) -> Verdict:  # fmt: skip
        body: dict[str, object] = {
            "key": self.chain.kid if key is None else key,
            "last": self.chain.head if last is None else last,
            "hash": digest or self.chain.digest,
            "records": carried,
            "more": more,
        }
        return self.desk.record(self.board.sign(self.board.build(AUDIT, Kind.MEMORY, body)))

    def restart(self) -> list[Made]:
        """Another start of another boot, later; its introductions, not sent yet."""
        self.desk.now += 1
        self.board.start()
        return [self.board.introduce(c) for c in RecordClass]

    def findings(self) -> list[str]:
        rows = self.desk.db.execute("SELECT kind FROM finding ORDER BY id").fetchall()
        return [row[0] for row in rows]

    def is_open(self) -> bool:
        return bool(memory.summary(self.desk.db, DEVICE)["open"])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.desk.close()


def test_a_chain_is_taken_and_its_facts_are_used(stage: Stage) -> None:
    assert stage.send(*stage.alarms(2)) == ["next", "next", "next"]
    assert stage.findings() == ["detection_finding"] * 2
    assert stage.is_open()
    assert memory.summary(stage.desk.db, DEVICE)["records"] == 3


def test_its_numbers_are_no_others(stage: Stage) -> None:
    """Two denied programs, both number 2 of what they are in: neither stands in the other's way."""
    denied = stage.board.denied(bytes(32))
    assert denied.seq == 2
    file = {"path": "/mnt/x", "sha256": bytes(32)}
    detail = {"action": "denied", "file": file}
    stage.chain.event(ALARM, Event(OCSF.PROCESS_ACTIVITY, 1, Severity.HIGH, 1, detail))  # type: ignore[arg-type]
    assert stage.send(*[r.data for r in stage.chain.rest()]) == ["next", "next"]
    assert stage.desk.record(denied).outcome == "next"
    assert stage.findings() == ["exec_denied", "exec_denied"]
    shown = views.gateway(stage.desk.db, DEVICE, stage.desk.now)
    assert shown is not None
    assert {v["class"] for v in shown["exec"]["denied_verdicts"]} == {"memory", "alarm"}
    assert {f["class"] for f in shown["findings"]} == {"memory", "alarm"}


def test_keys_of_earlier_starts_that_come_later_end_nothing(stage: Stage) -> None:
    """A backlog: two starts on the disk, then one in memory, whose chain comes first."""
    earlier = [*stage.restart(), *stage.restart()]
    stage.board.start()
    stage.chain = stage.make()
    stage.chain.behind = max(made.seq for made in earlier)
    first = stage.alarms(1)
    assert stage.send(*first) == ["next", "next"]
    for made in earlier:
        stage.desk.now += 1
        assert stage.desk.record(made).outcome == "next"
    assert stage.is_open()
    assert stage.send(*stage.alarms(1)[len(first) :]) == ["next"]
    assert stage.findings() == ["detection_finding"] * 2
    for made in stage.restart():
        stage.desk.record(made)
    assert stage.findings()[-1] == "memory_cut"
    assert stage.send(stage.alarms(1)[-1]) == ["stale_key"]


def test_of_two_chains_the_place_counts_and_not_which_came_first(stage: Stage) -> None:
    earlier = stage.alarms(1)
    stage.restart()  # on a disk that took its introductions, which have not come yet
    later = stage.make()
    later.behind += 1
    assert stage.send(*stage.alarms(1, later)) == ["next", "next"]
    stage.desk.now += 1
    assert stage.send(earlier[0]) == ["stale_key"]


@pytest.mark.parametrize("behind", [-1, True, "1", None, 1 << 60])
def test_a_chain_without_its_place_in_audit_is_refused(stage: Stage, behind: object) -> None:
    stage.chain.behind = behind  # type: ignore[assignment]
    assert stage.send(stage.alarms(1)[0]) == ["bad_record"]


def test_before_its_introduction_it_waits(stage: Stage) -> None:
    introduction, alarm = stage.alarms(1)
    assert stage.send(alarm) == ["pending"]
    assert stage.send(introduction) == ["next"]
    assert stage.findings() == ["detection_finding"]


def test_a_number_twice_with_other_bytes_is_a_fork(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    other = stage.alarms(2, stage.make())
    assert stage.send(other[1]) == ["fork"]
    assert continuity.quarantined(stage.desk.db, DEVICE) is not None


def test_the_same_bytes_again_change_nothing(stage: Stage) -> None:
    sent = stage.alarms(2)
    stage.send(*sent)
    assert stage.send(*sent) == ["duplicate"] * 3
    assert stage.desk.refused() == {}
    assert len(stage.findings()) == 2


def test_an_earlier_key_signs_nothing_new(stage: Stage) -> None:
    sent = stage.alarms(2)
    stage.send(*sent[:2])
    for made in stage.restart():
        stage.desk.record(made)
    assert stage.send(sent[2]) == ["stale_key"]


def test_a_key_introduced_in_memory_ends_earlier_ones(stage: Stage) -> None:
    sent = stage.alarms(2)
    stage.send(*sent[:2])
    stage.restart()  # on a disk that takes nothing: no introduction of it ever leaves
    assert stage.send(*stage.alarms(1, stage.make())) == ["next", "next"]
    assert stage.send(sent[2]) == ["stale_key"]


def test_only_the_first_introduces_and_nothing_else_may(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    build = stage.board.build(AUDIT, Kind.EVENT, {})
    forged = stage.board.sign(build, stage.board.identity, stage.board.x5chain)
    assert stage.send(forged.data) == ["wrong_type"]
    assert stage.desk.take(stage.board.topic("r", "alarm"), stage.alarms(1)[2]).outcome == (
        "wrong_type"
    )
    who = Introduction(stage.board.identity, tuple(stage.board.x5chain), "0.1.0")
    second = stage.make()
    second._put(ALARM, Kind.EVENT, {}, FakeClock().now(), who)
    assert stage.send(second.rest()[0].data) == ["wrong_signer"]


def test_its_end_carries_what_nobody_accepted(stage: Stage) -> None:
    sent = stage.alarms(3)
    stage.send(*sent[:2])
    assert stage.end(sent[2:3], more=True).accepted
    assert stage.is_open()
    assert stage.end(sent[3:]).accepted
    assert not stage.is_open()
    assert stage.findings() == ["detection_finding"] * 3


def test_its_end_counts_also_behind_another_start(stage: Stage) -> None:
    """Alarms go first: they introduce the next start's key before audit tells the end."""
    sent = stage.alarms(2)
    stage.send(*sent[:2])
    board, desk = stage.board, stage.desk
    told = board.sign(
        board.build(
            AUDIT, Kind.MEMORY,
            {"key": stage.chain.kid, "last": 3, "hash": stage.chain.digest, "records": sent[2:],
             "more": False},
        )
    )  # fmt: skip
    alarm, audit, _ = stage.restart()
    for made in (alarm, told, audit):
        assert desk.record(made).outcome == "next"
    assert desk.refused() == {}
    assert stage.findings() == ["detection_finding"] * 2


def test_what_is_missing_at_its_end_is_told(stage: Stage) -> None:
    sent = stage.alarms(3)
    stage.send(sent[0], sent[1])
    stage.end(sent[3:])
    assert stage.findings()[-1] == "memory_gap"


def test_a_restart_in_the_midst_of_it_is_told(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    for made in stage.restart():
        stage.desk.record(made)
    assert stage.findings().count("memory_cut") == 1
    assert not stage.is_open()


def test_a_restart_after_its_end_is_none(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    stage.end([])
    for made in stage.restart():
        stage.desk.record(made)
    assert "memory_cut" not in stage.findings()


def test_an_end_of_somebody_elses_chain_says_nothing(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    stage.end([], key=FileSigner.generate().kid)
    assert stage.findings()[-1] == "unreadable_facts"
    assert stage.is_open()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", "kid"), ("last", "1"), ("last", True), ("last", 0), ("last", 1 << 60),
        ("hash", "x"), ("records", {}), ("records", [b""] * (MAX_CARRIED + 1)),
    ],
)  # fmt: skip
def test_an_end_that_cannot_be_read_ends_nothing(stage: Stage, field: str, value: object) -> None:
    stage.send(*stage.alarms(1))
    body: dict[str, object] = {
        "key": stage.chain.kid, "last": stage.chain.head, "hash": stage.chain.digest,
        "records": [], "more": False, field: value,
    }  # fmt: skip
    made = stage.board.sign(stage.board.build(AUDIT, Kind.MEMORY, body))
    assert stage.desk.record(made).accepted
    assert stage.findings()[-1] == "unreadable_facts"
    assert stage.is_open()


def test_an_end_with_another_hash_is_a_fork(stage: Stage) -> None:
    stage.send(*stage.alarms(1))
    stage.end([], digest=record_hash(b"other"))
    assert "fork" in stage.findings()
    assert continuity.quarantined(stage.desk.db, DEVICE) is not None


def test_nobody_unknown_is_heard(stage: Stage) -> None:
    sent = stage.alarms(1)
    other = record_topic(TENANT, "gw-other", MEMORY)
    assert [stage.desk.take(other, data).outcome for data in sent] == [
        "wrong_topic",
        "unregistered",
    ]
    altered = sent[1][:-1] + bytes([sent[1][-1] ^ 1])
    stage.send(sent[0])
    assert stage.send(altered) == ["bad_signature"]
    assert str(ContentType.MEMORY).encode() in sent[1]


def word_of(stage: Stage) -> InMemory | None:
    """What the verifier's word says of the chain that stands open."""
    desk = stage.desk
    (said,) = Word(desk.db, desk.verifier_key, TENANT, desk.appraiser.released).say([DEVICE])
    return decode_acknowledgement(
        open_envelope(said.payload, ContentType.ACKNOWLEDGEMENT).payload
    ).memory


def test_the_word_names_what_is_stored_of_the_chain(stage: Stage) -> None:
    assert word_of(stage) is None
    data = stage.alarms(5)
    hashes = [record_hash(one) for one in data]
    stage.send(data[0], data[1], data[4])
    runs = Run(1, 2, hashes[1]), Run(5, 5, hashes[4])
    assert word_of(stage) == InMemory(stage.chain.kid, runs)
    stage.send(data[2], data[3])
    assert word_of(stage) == InMemory(stage.chain.kid, (Run(1, 5, hashes[4]),))


def test_the_word_is_about_the_chain_that_goes_on(stage: Stage) -> None:
    """Two starts without a disk: the first one's chain stands open until audit says otherwise."""
    stage.send(*stage.alarms(2))
    stage.board.start()
    stage.desk.now += 1
    later = stage.make()
    data = stage.alarms(1, later)
    stage.send(*data)
    assert word_of(stage) == InMemory(later.kid, (Run(1, 2, record_hash(data[1])),))


def test_a_chain_whose_end_was_told_is_in_no_word(stage: Stage) -> None:
    stage.send(*stage.alarms(2))
    assert stage.end([]).accepted
    assert word_of(stage) is None


def test_another_gateways_name_inside_a_chain_is_refused(stage: Stage) -> None:
    """Signed by an enrolled board, and about another one."""
    stage.send(*stage.alarms(1))
    other = stage.make()
    other._device = "gw-other"
    assert stage.send(stage.alarms(1, other)[0]) == ["wrong_topic"]


def test_a_revoked_gateway_is_not_heard_in_memory_either(stage: Stage) -> None:
    sent = stage.alarms(2)
    assert stage.send(*sent[:2]) == ["next", "next"]
    registry.revoke(stage.desk.db, DEVICE, "stolen", stage.desk.now)
    assert stage.send(sent[2], sent[0]) == ["revoked", "revoked"]


@pytest.mark.parametrize("key", [None, "text", 7])
def test_a_chain_that_introduces_no_key_is_refused(stage: Stage, key: object) -> None:
    who = Introduction(stage.board.identity, tuple(stage.board.x5chain), "0.1.0")
    made = stage.make()
    made._put(ALARM, Kind.REPORT_KEY, {"key": key, "behind": 1}, FakeClock().now(), who)  # type: ignore[dict-item]
    assert stage.send(made.rest()[0].data) == ["bad_record"]


def test_a_verifier_without_an_appraiser_takes_no_chain(stage: Stage) -> None:
    alone = Verifier(stage.desk.db, [stage.desk.root.certificate], TENANT)
    (data,) = stage.alarms(1)[:1]
    assert alone.take(Incoming(TOPIC, data), stage.desk.now).outcome == "bad_topic"
