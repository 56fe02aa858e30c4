"""Tiers below T3, really: programs stopped by BPF, killed after their start, and what is claimed.

The BPF programs see every exec of this machine. They are aimed at a cgroup that the test has made,
so that nobody else is ever stopped; gate lives below ``timeout -s KILL`` as everywhere, and the
programs are gone with its descriptors.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgewarden.exec.after_start import end
from edgewarden.kernel.fanotify import UNTOLD, ExecEvent
from edgewarden.wire.gate_files import StopConfig, compile_gate_config
from edgewarden.wire.local import Alarm, AnyMessage, ExecVerdict, Repeated
from tests.steps import slack_s
from tests.system.exec_world import AGENT, MASKER, NOBODY, PYTHON, World, private_tmpfs, world
from tests.system.test_exec_canary import CANARY, canary
from tests.waiting import wait_until

pytestmark = pytest.mark.alone

TRIES = 5
LATE = "EW-EXEC-062"
SAYS_SO_S = 10.0
"""Gate looks for that a few times a second."""
RESUME = [*PYTHON, str(AGENT / "edgewarden" / "stop" / "resume.py")]
JOIN = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class Stopped(World):
    """A gate at tier T2 whose programs are stopped in one cgroup of the test's own."""

    def __init__(self, filesystem: Path) -> None:
        super().__init__(filesystem)
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        root = next(line.split()[4] for line in mounts if " - cgroup2 " in line)
        self.cgroup = Path(tempfile.mkdtemp(prefix="ew-test-", dir=root))
        self.stop = StopConfig(f"/{self.cgroup.name}", ())
        self.heard: list[AnyMessage] = []
        self._link: socket.socket | None = None
        self.tier("T2")

    def inside(self, *command: str | Path) -> list[str | Path]:
        """The command, run in the cgroup."""
        return ["sh", "-c", JOIN, self.cgroup, *command]

    def outcome(self, command: Sequence[str | Path], timeout_s: float = 30) -> str:
        """``ran``, ``killed`` (and nothing left behind), or what else came of it."""
        marker = self.markers / "marker"
        marker.unlink(missing_ok=True)
        line = self.inside(*command, marker)
        done = subprocess.run(line, capture_output=True, timeout=timeout_s)
        if done.returncode == 0:
            return "ran" if marker.exists() else "no marker"
        if done.returncode == -signal.SIGKILL:
            return "ran, then killed" if marker.exists() else "killed"
        return f"exit {done.returncode}: {done.stderr.decode(errors='replace')}"

    def judged(self, command: Sequence[str | Path]) -> str:
        """What came of it before a gate that was there. One that was silent for a second stops
        nobody and says so: then it is started again."""
        for _ in range(TRIES):
            outcome = self.outcome(command)
            if outcome != "ran" or not self.came_too_late():
                break
        return outcome

    def came_too_late(self) -> bool:
        """Whether gate says that a program has started unjudged since this was asked last."""
        before = len(self._late())

        def said() -> bool:
            self.hear()
            return len(self._late()) > before

        with contextlib.suppress(TimeoutError):
            wait_until(said, SAYS_SO_S)
            return True
        return False

    def _late(self) -> list[AnyMessage]:
        return [f for f in self.heard if isinstance(f, Alarm | Repeated) and LATE in str(f)]

    def hear(self) -> list[AnyMessage]:
        """Everything that gate has told until now; alarms wait for who listens."""
        if self._link is None:
            self._link = self.connect("gate-facts.sock")
        self.heard += self.facts(self._link)
        return self.heard

    def close(self) -> None:
        super().close()
        subprocess.run(RESUME, check=True, timeout=60)
        for pid in (self.cgroup / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (self.cgroup / "cgroup.procs").read_text())
        self.cgroup.rmdir()


@pytest.fixture
def stopped() -> Iterator[Stopped]:
    with private_tmpfs() as where:
        made = Stopped(where)
        try:
            yield made
        finally:
            made.close()


