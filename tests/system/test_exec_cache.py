"""What gate remembers of a content, on a real kernel: how long, and what ends it.

Rows A4 and A5 of the acceptance list are in test_gate.py (changed after it was allowed) and
tests/exec/test_responder.py (the cache); here is the short way (exec/quick.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.exec.digest import CTIME_SETTLE_NS, Digests
from edgewarden.exec.hold import LINGER_S
from edgewarden.kernel.lease import ReadLease, ignore_lease_breaks
from edgewarden.wire.local import Answer, ExecVerdict
from tests.steps import slack_s
from tests.system.exec_world import NOBODY, World, loop_ext4, private_tmpfs, world
from tests.waiting import wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "fanotify-permission", "loop-mount")]

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
    subprocess.run(["sh", "-c", loop], check=True, timeout=90)


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
        took_s = time.monotonic() - began
        file.seek(-4, os.SEEK_END)
        file.write(b"EVIL")
    with pytest.raises(PermissionError):
        os.posix_spawn(good, ["good", "/dev/null"], {})
    assert took_s < SOON_S + slack_s()


def test_a_filesystem_can_be_unmounted_soon_after_a_start(disk: World) -> None:
    good = disk.program("good", allow=True)
    disk.enforcing()
    time.sleep(0.05)
    start_at_once(disk, good, 5)
    began = time.monotonic()
    wait_until(
        lambda: subprocess.run(["umount", disk.filesystem], capture_output=True).returncode == 0
    )
    took_s = time.monotonic() - began
    assert took_s < SOON_S + slack_s()


def test_r8_a_filesystem_mounted_again_under_the_same_number_is_watched(disk: World) -> None:
    """Unmounted and mounted between two looks of gate: the device number is the same, the mark is
    gone with the old superblock."""
    good, evil = disk.program("good", allow=True), disk.program("evil", allow=False)
    disk.enforcing()
    time.sleep(0.05)
    start_at_once(disk, good, 3)
    device = disk.filesystem.stat().st_dev
    source = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", disk.filesystem], capture_output=True, text=True
    ).stdout.strip()
    wait_until(lambda: not holds(disk))
    keep = os.open(source, os.O_RDONLY)  # the loop device must not go with the mount
    try:
        for _ in range(5):
            with disk.paused():
                subprocess.run(["umount", disk.filesystem], check=True, timeout=30)
                subprocess.run(["mount", source, disk.filesystem], check=True, timeout=30)
            assert disk.filesystem.stat().st_dev == device
            wait_until(lambda: disk.outcome([evil]) == "denied")
            assert disk.outcome([good]) == "ran"
            wait_until(lambda: not holds(disk))
    finally:
        os.close(keep)
    assert disk.status().armed


def test_a4_a_change_within_one_second_of_a_coarse_clock_is_seen() -> None:
    """Inodes of 128 bytes have no room for less than seconds; the size stays the same, too."""
    with loop_ext4("-I", "128") as where, world(where) as coarse:
        good = coarse.program("good", allow=True)
        listed = good.read_bytes()
        foreign = listed.replace(b"\0good\0", b"\0evil\0")
        assert good.stat().st_ctime_ns % 1_000_000_000 == 0
        coarse.enforcing()
        for _ in range(6):
            wait_until(lambda: time.time() % 1 < 0.3)  # the rest of the second is for the change
            good.write_bytes(listed)
            time.sleep(2 * CTIME_SETTLE_NS / 1e9)
            assert coarse.outcome([good]) == "ran"
            wait_until(lambda: not holds(coarse))
            good.write_bytes(foreign)
            assert coarse.outcome([good]) == "denied"


@pytest.fixture
def remembering() -> Iterator[World]:
    """The run directory on a tmpfs, as /run is."""
    with loop_ext4() as where, private_tmpfs() as memory, world(where) as made:
        made.run = memory
        made.tier("T3")
        yield made


def restart(world: World) -> None:
    world.ask("quit")
    wait_until(world.gate_is_gone)
    world.start_gate()
    wait_until(lambda: world.status().armed)


def test_a_restarted_gate_hashes_nothing_anew(remembering: World) -> None:
    good = remembering.program("good", allow=True)
    evil = remembering.program("evil", allow=False)
    remembering.enforcing()
    time.sleep(0.05)
    assert (remembering.outcome([good]), remembering.outcome([evil])) == ("ran", "denied")
    restart(remembering)
    assert (remembering.outcome([good]), remembering.outcome([evil])) == ("ran", "denied")
    status = remembering.status()
    assert status.hashed == 0
    assert status.cached == 2


@pytest.mark.parametrize("change", ["write", "mapping", "replace"])
def test_what_changed_while_no_gate_looked_is_hashed_anew(remembering: World, change: str) -> None:
    good = remembering.program("good", allow=True)
    remembering.enforcing()
    time.sleep(0.05)
    assert remembering.outcome([good]) == "ran"
    remembering.ask("quit")
    wait_until(remembering.gate_is_gone)
    before = good.stat()
    at = good.read_bytes().index(b"good")  # of the trailer that makes it another content
    if change == "replace":
        content = good.read_bytes()
        good.unlink()
        good.write_bytes(content.replace(b"good", b"evil"))
        good.chmod(0o755)
    else:
        with good.open("r+b") as file:
            if change == "write":
                file.seek(at)
                file.write(b"evil")
            else:
                with mmap.mmap(file.fileno(), 0) as view:
                    view[at : at + 4] = b"evil"
    os.utime(good, ns=(before.st_atime_ns, before.st_mtime_ns))
    remembering.start_gate()
    wait_until(lambda: remembering.status().armed)
    assert remembering.outcome([good]) == "denied"


def test_another_filesystem_at_the_same_place_is_not_taken_for_the_old(remembering: World) -> None:
    good = remembering.program("good", allow=True)
    remembering.enforcing()
    time.sleep(0.05)
    assert remembering.outcome([good]) == "ran"
    source = subprocess.run(
        ["findmnt", "-n", "-o", "SOURCE", remembering.filesystem], capture_output=True, text=True
    ).stdout.strip()
    remembering.ask("quit")
    wait_until(remembering.gate_is_gone)
    keep = os.open(source, os.O_RDONLY)
    try:
        subprocess.run(["umount", remembering.filesystem], check=True, timeout=30)
        subprocess.run(["mount", source, remembering.filesystem], check=True, timeout=30)
    finally:
        os.close(keep)
    remembering.start_gate()
    wait_until(lambda: remembering.status().armed)
    assert remembering.outcome([good]) == "ran"
    assert remembering.status().hashed == 1


def holds(world: World) -> bool:
    """Whether gate has a descriptor of the watched filesystem."""
    folder = f"/proc/{world.gate_pid}/fd"
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            if os.readlink(f"{folder}/{name}").startswith(f"{world.filesystem}/"):
                return True
    return False


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


STORM = 20


def test_r8_a_storm_of_mounts_stalls_nobody_and_frees_nobody(disk: World) -> None:
    """Users can cause mounts: renewing marks by closing them would let whoever waits go."""
    good, evil = disk.program("good", allow=True), disk.program("evil", allow=False)
    disk.enforcing()
    other = disk.state / "other"
    other.mkdir()
    for _ in range(STORM):
        subprocess.run(["mount", "--bind", disk.filesystem, other], check=True, timeout=30)
        assert disk.outcome([evil]) == "denied"
        assert disk.outcome([good]) == "ran"
        wait_until(lambda: not holds(disk))
        subprocess.run(["umount", other], check=True, timeout=30)
    status = disk.status()
    assert (status.denied, status.armed, status.guard) == (STORM, True, True)
    assert disk.ask("quit")
    wait_until(disk.gate_is_gone)
    subprocess.run(["umount", disk.filesystem], check=True, timeout=30)


def test_r9_a_clock_that_steps_neither_rehashes_all_nor_allows_what_changed() -> None:
    """ctime is wall clock, the key is compared for equality only; whether it has settled is asked
    of the clock as it is now."""
    ignore_lease_breaks()
    day_ns = 86400 * 10**9
    with loop_ext4() as where:
        path = where / "p"
        path.write_bytes(b"one")
        wall_ns = time.time_ns() + 10**9
        digests = Digests(lambda: wall_ns)
        digests.cacheable = {where.stat().st_dev}
        assert remembers(digests, path)
        for step_ns in (day_ns, -2 * day_ns, 2 * day_ns):
            wall_ns += step_ns
            assert digests.digest_of(path.stat()) == hashlib.sha256(b"one").digest()
        os.utime(path, ns=(wall_ns, wall_ns))
        assert digests.digest_of(path.stat()) == b""
        path.write_bytes(b"two")
        assert digests.digest_of(path.stat()) == b""
        wall_ns = path.stat().st_ctime_ns + CTIME_SETTLE_NS - 1
        assert not remembers(digests, path), "a second change could look like this one"
        wall_ns = path.stat().st_ctime_ns - day_ns  # set back: not hashed anew for a whole day
        assert remembers(digests, path)
        assert digests.digest_of(path.stat()) == hashlib.sha256(b"two").digest()


def remembers(digests: Digests, path: Path) -> bool:
    fd = os.open(path, os.O_RDONLY)
    try:
        lease = ReadLease(fd)
        lease.take()
        hashing = digests.begin(os.fstat(fd))
        while not hashing.step(fd, 1 << 20):
            pass
        return digests.finish(hashing, fd, lease)[1] is not None
    finally:
        os.close(fd)
