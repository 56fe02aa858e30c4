"""The responder without a kernel: one answer for each event, and what may be cached."""

from __future__ import annotations

import hashlib
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.exec.digest import CTIME_SETTLE_NS, MAX_HASH_BYTES, Known
from edgewarden.exec.hold import HOLD_S, LOOK_S
from edgewarden.exec.judged import Judged
from edgewarden.exec.reports import REPORT_AFTER_S
from edgewarden.exec.responder import ExecGate
from edgewarden.exec.subject import Subject, Subjects
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import CRITICAL
from edgewarden.kernel.fanotify import FAN_OPEN_EXEC, FAN_OPEN_EXEC_PERM, UNTOLD, ExecEvent
from edgewarden.kernel.lease import ReadLease, ignore_lease_breaks
from edgewarden.wire.local import UNKNOWN_UID, Alarm, AnyMessage, ExecVerdict
from tests.system.exec_world import loop_ext4, private_tmpfs


class Script:
    """Plays the kernel: events to be read, and the answers that came."""

    permission = True
    in_passing = False

    def __init__(self, *, breaks_on: int = -1) -> None:
        self.waiting: list[ExecEvent] = []
        self.answers: list[tuple[int, bool]] = []
        self.breaks_on = breaks_on
        self.told: list[str] = []

    def exec(self, path: Path, mask: int = FAN_OPEN_EXEC_PERM, pid: int = 0) -> int:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.waiting.append(ExecEvent(mask, fd, pid, UNTOLD))
        return fd

    def read(self) -> list[ExecEvent]:
        found, self.waiting = self.waiting, []
        return found

    def answer(self, fd: int, *, allow: bool) -> bool:
        self.told.append("answer")
        self.answers.append((fd, allow))
        if fd == self.breaks_on:
            raise HardwareFault("write(fanotify) refused: EINVAL")
        return True


class Bench:
    """A responder with its surroundings."""

    def __init__(self, script: Script, mode: str = "enforce") -> None:
        self.script = script
        self.listed: dict[bytes, str] = {}
        self.facts: list[AnyMessage] = []
        self.wall_ns = 1 << 62
        self.mono_s = 0.0
        self.running: tuple[int, int] | None = None
        self.status = "Name:\tx\nUid:\t1000\t0\t0\t0\n"
        self.gate = ExecGate(
            judge=self.judge,
            subjects=Subjects(lambda name: self.status, lambda pid: b""),
            report=self.report,
            proc_link=lambda name: os.readlink(f"/proc/{name}".encode()),
            boot_ns=lambda: 7,
            wall_ns=lambda: self.wall_ns,
            mono_s=lambda: self.mono_s,
            program_of=lambda pid: self.running,
            tier="T3",
        )
        self.gate.mode = mode

    def judge(self, digest: bytes, subject: Subject) -> Rule | None:
        name = self.listed.get(digest)
        return None if name is None else Rule(name, True, (), (), ())

    def report(self, fact: AnyMessage) -> None:
        self.script.told.append("report")
        self.facts.append(fact)

    def serve(self) -> int:
        try:
            seen = self.gate.serve(self.script)  # type: ignore[arg-type]
            while self.gate.busy:
                seen += self.gate.serve(self.script)  # type: ignore[arg-type]
            return seen
        finally:
            self.mono_s += REPORT_AFTER_S
            self.gate.tick(self.mono_s)

    def verdicts(self) -> list[ExecVerdict]:
        return [fact for fact in self.facts if isinstance(fact, ExecVerdict)]


@pytest.fixture
def script() -> Script:
    ignore_lease_breaks()
    return Script()


@pytest.fixture
def bench(script: Script) -> Iterator[Bench]:
    made = Bench(script)
    yield made
    made.gate.hold.clear()


def program(path: Path, content: bytes = b"\x7fELF one") -> tuple[Path, bytes]:
    path.write_bytes(content)
    return path, hashlib.sha256(content).digest()