def state_of(pid: int) -> str:
    """The letter of proc(5), "" when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return text[text.rindex(")") + 2]


NEEDS_T2 = pytest.mark.needs("root", "bpf-tracepoint", "cgroup2")


# --- what is claimed ------------------------------------------------------------------------------


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    """A state folder whose settings ask for T2."""
    (tmp_path / "state" / "policy").mkdir(parents=True)
    config = compile_gate_config(["/mnt"], "learn", link_uid=0, stop=StopConfig("/", ()))
    (tmp_path / "state" / "policy" / "gate.conf").write_bytes(config)
    return tmp_path / "state"


@pytest.mark.needs("root", "fanotify-permission", "bpf-tracepoint")
@pytest.mark.parametrize("mask", ["no-permission", "no-content", "no-fanotify"])
def test_k1_with_permission_events_masked_it_is_never_t3(
    tmp_path: Path, asked: Path, mask: str
) -> None:
    """T2 where the settings ask for it and it is proved, T0 otherwise, and the reason is there."""
    run = tmp_path / "run"
    run.mkdir()
    without = canary(run, prefix=(sys.executable, MASKER, mask))
    assert without.tier == "T0"
    assert "refused: E" in without.reason
    with_it = canary(run, asked, prefix=(sys.executable, MASKER, mask))
    assert (with_it.tier, with_it.source) == ("T2", "bpf-stop")
    assert "refused: E" in with_it.reason


@pytest.mark.needs("root", "fanotify-permission")
def test_k2_a_listed_security_module_is_not_a_working_one(tmp_path: Path) -> None:
    """On a machine that lists BPF and refuses the load, the reason says both; T4 nowhere."""
    tier = canary(tmp_path)
    assert tier.tier == "T3"
    where = Path("/sys/kernel/security")
    script = f"mount -t securityfs ew {where} && cat {where}/lsm"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True)
    if "bpf" in done.stdout.split(","):
        assert tier.reason.startswith("no T4: a BPF security module ")
    else:
        assert tier.reason.startswith("no T4: the kernel")


@pytest.mark.needs("root", "fanotify-permission", "bpf-tracepoint")
@pytest.mark.parametrize(
    ("broken", "seen"),
    [
        ("prove.StopCanary.outcome = lambda self, path, judge: ('exit 0', True)", "denied ended"),
        ("ExecGate._judge = lambda self, one, most_bytes: True", "denied ended as: exit 0"),
        ("ExecGate._judge = lambda self, one, most_bytes: False", "allowed ended as: signal 9"),
        ("prove.stands_at_start = lambda fd, pid: False", "did not stand at its first"),
        ("stopper.STOPPED = 7", "neither stopped nor ended"),
    ],
)
def test_k3_each_label_is_backed_by_a_live_denial(
    tmp_path: Path, asked: Path, broken: str, seen: str
) -> None:
    """Whatever of the way to a denial at T2 is broken, the label is gone in the same run."""
    code = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from edgewarden.exec import canary, canary_stop as prove\n"
        "from edgewarden.exec.responder import ExecGate\n"
        "from edgewarden.stop import stopper\n"
        f"{broken}\n"
        "print(canary.probe(sys.argv[2], 'boot', stop=True))"
    )
    command = [sys.executable, MASKER, "no-permission", *PYTHON, "-c", code, AGENT, tmp_path]
    line = ["timeout", "-s", "KILL", "120", *command]
    for _ in range(TRIES):  # of a machine that stood still it says that instead, at T0 as well
        done = subprocess.run(line, capture_output=True, text=True, timeout=150)
        assert "tier='T0'" in done.stdout, done.stdout + done.stderr
        if seen in done.stdout:
            break
    assert seen in done.stdout


@pytest.mark.needs("root", "fanotify-permission", "bpf-tracepoint")
def test_a_canary_that_is_ended_leaves_no_program_standing(tmp_path: Path) -> None:
    """As by its alarm, on a machine so slow that it needs more than its life."""
    run, said = tmp_path / "run", tmp_path / "said"
    run.mkdir()
    code = (
        "import os, sys; sys.path.append(sys.argv[1])\n"
        "from edgewarden.exec import canary, canary_stop as prove\n"
        "end = lambda fd, pid: (os.write(1, pid.encode()), os.kill(os.getpid(), 9))\n"
        "prove.stands_at_start = end\n"
        "canary.probe(sys.argv[2], 'boot', stop=True)"
    )
    command = [sys.executable, MASKER, "no-permission", *PYTHON, "-c", code, AGENT, run]
    with said.open("wb") as out:
        subprocess.run(["timeout", "-s", "KILL", "120", *command], stdout=out, timeout=150)
    pid = int(said.read_text())
    try:
        wait_until(lambda: state_of(pid) in ("", "Z"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.needs("root", "fanotify-permission")
def test_a6_what_a_memfd_does_is_tried_and_said(tmp_path: Path) -> None:
    """vm.memfd_noexec=2 refuses it; this machine's setting is not changed, only asked."""
    sysctl = Path("/proc/sys/vm/memfd_noexec")
    refused = sysctl.exists() and sysctl.read_text().strip() == "2"
    assert canary(tmp_path).gaps == (() if refused else ("memfd",))


