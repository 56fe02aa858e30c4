"""The critical set at verdict time: which file it is, never what it is called."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.exec.judged import Judged
from edgewarden.gate.doors import Doors
from edgewarden.judge.exec_table import Content, Table, compile_table
from edgewarden.kernel.fanotify import FAN_OPEN_EXEC_PERM, UNTOLD, ExecEvent
from edgewarden.kernel.mounts import Mounts
from edgewarden.lockout.excuses import Excuses
from edgewarden.lockout.near import is_near
from edgewarden.lockout.packages import Packages
from tests.fakes.kept import Kept
from tests.system.exec_world import NOBODY

KNOWN, STRANGE = b"k" * 32, b"s" * 32
pytestmark = pytest.mark.needs("root")


class Bench:
    """Excuses over a real folder, with the critical set as given."""

    def __init__(self, folder: Path, *critical: Path) -> None:
        (folder / "policy").mkdir(mode=0o755)
        contents = {KNOWN: Content((), "program", False)}
        self.table = Table.load(compile_table([], contents, critical=[str(p) for p in critical]))
        self.doors = Doors(str(folder))
        self.alarms: list[tuple[str, int, str]] = []
        self.told: list[str] = []
        self.stats = 0
        self.packages = Packages(
            self.doors.status_at, lambda pid: "", lambda: 0.0, time.time_ns,
            files=Kept(), boot_id="one",
        )  # fmt: skip
        self.excuses = Excuses(
            policy=self,  # type: ignore[arg-type]  # it has a table
            doors=self.doors,
            mounts=Mounts(self.doors.proc_fd),
            alarm=lambda *alarm: self.alarms.append(alarm),
            told=self.told.append,
            packages=self.packages,
        )
        status_at = self.doors.status_at

        def counted(path: bytes) -> os.stat_result | None:
            self.stats += 1
            return status_at(path)

        self.doors.status_at = counted  # type: ignore[method-assign]

    def excuse(
        self, path: Path, reason: str = "unlisted", digest: bytes = STRANGE, uid: int = 0
    ) -> str:
        fd = os.open(path, os.O_RDONLY)
        try:
            one = Judged(ExecEvent(FAN_OPEN_EXEC_PERM, fd, 0, UNTOLD), "enforce", 0)
            one.reason, one.digest, one.uid = reason, digest, uid
            return self.excuses.excuse(one)
        finally:
            os.close(fd)


@pytest.fixture
def sudo(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "sudo"
    path.parent.mkdir()
    path.write_text("new")
    path.chmod(0o4755)
    return path


@pytest.fixture
def bench(tmp_path: Path, sudo: Path) -> Iterator[Bench]:
    made = Bench(tmp_path, sudo)
    yield made
    os.close(made.doors.proc_fd)
    os.close(made.doors.policy_fd)


@pytest.mark.parametrize("reason", ["unlisted", "ruled_out", "too_large", "crowded_out"])
def test_critical_with_other_content_is_allowed_with_an_alarm(
    bench: Bench, sudo: Path, reason: str
) -> None:
    assert bench.excuse(sudo, reason) == "critical"
    assert [(code, severity) for code, severity, _ in bench.alarms] == [("EW-EXEC-030", 4)]
    assert str(sudo) in bench.alarms[0][2]
    assert STRANGE.hex() in bench.alarms[0][2]
    assert bench.told == [str(sudo)]


def test_a_content_that_rules_speak_of_has_no_excuse(bench: Bench, sudo: Path) -> None:
    """A shell that the policy keeps from a service account stays kept from it."""
    assert bench.excuse(sudo, digest=KNOWN) == ""
    assert bench.excuse(sudo, "being_written") == ""
    assert bench.alarms == []


def test_a_name_alone_is_no_excuse(bench: Bench, sudo: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "home" / "sudo"
    elsewhere.parent.mkdir()
    elsewhere.write_text("evil")
    elsewhere.chmod(0o755)
    assert bench.excuse(elsewhere) == ""
    assert bench.stats == 1


def test_a_file_that_was_unlinked_is_another(bench: Bench, sudo: Path) -> None:
    fd = os.open(sudo, os.O_RDONLY)
    sudo.unlink()
    sudo.write_text("newer")
    one = Judged(ExecEvent(FAN_OPEN_EXEC_PERM, fd, 0, UNTOLD), "enforce", 0)
    one.reason = "unlisted"
    assert bench.excuses.excuse(one) == ""
    os.close(fd)


@pytest.mark.parametrize(("mode", "uid"), [(0o775, 0), (0o757, 0), (0o755, NOBODY)])
def test_what_others_than_root_could_have_changed_is_no_excuse(
    bench: Bench, sudo: Path, mode: int, uid: int
) -> None:
    os.chown(sudo, uid, -1)
    sudo.chmod(mode)
    assert bench.excuse(sudo) == ""


def test_a_flood_does_not_smuggle_an_unhashed_shell_in(bench: Bench, sudo: Path) -> None:
    assert bench.excuse(sudo, "crowded_out", b"", uid=33) == ""
    assert bench.excuse(sudo, "crowded_out", b"", uid=0) == "critical"


def test_other_names_cost_no_stat(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    assert bench.excuse(tmp_path / "other") == ""
    assert bench.stats == 0


def test_another_table_brings_another_set(bench: Bench, sudo: Path, tmp_path: Path) -> None:
    bench.table = Table.load(compile_table([], {}, critical=["/sbin/other"]))
    assert bench.excuse(sudo) == ""


@pytest.mark.parametrize(
    ("slow", "near"),
    [
        (set(), True),
        ({b"/usr"}, False),
        ({b"/usr/bin"}, False),
        ({b"/usr/bi"}, True),
        ({b"/mnt"}, True),
        ({b"/"}, False),
    ],
)
def test_nothing_is_looked_at_behind_a_mount_that_can_hang(slow: set[bytes], near: bool) -> None:
    assert is_near(b"/usr/bin/sudo", frozenset(slow)) is near


def test_mount_points_are_read_with_their_types() -> None:
    proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    points = Mounts(proc_fd).points()
    os.close(proc_fd)
    assert points[b"/proc"] == "proc"
    assert b"/" in points