def test_listed_runs_and_unlisted_does_not(bench: Bench, tmp_path: Path) -> None:
    good, digest = program(tmp_path / "good")
    bad, other = program(tmp_path / "bad", b"\x7fELF two")
    bench.listed[digest] = "tool"
    fds = [bench.script.exec(good), bench.script.exec(bad, pid=os.getpid())]
    assert bench.serve() == 2
    assert bench.script.answers == [(fds[0], True), (fds[1], False)]
    first, second = bench.verdicts()
    assert (first.decision, first.reason, first.rule) == ("allow", "listed", "tool")
    assert (first.sha256, first.path) == (digest, str(good).encode())
    assert (second.decision, second.reason, second.sha256) == ("deny", "unlisted", other)
    assert (second.uid, second.boot_ns) == (1000, 7)
    assert first.uid == UNKNOWN_UID, "pid 0 is nobody we can see"


def test_all_answers_come_before_the_first_report(bench: Bench, tmp_path: Path) -> None:
    path, _ = program(tmp_path / "p")
    for _ in range(5):
        bench.script.exec(path)
    bench.serve()
    assert bench.script.told == ["answer"] * 5 + ["report"] * 5


@pytest.mark.parametrize(("mode", "decision"), [("learn", "learned"), ("observe", "would_deny")])
def test_a_notify_event_gets_no_answer(
    script: Script, tmp_path: Path, mode: str, decision: str
) -> None:
    bench = Bench(script, mode)
    script.exec(program(tmp_path / "p")[0], mask=FAN_OPEN_EXEC)
    bench.serve()
    assert script.answers == []
    assert [v.decision for v in bench.verdicts()] == [decision]


@pytest.mark.parametrize(
    ("rule", "reason", "allow"),
    [
        (Rule("no-shell", False, (), (), ()), "ruled_out", False),
        (Rule("tool", True, (), (), ()), "listed", True),
        (CRITICAL, "critical", True),
        (None, "unlisted", False),
    ],
)
def test_the_rule_that_answers_is_named(
    bench: Bench, tmp_path: Path, rule: Rule | None, reason: str, allow: bool
) -> None:
    path, _ = program(tmp_path / "p")
    bench.gate.quick.judge = lambda digest, subject: rule
    bench.script.exec(path)
    bench.serve()
    assert [answer for _, answer in bench.script.answers] == [allow]
    (verdict,) = bench.verdicts()
    assert (verdict.reason, verdict.rule) == (reason, "" if rule is None else rule.name)


def test_what_cannot_be_judged_is_allowed_counted_and_said(bench: Bench, tmp_path: Path) -> None:
    good, digest = program(tmp_path / "good")
    bad, _ = program(tmp_path / "bad", b"\x7fELF two")
    bench.listed[digest] = "tool"
    spoken = bench.gate.quick.judge

    def stumble(found: bytes, subject: Subject) -> Rule | None:
        if found != digest:
            raise MemoryError("no room")
        return spoken(found, subject)

    bench.gate.quick.judge = stumble
    for path in (bad, good, bad):
        bench.script.exec(path)
    bench.serve()
    assert [allow for _, allow in bench.script.answers] == [True] * 3
    assert [v.reason for v in bench.verdicts()] == ["undecidable", "listed", "undecidable"]
    assert bench.gate.counters.undecidable == 2
    alarms = [fact for fact in bench.facts if isinstance(fact, Alarm)]
    assert [a.code for a in alarms] == ["EW-EXEC-007"] * 2
    assert "MemoryError: no room" in alarms[0].text


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_r3_a_judgement_that_does_not_end_is_ended(
    bench: Bench, tmp_path: Path, strict: bool
) -> None:
    good, digest = program(tmp_path / "good")
    bad, _ = program(tmp_path / "bad", b"\x7fELF two")
    bench.listed[digest] = "tool"
    spoken = bench.gate.quick.judge

    def hang(found: bytes, subject: Subject) -> Rule | None:
        while found != digest:
            pass
        return spoken(found, subject)

    bench.gate.quick.judge = hang
    bench.gate.strict = strict
    before = signal.signal(signal.SIGALRM, lambda number, frame: bench.gate.patience.end())
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        for path in (bad, good, bad):
            bench.script.exec(path)
        bench.serve()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [allow for _, allow in bench.script.answers] == [not strict, True, not strict]
    assert [v.reason for v in bench.verdicts()] == ["undecidable", "listed", "undecidable"]
    assert [f.code for f in bench.facts if isinstance(f, Alarm)] == ["EW-EXEC-007"] * 2
    bench.gate.patience.end()  # nothing is judged: nothing happens