# --- T2 at work -----------------------------------------------------------------------------------


@NEEDS_T2
def test_t2_an_unlisted_program_does_nothing_and_a_listed_one_runs(
    stopped: Stopped, runs: int
) -> None:
    """A1 at this tier: --runs 1000 is the issue's count."""
    good = stopped.program("good", allow=True)
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    assert stopped.status().source == "bpf-stop"
    seen = {stopped.judged([evil]) for _ in range(runs)}
    assert seen == {"killed"}
    assert {stopped.outcome([good]) for _ in range(min(runs, 50))} == {"ran"}
    assert stopped.status().denied == runs


@NEEDS_T2
def test_t2_elsewhere_and_outside_the_cgroup_nobody_is_stopped(stopped: Stopped) -> None:
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    assert World.outcome(stopped, [evil]) == "ran"  # not in the cgroup
    assert stopped.outcome(["/bin/touch"]) == "ran"  # not on a watched filesystem
    assert stopped.status().denied == 0


@NEEDS_T2
@pytest.mark.parametrize("how", ["hard link", "bind mount", "private tmpfs", "overlay", "memfd"])
def test_t2_ways_around_marks_are_judged_by_content(stopped: Stopped, how: str) -> None:
    """A2; a fresh tmpfs and a memfd run at T3, and do not here."""
    evil = stopped.program("evil", allow=False)
    place, lower, empty = (stopped.filesystem / name for name in ("place", "lower", "empty"))
    for folder in (place, lower, empty):
        folder.mkdir()
    (stopped.filesystem / "other").hardlink_to(evil)
    (lower / "evil").hardlink_to(evil)
    unshare = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    overlay = f"mount -t overlay -o lowerdir={lower}:{empty} ew {place}"
    ways: dict[str, list[str | Path]] = {
        "hard link": [stopped.filesystem / "other"],
        "bind mount": [*unshare, f'mount --bind {evil.parent} {place} && exec {place}/evil "$0"'],
        "private tmpfs": [
            *unshare, f'mount -t tmpfs ew {place} && cp {evil} {place} && exec {place}/evil "$0"',
        ],
        "overlay": [*unshare, f'{overlay} && exec {place}/evil "$0"'],
        "memfd": [
            sys.executable, "-c",
            "import os, sys; fd = os.memfd_create('x', 0);"
            f"os.write(fd, open({str(evil)!r}, 'rb').read());"
                "os.execve(fd, ['touch', sys.argv[1]], {})",
        ],
    }  # fmt: skip
    assert World.outcome(stopped, ways[how]) == "ran"  # without gate each of them works
    stopped.enforcing()
    assert stopped.judged(ways[how]) == "killed"


