"""What gate remembers of a content, on a real kernel: how long, and what ends it.

Rows A4 and A5 of the acceptance list are in test_gate.py (changed after it was allowed) and
tests/exec/test_responder.py (the cache); here is the short way (exec/quick.py).
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator

import pytest

from edgewarden.exec.hold import LINGER_S
from edgewarden.wire.local import Answer, ExecVerdict
from tests.system.exec_world import NOBODY, World, loop_ext4, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount")

SOON_S = LINGER_S + 0.5
"""The lease lingers LINGER_S; the rest is for a busy machine."""


@pytest.fixture
def disk() -> Iterator[World]:
    with loop_ext4() as where, world(where) as made:
        yield made


def start_at_once(world: World, path: os.PathLike[str], count: int) -> None:
    """In one process, so that each start falls into the linger of the last."""
    loop = (
        f"i=0; while [ $i -lt {count} ]; do {os.fspath(path)} /dev/null || exit 9; i=$((i+1)); done"
    )
    subprocess.run(["sh", "-c", loop], check=True, timeout=30)


def test_what_is_started_again_at_once_is_reported_each_time(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.enforcing()
    time.sleep(0.05)  # CTIME_SETTLE_NS, of the kernel's clock
    assert disk.outcome([good]) == "ran"
    link = disk.connect("gate-facts.sock")
    start_at_once(disk, good, 40)
    verdicts = [f for f in disk.facts(link) if isinstance(f, ExecVerdict)]
    of_good = [v for v in verdicts if v.path_text() == str(good)]
    assert sum(1 for v in of_good if v.decision == "allow" and v.rule == "good") == len(of_good)
    status = disk.status()
    assert status.allowed == 41
    assert status.cached >= 39
    assert status.undecidable == 0


def test_a_rule_taken_away_counts_from_the_next_exec(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.enforcing()
    time.sleep(0.05)
    start_at_once(disk, good, 5)
    disk.rules.clear()
    disk.policy("observe")
    answer = disk.ask("reload")
    assert isinstance(answer, Answer)
    assert answer.ok
    with pytest.raises(PermissionError):
        os.posix_spawn(good, ["good", "/dev/null"], {})


def test_a_writer_waits_no_longer_than_the_linger(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.enforcing()
    time.sleep(0.05)
    start_at_once(disk, good, 5)
    began = time.monotonic()
    with good.open("r+b") as file:  # the kernel lets nobody in while the lease is held
        assert time.monotonic() - began < SOON_S
        file.seek(-4, os.SEEK_END)
        file.write(b"EVIL")
    with pytest.raises(PermissionError):
        os.posix_spawn(good, ["good", "/dev/null"], {})


def test_a_filesystem_can_be_unmounted_soon_after_a_start(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.enforcing()
    time.sleep(0.05)
    start_at_once(disk, good, 5)
    began = time.monotonic()
    wait_until(
        lambda: subprocess.run(["umount", disk.filesystem], capture_output=True).returncode == 0
    )
    assert time.monotonic() - began < SOON_S


def test_one_user_does_not_ride_on_the_start_of_another(disk: World) -> None:
    """A rule with a subject is asked each time, also while the content lingers."""
    good = disk.program("good", allow=True)
    disk.only_for("good", uid=0)
    disk.enforcing()
    os.chmod(disk.filesystem, 0o755)
    time.sleep(0.05)
    start_at_once(disk, good, 3)
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    for _ in range(3):
        start_at_once(disk, good, 2)
        assert disk.outcome([*nobody, good]) == "denied"
