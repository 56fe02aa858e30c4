"""How the parts are started."""

from __future__ import annotations

import math
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.cli.become import become_link
from edgewarden.daemon import supervise
from edgewarden.daemon.supervise import (
    LOOK_S,
    ONE_SHOT_S,
    RECHECK_S,
    STEP_S,
    Part,
    Plan,
    _end_overdue,
    _next_due,
    _parts,
    _reap,
    _reload,
    _start,
    startable,
)


def test_gate_and_guard_are_loaded_and_not_compiled_anew(tmp_path: Path) -> None:
    """A script's own source is; a module comes from its cache."""
    plan = Plan("e.toml", str(tmp_path / "state"), str(tmp_path), "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        commands = {part.name: part.command for part in _parts(plan, listener)}
    for name in ("gate", "guard"):
        assert commands[name][1:4] == ["-I", "-S", "-c"]
    done = subprocess.run(commands["gate"], capture_output=True, text=True, timeout=120, cwd="/")
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
        for name in ("_prepare_folders", "_one_shot", "_stop"):
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


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[dict[str, Part]]:
    """All parts, with commands of a moment; what they leave running is ended."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        found = _parts(Plan("e.toml", str(tmp_path / "state"), str(tmp_path), ""), listener)
        for part in found:
            part.command, part.listen = ["/bin/sleep", "60"], None
        yield {part.name: part for part in found}
        for part in found:
            supervise._stop(part)


def due(parts: dict[str, Part]) -> list[str]:
    return [part.name for part in startable(list(parts.values()), supervise.time.monotonic())]


def run_to_its_end(parts: dict[str, Part], name: str, command: list[str]) -> None:
    part = parts[name]
    part.command = command
    _start(part)
    assert part.process is not None
    part.process.wait(60)
    _reap(list(parts.values()))


def test_link_waits_for_nobody_and_gate_for_policy_and_canary(parts: dict[str, Part]) -> None:
    first = [name for name in due(parts) if name != "look"]  # root's alone
    assert first == ["link", "policy", "guard"]
    for name in first:
        _start(parts[name])
    assert not {"canary", "gate", "link"} & set(due(parts)), "the policy is under way"
    parts["policy"].process.kill()  # type: ignore[union-attr]
    parts["policy"].process.wait()  # type: ignore[union-attr]
    _reap(list(parts.values()))
    assert "canary" in due(parts), "a policy that fails stops nothing"
    assert "gate" not in due(parts)
    run_to_its_end(parts, "canary", ["/bin/false"])
    assert "gate" in due(parts), "nor does a canary"
    assert not {"policy", "canary"} & set(due(parts)), "each once"
    assert parts["canary"].due_mono >= parts["canary"].started_mono + RECHECK_S


def test_a_policy_that_hangs_is_ended_and_everything_goes_on(
    parts: dict[str, Part], capfd: pytest.CaptureFixture[str]
) -> None:
    policy, every = parts["policy"], list(parts.values())
    _start(policy)
    now = supervise.time.monotonic()
    assert 0 < _next_due([policy, parts["gate"]], now + ONE_SHOT_S - 9) < 10
    _end_overdue(every, policy.started_mono + ONE_SHOT_S - 0.1)
    assert policy.process is not None
    assert policy.process.poll() is None
    _end_overdue(every, policy.started_mono + ONE_SHOT_S)
    policy.process.wait(60)
    _reap(every)
    assert policy.process is None
    assert "canary" in due(parts)
    assert "policy takes longer than 60 s" in capfd.readouterr().err
    _start(policy)
    _end_overdue(every, policy.started_mono + ONE_SHOT_S)
    assert policy.process is not None
    assert policy.process.wait(60) == -signal.SIGKILL, "the next one has its own limit"


class Unkillable:
    """A process that waits for a disk that does not answer."""

    def __init__(self) -> None:
        self.kills = 0

    def poll(self) -> None:
        return None

    def terminate(self) -> None:
        pass

    def kill(self) -> None:
        self.kills += 1

    def wait(self, timeout: float | None = None) -> int:
        assert timeout is not None, "it would be waited for, for ever"
        raise subprocess.TimeoutExpired("policy", timeout)


def test_a_policy_that_cannot_even_be_killed_stops_neither_gate_nor_the_supervisors_end(
    parts: dict[str, Part],
) -> None:
    policy, every, hangs = parts["policy"], list(parts.values()), Unkillable()
    _start(policy)
    real, policy.process = policy.process, hangs  # type: ignore[assignment]
    late_mono = policy.started_mono + ONE_SHOT_S
    try:
        for _ in range(2):
            _end_overdue(every, late_mono)
            _reap(every)
        assert hangs.kills == 1
        assert {"canary", "policy"} & set(due(parts)) == {"canary"}
        assert _next_due([policy], late_mono) == LOOK_S, "nothing is due because of it"
        supervise._stop(policy)
    finally:
        policy.process = real


def test_the_supervisor_ends_it_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds of its own loop, in which nothing is heard from outside, then TERM."""
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir()
    hangs = Part("policy", ["/bin/sleep", "60"], once=True, limit_s=0.0)
    waits = Part("canary", ["/bin/sleep", "60"], after="policy")
    alive = list[list[str]]()

    def heard(*_: object) -> object:
        alive.append([part.name for part in (hangs, waits) if part.process is not None])
        return None if len(alive) < 2 else type("Info", (), {"si_signo": signal.SIGTERM})

    with monkeypatch.context() as m:
        m.setattr(signal, "pthread_sigmask", lambda *_: set())
        m.setattr(signal, "sigtimedwait", heard)
        m.setattr(supervise, "_parts", lambda *_: [hangs, waits])
        plan = Plan("e.toml", str(tmp_path / "state"), str(tmp_path / "run"), "")
        assert supervise.supervise(plan) == 0
    assert alive[0] == ["policy"]
    assert "canary" in alive[1]
    assert waits.process is not None
    assert waits.process.poll() == -signal.SIGTERM


def test_link_ends_before_gate_and_gate_before_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who loses the other tells of it: that must not be part of each stop."""
    for folder in ("state", "run"):
        (tmp_path / folder).mkdir()
    ended = list[str]()
    with monkeypatch.context() as m:
        m.setattr(signal, "pthread_sigmask", lambda *_: set())
        m.setattr(supervise, "_start", lambda _: None)
        m.setattr(supervise, "_stop", lambda part: ended.append(part.name))
        term = type("Info", (), {"si_signo": signal.SIGTERM})
        m.setattr(signal, "sigtimedwait", lambda *_: term)
        supervise.supervise(Plan("e.toml", str(tmp_path / "state"), str(tmp_path / "run"), ""))
    assert [name for name in ended if name in ("link", "gate", "guard")] == [
        "link", "gate", "guard",
    ]  # fmt: skip


def test_hup_compiles_again_also_what_is_being_compiled(parts: dict[str, Part]) -> None:
    policy, every = parts["policy"], list(parts.values())
    run_to_its_end(parts, "policy", ["/bin/true"])
    assert policy.due_mono == math.inf
    _reload(every)
    assert "policy" in due(parts)
    policy.command = ["/bin/sleep", "60"]
    _start(policy)
    _reload(every)
    assert "policy" not in due(parts), "one at a time"
    policy.process.kill()  # type: ignore[union-attr]
    policy.process.wait()  # type: ignore[union-attr]
    _reap(every)
    assert "policy" in due(parts), "what it had read may be older"


def test_a_one_shot_is_ended_with_the_rest(parts: dict[str, Part]) -> None:
    _start(parts["policy"])
    process = parts["policy"].process
    supervise._stop(parts["policy"])
    assert process is not None
    assert process.poll() == -signal.SIGTERM


def test_the_parts_are_of_this_package_wherever_the_supervisor_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = tmp_path / "edgewarden"
    planted.mkdir()
    (planted / "__init__.py").write_text("raise SystemExit('planted')")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        found = _parts(Plan("none.toml", str(tmp_path / "state"), str(tmp_path), ""), listener)
    for part in found:
        if part.name in ("policy", "renew", "link"):
            done = subprocess.run(part.command, capture_output=True, text=True, timeout=120)
            assert "planted" not in done.stderr
            assert "none.toml" in done.stderr, "it got as far as its settings"


def test_link_is_started_as_what_edgewarden_link_becomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda _, command: became.append(command))
    become_link("e.toml")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        found = _parts(Plan("e.toml", str(tmp_path / "state"), str(tmp_path), ""), listener)
    [[program, flag, *ours]], [link] = became, [p.command for p in found if p.name == "link"]
    assert (program, flag) == (sys.executable, link[1])
    assert [" ".join(word.split()) for word in ours] == [" ".join(w.split()) for w in link[2:]]