@NEEDS_T2
def test_t2_a_denial_and_its_reason_are_told(stopped: Stopped) -> None:
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    assert stopped.judged([evil]) == "killed"
    facts = stopped.hear()
    (verdict,) = [f for f in facts if isinstance(f, ExecVerdict) and f.decision == "deny"]
    assert (verdict.reason, verdict.tier, verdict.path_text()) == ("unlisted", "T2", str(evil))


@NEEDS_T2
def test_t2_who_may_start_nothing_is_killed_in_the_kernel(stopped: Stopped, runs: int) -> None:
    """A helper of the same user that sends SIGCONT all the time changes nothing: SIGKILL stays."""
    good = stopped.program("good", allow=True)
    stopped.stop = StopConfig(f"/{stopped.cgroup.name}", (0,))
    stopped.enforcing()
    raced = stopped.markers / "raced"
    racing = [*racer(good, NOBODY), raced]
    for _ in range(runs):
        subprocess.run(stopped.inside(*racing), check=False, timeout=120)
        if raced.exists():
            assert stopped.came_too_late()
            raced.unlink()
    facts = stopped.hear()
    barred = [f for f in facts if isinstance(f, ExecVerdict) and f.reason == "barred"]
    assert barred
    assert {(f.decision, f.uid) for f in barred} == {("deny", NOBODY)}
    assert stopped.outcome([good]) == "ran"  # root is named


def racer(program: Path, uid: int) -> list[str | Path]:
    """A process of ``uid`` whose child becomes the program while it sends SIGCONT as fast as it
    can; the last argument is the program's."""
    code = (
        "import os, signal, sys\n"
        f"os.setgroups([]); os.setgid({uid}); os.setuid({uid})\n"
        "pid = os.fork()\n"
        f"if pid == 0: os.execv({str(program)!r}, ['touch', sys.argv[1]])\n"
        "while os.waitpid(pid, os.WNOHANG)[0] == 0: os.kill(pid, signal.SIGCONT)\n"
    )
    return [sys.executable, "-c", code]


@NEEDS_T2
def test_t2_a_resume_by_somebody_else_is_an_alarm(stopped: Stopped, runs: int) -> None:
    """What nothing prevents where users are not named (threat model): how often a helper of the
    same user wins is printed, and that one tried is never hidden."""
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    won = 0
    for i in range(runs):
        raced = stopped.markers / f"raced-{i}"
        line = stopped.inside(*racer(evil, NOBODY), raced)
        subprocess.run(line, check=False, timeout=120)
        won += raced.exists()
    print(f"SIGCONT by the same user let {won} of {runs} unlisted programs leave a marker")
    link = stopped.connect("gate-facts.sock")
    code = (
        f"import os; open('{stopped.cgroup}/cgroup.procs', 'w').write('0'); os.setuid({NOBODY})\n"
        "print('ready', flush=True); os.read(0, 1)\n"
        f"os.execv('{evil}', ['touch', '{stopped.markers}/let-go'])"
    )
    for _ in range(TRIES):
        line = [sys.executable, "-c", code]
        with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as waiting:
            assert waiting.stdin is not None
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == b"ready\n"
            with stopped.paused():  # for a moment: the helper wins
                waiting.stdin.close()  # that is the word to go
                wait_until(lambda one=waiting: state_of(one.pid) in ("T", "Z"))
                if state_of(waiting.pid) == "T":
                    drop = ["setpriv", f"--reuid={NOBODY}", "--clear-groups"]
                    helper = subprocess.Popen([*drop, "sh", "-c", f"kill -CONT {waiting.pid}"])
                    assert helper.wait(60) == 0
                    assert waiting.wait(60) == 0
                    break
            waiting.wait(60)  # it came when gate had been silent for a second: it was not stopped
        (stopped.markers / "let-go").unlink(missing_ok=True)
    else:
        pytest.fail("nobody was ever stopped")
    facts = stopped.facts(link)
    (alarm,) = [f for f in facts if isinstance(f, Alarm) and f"({helper.pid}, uid" in f.text]
    assert alarm.code == "EW-EXEC-061"
    assert f"process {waiting.pid} " in alarm.text


