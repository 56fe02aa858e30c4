"""R9: the wall clock is set by a day while gate enforces. Nothing is hashed again for it, and
nothing is allowed from what was known of another content."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.exec_world import World, loop_ext4, world
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "fanotify-permission", "loop-mount")

DAY_NS = 86_400 * 10**9
STEPS = [DAY_NS, -DAY_NS]
PROGRAMS = 12
HOUR_NS = DAY_NS // 24


class Clock:
    """What gate's wall clock is ahead by."""

    def __init__(self, world: World) -> None:
        world.step_file = world.state / "step"
        self._file = world.step_file
        self.set_by(0)

    def set_by(self, step_ns: int) -> None:
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", step_ns))


@pytest.fixture
def stepped() -> Iterator[tuple[World, Clock]]:
    """On ext4: of a tmpfs nothing is kept anyhow."""
    with loop_ext4() as where, world(where) as one:
        yield one, Clock(one)


def start_all(world: World, programs: list[Path], times: int = 1) -> None:
    for _ in range(times):
        assert {world.outcome([program]) for program in programs} == {"ran"}


def settled(programs: list[Path]) -> None:
    """Older than two ticks of the kernel's clock, so that a digest may be kept at all."""
    youngest = max(p.stat().st_ctime_ns for p in programs)
    wait_until(lambda: time.time_ns() - youngest > 50_000_000)


@pytest.mark.parametrize("step_ns", STEPS)
def test_r9_a_step_hashes_nothing_again(stepped: tuple[World, Clock], step_ns: int) -> None:
    disk, clock = stepped
    programs = [disk.program(f"good{n}", allow=True) for n in range(PROGRAMS)]
    disk.enforcing()
    settled(programs)
    start_all(disk, programs)
    before = disk.status().hashed
    assert before >= PROGRAMS
    for ahead_ns in (step_ns, step_ns + HOUR_NS, 0):
        clock.set_by(ahead_ns)
        start_all(disk, programs)
    assert disk.status().hashed == before


@pytest.mark.parametrize("step_ns", STEPS)
def test_r9_what_came_before_a_step_is_hashed_once(
    stepped: tuple[World, Clock], step_ns: int
) -> None:
    """Set back, its ctime lies a day ahead: kept all the same."""
    disk, clock = stepped
    programs = [disk.program(f"good{n}", allow=True) for n in range(PROGRAMS)]
    disk.enforcing()
    before = disk.status().hashed
    clock.set_by(step_ns)
    start_all(disk, programs, times=3)
    assert disk.status().hashed == before + PROGRAMS


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-8, 2)
        file.write(b"changed!")


def store_through_a_mapping(path: Path) -> None:
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), 0)
        view[-8:] = b"changed!"
        view.flush()
        view.close()


def put_another_in_its_place(path: Path) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(path.read_bytes()[:-8] + b"changed!")
    fresh.chmod(0o755)
    fresh.rename(path)


CHANGES = [overwrite, store_through_a_mapping, put_another_in_its_place]


@pytest.mark.parametrize("step_ns", STEPS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_r9_no_content_is_allowed_for_what_it_was_before_a_step(
    stepped: tuple[World, Clock], step_ns: int, change: Callable[[Path], None]
) -> None:
    disk, clock = stepped
    good = disk.program("good", allow=True)
    disk.enforcing()
    settled([good])
    start_all(disk, [good], times=2)
    clock.set_by(step_ns)
    start_all(disk, [good])
    change(good)
    assert disk.outcome([good]) == "denied"
    clock.set_by(0)
    assert disk.outcome([good]) == "denied"
