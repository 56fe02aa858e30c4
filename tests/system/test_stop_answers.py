"""What becomes of a stopped program (tier T2) whose verdict is not for what it runs by now, or of
whom it cannot be seen: somebody's record comes, or it goes on. The BPF programs are real, and stop
one child of this test's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.exec.marks import WATCHABLE
from edgewarden.kernel.fanotify import ExecEvent
from edgewarden.kernel.libbpf import Libbpf
from edgewarden.kernel.mounts import Mounts
from edgewarden.stop.aim import PASS, STOP, Aim
from edgewarden.stop.places import Places
from edgewarden.stop.stopper import OWED_NS, StopGroup, Stopper
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "bpf-tracepoint")]


TRIES = 5
"""A second after the last beat nobody is stopped, and a machine stands still for that long."""


class Held:
    """A child that stands at the first instruction of a program, and the group that has its event.

    Attributes:
        runs: what it runs, as the group is told.
    """

    def __init__(self, program: str) -> None:
        self.later_ns = 0
        self.runs: Callable[[int], tuple[int, int] | None] = program_of
        self.proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
        self.stopper = Stopper(Libbpf(), mono_ns=lambda: time.monotonic_ns() + self.later_ns)
        self.stopper.aim(Aim(PASS, (), (0, 0)))
        mounts = Mounts(self.proc_fd)
        text: Callable[[str], str] = lambda name: Path("/proc", name).read_text()  # noqa: E731
        self.group = StopGroup(
            self.stopper,
            Places(mounts, text, {mounts.at(program).device}, WATCHABLE),
            proc_fd=self.proc_fd,
            proc_link=lambda name: os.readlink(f"/proc/{name}".encode()),
            opener=lambda dir_fd, name, flags: os.open(name, flags, dir_fd=dir_fd),
            program_of=lambda pid: self.runs(pid),
            tell=lambda what, told, path: None,
        )
        for _ in range(TRIES):
            self._start(program)
            wait_until(lambda: self.state() in "TZ")
            if self.stands():
                break
            self.ended()
        (self.event,) = self.group.read()

    def _start(self, program: str) -> None:
        go, went = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(went)
            os.read(go, 1)
            try:
                os.execv(program, [program])
            finally:
                os._exit(1)
        os.close(go)
        self.stopper.single_out(self.pid, STOP)
        self.stopper.beat()
        os.write(went, b"!")
        os.close(went)

    def state(self) -> str:
        text = Path(f"/proc/{self.pid}/stat").read_text()
        return text[text.rindex(")") + 2]

    def stands(self) -> bool:
        return self.state() == "T"

    def ended(self) -> int:
        """How it ended."""
        found: list[int] = []

        def look() -> bool:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            if done:
                found.append(os.waitstatus_to_exitcode(status))
            return bool(done)

        wait_until(look)
        self.pid = 0
        return found[0]

    def close(self) -> None:
        self.event.close()
        self.group.close()
        self.stopper.close()
        os.close(self.proc_fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGCONT)
            os.waitpid(self.pid, 0)


def program_of(pid: int) -> tuple[int, int] | None:
    status = os.stat(f"/proc/{pid}/exe")
    return status.st_dev, status.st_ino


@pytest.fixture
def held() -> Iterator[Held]:
    made = Held("/bin/true")
    yield made
    made.close()


@pytest.mark.parametrize(("allow", "end"), [(True, 0), (False, -signal.SIGKILL)])
def test_where_it_cannot_be_seen_what_runs_the_verdict_holds(
    held: Held, allow: bool, end: int
) -> None:
    held.runs = lambda pid: None
    assert held.group.answer(held.event.fd, allow=allow)
    assert held.ended() == end


def test_who_is_owed_a_record_that_does_not_come_goes_on(held: Held) -> None:
    held.runs = lambda pid: (1, 1)
    assert not held.group.answer(held.event.fd, allow=False)
    held.stopper.let_overdue_go()
    assert held.stands(), "its own record may still come"
    held.later_ns = OWED_NS
    held.stopper.let_overdue_go()
    assert held.ended() == 0


def test_leaving_enforce_lets_go_of_who_is_owed_a_record(held: Held) -> None:
    held.runs = lambda pid: (1, 1)
    held.group.answer(held.event.fd, allow=False)
    held.group.close()
    assert held.ended() == 0


def test_whose_record_is_there_is_judged_by_it(held: Held) -> None:
    """Two of one process: the verdict about the first is not for it any more, that of the second
    is. In between, however long that takes, it stands."""
    held.runs = lambda pid: (1, 1)
    second = ExecEvent(held.event.mask, os.dup(held.event.fd), held.pid, os.dup(held.event.pidfd))
    held.group._waiting[second.fd] = second
    assert not held.group.answer(held.event.fd, allow=True)
    held.later_ns = 10 * OWED_NS
    held.stopper.let_overdue_go()
    assert held.stands()
    held.runs = program_of
    assert held.group.answer(second.fd, allow=False)
    assert held.ended() == -signal.SIGKILL
    second.close()
