"""The rungs of the canary that need BPF: is a program really stopped at its start, and would a BPF
security module load.

What this decides, for T2, with the very code that gate stops programs with (stop/):

1. The programs load and attach. Only children of this process are ever named to them: nobody else
   on the machine is stopped.
2. A program that is not allowed stands still: its parent, this process, is told so by waitpid.
   stop/resume.py would find it, standing at its first instruction.
3. Now judged, it ends by SIGKILL; a program that is allowed ends with 0.

For T4 it only says why not: a security module that is listed is not one that loads.

What it leaves to others: who asks (exec/canary.py), who forks.

    stop_one(where, image, respond=...) == ""         # or why not
"""

from __future__ import annotations

import os
from select import POLLIN, poll

from edgewarden.errors import HardwareFault
from edgewarden.kernel.bpf_objects import LSM_PROBE
from edgewarden.kernel.libbpf import Libbpf
from edgewarden.kernel.mounts import Mounts, mount_securityfs
from edgewarden.kernel.process import die_with_parent
from edgewarden.kernel.signals import SIGCONT, SIGKILL, SIGSTOP
from edgewarden.stop.aim import PASS, STOP, Aim
from edgewarden.stop.places import Places
from edgewarden.stop.resume import stands_at_start
from edgewarden.stop.stopper import StopGroup, Stopper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.responder import ExecGate

STANDS_S = 2.0
"""How long a child may take from fork to standing still, or a verdict to arrive; it needs 1 ms."""
LOOK_S = 0.002


class StopCanary:
    """The BPF programs, for children of this process alone; see the module.

    Raises:
        HardwareFault: no library, or this kernel refuses.
    """

    def __init__(self, mono_ns: Callable[[], int]) -> None:
        self._mono_ns = mono_ns
        self._stopper = Stopper(Libbpf(), mono_ns=mono_ns)
        self._stopper.aim(Aim(PASS, (), (0, 0)))
        self._proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def group(self, where: str, watchable: frozenset[str]) -> StopGroup:
        """Attach; what was named is stopped from now on, and judged if it lies at ``where``."""

        mounts = Mounts(self._proc_fd)

        def text(name: str) -> str:
            with open(f"/proc/{name}", encoding="utf-8", errors="surrogateescape") as file:
                return file.read()

        def program_of(pid: int) -> tuple[int, int] | None:
            status = os.stat(f"/proc/{pid}/exe")
            return status.st_dev, status.st_ino

        return StopGroup(
            self._stopper,
            Places(mounts, text, {mounts.at(where).device}, watchable),
            proc_fd=self._proc_fd,
            proc_link=lambda name: os.readlink(f"/proc/{name}".encode()),
            opener=lambda dir_fd, name, flags: os.open(name, flags, dir_fd=dir_fd),
            program_of=program_of,
            tell=lambda what, told, path: None,
        )

    def outcome(self, path: str, judge: Callable[[], None]) -> tuple[str, bool]:
        """Start a program that is stopped, judge it, and say how it ended and whether it stood."""
        go, went = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            try:
                die_with_parent(SIGKILL)  # which may end while this stands still
                os.close(went)
                if os.getppid() == parent and os.read(go, 1):
                    os.execv(path, ["true"])  # noqa: S606  # ours, without arguments
            finally:
                os._exit(1)
        os.close(go)
        try:
            self._stopper.single_out(pid, STOP)
            self._stopper.beat()
            os.write(went, b"!")
            stood = self._wait(pid, os.WUNTRACED, lambda: None)
            stands = os.WIFSTOPPED(stood) and os.WSTOPSIG(stood) == SIGSTOP
            if not stands:
                return f"not stopped: {stood}", False
            found = stands_at_start(self._proc_fd, str(pid))
            ended = self._wait(pid, 0, judge)
            code = os.waitstatus_to_exitcode(ended)
            pid = 0
            return (f"exit {code}" if code >= 0 else f"signal {-code}"), found
        finally:
            os.close(went)
            if pid:
                os.kill(pid, SIGCONT)
                os.kill(pid, SIGKILL)

    def _wait(self, pid: int, options: int, meanwhile: Callable[[], None]) -> int:
        """As waitpid, for at most STANDS_S.

        Raises:
            HardwareFault: nothing happened.
        """
        until_ns = self._mono_ns() + int(STANDS_S * 1e9)
        last = False
        while not last:
            last = self._mono_ns() >= until_ns  # a look after it, for who stood still
            meanwhile()
            done, status = os.waitpid(pid, options | os.WNOHANG)
            if done:
                return status
            poll().poll(LOOK_S * 1000)
        raise HardwareFault("a program was neither stopped nor ended", code="EW-EXEC-060")

    def close(self) -> None:
        self._stopper.close()
        os.close(self._proc_fd)


def prove_stop(
    canary: StopCanary, gate: ExecGate, group: StopGroup, denied: str, allowed: str
) -> str:
    """Why a program could not be stopped, judged and killed, or "" when it was."""
    waiting = poll()
    waiting.register(group.fd, POLLIN)

    def judge() -> None:
        if waiting.poll(0) or gate.busy:
            gate.serve(group)

    refused, stood = canary.outcome(denied, judge)
    if refused != "signal 9":
        return f"a program that was stopped and denied ended as: {refused}"
    ran, also_stood = canary.outcome(allowed, judge)
    if ran != "exit 0":
        return f"a program that was stopped and allowed ended as: {ran}"
    if not (stood and also_stood):
        return "a stopped program did not stand at its first instruction: it could not be let go"
    return ""


def why_not_lsm(where: str) -> str:
    """Why T4 is not claimed; one line.

    Args:
        where: a directory of ours, in mounts of ours: the kernel's list is mounted over it.
    """
    try:
        mount_securityfs(where)
        with open(os.path.join(where, "lsm"), encoding="ascii") as file:
            listed = file.read().strip().split(",")
    except (OSError, HardwareFault) as fault:
        return f"no T4: the kernel's security modules cannot be told: {fault}"
    if "bpf" not in listed:
        return "no T4: the kernel lists no BPF security module"
    try:
        loaded = Libbpf().load(LSM_PROBE)
    except HardwareFault as fault:
        return f"no T4: a BPF security module is listed and does not load: {fault.text}"
    for fd in loaded.values():
        os.close(fd)
    return "no T4: a BPF security module would load; this release has none"
