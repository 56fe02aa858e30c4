"""What is not asked for while it starts: when, in which order, and what ends it. The kernel's half
is in tests/system/test_spares.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fcntl import F_RDLCK, F_SETLEASE, fcntl
from pathlib import Path
from typing import cast

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.exec.digest import Known
from edgewarden.exec.hold import Hold
from edgewarden.exec.judged import Counters
from edgewarden.exec.spares import QUIET_S, SPARED_AT_MOST, Spares
from edgewarden.exec.subject import Subjects
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import CRITICAL
from edgewarden.kernel.fanotify import (
    FAN_NOPIDFD,
    FAN_OPEN_EXEC,
    FAN_OPEN_EXEC_PERM,
    UNTOLD,
    ExecEvent,
    Group,
)
from edgewarden.kernel.lease import ignore_lease_breaks
from edgewarden.wire.local import UNKNOWN_UID

RULE = Rule("tool", True, (), (), ())


class Kernel:
    """One group: what was marked, and what is told."""

    def __init__(self, calls: list[str], mark: str, remove: str) -> None:
        self.calls = calls
        self.fd = 1
        self.words = mark, remove
        self.told: list[ExecEvent] = []
        self.refuses = False
        self.unreadable = False

    def mark_file(self, fd: int, *, remove: bool = False) -> None:
        if self.refuses:
            raise HardwareFault("fanotify_mark(file) refused: EINVAL")
        self.calls.append(self.words[remove])

    def read(self) -> list[ExecEvent]:
        if self.unreadable:
            raise HardwareFault("read(fanotify) refused: EMFILE")
        found, self.told = self.told, []
        return found

    def close(self) -> None:
        self.calls.append("close")


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls: list[str] = []
        self.group = Kernel(self.calls, "ignore", "ask")
        self.starts = Kernel(self.calls, "watch", "leave")
        self.counters = Counters()
        self.rule: Rule | None = RULE
        self.spares = Spares(
            lambda known: self.rule,
            Subjects(lambda name: "Name:\tx\nUid:\t1000\t0\t0\t0\n", lambda pid: b""),
            self.counters,
            lambda: 7,
            lambda: 1.0,
            lambda permission: cast("Group", self.starts),
        )
        self.spares.begin(cast("Group", self.group), permitted=True)
        self.known = Known(b"d" * 32)
        self.opened: list[ExecEvent] = []

    def event(self, mask: int = FAN_OPEN_EXEC_PERM, pid: int = 9, pidfd: int = UNTOLD) -> ExecEvent:
        made = ExecEvent(mask, os.open(self.path, os.O_RDONLY), pid, pidfd)
        self.opened.append(made)
        return made

    def spare(self, *under_way: int) -> bool:
        return self.spares.spare(self.event(), self.known, under_way)

    def start(self, pid: int, pidfd: int = UNTOLD) -> None:
        self.starts.told.append(self.event(FAN_OPEN_EXEC, pid, pidfd))

    @property
    def inode(self) -> tuple[int, int]:
        status = self.path.stat()
        return status.st_dev, status.st_ino


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    path = tmp_path / "tool"
    path.write_bytes(b"\x7fELF")
    path.chmod(0o755)
    made = Bench(path)
    yield made
    for event in made.opened:
        event.close()


pytestmark = pytest.mark.needs("root")


def test_it_is_told_before_it_is_no_longer_asked_for(bench: Bench) -> None:
    assert bench.spare()
    assert bench.calls == ["watch", "ignore"]
    assert bench.spares.is_spared(bench.known)


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_what_others_can_write_to_is_asked_for(bench: Bench, mode: int) -> None:
    bench.path.chmod(mode)
    assert not bench.spare()
    assert bench.calls == []


def test_what_another_owns_is_asked_for(bench: Bench) -> None:
    os.chown(bench.path, 1, 0)
    assert not bench.spare()


@pytest.mark.parametrize("rule", [None, Rule("no", False, (), (), ())])
def test_what_no_rule_lets_through_for_all_is_asked_for(bench: Bench, rule: Rule | None) -> None:
    bench.rule = rule
    assert not bench.spare()
    assert bench.calls == []


def test_a_kernel_that_cannot_is_not_asked_twice(bench: Bench) -> None:
    bench.group.refuses = True
    assert not bench.spare()
    assert bench.calls == ["watch", "leave"]
    assert not bench.spare()
    assert bench.calls == ["watch", "leave"]


def test_a_start_is_reported_by_the_rule_that_was_in_force(bench: Bench) -> None:
    bench.spare()
    bench.rule = None
    bench.start(41)
    (one,) = bench.spares.hear(1.0)
    assert (one.rule, one.reason, one.digest) == ("tool", "listed", bench.known.digest)
    assert (one.event.pid, one.uid, one.inode) == (41, 1000, bench.inode)
    assert (bench.known.starting, bench.known.used_mono) == (1, 1.0)
    assert (bench.counters.allowed, bench.counters.cached) == (1, 1)


def test_of_the_critical_set_it_says_so(bench: Bench) -> None:
    bench.rule = CRITICAL
    bench.spare()
    bench.start(41)
    assert [one.reason for one in bench.spares.hear(1.0)] == ["critical"]


def test_of_one_that_has_ended_the_uid_is_not_guessed(bench: Bench) -> None:
    bench.spare()
    bench.start(41, FAN_NOPIDFD)
    assert [one.uid for one in bench.spares.hear(1.0)] == [UNKNOWN_UID]


def test_what_was_asked_for_is_not_reported_again(bench: Bench) -> None:
    bench.spare(41)
    bench.spares.asked(bench.event(pid=42), bench.inode)
    bench.spares.asked(bench.event(FAN_OPEN_EXEC, 43), bench.inode)  # told, not asked for
    for pid in (41, 42, 43):
        bench.start(pid)
    assert [one.event.pid for one in bench.spares.hear(1.0)] == [43]
    bench.start(41)
    assert [one.event.pid for one in bench.spares.hear(1.0)] == [41], "once each"


def test_a_start_that_could_not_be_read_is_counted(bench: Bench) -> None:
    bench.spare()
    bench.starts.unreadable = True
    assert bench.spares.hear(1.0) == []
    assert bench.counters.unreported == 1


def test_asked_again_it_is_still_told_until_all_is_quiet(bench: Bench) -> None:
    bench.spare()
    bench.spares.ask_again(bench.known, 1.0)
    bench.spares.ask_again(bench.known, 5.0)
    assert bench.calls == ["watch", "ignore", "ask"]
    assert not bench.spares.is_spared(bench.known)
    assert bench.spares.keeps(bench.known, 1.0 + QUIET_S / 2)
    bench.start(41)
    assert [one.event.pid for one in bench.spares.hear(1.0)] == [41]
    assert not bench.spares.keeps(bench.known, 1.0 + QUIET_S)
    bench.spares.drop(bench.known)
    assert bench.calls[3:] == ["leave"]
    assert not bench.spares


def test_no_lease_no_mark(bench: Bench) -> None:
    bench.spare()
    bench.spares.drop(bench.known)
    assert bench.calls == ["watch", "ignore", "ask", "leave"]


def test_it_can_be_spared_again(bench: Bench) -> None:
    bench.spare()
    bench.spares.ask_again(bench.known, 1.0)
    assert bench.spare()
    assert bench.calls == ["watch", "ignore", "ask", "leave", "watch", "ignore"]
    assert len(bench.spares) == 1


def test_one_file_has_one_mark(bench: Bench) -> None:
    """Its times moved: it is another key, and the same inode."""
    bench.spare()
    assert not bench.spares.spare(bench.event(), Known(b"d" * 32), ())
    assert bench.spares.is_spared(bench.known)


def test_another_policy_asks_for_all(bench: Bench) -> None:
    bench.spare()
    bench.spares.all_again()
    assert bench.calls[-1] == "ask"
    assert not bench.spares.is_spared(bench.known)


def test_there_is_a_most(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SPARED_AT_MOST >= 16
    monkeypatch.setattr("edgewarden.exec.spares.SPARED_AT_MOST", 0)
    assert not bench.spare()


def test_without_a_second_group_each_start_is_asked_for(bench: Bench) -> None:
    bench.starts.refuses = True
    assert not bench.spare()
    assert bench.calls == []
    assert bench.spares.hear(1.0) == []


@pytest.mark.parametrize("permitted", [True, False])
def test_marks_put_anew_in_the_same_group_ask_for_all(bench: Bench, permitted: bool) -> None:
    bench.spare()
    bench.spares.begin(cast("Group", bench.group), permitted=permitted)
    assert bench.calls == ["watch", "ignore", "ask"]
    assert bench.spare() == permitted


def test_another_group_has_no_marks_of_the_last(bench: Bench) -> None:
    bench.spare()
    other = Kernel(bench.calls, "ignore", "ask")
    bench.spares.begin(cast("Group", other), permitted=True)
    assert not bench.spares
    assert bench.calls[2:] == ["close"]


# --- with the leases (exec/hold.py) -----------------------------------------------------------


class Leases:
    """A content whose lease is held, and was relied on a moment ago."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.hold = Hold(lambda pid: self.running, bench.spares)
        self.running: tuple[int, int] | None = bench.inode
        ignore_lease_breaks()
        self.owner = self.keep(1, owner=True)
        bench.known.again = True

    def keep(self, pid: int, *, owner: bool = False, known: Known | None = None) -> ExecEvent:
        event, known = self.bench.event(pid=pid), known or self.bench.known
        if owner:
            fcntl(event.fd, F_SETLEASE, F_RDLCK)
            known.lease_fd = event.fd
        known.starting += 1
        self.hold.keep(event, self.bench.inode, known, owner=owner, now_mono=0.0)
        return event

    def look(self, now_mono: float) -> list[str]:
        """Returns what was asked of the kernel."""
        self.bench.calls.clear()
        self.hold.due_mono = now_mono
        self.hold.look(now_mono)
        return list(self.bench.calls)


