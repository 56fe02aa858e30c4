"""`edgewarden run`: policy one-shot, guard, gate and link under one parent, where there is no
systemd.

    1. link, as the user `exec.link_user` when we are root and that user exists: it waits for none
    of the others, so that a gateway whose policy hangs can still say so (ADR 51)
    2. the policy one-shot, which compiles what gate may map; a policy that does not compile, or not
    within ONE_SHOT_S, stops nothing that runs
    3. guard, with the listening seqpacket socket as descriptor 3
    4. when the policy has ended: the canary, which proves what this kernel can deny, and again each
    RECHECK_S; when that has ended: gate, which never spawns
    5. the privileged look at processes, each LOOK_S, where we are root
    6. the renewal of the certificate, each RECHECK_S and when the clock was set, as link's user

A part that ends is started again after a wait that doubles from RESTART_S to RESTART_CAP_S and is
forgotten after STABLE_S; link's exit RESTART_ME means "new settings, again at once". TERM or INT
ends link, gate, guard in that order, whatever one-shot is under way; a part that does not end in
STOP_S is killed. Every part dies with its parent (PR_SET_PDEATHSIG), so that a killed supervisor
leaves nothing behind.

The parts are started with the interpreter this runs in; gate and guard without site-packages, which
they do not need and which would cost them memory, link as the lean interpreter that `edgewarden
link` becomes.
"""

from __future__ import annotations

import contextlib
import grp
import math
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden.kernel.process import die_with_parent
from edgewarden.plain import dataclass, field

