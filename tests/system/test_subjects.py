"""Rules that ask who it is, on a real kernel: acceptance row A9, one allow and one deny of each.

The owner package and the usrmerge alias are the policy compiler's: it turns both into contents.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.exec import subject as subjects
from edgewarden.exec.digest import CTIME_SETTLE_NS, key_of
from edgewarden.exec.subject import Subjects
from edgewarden.kernel import process
from edgewarden.kernel.fanotify import FAN_OPEN_EXEC_PERM, ExecEvent
from edgewarden.wire.images import IMAGES_NAME, compile_images
from edgewarden.wire.local import Answer
from tests.features import cgroup2_root
from tests.system.exec_world import NOBODY, World, loop_ext4, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount")

AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]


@pytest.fixture(params=["pidfd", "proc"])
def disk(request: pytest.FixtureRequest) -> Iterator[World]:
    """Both ways to find out: what kernels from 6.13 on say of a pidfd, and /proc."""
    with loop_ext4() as where, world(where) as made:
        os.chmod(where, 0o755)
        if request.param == "proc":
            made.masked = "no-pidfd-info"
        yield made


def test_a9_uid(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", uid=0)
    disk.enforcing()
    for _ in range(2):
        assert disk.outcome([good]) == "ran"
        assert disk.outcome([*AS_NOBODY, good]) == "denied"


def test_a9_parent(disk: World) -> None:
    """The parent is the program that calls execve, known by its content."""
    good = disk.program("good", allow=True)
    env = disk.program("env", allow=True, image="/usr/bin/env")
    other = disk.program("other", allow=True, image="/usr/bin/env")
    disk.only_for("good", parents=(hashlib.sha256(env.read_bytes()).digest(),))
    disk.enforcing()
    for _ in range(2):
        assert disk.outcome([env, good]) == "ran"
        assert disk.outcome([other, good]) != "ran"
        assert disk.outcome([good]) == "denied"


@pytest.fixture
def unit() -> Iterator[Path]:
    made = cgroup2_root() / "ew-test.slice" / "ew-good.service"
    made.mkdir(parents=True)
    try:
        yield made
    finally:
        wait_until(lambda: not (made / "cgroup.procs").read_text())
        made.rmdir()
        made.parent.rmdir()


@pytest.mark.needs("root", "fanotify-permission", "loop-mount", "cgroup2")
def test_a9_unit(disk: World, unit: Path) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", units=("ew-good.service",))
    disk.enforcing()
    within = f"import os, sys; open({str(unit / 'cgroup.procs')!r}, 'w').write('0')"
    start = f"{within}; os.execv(sys.argv[1], sys.argv[1:])"
    for _ in range(2):
        assert disk.outcome([sys.executable, "-I", "-S", "-c", start, good]) == "ran"
        assert disk.outcome([good]) == "denied"


@contextlib.contextmanager
def loop(disk: World, good: Path, before: str = "") -> Iterator[None]:
    """Somebody who may, over and over: what gate remembers of him is fresh all the while."""
    script = f"{before}while :; do {good} /dev/null || exit 9; done"
    allowed = disk.status().allowed
    shell = subprocess.Popen(["sh", "-c", script])
    try:
        wait_until(lambda: disk.status().allowed > allowed + 20)
        yield
        assert shell.poll() is None, "it was denied to him, too"
    finally:
        shell.kill()
        shell.wait(60)


OFTEN = 20


def test_who_may_not_is_denied_beside_one_who_may_by_uid(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", uid=0)
    disk.enforcing()
    time.sleep(CTIME_SETTLE_NS / 1e9)
    with loop(disk, good):
        for _ in range(OFTEN):
            assert disk.outcome([*AS_NOBODY, good]) == "denied"


@pytest.mark.needs("root", "fanotify-permission", "loop-mount", "cgroup2")
def test_who_may_not_is_denied_beside_one_who_may_by_unit(disk: World, unit: Path) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", units=("ew-good.service",))
    disk.enforcing()
    time.sleep(CTIME_SETTLE_NS / 1e9)
    with loop(disk, good, f"echo 0 > {unit / 'cgroup.procs'}; "):
        for _ in range(OFTEN):
            assert disk.outcome([good]) == "denied"


def test_who_may_not_is_denied_beside_one_who_may_by_parent(disk: World) -> None:
    """Same user, same unit: what lets one through is another program that starts it."""
    good = disk.program("good", allow=True)
    env = disk.program("env", allow=True, image="/usr/bin/env")
    disk.only_for("good", uid=0, parents=(hashlib.sha256(env.read_bytes()).digest(),))
    disk.enforcing()
    time.sleep(CTIME_SETTLE_NS / 1e9)
    script = f"while :; do {env} {good} /dev/null; done"
    shell = subprocess.Popen(["sh", "-c", script])
    try:
        wait_until(lambda: disk.status().allowed > 20)
        for _ in range(OFTEN):
            assert disk.outcome([good]) == "denied"
    finally:
        shell.kill()
        shell.wait(60)


def test_a_policy_that_takes_the_user_away_counts_for_what_is_remembered(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.only_for("good", uid=0)
    disk.enforcing()
    time.sleep(CTIME_SETTLE_NS / 1e9)
    script = f"while :; do {good} /dev/null || exit 9; done"
    shell = subprocess.Popen(["sh", "-c", script], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: disk.status().allowed > 20)
        disk.only_for("good", uid=NOBODY)
        disk.policy("observe")
        assert isinstance(disk.ask("reload"), Answer)
        for _ in range(3):
            assert disk.outcome([good]) == "denied"
        assert disk.outcome([*AS_NOBODY, good]) == "ran"
        assert shell.wait(60) == 9
    finally:
        shell.kill()
        shell.wait(60)


def test_a9_a_parent_that_gate_never_saw_start(disk: World) -> None:
    """It lies on a filesystem that is not watched, as init and sshd do that ran before gate."""
    env = Path("/usr/bin/env").resolve()
    digest = hashlib.sha256(env.read_bytes()).digest()
    good = disk.program("good", allow=True)
    disk.only_for("good", parents=(digest,))
    disk.enforcing()
    assert disk.outcome([env, good]) == "denied", "what cannot be told lets nobody through"
    images = disk.state / "policy" / IMAGES_NAME
    key = key_of(env.stat())
    images.write_bytes(compile_images({key[:-1] + bytes([key[-1] ^ 1]): digest}))
    assert isinstance(disk.ask("reload"), Answer)
    assert disk.outcome([env, good]) == "denied", "another file than the one that was read"
    images.write_bytes(compile_images({key: digest}))
    assert isinstance(disk.ask("reload"), Answer)
    assert disk.outcome([env, good]) == "ran"
    assert disk.outcome([good]) == "denied"


def test_who_changes_his_user_is_asked_who_he_is_at_each_start(disk: World) -> None:
    """One process starts what root may start as root, and a moment later, under the same number, as
    nobody: what is remembered is what a rule says of a user, never who a process is."""
    good = disk.program("good", allow=True, image="/usr/bin/env")
    disk.only_for("good", uid=0)
    disk.enforcing()
    time.sleep(2 * CTIME_SETTLE_NS / 1e9)
    started = f'{good} true && {good} true && exec {good} "$@"'
    for _ in range(3):
        assert disk.outcome(["sh", "-c", started, "sh", good, "touch"]) == "ran"
        assert disk.outcome(["sh", "-c", started, "sh", *AS_NOBODY, good, "touch"]) == "denied"


@pytest.mark.needs("root", "pidfd-info")
def test_a_process_that_ended_is_not_who_was_asked_for_before_it() -> None:
    """The answer's buffer is used again, so what it held may not count for who says nothing; and a
    number that leads to another process counts for nothing beside a pidfd."""
    ours = os.pidfd_open(os.getpid())
    child = subprocess.Popen([*AS_NOBODY, "sleep", "600"])
    theirs = os.pidfd_open(child.pid)
    try:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        for _ in range(3):
            us, nobody = process.ids_of(ours), process.ids_of(theirs)
            assert us is not None
            assert nobody is not None
            assert (us[0], nobody[0]) == (0, NOBODY)
        found = Subjects(lambda name: Path("/proc", name).read_text(), lambda pid: b"")
        assert found.uid_of(ExecEvent(FAN_OPEN_EXEC_PERM, -1, os.getpid(), theirs)) == NOBODY
        child.kill()
        child.wait(30)
        assert process.ids_of(ours) == us
        assert process.ids_of(theirs) is None
        assert process.ids_of(-1) is None
        assert process.ids_of(ours) == us
    finally:
        child.kill()
        child.wait(30)
        os.close(ours)
        os.close(theirs)


@pytest.mark.needs("root", "pidfd-info")
def test_what_the_kernel_says_of_a_pidfd_is_what_proc_says() -> None:
    child = subprocess.Popen([*AS_NOBODY, "sleep", "600"])
    pidfd = os.pidfd_open(child.pid)
    try:
        wait_until(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "sleep\n")
        info = process.process_info(pidfd)
        assert info is not None
        assert (info.uid, info.parent_pid) == (NOBODY, os.getpid())
        assert process.ids_of(pidfd) == (NOBODY, info.cgroup_id)
        text = Path(f"/proc/{child.pid}/cgroup").read_text()
        found = Subjects(lambda name: Path("/proc", name).read_text(), lambda pid: b"")
        event = ExecEvent(FAN_OPEN_EXEC_PERM, -1, child.pid, pidfd)
        assert f"0::{found.of(event).cgroup}\n" in text
        assert found.of(event).cgroup
    finally:
        child.kill()
        child.wait(30)
        os.close(pidfd)


def test_cgroups_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "CGROUPS", 3)
    found = Subjects(lambda name: "0::/x.slice\n", lambda pid: b"")
    event = ExecEvent(FAN_OPEN_EXEC_PERM, -1, os.getpid(), -3)
    for number in range(10):
        info = process.ProcessInfo(0, number, 1)
        asking = found.of(event)
        monkeypatch.setattr(type(asking), "info", lambda self, anew=False, info=info: info)
        assert asking.cgroup == "/x.slice"
    assert len(found._cgroups) == 3
