"""The tier probe: deny a program for real, or say why that is impossible here.

What this decides: whether this kernel, on this boot, with these capabilities, refuses an exec when
gate says no. A kernel option, a version or a header proves nothing (stock Raspberry Pi OS has
fanotify and no permission events), so:

1. Not root: T0, "not root".
2. A tmpfs of its own, in a mount namespace of its own, mounted over RUN: nobody else sees it, and
   it is gone with the process. On it two copies of ``true``, one with some bytes appended: two
   programs that do the same.
3. Without marks the second one runs. Otherwise (noexec, a confined unit) a later EPERM would prove
   nothing.
4. A responder, forked before any mark exists, marks that tmpfs and allows the first by digest; it
   is the code that gate runs (exec/responder.py).
5. The second is refused with EPERM and the first ends with 0: T3.
6. Otherwise, where the settings ask for it ([exec] bpf, in STATE/policy/gate.conf): the same two
   programs are stopped by BPF at their start and judged (exec/canary_stop.py): T2.
7. Anything else: T0 with what was seen, and with what is left: fanotify-notify, proc-connector or
   none, each by doing it.
8. Beside the tier, what it does not reach: a memfd is executed, for real. T4 is never claimed;
   why not is said (a BPF security module that is listed is loaded once).
9. A tier that is worse than the last one proved on this boot is proved AGAIN times before it is
   believed: a busy machine must not look like a lesser one.

Who spawns: never the responder, and never gate. This runs in a one-shot of its own before gate
starts (the supervisor's, or a unit's), which forks a worker; the worker forks the
responder and, later, each program. Every process has a bounded life (alarm, and the death of its
parent), so a defect here costs LIFE_S and no more.

What it leaves to others: acting on it. The answer is a sealed file, RUN/exec-tier, good for this
boot only.

    python3 -I -S .../exec/canary.py /run/edgewarden /var/lib/edgewarden
"""

from __future__ import annotations

import errno
import os
import sys
import time
from select import POLLIN, poll

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.errors import EdgewardenError, HardwareFault
from edgewarden.exec.marks import WATCHABLE
from edgewarden.exec.policy_files import CONFIG_NAME, POLICY_DIRECTORY, write_whole
from edgewarden.exec.responder import ExecGate
from edgewarden.exec.subject import Subjects
from edgewarden.judge.exec_rules import Rule
from edgewarden.kernel.fanotify import FAN_OPEN_EXEC, FAN_OPEN_EXEC_PERM, open_group
from edgewarden.kernel.lease import ignore_lease_breaks
from edgewarden.kernel.mounts import enter_private_mounts, mount_tmpfs
from edgewarden.kernel.netlink import open_proc_connector
from edgewarden.kernel.process import die_with_parent
from edgewarden.kernel.signals import SIGKILL, alarm
from edgewarden.wire.gate_files import MAX_FILE_BYTES, ExecTier, GateConfig
from edgewarden.wire.lean import digest_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

TIER_NAME = "exec-tier"
LIFE_S = 8
"""Of the worker; it needs about 30 ms."""
RESPONDER_LIFE_S = 5
"""Shorter: when it ends, whoever waits for it is allowed, and the worker can still say so."""
PROGRAMS = ("/bin/true", "/usr/bin/true")
PROGRAM_BYTES = 16 << 20
"""A busybox with everything is 2 MB."""
ELF_MAGIC = b"\x7fELF"
AGAIN = 2
STILL_STOPPED = "gate stops programs here"
"""On the timer, while gate stops programs itself: a program that no policy lists was killed at its
start, which is the proof."""
TMPFS_OPTIONS = "size=40m,mode=0700"
ANSWER_BYTES = 4096


def probe(run_dir: str, boot_id: str, *, stop: bool = False, last: str = "T0") -> ExecTier:
    """Prove the tier. Forks: call it from a process with one thread and nothing else to do.

    Args:
        run_dir: a directory that is there; the worker hides it from itself.
        boot_id: of this boot, for the answer.
        stop: the settings ask for T2 where T3 is not to be had.
        last: what was proved before on this boot.
    """
    if os.geteuid() != 0:
        return ExecTier("T0", "none", "not root: marks and mounts need CAP_SYS_ADMIN", boot_id)
    pid, answer_fd = _fork(lambda fd: _work(run_dir, fd, stop, last), LIFE_S)
    answer = _read_line(answer_fd, LIFE_S)
    os.close(answer_fd)
    _end(pid)
    tier, source, gaps, *reason = [*answer.split(" ", 3), "", "", ""][:4]
    if tier not in ("T0", "T2", "T3"):
        return ExecTier("T0", "none", "the canary ended without an answer", boot_id)
    return ExecTier(tier, source, reason[0], boot_id, () if gaps == "-" else (gaps,))