RESTART_S = 0.5
RESTART_CAP_S = 30.0
STABLE_S = 60.0
STOP_S = 5.0
RECHECK_S = 3600.0
"""As edgewarden-recheck.timer."""
RENEW_FIRST_S = 120.0
"""As edgewarden-renew.timer."""
LOOK_S = 60.0
"""As edgewarden-look.timer: 25 ms of CPU a minute (x86-64)."""
STEP_S = 5.0
"""A clock that is slewed moves by 0.03 s in LOOK_S (500 ppm): more, and somebody set it."""
ONE_SHOT_S = 60.0
"""TimeoutStartSec= of edgewarden-policy.service: gate goes on with its last table then."""
RESTART_ME = 75
"""EX_TEMPFAIL of <sysexits.h>: link asks to be started again at once."""
_PACKAGE = Path(__file__).resolve().parents[1]
_LISTEN_FD = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        settings: the settings file, handed to every part.
        state_dir, run_dir: as in [paths].
        link_user: Unix user for link, used only by root.
    """

    settings: str
    state_dir: str
    run_dir: str
    link_user: str


@dataclass(slots=True)
class Part:
    """One supervised process; with ``every_s`` one that ends by itself and is started again, with
    ``once`` one that ends by itself and is started again when somebody says so (``due_mono``)."""

    name: str
    command: list[str]
    user: str = ""
    listen: socket.socket | None = None
    every_s: float = 0.0
    once: bool = False
    after: str = ""
    """Not before that part has ended for the first time, however it ended."""
    limit_s: float = math.inf
    """One that runs longer is killed."""
    patient: bool = False
    """One that failed is started again when it is due anyway."""
    clocked: bool = False
    """One that is due when the clock was set."""
    process: subprocess.Popen[bytes] | None = None
    started_mono: float = 0.0
    wait_s: float = RESTART_S
    due_mono: float = 0.0
    restarts: int = field(default=-1)
    ended: bool = False
    overdue: bool = False


def supervise(plan: Plan) -> int:
    """Run everything until TERM or INT; returns the exit code."""
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _prepare_folders(plan)
    listener = _guard_listener(plan)
    parts = _parts(plan, listener)
    ahead_s = _ahead_s()
    try:
        while True:
            now, before_s, ahead_s = time.monotonic(), ahead_s, _ahead_s()
            if abs(ahead_s - before_s) > STEP_S:
                after_step(parts, now)
            for part in startable(parts, now):
                _start(part)
            caught = signal.sigtimedwait(signals, _next_due(parts, now))
            if caught is not None and caught.si_signo in (signal.SIGTERM, signal.SIGINT):
                return 0
            if caught is not None and caught.si_signo == signal.SIGHUP:
                _reload(parts)
            _end_overdue(parts, time.monotonic())
            _reap(parts)
    finally:
        for part in parts:
            _stop(part)
        listener.close()


def startable(parts: list[Part], now: float) -> list[Part]:
    """What is to be started now, in order: due, and whoever must have ended before has."""
    ended = {"", *(part.name for part in parts if part.ended)}
    due = [part for part in parts if part.process is None and now >= part.due_mono]
    return [part for part in due if part.after in ended]


def after_step(parts: list[Part], now: float) -> None:
    """The clock was set: a certificate may be at the end of its life, or long behind it."""
    for part in parts:
        if part.clocked:
            part.due_mono = min(part.due_mono, now)


def _ahead_s() -> float:
    """How far the system's clock is ahead of the time since boot, which nobody sets."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _prepare_folders(plan: Plan) -> None:
    """Make state and run. Root owns both and state/policy, link's user what link writes: a
    captured link can then neither replace a policy nor stand in for gate's sockets."""
    user = _user(plan.link_user)
    for path in (plan.state_dir, plan.run_dir, f"{plan.state_dir}/policy"):
        Path(path).mkdir(mode=0o755, parents=True, exist_ok=True)
    theirs = [Path(plan.state_dir, name) for name in ("identity", "spool", "link")]
    for folder in [*theirs, Path(plan.run_dir, "link")]:
        folder.mkdir(mode=0o750, exist_ok=True)
        if user is not None and folder.stat().st_uid == os.geteuid():
            # Still ours, so nobody else has put anything in it: what root enrolled changes hands.
            for entry in (*folder.rglob("*"), folder):
                os.chown(entry, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _guard_listener(plan: Plan) -> socket.socket:
    """guard's socket; refuses to take it from a supervisor that lives."""
    path = Path(plan.run_dir, "guard.sock")
    if _answers(path):
        raise OperatorFault(
            f"another supervisor runs on {plan.run_dir}",
            code="EW-AGT-009",
            next_step="end it first, or give this one other [paths]",
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(4)
    return listener


def _answers(path: Path) -> bool:
    """Does anybody listen at this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        try:
            other.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _canary(plan: Plan) -> list[str]:
    script = f"{_PACKAGE}/exec/canary.py"
    return [sys.executable, "-I", "-S", script, plan.run_dir, plan.state_dir]


def _parts(plan: Plan, listener: socket.socket) -> list[Part]:
    """All of them, in the order they are started and ended in."""
    root = os.geteuid() == 0
    settings = "--settings", plan.settings
    policy = _whole("cli.main", "", "policy", "compile", *settings)
    renewal = _whole("cli.main", "", "identity", "renew", "--if-due", *settings)
    parts = [
        Part("link", _whole("daemon.lean", "sys.argv[1]", plan.settings), user=plan.link_user),
        Part("policy", policy, once=True, limit_s=ONE_SHOT_S),
        Part("gate", _lean("gate", "*sys.argv[1:]", plan.state_dir, plan.run_dir), after="canary"),
        Part("guard", _lean("guard", str(_LISTEN_FD)), "", listener),
        Part("canary", _canary(plan), after="policy", limit_s=ONE_SHOT_S, patient=True,
             every_s=RECHECK_S if root else math.inf),
        Part("renew", renewal, user=plan.link_user, every_s=RECHECK_S, patient=True,
             clocked=True, due_mono=time.monotonic() + RENEW_FIRST_S),
    ]  # fmt: skip
    if root:
        look = [sys.executable, "-I", "-S", f"{_PACKAGE}/inventory/look.py", plan.run_dir]
        parts.append(Part("look", look, every_s=LOOK_S))
    return parts


def _whole(load: str, arguments: str, *words: str) -> list[str]:
    """An interpreter with site-packages that runs ``main(arguments)`` of this very package, not of
    one that lies where we were started; for link, what `edgewarden link` becomes (cli/become.py).
    """
    flag = "-I" if sys.flags.isolated else "-P"
    code = (
        f"import sys; sys.path.insert(0, {str(_PACKAGE.parent)!r}); "
        f"from edgewarden.{load} import main; sys.exit(main({arguments}))"
    )
    return [sys.executable, flag, "-c", code, *words]


def _lean(daemon: str, arguments: str, *words: str) -> list[str]:
    """An interpreter that runs a daemon's ``main(arguments)`` and reads no site-packages.

    Not the daemon's file as a script: its source would be compiled at every start, and what that
    took would stay locked in memory (gate 0.8 MB, guard 0.4 MB).
    """
    code = (
        f"import sys; sys.path.append({str(_PACKAGE.parent)!r}); "
        f"from edgewarden.daemon.{daemon} import main; "
        f"sys.exit(main({arguments}, with_parent=True))"
    )
    return [sys.executable, "-I", "-S", "-c", code, *words]


def _start(part: Part) -> None:
    user = _user(part.user)
    listen = part.listen
    part.process = subprocess.Popen(
        part.command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        pass_fds=() if listen is None else (_LISTEN_FD,),
        preexec_fn=_child(None if listen is None else listen.fileno()),
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else _groups(user),
        cwd="/",
    )
    part.started_mono = time.monotonic()
    part.restarts += 1
    part.overdue = False
    if part.once:
        part.due_mono = math.inf


def _child(listen_fd: int | None) -> Callable[[], None]:
    """What a child does between fork and exec: die with us, take the listening descriptor."""
    parent = os.getpid()

    def prepare() -> None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        if listen_fd is not None and listen_fd != _LISTEN_FD:
            os.dup2(listen_fd, _LISTEN_FD)
        elif listen_fd is not None:
            os.set_inheritable(_LISTEN_FD, True)

    return prepare


def _end_overdue(parts: list[Part], now: float) -> None:
    """Kill what takes longer than it may. Nobody waits for that to succeed: whoever hangs in a
    disk that does not answer is not killed either, and as little as its end may it stop gate."""
    for part in parts:
        if part.process is None or part.overdue:
            continue
        if now - part.started_mono >= part.limit_s:
            _say(f"{part.name} takes longer than {part.limit_s:g} s and is killed")
            part.process.kill()
            part.overdue = part.ended = True


def _reap(parts: list[Part]) -> None:
    now = time.monotonic()
    for part in parts:
        if part.process is None or part.process.poll() is None:
            continue
        code = part.process.returncode
        part.process, part.ended = None, True
        if part.name == "gate":  # whoever it had stopped at tier T2 goes on
            _one_shot([sys.executable, "-I", "-S", f"{_PACKAGE}/stop/resume.py"])
        if part.once or (part.every_s and (code == 0 or part.patient)):
            if not part.once:
                part.due_mono = part.started_mono + part.every_s
            if code != 0:
                _say(f"{part.name} ended with {code}")
            continue
        if code == RESTART_ME:
            part.due_mono, part.wait_s = now, RESTART_S
            continue
        if now - part.started_mono > STABLE_S:
            part.wait_s = RESTART_S
        part.due_mono = now + part.wait_s
        _say(f"{part.name} ended with {code}; again in {part.wait_s:g} s")
        part.wait_s = min(part.wait_s * 2, RESTART_CAP_S)


def _next_due(parts: list[Part], now: float) -> float:
    """Seconds until something is due; whoever waits for another's end is not: SIGCHLD tells."""
    ended = {"", *(part.name for part in parts if part.ended)}
    waits = [p.due_mono - now for p in parts if p.process is None and p.after in ended]
    running = [p for p in parts if p.process is not None and not p.overdue]
    waits += [p.started_mono + p.limit_s - now for p in running]
    return max(0.0, min([*waits, LOOK_S]))  # a clock that is set wakes nobody here


def _reload(parts: list[Part]) -> None:
    """HUP: compile the policy anew (the one-shot tells gate), let link look at its settings."""
    for part in parts:
        if part.name == "policy":
            part.due_mono = 0.0  # also while it runs: what it has read may be older
        elif part.name == "link" and part.process is not None:
            part.process.send_signal(signal.SIGHUP)


def _stop(part: Part) -> None:
    if part.process is None:
        return
    part.process.terminate()
    try:
        part.process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        part.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in a disk: PID 1's
            part.process.wait(STOP_S)


def _one_shot(command: list[str]) -> None:
    """Run one of our own commands to its end; its fault is told and stops nothing."""
    try:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=ONE_SHOT_S,
            check=True,
            preexec_fn=_child(None),
        )
    except subprocess.SubprocessError as fault:
        _say(f"{' '.join(command[1:])}: {fault}")


def _user(name: str) -> pwd.struct_passwd | None:
    """The user to drop to: only root can, and only to a user that exists."""
    if not name or os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _groups(user: pwd.struct_passwd) -> list[int]:
    """link's groups: its own, and dialout where there is one (serial ports)."""
    groups = [user.pw_gid]
    with contextlib.suppress(KeyError):
        groups.append(grp.getgrnam("dialout").gr_gid)
    return groups


def _say(text: str) -> None:
    print(f"edgewarden run: {text}", file=sys.stderr, flush=True)