@pytest.mark.parametrize("strict", [False, True], ids=["default", "strict"])
def test_r3_an_excuse_that_cannot_be_found_out_is_none_in_strict_mode(
    bench: Bench, tmp_path: Path, strict: bool
) -> None:
    bad, _ = program(tmp_path / "bad")

    def stumble(one: Judged) -> str:
        raise MemoryError("no room")

    bench.gate._excuse = stumble
    bench.gate.strict = strict
    bench.script.exec(bad)
    bench.serve()
    assert [allow for _, allow in bench.script.answers] == [not strict]


def test_r3_what_cannot_be_judged_is_denied_in_strict_mode(bench: Bench, tmp_path: Path) -> None:
    good, digest = program(tmp_path / "good")
    bad, _ = program(tmp_path / "bad", b"\x7fELF two")
    bench.listed[digest] = "tool"
    spoken = bench.gate.quick.judge

    def stumble(found: bytes, subject: Subject) -> Rule | None:
        if found != digest:
            raise MemoryError("no room")
        return spoken(found, subject)

    bench.gate.quick.judge = stumble
    bench.gate.strict = True
    for path in (bad, good, bad):
        bench.script.exec(path)
    bench.serve()
    assert [allow for _, allow in bench.script.answers] == [False, True, False]
    assert [v.decision for v in bench.verdicts()] == ["deny", "allow", "deny"]


