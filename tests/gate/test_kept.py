"""What the next gate may believe of the one before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.exec.digest import CACHE_ENTRIES, KEY_BYTES, Digests
from edgewarden.gate.doors import Doors
from edgewarden.gate.kept import MAX_BYTES, NAME, Kept
from edgewarden.kernel.mounts import Filesystem, Mounts

pytestmark = pytest.mark.needs("root")

BOOT, OTHER_BOOT = "0" * 36 + "\n", "1" * 36 + "\n"
ROWS = [(bytes([i]) * KEY_BYTES, bytes([i]) * 32) for i in range(3)]


class Places:
    """A mount table of which the test decides."""

    def __init__(self) -> None:
        self.kind = "tmpfs"
        self.numbers: dict[str, int | None] = {"/mnt/a": 70, "/mnt/b": 71}

    def of(self, fd: int) -> Filesystem:
        return Filesystem("0:1", self.kind, ())

    def unique_number(self, path: str) -> int | None:
        return self.numbers.get(path)


class Bench:
    def __init__(self, folder: Path) -> None:
        (folder / "policy").mkdir(mode=0o755)
        self.run = folder / "run"
        self.run.mkdir(mode=0o755)
        self.places = Places()
        self.boot = BOOT
        self.doors = Doors(str(folder))
        self.doors.look_into(str(self.run))
        self.doors.proc_text = lambda name: self.boot  # type: ignore[method-assign]

    def gate(self, paths: tuple[str, ...] = ("/mnt/a", "/mnt/b")) -> tuple[Kept, Digests, int]:
        digests = Digests(lambda: 0)
        kept = Kept(self.doors, self.places, digests)  # type: ignore[arg-type]
        return kept, digests, kept.recall(paths)

    def leave(self, paths: tuple[str, ...] = ("/mnt/a", "/mnt/b")) -> None:
        kept, digests, _ = self.gate(paths)
        digests.adopt(ROWS)
        digests.changes += 1
        kept.save(paths)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    for fd in (made.doors.run_fd, made.doors.policy_fd, made.doors.proc_fd, made.doors.sys_fd):
        os.close(fd)


def test_the_next_gate_knows_what_this_one_knew(bench: Bench) -> None:
    bench.leave()
    _, digests, count = bench.gate()
    assert (count, digests.entries()) == (3, ROWS)


def test_nothing_is_known_where_nothing_was_kept(bench: Bench) -> None:
    assert bench.gate()[2] == 0


def test_another_boot_is_not_believed(bench: Bench) -> None:
    bench.leave()
    bench.boot = OTHER_BOOT
    assert bench.gate()[2] == 0


@pytest.mark.parametrize("number", [72, None])
def test_another_mount_at_the_same_place_is_not_believed(bench: Bench, number: int | None) -> None:
    bench.leave()
    bench.places.numbers["/mnt/b"] = number
    assert bench.gate()[2] == 0


@pytest.mark.parametrize("paths", [("/mnt/a",), ("/mnt/b", "/mnt/a"), ()])
def test_other_filesystems_are_not_believed(bench: Bench, paths: tuple[str, ...]) -> None:
    bench.leave()
    assert bench.gate(paths)[2] == 0


def test_on_a_disk_nothing_is_kept(bench: Bench) -> None:
    bench.places.kind = "ext4"
    bench.leave()
    assert not (bench.run / NAME).exists()
    bench.places.kind = "tmpfs"
    bench.leave()
    bench.places.kind = "ext4"
    assert bench.gate()[2] == 0


def test_a_kernel_without_such_numbers_keeps_nothing(bench: Bench) -> None:
    bench.places.numbers["/mnt/a"] = None
    bench.leave()
    assert not (bench.run / NAME).exists()


@pytest.mark.parametrize("damage", ["others", "torn", "cut", "long", "link"])
def test_what_is_not_whole_and_roots_is_not_believed(bench: Bench, damage: str) -> None:
    bench.leave()
    file = bench.run / NAME
    data = file.read_bytes()
    if damage == "others":
        file.chmod(0o666)
    elif damage == "torn":
        file.write_bytes(data[:-1] + b"x")
    elif damage == "cut":
        file.write_bytes(data[:-7])
    elif damage == "long":
        file.write_bytes(data + bytes(MAX_BYTES))
    else:
        file.rename(bench.run / "elsewhere")
        file.symlink_to(bench.run / "elsewhere")
    assert bench.gate()[2] == 0


def test_it_is_written_when_something_changed_and_only_then(bench: Bench) -> None:
    kept, digests, _ = bench.gate()
    digests.adopt(ROWS)
    digests.changes += 1
    kept.save(("/mnt/a", "/mnt/b"))
    (bench.run / NAME).unlink()
    kept.save(("/mnt/a", "/mnt/b"))
    assert not (bench.run / NAME).exists()
    digests.forget()
    kept.save(("/mnt/a", "/mnt/b"))
    assert bench.gate()[2] == 0


def test_a_full_cache_fits_and_stays_bounded(bench: Bench) -> None:
    kept, digests, _ = bench.gate()
    rows = [(i.to_bytes(KEY_BYTES, "big"), bytes(32)) for i in range(CACHE_ENTRIES + 5)]
    digests.adopt(rows)
    digests.changes += 1
    kept.save(("/mnt/a", "/mnt/b"))
    assert (bench.run / NAME).stat().st_size <= MAX_BYTES
    _, again, count = bench.gate()
    assert (count, again.entries()) == (CACHE_ENTRIES, rows[5:])


def test_the_kernel_gives_each_mount_a_number_of_its_own() -> None:
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        mounts = Mounts(proc_fd)
        root, proc = mounts.unique_number("/"), mounts.unique_number("/proc")
        assert mounts.unique_number("/no/such/path") is None
    finally:
        os.close(proc_fd)
    assert (root is None) == (proc is None)
    assert root is None or root != proc
