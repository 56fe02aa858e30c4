"""The rule of numbers, held against everything that can happen to a disk: it refuses at any commit,
before or after the row is in its log, comes back at any time or not, and the power goes any time.

Real: the record side from facts to SQLite files, and the fleet's verifier. Checked after each step:
no number of any chain is sent with two contents, nothing is refused, and nobody looks like a copy.
At the end: every fact is at the fleet but those that a power cut took from memory, and every number
that is missing is explained.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden.ports import Stored
from edgewarden.record import reader
from edgewarden.record.intake import Intake
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.keeper import Keeper
from edgewarden.record.memory import MemoryChain
from edgewarden.record.refuge import Known, Refuge
from edgewarden.record.segment import DiskRefuses
from edgewarden.record.spool import FOLDER
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Status, encode_status
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.record import MAX_RECORD_BYTES, MEMORY, RecordClass, decode_record
from edgewarden.wire.topics import record_topic
from edgewarden_fleet.store import continuity
from tests.fakes.clock import FakeClock
from tests.fakes.ill_spool import REFUSES, TAKES, TORN, IllSpool
from tests.fleet.makers import TENANT, Board, Desk

CLASSES = list(RecordClass)
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Thousands of commits: what an fsync is worth is tests/system/test_powercut.py's matter."""


