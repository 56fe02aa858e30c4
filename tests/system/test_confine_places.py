"""Confinement in a place that is somebody else's: `verify` runs, as root, the file that root made
there, whatever its owner puts in its place meanwhile. And a real mount, before, during and after.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgewarden.confine.facts import Host, Mount
from edgewarden.confine.plan import NOEXEC_UNIT, files, plan
from edgewarden.probe.confine_verify import Verifier, run_dropped
from edgewarden.probe.confinement import Look
from edgewarden.probe.systemd import run_program
from tests.fakes.systemd import FakeSystemd

TRUE = Path("/usr/bin/true")
NOBODY = 65534


def theirs(marker: Path) -> bytes:
    """A program of the place's owner: it leaves a trace."""
    return f"#!/bin/sh\ntouch {marker}\n".encode()


def swaps(place: Path, program: bytes) -> Callable[[str, Sequence[int]], str]:
    """A run_program before which the owner of the place has put his own files everywhere."""

    def run(path: str, kept: Sequence[int]) -> str:
        for name in os.listdir(place):
            (place / name).unlink()
            (place / name).write_bytes(program)
            (place / name).chmod(0o755)
        return run_program(path, kept)

    return run


def test_the_file_that_was_made_runs_and_not_what_lies_there_by_then(tmp_path: Path) -> None:
    place, marker = tmp_path / "place", tmp_path / "ran"
    place.mkdir()
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        said = run_dropped(folder, TRUE.read_bytes(), swaps(place, theirs(marker)))
    finally:
        os.close(folder)
    assert said == "exit 0", "the canary itself ran: this place is not noexec"
    assert not marker.exists()
    assert os.listdir(place) == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder of an ordinary user's, on a tmpfs that runs nothing."""
    where = tmp_path / "place"
    where.mkdir()
    options = f"size=1m,noexec,nosuid,nodev,mode=700,uid={NOBODY}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "ew-place", where], check=True)
    try:
        yield where
    finally:
        while os.path.ismount(where):
            subprocess.run(["umount", where], check=True)


class Mine(Look):
    """The table of mounts of this process, which need not be that of PID 1."""

    def mounted(self, pid: int = 1) -> dict[str, tuple[str, ...]]:
        return super().mounted(os.getpid())


def verify(place: Path, state: Path) -> list[str]:
    return Verifier(FakeSystemd(), Mine(FakeSystemd()), str(state)).place(str(place))


@pytest.mark.needs("root")
def test_a_place_that_runs_nothing_holds_and_keeps_nothing(place: Path, tmp_path: Path) -> None:
    assert verify(place, tmp_path) == []
    assert os.listdir(place) == []


@pytest.mark.needs("root")
def test_a_place_that_is_another_one_by_now_is_not_entered(place: Path, tmp_path: Path) -> None:
    """Between the table of mounts and the canary its owner has mounted his own over it."""
    table = Mine(FakeSystemd()).mounted()

    class Earlier(Look):
        def mounted(self, pid: int = 1) -> dict[str, tuple[str, ...]]:
            return table

    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "ew-over", place], check=True)
    said = Verifier(FakeSystemd(), Earlier(FakeSystemd()), str(tmp_path)).place(str(place))
    assert said == ["what lies there is not mounted noexec"]


@pytest.mark.needs("root")
def test_a_place_that_has_become_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "place").symlink_to("/usr/bin")

    class Earlier(Look):
        def mounted(self, pid: int = 1) -> dict[str, tuple[str, ...]]:
            return {str(tmp_path / "place"): ("rw", "noexec")}

    verifier = Verifier(FakeSystemd(), Earlier(FakeSystemd()), str(tmp_path))
    (said,) = verifier.place(str(tmp_path / "place"))
    assert said.startswith("it could not be opened")


def options(where: Path) -> tuple[str, ...]:
    return Mine(FakeSystemd()).mounted()[str(where)]


@pytest.mark.needs("root")
@pytest.mark.parametrize("mode", ["rw", "nosuid,noatime", "nodev,nodiratime"])
def test_a_mount_that_is_closed_and_opened_again_is_as_it_was(tmp_path: Path, mode: str) -> None:
    """The unit's own lines, run as systemd would, on a mount without a unit of its own."""
    where = tmp_path / "place"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=1m,{mode}", "ew-place", where], check=True)
    try:
        before = options(where)
        made = plan([], {}, [Mount(str(where), mounted=True, options=before)], Host((6, 12), 252))
        (text,) = [f.text for f in files(made, keep=False) if f.path.endswith(NOEXEC_UNIT)]
        lines = dict(row.split("=", 1) for row in text.splitlines() if row.startswith("Exec"))
        subprocess.run(lines["ExecStart"].split(), check=True)
        assert set(options(where)) == {*before, "noexec"}
        subprocess.run(lines["ExecStop"].split(), check=True)
        assert options(where) == before
    finally:
        subprocess.run(["umount", where], check=True)