@pytest.fixture
def leases(bench: Bench) -> Leases:
    return Leases(bench)


def test_a_second_start_under_the_lease_is_the_last_that_is_asked_for(leases: Leases) -> None:
    leases.bench.known.again = False
    assert leases.look(0.001) == []
    leases.bench.known.again = True
    assert leases.look(0.002) == ["watch", "ignore"]
    assert leases.look(0.003) == []


def test_who_is_under_way_then_is_not_reported_again(leases: Leases) -> None:
    leases.running = None
    leases.keep(42)
    leases.look(0.001)
    for pid in (42, 43):
        leases.bench.start(pid)
    assert [one.event.pid for one in leases.bench.spares.hear(0.002)] == [43]


def test_who_was_asked_for_afterwards_is_not_reported_again(leases: Leases) -> None:
    leases.look(0.001)
    leases.keep(44)
    leases.bench.start(44)
    assert leases.bench.spares.hear(0.002) == []


def test_who_wants_to_write_ends_it_at_once_and_waits_until_all_is_quiet(leases: Leases) -> None:
    leases.look(0.001)
    leases.bench.known.used_mono = 0.002
    with pytest.raises(BlockingIOError):
        os.open(leases.bench.path, os.O_WRONLY | os.O_NONBLOCK)
    assert leases.look(0.003) == ["ask"]
    assert leases.look(0.003 + QUIET_S / 2) == []
    assert leases.owner.fd >= 0
    assert leases.look(0.004 + QUIET_S) == ["leave"]
    assert leases.owner.fd < 0
    os.close(os.open(leases.bench.path, os.O_WRONLY | os.O_NONBLOCK))


def test_who_is_told_and_has_not_started_keeps_the_lease(leases: Leases) -> None:
    leases.look(0.001)
    leases.bench.start(45)
    (told,) = leases.bench.spares.hear(0.002)
    leases.running = None
    leases.hold.keep(told.event, leases.bench.inode, told.known, owner=False, now_mono=0.002)
    leases.look(0.1)
    leases.look(0.2)
    assert leases.owner.fd >= 0
    leases.running = leases.bench.inode
    leases.look(0.3)
    assert leases.owner.fd < 0


def test_no_room_for_the_lease_is_no_mark_either(
    leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases.look(0.001)
    monkeypatch.setattr("edgewarden.exec.hold.HOLD_ENTRIES", 1)
    leases.running = None
    leases.keep(46, known=Known(b"e" * 32))
    assert leases.bench.calls[-2:] == ["ask", "leave"]
    assert leases.owner.fd < 0


def test_when_the_marks_are_gone_nothing_is_asked_of_them(leases: Leases) -> None:
    leases.look(0.001)
    leases.bench.spares.end()
    leases.bench.calls.clear()
    leases.hold.clear()
    assert leases.bench.calls == []
    assert leases.owner.fd < 0
