"""What the cache gives up when it hears of a writer, and what it keeps for the next gate."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgewarden.exec.digest import CACHE_ENTRIES, Digests
from edgewarden.kernel.lease import ReadLease, ignore_lease_breaks
from edgewarden.kernel.writers import handle_of
from tests.system.exec_world import loop_ext4, overlay_of, private_tmpfs

pytestmark = pytest.mark.needs("root", "loop-mount")


class Heard:
    """Tells what the test wants told."""

    def __init__(self) -> None:
        self.next: list[bytes] | None = []

    def heard(self) -> list[bytes] | None:
        told, self.next = self.next, []
        return told


class Bench:
    def __init__(self, folder: Path) -> None:
        ignore_lease_breaks()
        self.folder = folder
        self.writers = Heard()
        self.digests = Digests(lambda: 1 << 62)
        self.digests.cacheable = {folder.stat().st_dev}
        self.digests.writers = self.writers  # type: ignore[assignment]

    def hashed(self, name: str, uid: int = 0) -> int:
        """A descriptor of a file that is in the cache now."""
        path = self.folder / name
        path.write_bytes(name.encode())
        os.chown(path, uid, uid)
        fd = os.open(path, os.O_RDONLY)
        lease = ReadLease(fd)
        lease.take()
        hashing = self.digests.begin(os.fstat(fd))
        assert hashing.step(fd, 1 << 20)
        assert self.digests.finish(hashing, fd, lease)[1] is not None
        lease.release()
        return fd

    def knows(self, fd: int) -> bool:
        return self.digests.known(os.fstat(fd), fd) is not None


@pytest.fixture
def bench() -> Iterator[Bench]:
    with loop_ext4() as where:
        yield Bench(where)


def closing(*fds: int) -> None:
    for fd in fds:
        os.close(fd)


def test_what_was_open_for_writing_is_hashed_again_though_its_times_are_the_same(
    bench: Bench,
) -> None:
    one, other = bench.hashed("one"), bench.hashed("other")
    assert bench.knows(one)
    bench.writers.next = [b"somebody else's", handle_of(one)]
    assert not bench.knows(one)
    assert bench.knows(other)
    closing(one, other)


def test_when_it_cannot_be_told_all_is_hashed_again(bench: Bench) -> None:
    one, other = bench.hashed("one"), bench.hashed("other")
    bench.writers.next = None
    assert not bench.knows(one)
    assert not bench.knows(other)
    closing(one, other)


def test_when_nobody_tells_any_more_nothing_is_known(bench: Bench) -> None:
    one = bench.hashed("one")
    bench.digests.watched_by(None)
    assert not bench.knows(one)
    closing(one)


def test_the_last_word_of_one_group_counts_before_the_next_takes_over(bench: Bench) -> None:
    one, other = bench.hashed("one"), bench.hashed("other")
    bench.writers.next = [handle_of(one)]
    bench.digests.watched_by(Heard())  # type: ignore[arg-type]
    assert not bench.knows(one)
    assert bench.knows(other)
    closing(one, other)


def test_what_the_gate_before_knew_is_watched_from_its_first_use(bench: Bench) -> None:
    one = bench.hashed("one")
    kept = bench.digests.entries()
    bench.digests.forget()
    bench.digests.adopt(kept)
    assert bench.knows(one)
    bench.writers.next = [handle_of(one)]
    assert not bench.knows(one)
    closing(one)


def test_only_roots_files_are_kept_for_the_next_gate(bench: Bench) -> None:
    one, other = bench.hashed("one"), bench.hashed("other", 65534)
    assert bench.knows(one)
    assert bench.knows(other)
    assert len(bench.digests.entries()) == 1
    closing(one, other)


@pytest.mark.parametrize(
    "again", [lambda path: path.chmod(0o700), lambda path: path.write_bytes(b"2")]
)
def test_a_file_has_one_place_in_the_cache(bench: Bench, again: Callable[[Path], object]) -> None:
    closing(bench.hashed("one"))
    again(bench.folder / "one")
    closing(bench.hashed("one"))
    assert len(bench.digests.entries()) == 1


def test_who_makes_room_is_named_no_more(bench: Bench) -> None:
    one = bench.hashed("one")
    bench.digests.adopt((b"%040d" % i, b"d" * 32) for i in range(CACHE_ENTRIES))
    bench.writers.next = [handle_of(one)]
    assert not bench.knows(one)
    assert len(bench.digests.entries()) == CACHE_ENTRIES
    closing(one)


@contextlib.contextmanager
def filesystem(kind: str) -> Iterator[Path]:
    if kind == "ext4":
        with loop_ext4() as where:
            yield where
        return
    with private_tmpfs() as where:
        if kind == "tmpfs":
            yield where
            return
        with overlay_of(where) as merged:
            yield merged


@pytest.mark.parametrize("by", ["descriptor", "mapping"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4", "overlay"])
def test_a5_while_somebody_can_write_nothing_goes_into_the_cache(kind: str, by: str) -> None:
    """Of these only ext4 is cached at all (exec/marks.py, CACHEABLE); the lease refuses on each."""
    with filesystem(kind) as where:
        bench = Bench(where)
        bench.digests.writers = None
        path = where / "program"
        path.write_bytes(b"1" * 4096)
        with contextlib.ExitStack() as held:
            writer = os.open(path, os.O_RDWR)
            if by == "mapping":
                held.enter_context(mmap.mmap(writer, 4096))
                os.close(writer)
            else:
                held.callback(os.close, writer)
            assert read_into(bench, path) == (True, False)
        assert read_into(bench, path) == (False, True)


def read_into(bench: Bench, path: Path) -> tuple[bool, bool]:
    """Whether a writer was seen, and whether the content is kept."""
    fd = os.open(path, os.O_RDONLY)
    try:
        lease = ReadLease(fd)
        lease.take()
        hashing = bench.digests.begin(os.fstat(fd))
        assert hashing.step(fd, 1 << 20)
        kept = bench.digests.finish(hashing, fd, lease)[1] is not None
        lease.release()
        return lease.writer_lives, kept
    finally:
        os.close(fd)