def _work(run_dir: str, answer_fd: int, stop: bool, last: str) -> None:
    tier, source, gaps = "T0", "", "-"
    try:
        enter_private_mounts()
        mount_tmpfs(run_dir, TMPFS_OPTIONS)
        reason = _deny_one(run_dir, last)
        if not reason:
            tier, source = "T3", "fanotify-permission"
            reason = _why_not_more(run_dir)
        elif reason == STILL_STOPPED:
            tier, source = "T2", "bpf-stop"
        elif stop:
            less = _stop_one(run_dir)
            tier, source = ("T0", "") if less else ("T2", "bpf-stop")
            reason = f"{reason}; {less}" if less else reason
        if tier != "T2" and _run_memfd(_program()) == "exit 0":
            gaps = "memfd"
    except (EdgewardenError, OSError) as fault:
        tier, reason = "T0", str(fault)
    _say(answer_fd, f"{tier} {source or _next_best(run_dir)} {gaps} {reason}")


def _deny_one(where: str, last: str) -> str:
    """Why a program could not be denied, or "" when it was."""
    image = _program()
    allowed, denied = os.path.join(where, "allowed"), os.path.join(where, "denied")
    _install(allowed, image)
    _install(denied, image + b"edgewarden canary")
    if (alone := _run(denied)) != "exit 0":
        if (alone, last) == ("signal 9", "T2"):
            return STILL_STOPPED
        return f"the canary's program does not run here even without marks: {alone}"
    digest = digest_of(image)
    pid, ready_fd = _fork(lambda fd: _respond(where, digest, fd), RESPONDER_LIFE_S)
    try:
        ready = _read_line(ready_fd, RESPONDER_LIFE_S)
        if ready != "armed":
            return ready or "the responder ended without a word"
        refused, ran = _run(denied), _run(allowed)
    finally:
        os.close(ready_fd)
        _end(pid)
    if refused != "EPERM":
        return f"an exec that was denied ended as: {refused}"
    if ran != "exit 0":
        return f"an exec that was allowed ended as: {ran}"
    return ""


def _stop_one(where: str) -> str:
    """Why a program could not be stopped, or "" when it was; the programs lie there already."""
    from edgewarden.exec.canary_stop import StopCanary, prove_stop  # for who asked for it

    ignore_lease_breaks()
    try:
        canary = StopCanary(time.monotonic_ns)
    except HardwareFault as fault:
        return fault.text
    try:
        gate = _gate(digest_of(_program()), "T2")
        group = canary.group(where, WATCHABLE)
        denied, allowed = os.path.join(where, "denied"), os.path.join(where, "allowed")
        return prove_stop(canary, gate, group, denied, allowed)
    except HardwareFault as fault:
        return fault.text
    finally:
        canary.close()


def _why_not_more(where: str) -> str:
    from edgewarden.exec.canary_stop import why_not_lsm

    return why_not_lsm(where)


def _gate(digest: bytes, tier: str) -> ExecGate:
    """The responder, which allows one content."""
    gate = ExecGate(
        judge=lambda found, _: Rule("canary", True, (), (), ()) if found == digest else None,
        subjects=Subjects(lambda name: "", lambda pid: b""),
        report=lambda fact: None,
        proc_link=lambda name: b"",
        boot_ns=lambda: 0,
        wall_ns=lambda: 0,
        mono_s=lambda: 0.0,
        program_of=lambda pid: None,
        tier=tier,
    )
    gate.mode = "enforce"
    return gate


def _respond(where: str, digest: bytes, ready_fd: int) -> None:
    """Mark and answer until killed."""
    try:
        ignore_lease_breaks()
        gate = _gate(digest, "T3")
        group = open_group(permission=True)
        waiting = poll()
        waiting.register(group.fd, POLLIN)
        group.mark(where, FAN_OPEN_EXEC_PERM)
    except HardwareFault as fault:
        _say(ready_fd, fault.text)
        return
    _say(ready_fd, "armed")
    while True:
        waiting.poll()
        gate.serve(group)
        while gate.busy:
            gate.serve(group)
        gate.finish()


def _next_best(where: str) -> str:
    """What still sees execs, of SOURCES; each is tried."""
    try:
        group = open_group(permission=False)
        try:
            group.mark(where, FAN_OPEN_EXEC)
        finally:
            group.close()
        return "fanotify-notify"
    except HardwareFault:
        pass
    try:
        open_proc_connector().close()
        return "proc-connector"
    except HardwareFault:
        return "none"


def _program() -> bytes:
    """A small ELF program that does nothing and ends with 0.

    Raises:
        HardwareFault: there is none.
    """
    for path in PROGRAMS:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            image = os.read(fd, PROGRAM_BYTES)
        finally:
            os.close(fd)
        if image.startswith(ELF_MAGIC):
            return image
    raise HardwareFault(f"none of {', '.join(PROGRAMS)} is a program", code="EW-EXEC-001")


