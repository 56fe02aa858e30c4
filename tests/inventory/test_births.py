"""Numbers of processes: listed where one can have come or gone, and not where none can."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.inventory.births import LIST_WITHIN_S, Births

LIST_EACH = 5
"""Looks in ten seconds."""


class Kernel:
    """A folder with the two numbers in a file, as procfs has them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.says("0.00 0.01 0.05 1/90 4711")
        self.begin(1)
        self.births = Births(str(root))

    def says(self, loadavg: str) -> None:
        (self.root / "loadavg").write_text(f"{loadavg}\n")

    def begin(self, pid: int) -> None:
        (self.root / str(pid)).mkdir()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    made = Kernel(tmp_path)
    yield made
    made.births.close()


def test_where_neither_number_moved_nothing_is_listed(kernel: Kernel) -> None:
    assert kernel.births.present() == {1}
    assert kernel.births.present() is None
    kernel.says("3.00 1.01 0.05 7/90 4711")  # how many run, and how long the queue is, is no birth
    assert kernel.births.present() is None
    assert kernel.births.present(whatever=True) == {1}


@pytest.mark.parametrize("moved", ["0.00 0.01 0.05 1/90 4712", "0.00 0.01 0.05 1/89 4711"])
def test_a_birth_and_an_end_each_move_a_number(kernel: Kernel, moved: str) -> None:
    assert kernel.births.present() == {1}
    kernel.begin(7)
    kernel.says(moved)
    assert kernel.births.present() == {1, 7}
    assert kernel.births.present() is None


def test_who_chooses_his_number_is_seen_by_the_next_list_in_turn(kernel: Kernel) -> None:
    assert kernel.births.present() == {1}
    kernel.begin(7)
    found = [kernel.births.present() for _ in range(LIST_EACH)]
    assert found == [None] * (LIST_EACH - 1) + [{1, 7}]


def test_looks_that_are_seldom_each_make_a_list(kernel: Kernel) -> None:
    seldom = Births(str(kernel.root), 10.0)
    assert seldom.present() == {1}
    kernel.begin(7)
    assert seldom.present() == {1, 7}
    seldom.close()


@pytest.mark.parametrize(
    "text", ["0.00 0.00 0.00 0/0 0", "0.00 0.01 0.05 1/90 0", "0.00 0.01 0.05 1/0 7", "", "1 2 3"]
)
def test_numbers_that_are_not_the_kernels_own_are_none(kernel: Kernel, text: str) -> None:
    kernel.says(text)
    assert [kernel.births.present() for _ in range(3)] == [{1}] * 3


def test_without_the_file_all_is_listed(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    births = Births(str(tmp_path))
    assert births.present() == {1}
    (tmp_path / "2").mkdir()
    assert births.present() == {1, 2}
    births.close()


def test_a_file_of_another_filesystem_is_not_believed(tmp_path: Path) -> None:
    """A container's own, laid over the kernel's."""
    (tmp_path / "1").mkdir()
    (tmp_path / "loadavg").symlink_to("/proc/loadavg")
    births = Births(str(tmp_path))
    assert births.present() == births.present() == {1}
    births.close()


def test_the_real_one_shows_a_child_and_its_end() -> None:
    births = Births("/proc")
    births.present()
    with subprocess.Popen(["sleep", "60"], stdin=subprocess.DEVNULL) as child:
        try:
            found = births.present()
            assert found is not None
            assert {child.pid, os.getpid()} <= found
        finally:
            child.kill()
            child.wait()
    # One thread less on the machine; where one more began in another namespace at that moment,
    # nothing moved, and the list comes in its turn.
    found = [births.present() for _ in range(int(LIST_WITHIN_S / 2.0))]
    listed = [pids for pids in found if pids is not None]
    assert listed
    assert child.pid not in listed[-1]
    births.close()


def test_closed_twice_and_asked_again(kernel: Kernel) -> None:
    kernel.births.close()
    kernel.births.close()
    assert kernel.births.present() == {1}
