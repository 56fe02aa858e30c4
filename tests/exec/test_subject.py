"""Who asks: what is read, and that a number which was recycled tells nothing."""

from __future__ import annotations

import os

import pytest

from edgewarden.exec.subject import Subject, Subjects
from edgewarden.kernel.fanotify import FAN_NOFD, FAN_NOPIDFD, UNTOLD, ExecEvent
from edgewarden.wire.local_messages import UNKNOWN_UID

STATUS = "Name:\tx\nUmask:\t0022\nUid:\t1000\t0\t0\t0\n"
CGROUP = "1:name=systemd:/x\n0::/system.slice/nginx.service\n"
IMAGE = b"i" * 32


def subject(pid: int = 7, pidfd: int = UNTOLD) -> Subject:
    texts = {f"{pid}/status": STATUS, f"{pid}/cgroup": CGROUP}
    event = ExecEvent(0, FAN_NOFD, pid, pidfd)
    return Subjects(lambda name: texts.get(name, ""), lambda found: IMAGE).of(event)


def test_what_proc_says() -> None:
    found = subject()
    assert found.uid == 1000  # the real one, also of a setuid program
    assert found.parent == IMAGE
    assert found.cgroup == "/system.slice/nginx.service"


@pytest.mark.needs("root", "pidfd-info")
def test_user_and_cgroup_stand_for_an_answer_that_asked_for_nothing_else() -> None:
    pidfd = os.pidfd_open(os.getpid())
    try:
        found = subject(os.getpid(), pidfd)
        assert found.ids is None, "nobody has asked"
        assert (found.uid, found.ids and found.ids[0]) == (os.getuid(), os.getuid())
        assert found.cgroup
        assert found.ids is not None
        assert found.parent == IMAGE
        assert found.ids is None, "another program of the same user in the same cgroup"
        nameless = Subjects(lambda name: "", lambda pid: b"").of(ExecEvent(0, -1, 7, pidfd))
        assert nameless.uid == os.getuid()
        assert nameless.cgroup == ""
        assert nameless.ids is None, "next time it may be told"
    finally:
        os.close(pidfd)


def test_where_the_kernel_does_not_say_nothing_stands_for_it() -> None:
    found = subject()
    assert (found.uid, found.ids) == (1000, None)


@pytest.mark.parametrize("gone", [subject(pidfd=FAN_NOPIDFD), subject(pid=0)])
def test_a_process_that_is_gone_tells_nothing(gone: Subject) -> None:
    assert (gone.uid, gone.parent, gone.cgroup) == (UNKNOWN_UID, b"", "")


def test_a_number_that_was_recycled_tells_nothing() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    pidfd = os.pidfd_open(child)
    try:
        os.waitpid(child, 0)
        found = subject(child, pidfd)
        assert (found.uid, found.parent, found.cgroup) == (UNKNOWN_UID, b"", "")
    finally:
        os.close(pidfd)