@NEEDS_T2
@pytest.mark.parametrize("mercy", ["resume one-shot", "next gate"])
def test_r1_at_t2_a_killed_gate_leaves_nobody_standing(stopped: Stopped, mercy: str) -> None:
    good = stopped.program("good", allow=True, image="/bin/true")
    stopped.enforcing()
    ours, theirs = os.pipe()  # its end is the word to go: all within the second that gate has
    waits = ["sh", "-c", 'read go; exec "$0"', good]
    waiting = [subprocess.Popen(stopped.inside(*waits), stdin=ours) for _ in range(50)]
    os.close(ours)
    joined = stopped.cgroup / "cgroup.procs"
    wait_until(lambda: len(joined.read_text().split()) == len(waiting))
    os.kill(stopped.guard_pid, signal.SIGSTOP)  # guard would end it in 2.5 seconds
    os.kill(stopped.gate_pid, signal.SIGSTOP)
    os.close(theirs)
    # A gate that is silent for a second stops nobody: on a machine at work the last ones may go on.
    wait_until(lambda: all(state_of(p.pid) in ("T", "Z") for p in waiting))
    assert sum(state_of(p.pid) == "T" for p in waiting) >= 10
    started = time.monotonic()
    os.kill(stopped.gate_pid, signal.SIGKILL)
    os.kill(stopped.guard_pid, signal.SIGCONT)
    wait_until(stopped.gate_is_gone)
    if mercy == "next gate":
        stopped.start_gate()
    else:
        subprocess.run(RESUME, check=True, timeout=60)
    assert [p.wait(60) for p in waiting] == [0] * 50
    took_s = time.monotonic() - started
    print(f"{mercy}: 50 programs went on within {took_s:.3f} s of gate's death")
    assert took_s < 1 + slack_s()


@NEEDS_T2
def test_t2_a_silent_gate_stops_nobody_after_a_second(stopped: Stopped) -> None:
    """And says afterwards that programs started unjudged."""
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    link = stopped.connect("gate-facts.sock")
    os.kill(stopped.guard_pid, signal.SIGSTOP)  # guard would end it in 2.5 seconds
    os.kill(stopped.gate_pid, signal.SIGSTOP)
    subprocess.run(["sleep", "1.2"], check=True)
    assert stopped.outcome([evil]) == "ran"
    os.kill(stopped.gate_pid, signal.SIGCONT)
    os.kill(stopped.guard_pid, signal.SIGCONT)
    facts: list[object] = []

    def told() -> bool:
        facts.extend(stopped.facts(link))
        return any(isinstance(f, Alarm) and f.code == "EW-EXEC-062" for f in facts)

    wait_until(told)


@NEEDS_T2
def test_t2_leaving_enforce_and_ending_let_everybody_go(stopped: Stopped) -> None:
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    assert stopped.judged([evil]) == "killed"
    assert stopped.set_mode("observe").ok
    assert stopped.status().source == "fanotify-notify"
    assert stopped.outcome([evil]) == "ran"
    assert stopped.set_mode("enforce").ok
    assert stopped.judged([evil]) == "killed"
    stopped.ask("quit")
    wait_until(stopped.gate_is_gone)
    assert stopped.outcome([evil]) == "ran"


# --- T0: detect and respond -----------------------------------------------------------------------


@pytest.fixture
def small() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        yield made