def _install(path: str, image: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o700)
    try:
        _write(fd, image)
    finally:
        os.close(fd)


def _write(fd: int, image: bytes) -> None:
    left = memoryview(image)
    while left:
        left = left[os.write(fd, left) :]


def _run(path: str) -> str:
    """Execute a program: "exit N", "signal N", or the errno's name when it did not start."""
    return _execute(lambda: os.execv(path, ["true"]))  # noqa: S606  # ours, without arguments


def _run_memfd(image: bytes) -> str:
    """As ``_run`` for a program that lies in memory alone."""
    fd = os.memfd_create("edgewarden-canary", os.MFD_CLOEXEC)
    try:
        _write(fd, image)
        return _execute(lambda: os.execve(fd, ["true"], {}))  # noqa: S606
    finally:
        os.close(fd)


def _execute(call: Callable[[], object]) -> str:
    def execute(failed_fd: int) -> None:
        try:
            call()
        except OSError as fault:
            _say(failed_fd, errno.errorcode.get(fault.errno or 0, str(fault.errno)))

    pid, failed_fd = _fork(execute, RESPONDER_LIFE_S)
    failed = _read_line(failed_fd, LIFE_S)  # closed by the exec, hence empty, when it started
    os.close(failed_fd)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return failed or (f"exit {code}" if code >= 0 else f"signal {-code}")


def _fork(body: Callable[[int], None], life_s: int) -> tuple[int, int]:
    """Fork a child that runs ``body(fd)`` and ends; returns its pid and the other end of fd."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _child(body, theirs, life_s, parent)
    os.close(theirs)
    return pid, ours


def _child(body: Callable[[int], None], fd: int, life_s: int, parent: int) -> NoReturn:
    try:
        alarm(life_s)
        die_with_parent(SIGKILL)
        if os.getppid() == parent:
            body(fd)
    except BaseException as fault:
        _say(fd, f"{type(fault).__name__}: {fault}")
    finally:
        os._exit(1)


def _end(pid: int) -> None:
    """Kill a child of ours, which nobody else can have waited for, and collect it."""
    os.kill(pid, SIGKILL)
    os.waitpid(pid, 0)


def _say(fd: int, text: str) -> None:
    os.write(fd, text.encode("utf-8", "backslashreplace")[: ANSWER_BYTES - 1] + b"\n")


def _read_line(fd: int, timeout_s: int) -> str:
    """One line, or "" when the other end closed or was silent too long."""
    waiting = poll()
    waiting.register(fd, POLLIN)
    if not waiting.poll(timeout_s * 1000):
        return ""
    return os.read(fd, ANSWER_BYTES).decode("utf-8", "replace").strip()


def main(run_dir: str, state_dir: str = "") -> int:
    """Probe, write RUN/exec-tier, and say on stderr what was found.

    Args:
        state_dir: where policy/gate.conf says whether T2 is wanted; "": it is not.

    Returns:
        0 when the file was written, whatever the tier; 2 when it could not be.
    """
    boot_id = (_small_file("/proc/sys/kernel/random/boot_id") or b"").decode("ascii").strip()
    last = _last(run_dir, boot_id)
    tier = probe(run_dir, boot_id, stop=_wants_stop(state_dir), last=last)
    for _ in range(AGAIN):
        if tier.tier >= last:
            break
        tier = probe(run_dir, boot_id, stop=_wants_stop(state_dir), last=last)
    try:
        write_whole(run_dir, TIER_NAME, tier.dump())
    except HardwareFault as fault:
        sys.stderr.write(f"edgewarden gate-probe: {fault.text} ({fault.code})\n")
        return 2
    reason = f": {tier.reason}" if tier.reason else ""
    sys.stderr.write(f"edgewarden gate-probe: {tier.tier}, {tier.source}{reason}\n")
    return 0


def _last(run_dir: str, boot_id: str) -> str:
    """The tier proved before on this boot, T0 when there is none."""
    try:
        tier = ExecTier.load(_small_file(os.path.join(run_dir, TIER_NAME)))
    except EdgewardenError:
        return "T0"
    return tier.tier if tier.boot_id == boot_id else "T0"


def _wants_stop(state_dir: str) -> bool:
    try:
        config = _small_file(os.path.join(state_dir, POLICY_DIRECTORY, CONFIG_NAME))
        return bool(state_dir) and GateConfig.load(config).stop is not None
    except EdgewardenError:
        return False


def _small_file(path: str) -> bytes:
    """What is in it; b"" when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, MAX_FILE_BYTES + 1)
    finally:
        os.close(fd)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
