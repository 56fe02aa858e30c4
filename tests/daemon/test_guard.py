"""What guard makes of a heartbeat's time: pure in all but a socket pair and a child to end."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.daemon.guard import GRACE_S, LAST_WORD_S, LATE_S, SILENCE_S, Guard
from edgewarden.exec.judged import OVERDUE_S
from edgewarden.gate.sockets import EARLY_S, HEARTBEAT_S, STOPPER_S, beat_after_s
from edgewarden.wire.local import Heartbeat, encode

NOW = 5_000.0


class Watched:
    """A guard that watches a child, and the child's end of the line."""

    def __init__(self, listener: socket.socket, child: subprocess.Popen[bytes]) -> None:
        self.guard = Guard(listener, listener.fileno())
        self.gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        self.guard.connection, self.guard.pidfd = theirs, os.pidfd_open(child.pid)
        self.child = child

    def beat(self, mono_s: float) -> None:
        """As gate sends it."""
        self.gate.send(encode(Heartbeat(round(mono_s * 1e9))))

    @property
    def killed(self) -> bool:
        """Whether guard sent the signal."""
        return bool(self.guard.trips_mono)


@pytest.fixture
def watched() -> Iterator[Watched]:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        made = Watched(listener, child)
        yield made
        if made.guard.pidfd >= 0:
            made.guard._forget()
        made.gate.close()
        assert child.stdin is not None
        child.stdin.close()
        child.wait(60)


def test_silence_is_as_long_as_the_last_heartbeat_is_old(watched: Watched) -> None:
    watched.guard.silence_s = 1.8
    for age_s in (1.6, 0.7):
        watched.beat(NOW - age_s)
    watched.guard.hear(NOW)
    assert watched.guard.silence_s == pytest.approx(0.7)


def test_so_long_after_the_last_heartbeat_is_the_end(watched: Watched) -> None:
    """It was heard at a look, 1.2 s after it was sent: 1.3 s are left, not all of it."""
    watched.guard.silence_s = 1.9
    watched.beat(NOW - 1.2)
    watched.guard.hear(NOW)
    watched.guard.silence_s += watched.guard.wait_s()
    watched.guard.judge(0.0)
    assert not watched.killed
    watched.guard.silence_s += watched.guard.wait_s() - 0.01
    watched.guard.judge(0.0)
    assert not watched.killed
    watched.guard.silence_s += 0.01
    assert watched.guard.silence_s == pytest.approx(SILENCE_S + LAST_WORD_S)
    watched.guard.judge(0.0)
    assert watched.killed
    assert watched.child.wait(30) == -9


@pytest.mark.parametrize("age_s", [-0.001, -1e9, 1.91, 1e9])
def test_a_time_that_cannot_be_is_not_believed(watched: Watched, age_s: float) -> None:
    """A gate of before this change counts beats in its place: it must not be ended for that, nor
    live for ever by one beat from the future."""
    watched.guard.silence_s = 1.9
    watched.gate.send(encode(Heartbeat(max(0, round((NOW - age_s) * 1e9)))))
    watched.guard.hear(NOW)
    assert watched.guard.silence_s == pytest.approx(min(1.9, SILENCE_S - LATE_S))


def test_a_heartbeat_that_was_on_its_way_at_the_look_is_as_old_as_it_says(watched: Watched) -> None:
    """gate's first: it was sent before guard took the connection, and no other came."""
    watched.guard.silence_s = SILENCE_S
    watched.beat(NOW - SILENCE_S - 0.01)
    watched.guard.hear(NOW)
    assert watched.guard.silence_s == SILENCE_S


def test_a_late_look_excuses_once(watched: Watched) -> None:
    watched.guard.silence_s = SILENCE_S
    watched.guard.judge(0.0)
    watched.guard.silence_s = 30.0
    watched.guard.judge(28.0)
    assert not watched.killed
    assert watched.guard.silence_s == SILENCE_S - GRACE_S
    assert watched.guard.wait_s() == GRACE_S
    watched.guard.silence_s += 7.0
    watched.guard.judge(6.0)
    assert not watched.killed
    watched.guard.silence_s += 7.0
    watched.guard.judge(6.0)
    assert watched.killed, "guard may be late for ever, and gate hung meanwhile"


def test_where_the_whole_machine_stood_still_gate_has_its_last_word(watched: Watched) -> None:
    """A third of a second late is not late enough for the long excuse; guard was only the first of
    the two to run again."""
    watched.guard.silence_s = SILENCE_S + 0.1
    watched.guard.judge(LATE_S - 0.2)
    assert not watched.killed
    assert watched.guard.wait_s() == pytest.approx(LAST_WORD_S)
    watched.beat(NOW - 0.01)
    watched.guard.hear(NOW)
    assert watched.guard.wait_s() == pytest.approx(SILENCE_S - 0.01)
    watched.guard.judge(0.0)
    assert not watched.killed


def test_who_calls_at_the_door_does_not_shorten_it(watched: Watched) -> None:
    """guard wakes for a connection, too."""
    watched.guard.silence_s = SILENCE_S + 0.1
    for _ in range(2):
        watched.guard.judge(0.0)
        watched.guard.silence_s += LAST_WORD_S * 0.6
        assert not watched.killed
    watched.guard.judge(0.0)
    assert watched.killed


def test_a_word_ends_the_excuse(watched: Watched) -> None:
    watched.guard.silence_s, watched.guard.excused = 1.5, True
    watched.beat(NOW - 0.1)
    watched.guard.hear(NOW)
    assert not watched.guard.excused


def test_the_end_of_the_line_is_silence(watched: Watched) -> None:
    watched.guard.silence_s = 1.0
    watched.gate.close()
    watched.guard.hear(NOW)
    assert watched.guard.connection is None
    assert watched.guard.silence_s == 1.0


def test_periods_fit_into_guards_patience() -> None:
    assert 2 * HEARTBEAT_S < SILENCE_S
    assert 4 * (HEARTBEAT_S - EARLY_S) < SILENCE_S
    assert HEARTBEAT_S < OVERDUE_S < SILENCE_S


def test_three_seconds_are_kept_with_time_for_the_signal() -> None:
    """Issue 4: a gate that was stopped is broken within three seconds of its last heartbeat."""
    assert SILENCE_S + LAST_WORD_S <= 2.6


def test_a_gate_that_stops_programs_by_bpf_beats_before_its_programs_let_everybody_go() -> None:
    source = Path(__file__).parents[2] / "deploy" / "bpf" / "exec_stop.bpf.c"
    found = re.search(r"#define STALE_NS (\d+)ULL", source.read_text())
    assert found is not None
    assert beat_after_s("bpf-stop") == STOPPER_S < int(found[1]) / 1e9
    assert beat_after_s("fanotify-permission") == HEARTBEAT_S