@pytest.mark.needs("root", "fanotify-permission", "proc-connector")
@pytest.mark.parametrize(
    ("masked", "source"),
    [("no-permission", "fanotify-notify"), ("no-fanotify", "proc-connector")],
)
def test_t0_what_is_not_allowed_is_killed_after_its_start_and_called_that(
    small: World, masked: str, source: str
) -> None:
    good = small.program("good", allow=True, image="/bin/sleep")
    evil = small.program("evil", allow=False, image="/bin/sleep")
    small.kill_after_start = True
    small.tier("T0", "EINVAL")
    small.policy("observe")
    small.start_gate(masked=masked)
    assert small.status().source == source  # it has armed before it answers
    link = small.connect("gate-facts.sock")
    with subprocess.Popen([evil, "60"]) as child:
        wait_until(lambda: small.status().would_deny == 1)
        assert child.poll() is None  # observe kills nobody
        child.kill()
    answer = small.set_mode("enforce")
    assert answer.ok
    assert "not prevented" in answer.text
    with subprocess.Popen([evil, "60"]) as child:
        assert child.wait(60) == -signal.SIGKILL
    with subprocess.Popen([good, "60"]) as child:
        wait_until(lambda: small.status().allowed >= 1)
        assert child.poll() is None
        child.kill()
    status = small.status()
    assert (status.tier, status.armed, status.source) == ("T0", False, source)
    assert (status.killed, status.denied) == (1, 0)
    facts = small.facts(link)
    (killed,) = [f for f in facts if isinstance(f, ExecVerdict) and f.decision == "killed"]
    assert (killed.tier, killed.path_text()) == ("T0", str(evil))
    assert "EW-EXEC-064" in [f.code for f in facts if isinstance(f, Alarm)]
    assert small.set_mode("observe").ok
    with subprocess.Popen([evil, "60"]) as child:
        wait_until(lambda: small.status().would_deny == 2)
        assert child.poll() is None
        child.kill()


@pytest.mark.needs("root")
@pytest.mark.parametrize("tier", ["T2", "T3"])
def test_t0_is_never_what_enforce_means_where_more_was_proved(small: World, tier: str) -> None:
    """Killing afterwards is no stand-in for a denial that was proved and cannot be armed now."""
    small.kill_after_start = True
    small.tier(tier)
    small.policy("observe")
    small.start_gate(masked="no-permission")
    answer = small.set_mode("enforce")
    assert (answer.ok, answer.name) == (False, "not_possible")  # no guard


@pytest.mark.needs("root")
def test_t0_a_process_that_runs_another_program_by_now_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"x")
    with subprocess.Popen(["sleep", "60"]) as child:
        program = os.stat(f"/proc/{child.pid}/exe")
        runs = {child.pid: (program.st_dev, program.st_ino)}
        fd = os.open(other, os.O_RDONLY)
        assert not end(ExecEvent(0, fd, child.pid, UNTOLD), runs.get)
        assert child.poll() is None
        os.close(fd)
        fd = os.open(f"/proc/{child.pid}/exe", os.O_RDONLY)
        assert end(ExecEvent(0, fd, child.pid, UNTOLD), runs.get)
        assert child.wait(60) == -signal.SIGKILL
        assert not end(ExecEvent(0, fd, child.pid, UNTOLD), runs.get)
        os.close(fd)


# --- T2 and parents -------------------------------------------------------------------------------


