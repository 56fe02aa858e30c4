"""The tier is what the kernel does, not what it lists; also with parts of it masked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.wire.gate_files import ExecTier
from edgewarden.wire.local import Alarm, ExecVerdict
from tests import settled
from tests.system.exec_world import AGENT, MASKER, NOBODY, PYTHON, World, private_tmpfs, world
from tests.waiting import wait_until

CANARY = [*PYTHON, str(AGENT / "edgewarden" / "exec" / "canary.py")]


def canary(run_dir: Path, *state_dir: Path, prefix: tuple[str | Path, ...] = ()) -> ExecTier:
    command = ["timeout", "-s", "KILL", "30", *prefix, *CANARY, run_dir, *state_dir]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert done.returncode == 0, done.stderr
    tier = ExecTier.load((run_dir / "exec-tier").read_bytes())
    assert tier.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert tier.tier in done.stderr
    assert sorted(p.name for p in run_dir.iterdir()) == ["exec-tier"]
    return tier


@pytest.mark.needs("root", "fanotify-permission")
def test_where_an_exec_is_really_denied_it_is_t3(tmp_path: Path) -> None:
    before = settled.look()
    tier = canary(tmp_path)
    assert (tier.tier, tier.source) == ("T3", "fanotify-permission")
    assert tier.reason.startswith("no T4: ")
    settled.check(before)


@pytest.mark.needs("root", "fanotify-permission")
@pytest.mark.parametrize(
    ("mask", "source", "reason"),
    [
        ("no-permission", "fanotify-notify", "fanotify_mark refused: EINVAL"),
        ("no-content", "fanotify-notify", "fanotify_init refused: EINVAL"),
        ("no-fanotify", "proc-connector", "fanotify_init refused: ENOSYS"),
    ],
)
def test_a_kernel_that_cannot_deny_is_t0_and_says_why(
    tmp_path: Path, mask: str, source: str, reason: str
) -> None:
    tier = canary(tmp_path, prefix=(sys.executable, MASKER, mask))
    assert (tier.tier, tier.source) == ("T0", source)
    assert reason in tier.reason


@pytest.mark.needs("root")
def test_not_root_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for parent in tmp_path.parents:
        if parent != Path("/") and parent.stat().st_uid == os.getuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o011)
    tier = canary(tmp_path, prefix=("setpriv", f"--reuid={NOBODY}", "--clear-groups"))
    assert (tier.tier, tier.source) == ("T0", "none")
    assert tier.reason.startswith("not root")


@pytest.mark.needs("root", "fanotify-permission")
def test_a_mount_that_runs_nothing_is_not_taken_for_a_denial(tmp_path: Path) -> None:
    """EPERM and EACCES have many fathers: the control run without marks must work first."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from edgewarden.exec import canary\n"
        "canary.TMPFS_OPTIONS = 'size=40m,mode=0700'\n"
        "canary._run = lambda path: 'EPERM'\n"
        "print(canary.probe(sys.argv[2], 'boot'))"
    )
    command = ["timeout", "-s", "KILL", "30", *PYTHON, "-c", code, str(AGENT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert "T0" in done.stdout
    assert "even without marks: EPERM" in done.stdout


@pytest.mark.needs("root", "fanotify-permission")
@pytest.mark.parametrize("answers", ["allow", "none"])
def test_a_responder_that_does_not_deny_is_not_t3(tmp_path: Path, answers: str) -> None:
    """The verdict of the probe is the kernel's errno, not the responder's opinion of itself."""
    patch = {
        "allow": "ExecGate._judge = lambda self, one, most_bytes: True",
        "none": "ExecGate.serve = lambda self, group: __import__('os')._exit(0)",
    }[answers]
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from edgewarden.exec import canary\n"
        "from edgewarden.exec.responder import ExecGate\n"
        f"{patch}\n"
        "print(canary.probe(sys.argv[2], 'boot'))"
    )
    command = ["timeout", "-s", "KILL", "30", *PYTHON, "-c", code, str(AGENT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=40)
    assert "tier='T0'" in done.stdout
    assert "an exec that was denied ended as: exit 0" in done.stdout


# --- gate on such kernels -------------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


@pytest.mark.needs("root", "fanotify-permission")
@pytest.mark.parametrize("how", ["told by the canary", "another boot", "no word at all"])
def test_without_proof_enforce_is_refused(small: World, how: str) -> None:
    if how == "told by the canary":
        small.tier("T0", "EINVAL")
    elif how == "another boot":
        tier = ExecTier("T3", "fanotify-permission", "", "0000")
        (small.run / "exec-tier").write_bytes(tier.dump())
    else:
        (small.run / "exec-tier").unlink()
    evil = small.program("evil", allow=False)
    small.policy("observe")
    small.start_guard()
    small.start_gate()
    wait_until(lambda: small.status().guard)
    answer = small.set_mode("enforce")
    assert (answer.ok, answer.name) == (False, "not_possible")
    status = small.status()
    assert (status.tier, status.mode, status.armed) == ("T0", "observe", False)
    assert small.outcome([evil]) == "ran"


@pytest.mark.needs("root", "fanotify-permission")
def test_a_kept_enforce_on_a_lesser_kernel_becomes_an_alarm_and_reports(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    small.ask("quit")
    wait_until(small.gate_is_gone)
    small.tier("T0", "EINVAL")
    small.start_gate(masked="no-permission")
    status = small.status()
    assert (status.mode, status.armed, status.source) == ("enforce", False, "fanotify-notify")
    link = small.connect("gate-facts.sock")
    assert small.outcome([evil]) == "ran"
    facts = small.facts(link)
    assert [f.severity for f in facts if isinstance(f, Alarm) and f.code == "EW-EXEC-008"] == [5]
    assert [f.decision for f in facts if isinstance(f, ExecVerdict)] == ["would_deny"]


@pytest.mark.needs("root", "proc-connector")
def test_without_fanotify_programs_are_seen_after_their_start(small: World) -> None:
    sleeper = small.program("sleeper", allow=False, image="/bin/sleep")
    small.policy("observe")
    small.tier("T0", "ENOSYS")
    small.start_gate(masked="no-fanotify")
    assert small.status().source == "proc-connector"
    link = small.connect("gate-facts.sock")
    with subprocess.Popen([sleeper, "60"]) as child:
        facts: list[object] = []

        def reported() -> bool:
            facts.extend(small.facts(link, until=ExecVerdict))
            return any(isinstance(f, ExecVerdict) for f in facts)

        try:
            wait_until(reported)
        finally:
            child.kill()
    (verdict,) = [f for f in facts if isinstance(f, ExecVerdict)]
    assert (verdict.decision, verdict.pid) == ("would_deny", child.pid)
    assert verdict.path_text() == str(sleeper)
    assert [f.code for f in facts if isinstance(f, Alarm)].count("EW-EXEC-009") == 1