def test_a_report_that_fails_costs_no_answer_and_no_descriptor(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = program(tmp_path / "p")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        bench.script.exec(path)

    def broken(name: str) -> bytes:
        raise RuntimeError("no link")

    monkeypatch.setattr(bench.gate.reports, "_proc_link", broken)
    bench.serve()
    assert len(bench.script.answers) == 3
    assert bench.gate.counters.unreported == 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refused_answer_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    script = Script()
    bench = Bench(script)
    path, _ = program(tmp_path / "p")
    script.breaks_on = script.exec(path)
    script.exec(path)
    with pytest.raises(HardwareFault):
        bench.serve()
    assert len(script.answers) == 2
    assert len(bench.facts) == 2


def test_a_file_that_is_being_written_is_not_run(bench: Bench, tmp_path: Path) -> None:
    """Its content is judged now and could be another when the kernel maps it."""
    path, digest = program(tmp_path / "p")
    bench.listed[digest] = "tool"
    with path.open("r+b"):
        bench.script.exec(path)
        bench.serve()
    bench.script.exec(path)
    bench.serve()
    assert [v.reason for v in bench.verdicts()] == ["being_written", "listed"]
    assert [allow for _, allow in bench.script.answers] == [False, True]


def writer_waits(path: Path) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except BlockingIOError:
        return True
    return False


def test_a_writer_waits_until_the_program_has_started(bench: Bench, tmp_path: Path) -> None:
    path, digest = program(tmp_path / "p")
    bench.listed[digest] = "tool"
    bench.script.exec(path)
    bench.serve()
    hold = bench.gate.hold
    bench.running = (1, 2)
    hold.look(HOLD_S)
    assert writer_waits(path)
    bench.running = (path.stat().st_dev, path.stat().st_ino)
    hold.look(HOLD_S + LOOK_S)
    assert not writer_waits(path)
    assert (hold.due_mono, hold.overdue) == (None, 0)


def test_a_writer_does_not_wait_for_ever(bench: Bench, tmp_path: Path) -> None:
    path, digest = program(tmp_path / "p")
    bench.listed[digest] = "tool"
    bench.script.exec(path)
    bench.serve()
    bench.gate.hold.look(HOLD_S + 1)
    assert not writer_waits(path)
    assert bench.gate.hold.overdue == 1


@pytest.mark.parametrize("content", [b"#!/bin/sh\n", b"\x7fELF unlisted"])
def test_scripts_and_denied_programs_are_not_held(
    bench: Bench, tmp_path: Path, content: bytes
) -> None:
    path, digest = program(tmp_path / "p", content)
    if content.startswith(b"#!"):
        bench.listed[digest] = "script"
    bench.script.exec(path)
    bench.serve()
    assert bench.gate.hold.due_mono is None
    assert not writer_waits(path)


def test_what_is_held_is_bounded(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewarden.exec.hold.HOLD_ENTRIES", 3)
    path, digest = program(tmp_path / "p")
    bench.listed[digest] = "tool"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        bench.script.exec(path)
    bench.serve()
    assert len(os.listdir("/proc/self/fd")) == before + 3
    assert bench.gate.hold.overdue == 2
    bench.gate.hold.clear()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_is_no_file_and_what_is_huge(bench: Bench, tmp_path: Path) -> None:
    fifo, huge = tmp_path / "fifo", tmp_path / "huge"
    os.mkfifo(fifo)
    huge.touch()
    os.truncate(huge, 2 << 30)
    for path in (fifo, tmp_path, huge):
        bench.script.exec(path)
    bench.serve()
    assert [v.reason for v in bench.verdicts()] == ["not_a_file", "not_a_file", "too_large"]
    assert bench.gate.counters.hashed == 0
    assert [allow for _, allow in bench.script.answers] == [True, True, False]


def sparse(path: Path, mebibytes: int) -> Path:
    path.touch()
    os.truncate(path, mebibytes << 20)
    return path


def rounds_until(bench: Bench, answered: int) -> int:
    """How many rounds of the loop it takes until the event of this descriptor has its answer."""
    for count in range(1, 500):
        bench.gate.serve(bench.script)  # type: ignore[arg-type]
        if answered in [fd for fd, _ in bench.script.answers]:
            return count
    raise AssertionError("no answer")


def test_a_long_hash_is_one_of_many_rounds(bench: Bench, tmp_path: Path) -> None:
    """A heartbeat goes out between two rounds."""
    bench.listed[hashlib.sha256(bytes(16 << 20)).digest()] = "long"
    fd = bench.script.exec(sparse(tmp_path / "long", 16))
    assert 16 <= rounds_until(bench, fd) <= 20
    bench.serve()
    assert bench.verdicts()[0].rule == "long"
    assert MAX_HASH_BYTES > 16 << 20


def test_a_small_program_does_not_wait_for_large_ones(bench: Bench, tmp_path: Path) -> None:
    """Started after them, by the same user, and itself not in the cache."""
    for n in range(30):
        bench.script.exec(sparse(tmp_path / str(n), 127))
    bench.gate.serve(bench.script)  # type: ignore[arg-type]
    assert bench.script.answers == []
    small, digest = program(tmp_path / "small")
    bench.listed[digest] = "small"
    fd = bench.script.exec(small)
    assert rounds_until(bench, fd) <= 2
    assert bench.script.answers == [(fd, True)]
    bench.gate.finish()


def test_who_waits_for_his_turn_keeps_no_writer_waiting(bench: Bench, tmp_path: Path) -> None:
    first, second = sparse(tmp_path / "first", 8), sparse(tmp_path / "second", 9)
    for path in (first, second):
        bench.script.exec(path)
    bench.gate.serve(bench.script)  # type: ignore[arg-type]
    assert writer_waits(first), "its lease is held while it is hashed"
    assert not writer_waits(second)
    bench.gate.finish()


def test_a_writer_who_asks_during_the_hash_spoils_it(bench: Bench, tmp_path: Path) -> None:
    """After 45 s the kernel lets him write, and a hash may be interrupted for longer."""
    path = sparse(tmp_path / "p", 8)
    bench.listed[hashlib.sha256(bytes(8 << 20)).digest()] = "tool"
    bench.script.exec(path)
    bench.gate.serve(bench.script)  # type: ignore[arg-type]
    assert writer_waits(path)
    bench.serve()
    assert [(v.decision, v.reason) for v in bench.verdicts()] == [("deny", "being_written")]


def test_more_than_can_wait_are_denied_and_each_has_one_answer(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgewarden.exec.queue.PENDING_AT_MOST", 3)
    before = len(os.listdir("/proc/self/fd"))
    fds = [bench.script.exec(sparse(tmp_path / str(n), n)) for n in (4, 9, 3, 2, 8)]
    bench.serve()
    assert bench.script.answers[:2] == [(fds[1], False), (fds[4], False)]
    assert sorted(fd for fd, _ in bench.script.answers) == sorted(fds)
    reasons = [v.reason for v in bench.verdicts()]
    assert reasons == ["crowded_out"] * 2 + ["unlisted"] * 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_still_waits_when_the_marks_go_is_told_as_not_judged(
    bench: Bench, tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    bench.script.exec(sparse(tmp_path / "p", 8))
    bench.gate.serve(bench.script)  # type: ignore[arg-type]
    bench.gate.finish()
    assert [(v.decision, v.reason) for v in bench.verdicts()] == [("allow", "undecidable")]
    assert [fact.code for fact in bench.facts if isinstance(fact, Alarm)] == ["EW-EXEC-007"]
    assert not bench.gate.busy
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_running_program_is_looked_at_without_a_group(script: Script, tmp_path: Path) -> None:
    bench = Bench(script, "observe")
    with sparse(tmp_path / "p", 3).open("rb") as file:
        bench.gate.inspect(file.fileno(), os.getpid())
        rounds = 0
        while bench.gate.busy:
            bench.gate.work()
            rounds += 1
    assert 3 <= rounds <= 5
    assert [(v.decision, v.pid) for v in bench.verdicts()] == [("would_deny", os.getpid())]


# --- the cache ---------------------------------------------------------------------------------


@pytest.fixture
def cached(script: Script) -> Iterator[tuple[Bench, Path]]:
    with loop_ext4() as where:
        bench = Bench(script)
        bench.gate.digests.cacheable = {where.stat().st_dev}
        yield bench, where


def hashes(bench: Bench, path: Path, mask: int = FAN_OPEN_EXEC_PERM) -> tuple[int, int]:
    """(hashed, cached) that one more exec costs."""
    counters = bench.gate.counters
    before = counters.hashed, counters.cached
    bench.script.exec(path, mask=mask)
    bench.serve()
    bench.gate.hold.clear()
    return counters.hashed - before[0], counters.cached - before[1]


@pytest.mark.needs("root", "loop-mount")
def test_a_quiet_file_is_hashed_once(cached: tuple[Bench, Path]) -> None:
    bench, where = cached
    path, digest = program(where / "p")
    assert hashes(bench, path) == (1, 0)
    assert hashes(bench, path) == (0, 1)
    assert [v.sha256 for v in bench.verdicts()] == [digest, digest]


@pytest.mark.needs("root", "loop-mount")
def test_a_mapping_that_can_write_keeps_a_file_out_of_the_cache(
    cached: tuple[Bench, Path],
) -> None:
    bench, where = cached
    path, _ = program(where / "p", bytes(8192))
    with path.open("r+b") as writer:
        mapping = mmap.mmap(writer.fileno(), 0)
    for _ in range(2):
        assert hashes(bench, path, FAN_OPEN_EXEC) == (1, 0)
    mapping.close()
    assert hashes(bench, path, FAN_OPEN_EXEC) == (1, 0)
    assert hashes(bench, path, FAN_OPEN_EXEC) == (0, 1)


@pytest.mark.needs("root", "loop-mount")
def test_a_file_changed_a_moment_ago_stays_out_of_the_cache(cached: tuple[Bench, Path]) -> None:
    bench, where = cached
    path, _ = program(where / "p")
    bench.wall_ns = path.stat().st_ctime_ns + CTIME_SETTLE_NS - 1
    assert [hashes(bench, path), hashes(bench, path)] == [(1, 0), (1, 0)]
    bench.wall_ns += 1
    assert [hashes(bench, path), hashes(bench, path)] == [(1, 0), (0, 1)]


def change_by_write(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"X")


def change_by_mapping(path: Path) -> None:
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        mapping[0] ^= 1
        mapping[0] ^= 2


def change_by_replacing(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(b"Y" * path.stat().st_size)
    fresh.rename(path)


@pytest.mark.needs("root", "loop-mount")
@pytest.mark.parametrize("change", [change_by_write, change_by_mapping, change_by_replacing])
def test_a_cached_file_that_changed_is_hashed_again(
    cached: tuple[Bench, Path], change: Callable[[Path], None]
) -> None:
    bench, where = cached
    path, digest = program(where / "p", bytes(8192))
    assert [hashes(bench, path), hashes(bench, path)] == [(1, 0), (0, 1)]
    change(path)
    assert hashes(bench, path) == (1, 0)
    last = bench.verdicts()[-1].sha256
    assert last == hashlib.sha256(path.read_bytes()).digest() != digest


@pytest.mark.needs("root", "loop-mount")
def test_a_change_just_before_the_lease_is_seen(
    cached: tuple[Bench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, where = cached
    path, _ = program(where / "p")
    assert [hashes(bench, path), hashes(bench, path)] == [(1, 0), (0, 1)]
    take = ReadLease.take

    def take_late(lease: ReadLease) -> None:
        if not lease.granted:
            path.write_bytes(b"\x7fELF two")
        take(lease)

    monkeypatch.setattr(ReadLease, "take", take_late)
    assert hashes(bench, path) == (1, 0)


@pytest.mark.needs("root")
def test_nothing_of_a_tmpfs_is_cached(script: Script) -> None:
    """There a mapped store leaves no trace: tests/kernel/test_lease_and_mounts.py shows it."""
    from edgewarden.exec.marks import CACHEABLE

    assert "tmpfs" not in CACHEABLE
    bench = Bench(script)
    with private_tmpfs() as where:
        path, _ = program(where / "p")
        assert [hashes(bench, path), hashes(bench, path)] == [(1, 0), (1, 0)]


@pytest.mark.needs("root", "loop-mount")
def test_the_cache_is_bounded_and_forgets_the_oldest(
    cached: tuple[Bench, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, where = cached
    monkeypatch.setattr("edgewarden.exec.digest.CACHE_ENTRIES", 2)
    paths = [program(where / str(n), bytes([n]))[0] for n in range(3)]
    for path in paths:
        assert hashes(bench, path) == (1, 0)
    assert hashes(bench, paths[2]) == (0, 1)
    assert hashes(bench, paths[0]) == (1, 0)


@pytest.mark.parametrize(
    ("mode", "decision"), [("enforce", "allow"), ("observe", "allow"), ("learn", "learned")]
)
def test_what_is_excused_runs_under_its_own_reason(
    bench: Bench, tmp_path: Path, mode: str, decision: str
) -> None:
    asked: list[str] = []

    def excuse(one: Judged) -> str:
        asked.append(one.reason)
        return "critical"

    bench.gate._excuse = excuse
    bench.gate.mode = mode
    path, _ = program(tmp_path / "sudo")
    fd = bench.script.exec(path)
    bench.serve()
    assert bench.script.answers == [(fd, True)]
    found = bench.verdicts()[0]
    assert found.decision == decision
    assert (found.reason, asked) == (
        ("unlisted", []) if mode == "learn" else ("critical", ["unlisted"])
    )


def test_an_excuse_that_fails_lets_through_with_an_alarm(bench: Bench, tmp_path: Path) -> None:
    def excuse(one: Judged) -> str:
        raise ValueError("broken")

    bench.gate._excuse = excuse
    path, _ = program(tmp_path / "any")
    fd = bench.script.exec(path)
    bench.serve()
    assert bench.script.answers == [(fd, True)]
    assert [fact.code for fact in bench.facts if isinstance(fact, Alarm)] == ["EW-EXEC-007"]


def test_the_counters_know_what_was_answered_in_passing(bench: Bench, tmp_path: Path) -> None:
    path, digest = program(tmp_path / "one")
    known = Known(digest)
    fd = os.open(path, os.O_RDONLY)
    rule = Rule("r", True, (), (), ())
    bench.gate.quick._done.append((fd, 7, UNTOLD, known, rule, 0, os.fstat(fd), 0.0))
    assert (bench.gate.counters.cached, bench.gate.counters.allowed) == (1, 1)
    os.close(fd)
    bench.gate.quick._done.clear()