@NEEDS_T2
def test_t2_a_parent_that_waits_for_ends_sees_ends_alone(stopped: Stopped, runs: int) -> None:
    """As service managers wait (systemd: WEXITED); one that also asks for WSTOPPED may see more,
    and how often is printed."""
    good = stopped.program("good", allow=True, image="/bin/true")
    stopped.enforcing()
    code = (
        "import os, sys\n"
        "seen = {}\n"
        "for options in (os.WEXITED, os.WEXITED | os.WSTOPPED):\n"
        "    for _ in range(int(sys.argv[2])):\n"
        "        pid = os.fork()\n"
        "        if pid == 0: os.execv(sys.argv[1], ['true'])\n"
        "        while True:\n"
        "            found = os.waitid(os.P_PID, pid, options)\n"
        "            key = options, found.si_code\n"
        "            seen[key] = seen.get(key, 0) + 1\n"
        "            if found.si_code != os.CLD_STOPPED: break\n"
        "print([seen.get((o, c), 0) for o in (os.WEXITED, os.WEXITED | os.WSTOPPED)"
        " for c in (os.CLD_EXITED, os.CLD_KILLED, os.CLD_STOPPED)])\n"
    )
    line = stopped.inside(sys.executable, "-c", code, good, str(runs))
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    ended, killed, stops, ended_too, killed_too, seen = json.loads(done.stdout)
    assert (ended, killed, stops) == (runs, 0, 0)
    assert (ended_too, killed_too) == (runs, 0)
    print(f"a parent that asks for WSTOPPED saw {seen} of {runs} programs stop")


@NEEDS_T2
def test_t2_a_shell_with_job_control_is_disturbed(stopped: Stopped, runs: int) -> None:
    """Why T2 is for services and a person's choice. What an interactive bash makes of it is
    printed: it takes programs for suspended, and ends those when it ends itself."""
    good = stopped.program("good", allow=True)
    stopped.enforcing()
    markers = [stopped.markers / f"job-{i}" for i in range(runs)]
    typed = "".join(f"{good} {marker}\n" for marker in markers) + "exit\nexit\n"
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        stopped.inside("bash", "--norc", "-i"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    heard = b""
    with contextlib.suppress(OSError):  # EIO: the shell has ended
        os.write(ours, typed.encode())
        while part := os.read(ours, 65536):
            heard += part
    os.close(ours)
    assert shell.wait(60) is not None
    done = sum(marker.exists() for marker in markers)
    called = heard.count(b"Stopped ")
    print(f"bash -i called {called} of {runs} programs stopped; {done} did their work")


# --- the canary's word, again ---------------------------------------------------------------------


@NEEDS_T2
def test_t2_the_canary_on_its_timer_takes_a_gate_at_work_for_what_it_is(stopped: Stopped) -> None:
    """Its programs are stopped by gate too, and killed: that is the proof, not a lesser tier."""
    evil = stopped.program("evil", allow=False)
    stopped.enforcing()
    again = [sys.executable, MASKER, "no-permission", *CANARY, stopped.run, stopped.state]
    done = subprocess.run(stopped.inside(*again), capture_output=True, text=True, timeout=150)
    assert "gate-probe: T2, bpf-stop: gate stops programs here" in done.stderr
    status = stopped.status()
    assert (status.tier, status.armed) == ("T2", True)
    assert stopped.judged([evil]) == "killed"


@pytest.mark.needs("root", "fanotify-permission")
def test_a_tier_that_got_worse_is_an_alarm_and_takes_no_marks_away(small: World) -> None:
    evil = small.program("evil", allow=False)
    small.enforcing()
    link = small.connect("gate-facts.sock")
    small.tier("T0", "a test says so")
    wait_until(lambda: small.status().tier == "T0")
    assert small.status().armed
    assert small.outcome([evil]) == "denied"
    facts = small.facts(link)
    (alarm,) = [f for f in facts if isinstance(f, Alarm) and f.code == "EW-EXEC-063"]
    assert alarm.text == "tier T0 after T3: a test says so"
    small.tier("T3")
    wait_until(lambda: small.status().tier == "T3")


@pytest.mark.needs("root", "fanotify-permission")
def test_a_tier_that_is_proved_later_is_used_at_once(small: World) -> None:
    """Also where enforce was chosen before: no restart, no second word."""
    evil = small.program("evil", allow=False)
    small.enforcing()
    small.ask("quit")
    wait_until(small.gate_is_gone)
    small.tier("T0", "not yet")
    small.start_gate()
    wait_until(lambda: small.status().guard)
    assert not small.status().armed
    small.tier("T3")
    wait_until(lambda: small.status().armed)
    assert small.outcome([evil]) == "denied"