class Gateway(RuleBasedStateMachine):
    """One device through refusals and power cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="ew-memory-model-", dir=FAST))
        self.desk = Desk(self.folder, durable=False)
        self.board = Board(self.desk, "gw-ill")
        self.disk = [TAKES]
        self.starts = self.facts = 0
        self.clock = FakeClock(wall_ns=int(self.desk.now * 1e9), uncertainty_ms=20, state="ntp")
        self.sent: dict[tuple[str, bytes, int], bytes] = {}
        self.gone: set[int] = set()
        self.was_cut = False
        self.state = self.folder / "state-0"
        self.state.mkdir()

    @initialize()
    def first(self) -> None:
        self._start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "keeper"):
                self._end_well()
        finally:
            if hasattr(self, "keeper"):
                self.keeper.close()
            self.desk.close()
            shutil.rmtree(self.folder)

    # --- what happens -----------------------------------------------------------------------------

    @rule(c=st.sampled_from(CLASSES))
    def fact(self, c: RecordClass) -> None:
        self.facts += 1
        event = Event(OCSF.HEALTH, 1, Severity.LOW, self.clock.boot_ns, {"n": self.facts})
        self.intake.add_event(event, c)

    @rule(force=st.booleans(), seconds=st.sampled_from([0, 1, 6]))
    def work(self, force: bool, seconds: int) -> None:
        self.clock.advance(seconds)
        self.keeper.work(force=force)
        self.keeper.publish()

    @rule(how=st.sampled_from([TAKES, REFUSES, TORN]))
    def disk_becomes(self, how: str) -> None:
        self.disk[0] = how

    @rule(accepted=st.booleans())
    def session(self, accepted: bool) -> None:
        """A session with the broker: everything that may be sent, acknowledged or not."""
        self.clock.advance(1)
        self._status()
        for c in (MEMORY, *CLASSES):
            self._drain(c, accepted)

    @rule()
    def power_cut(self) -> None:
        """What the disk has is what there is; the next start is of another boot."""
        self.was_cut = self.was_cut or self.keeper.memory.since_ns is not None
        image = self.folder / f"state-{self.starts}"
        shutil.copytree(self.state, image)
        self.keeper.close()
        del self.keeper
        self.state = image
        on_disk = set[int]()
        with contextlib.suppress(EdgewardenError):  # no spool yet: nothing
            for c in CLASSES:
                on_disk |= {n for s in reader.iterate(image, c) for n in _numbers(s.data)}
        self.gone |= set(range(1, self.facts + 1)) - on_disk - self._at_fleet()
        self._start()

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def no_cut_without_one(self) -> None:
        kinds = {row[0] for row in self.desk.db.execute("SELECT kind FROM finding")}
        assert self.was_cut or "memory_cut" not in kinds

    @invariant()
    def nothing_is_refused(self) -> None:
        assert self.desk.refused("gw-ill") == {}
        assert continuity.quarantined(self.desk.db, "gw-ill") is None

    def _end_well(self) -> None:
        self.disk[0] = TAKES
        for _ in range(2):
            self.work(force=True, seconds=6)
            self.session(accepted=True)
        self.nothing_is_refused()
        assert self.keeper.fault is None
        assert self._at_fleet() >= set(range(1, self.facts + 1)) - self.gone
        for c in CLASSES:
            assert self.desk.gaps("gw-ill", c) == []
        found = self.desk.db.execute("SELECT kind FROM finding").fetchall()
        assert "memory_gap" not in {row[0] for row in found}

    # --- inside -----------------------------------------------------------------------------------

    def _start(self) -> None:
        """A start of link; on a disk that cannot even be opened it ends, and is started again."""
        self.starts += 1
        self.clock.boot_ns = 1_000_000_000
        boot_id = self.starts.to_bytes(16, "big")
        self.clock.boot_id = lambda: boot_id  # type: ignore[method-assign]
        report, spool = self._report_key(), self.state / FOLDER

        def open_journal(known: Known) -> Journal:
            return Journal(IllSpool(spool, known, self.disk), "gw-ill", self.clock, report)

        who = Introduction(self.board.identity, tuple(self.board.x5chain), "0.1.0")
        chain = MemoryChain("gw-ill", self.clock, report, who)
        self.intake = Intake(self.clock, 5, 1 << 16)
        refuge = Refuge(chain, self.state, open_journal, self.clock)
        self.keeper = Keeper(lambda: open_journal({}), who, self.clock, self.intake, refuge)
        try:
            self.keeper.open()
        except DiskRefuses:  # no spool yet: a clear error, and a person mends it
            self.disk[0] = TAKES
            self.keeper.open()
        self.keeper.work(force=False)
        self.keeper.publish()

    def _report_key(self) -> FileSigner:
        return FileSigner.generate()

    def _status(self) -> None:
        state = {RecordClass(c): s for c, s in self.keeper.state.items() if c != MEMORY}
        status = Status(
            TENANT, "gw-ill", self.clock.boot_id(), self.clock.boot_ns, True,
            {c: s.durable for c, s in state.items()}, {c: s.acked for c, s in state.items()},
        )  # fmt: skip
        who = self.board.identity
        data = cose.seal(
            encode_status(status), ContentType.STATUS, who.kid, who.sign, self.board.x5chain
        )
        verdict = self.desk.take(self.board.topic("s", "status"), data)
        assert verdict.outcome == "online", verdict

    def _drain(self, c: int, accepted: bool) -> None:
        if c not in self.keeper.state:
            return
        after, head = self.keeper.state[c].acked, self.keeper.state[c].durable
        while after < head:
            try:
                found = self.keeper.peek(c, after, 32, 1 << 16)
            except EdgewardenError:
                return
            if not found:
                return
            for one in found:
                self._send(c, one)
            after = found[-1].seq
            if accepted:
                self.keeper.ack(c, after)
        self.keeper.publish()

    def _send(self, c: int, one: Stored) -> None:
        topic = record_topic(TENANT, "gw-ill", c)
        chain = self.keeper._refuge.chain.kid if c == MEMORY and self.keeper._refuge else b""
        before = self.sent.setdefault((topic, chain, one.seq), one.data)
        assert before == one.data, "a number is signed twice"
        self.desk.take(topic, one.data)

    def _at_fleet(self) -> set[int]:
        found = set[int]()
        for table in ("record", "memory_record"):
            with contextlib.closing(self.desk.db.execute(f"SELECT data FROM {table}")) as rows:
                rows.row_factory = None
                for (data,) in rows:
                    found |= _numbers(data)
        return found


def _numbers(data: bytes) -> set[int]:
    """The facts in a record, and in those that it carries."""
    kind = ContentType.MEMORY if str(ContentType.MEMORY).encode() in data else ContentType.RECORD
    try:
        body: Any = decode_record(cose.open_envelope(data, kind, MAX_RECORD_BYTES).payload).body
    except WireRefusal:  # one record that carries another
        kind = ContentType.RECORD
        body = decode_record(cose.open_envelope(data, kind, MAX_RECORD_BYTES).payload).body
    details = [one.get("detail", {}) for one in (body, *body.get("events", ()))]
    found = {int(detail["n"]) for detail in details if "n" in detail}
    return found.union(*map(_numbers, body.get("records", ())))


QUICK = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestGateway = Gateway.TestCase
TestGateway.settings = QUICK


class OneKey(Gateway):
    """What it would be if a later process could sign with the key of an earlier one."""

    key = FileSigner.generate()

    def _report_key(self) -> FileSigner:
        return self.key


def two_boots_on_a_disk_that_refuses(life: Gateway) -> None:
    """The shortest life in which one key would sign a number twice; chance finds it in fifty."""
    try:
        life.first()
        life.work(force=True, seconds=6)
        for _ in range(2):
            life.disk_becomes(how=REFUSES)
            life.fact(c=RecordClass.ALARM)
            life.work(force=True, seconds=6)
            life.session(accepted=True)
            life.power_cut()
        life.no_cut_without_one()
    except AssertionError:
        with contextlib.suppress(AssertionError):
            life.teardown()
        raise
    life.teardown()


def test_each_boot_on_a_disk_that_refuses_has_numbers_of_its_own() -> None:
    two_boots_on_a_disk_that_refuses(Gateway())


def test_with_a_key_that_outlives_its_process_a_number_is_signed_twice() -> None:
    """The negative control: it is the key that makes the numbers unique."""
    with pytest.raises(AssertionError, match="a number is signed twice"):
        two_boots_on_a_disk_that_refuses(OneKey())
