"""How the parts are started."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from edgewarden.daemon import supervise
from edgewarden.daemon.supervise import LOOK_S, STEP_S, Part, Plan, _parts


def test_gate_and_guard_are_loaded_and_not_compiled_anew(tmp_path: Path) -> None:
    """A script's own source is; a module comes from its cache."""
    plan = Plan("e.toml", str(tmp_path / "state"), str(tmp_path), "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        commands = {part.name: part.command for part in _parts(plan, listener)}
    for name in ("gate", "guard"):
        assert commands[name][1:4] == ["-I", "-S", "-c"]
    done = subprocess.run(commands["gate"], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.returncode == 2
    assert f"{tmp_path}/state/policy" in done.stderr, "it got as far as its own files"


@pytest.mark.parametrize(
    ("ahead_s", "begun"),
    [
        ([0.0, 0.0, STEP_S - 0.1, 0.0], []),
        ([0.0, 0.0, STEP_S + 0.1, STEP_S + 0.1], ["renew"]),
        ([0.0, -STEP_S - 0.1, -STEP_S - 0.1, -STEP_S - 0.1], ["renew"]),
        ([1.5e9, 1.5e9, 0.0, 0.0], ["renew"]),
    ],
    ids=["slewed", "set forward", "set back", "a clock of 1970"],
)
def test_renewal_is_due_when_the_clock_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: list[float], begun: list[str]
) -> None:
    far_mono = float("inf")
    parts = [Part("renew", [], clocked=True, due_mono=far_mono), Part("x", [], due_mono=far_mono)]
    started, asleep, offsets = list[str](), list[float](), iter(ahead_s)

    def start(part: Part) -> None:
        started.append(part.name)
        part.due_mono = far_mono

    def sleep(_: object, wait_s: float) -> object:
        asleep.append(wait_s)
        return type("Info", (), {"si_signo": signal.SIGTERM}) if len(asleep) == 3 else None

    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        monkeypatch.context() as m,
    ):
        m.setattr(signal, "pthread_sigmask", lambda *_: set())
        m.setattr(signal, "sigtimedwait", sleep)
        for name in ("_prepare_folders", "_compile", "_one_shot", "_stop"):
            m.setattr(supervise, name, lambda *_: None)
        m.setattr(supervise, "_guard_listener", lambda _: listener)
        m.setattr(supervise, "_parts", lambda *_: parts)
        m.setattr(supervise, "_start", start)
        m.setattr(supervise, "_ahead_s", lambda: next(offsets))
        supervise.supervise(Plan("e.toml", str(tmp_path / "state"), str(tmp_path), ""))
    assert started == begun
    assert max(asleep) <= LOOK_S, "nobody wakes it when the clock is set"


def test_renewal_is_a_part_that_heeds_the_clock(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        parts = _parts(Plan("e.toml", str(tmp_path / "state"), str(tmp_path), ""), listener)
    assert [part.name for part in parts if part.clocked] == ["renew"]


def test_how_far_the_clock_is_ahead_does_not_move_by_itself() -> None:
    assert abs(supervise._ahead_s() - supervise._ahead_s()) < 1
