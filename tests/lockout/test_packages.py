"""Packages are changing: what runs before the baseline knows it, and what nobody gets of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest

from edgewarden.lockout.packages import LONGEST_S, Packages
from tests.fakes.kept import Kept

NOW_NS = 1_700_000_000_000_000_000
DPKG, OTHER = 10, 20


def entry(mode: int = 0o755, uid: int = 0, ino: int = 7, ctime_ns: int = NOW_NS) -> os.stat_result:
    values = (stat.S_IFREG | mode, ino, 1, 1, uid, 0, 0, 0, 0, 0)
    return os.stat_result(values, {"st_ctime_ns": ctime_ns})


class Machine(Kept):
    """Files by path, two units, a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[bytes, os.stat_result] = {}
        self.now_mono = 0.0
        self.set_by_s = 0.0
        self.packages = self.start()

    def start(self, boot_id: str = "one") -> Packages:
        """As a gate does that begins."""
        self.packages = Packages(
            self.status_at,
            lambda pid: "session-3.scope" if pid == DPKG else "cron.service",
            lambda: self.now_mono,
            self.wall_ns,
            files=self,
            boot_id=boot_id,
        )
        return self.packages

    def wall_ns(self) -> int:
        """It goes on by itself, and somebody sets it."""
        return NOW_NS + round((self.now_mono + self.set_by_s) * 1e9)

    def pass_s(self, seconds: float, set_by_s: float = 0.0) -> None:
        self.now_mono += seconds
        self.set_by_s += set_by_s
        self.packages.look()

    def status_at(self, path: bytes) -> os.stat_result | None:
        folder = os.stat_result((stat.S_IFDIR | 0o755, 1, 1, 1, 0, 0, 0, 0, 0, 0))
        known = self.files.get(path)
        if known is None and any(name.startswith(path.rstrip(b"/") + b"/") for name in self.files):
            return folder
        return known

    def runs(
        self,
        path: bytes,
        status: os.stat_result,
        pid: int = OTHER,
        slow: frozenset[bytes] = frozenset(),
    ) -> bool:
        self.files.setdefault(path, status)
        return self.packages.provisional(status, path, pid, slow)


@pytest.fixture
def machine() -> Machine:
    made = Machine()
    made.packages.begin(600, "session-3.scope")
    return made


def test_l5_what_dpkg_unpacked_is_everybodys(machine: Machine) -> None:
    assert machine.runs(b"/usr/bin/ls", entry())
    assert machine.runs(b"/usr/bin/sudo", entry(0o4755, ino=8))
    assert machine.runs(b"/etc/cron.daily/dpkg", entry(ino=9))


def test_maintainer_scripts_are_dpkgs(machine: Machine) -> None:
    path = b"/var/lib/dpkg/tmp.ci/preinst"
    assert machine.runs(path, entry(), DPKG)
    assert not machine.runs(path, entry(), OTHER)


def test_it_ends_by_a_word_or_by_itself(machine: Machine) -> None:
    machine.packages.end()
    assert not machine.runs(b"/usr/bin/ls", entry())
    machine.packages.begin(10 * LONGEST_S, "session-3.scope")
    machine.now_mono = LONGEST_S - 1
    assert machine.runs(b"/usr/bin/ls", entry())
    machine.now_mono = LONGEST_S
    assert not machine.runs(b"/usr/bin/ls", entry())
    assert not machine.packages.changing


@pytest.mark.parametrize("day_s", [86_400.0, -86_400.0])
@pytest.mark.parametrize("looks", [True, False])
def test_m2_a_clock_that_is_set_meanwhile_denies_nothing_new(
    machine: Machine, day_s: float, looks: bool
) -> None:
    """A board without a battery: the time service steps the clock while apt works."""
    machine.pass_s(10)
    machine.set_by_s += day_s
    if looks:
        machine.pass_s(0)
    unpacked = entry(ctime_ns=machine.wall_ns())
    machine.now_mono += 0.5
    assert machine.runs(b"/usr/bin/ls", unpacked)


def test_m2_a_clock_set_back_excuses_nothing_that_lay_there(machine: Machine) -> None:
    before = entry(ctime_ns=NOW_NS - 90_000 * 10**9)
    machine.pass_s(10, set_by_s=-86_400)
    assert not machine.runs(b"/usr/bin/stranger", before)
    machine.pass_s(5, set_by_s=86_400)
    assert machine.runs(b"/usr/bin/new", entry(ino=9, ctime_ns=machine.wall_ns()))
    machine.packages.end()
    machine.packages.begin(600, "session-3.scope")
    between = entry(ino=8, ctime_ns=NOW_NS - 86_000 * 10**9)
    assert not machine.runs(b"/usr/bin/other", between), "the next change begins at its own time"


def test_m2_what_passed_between_two_looks_is_no_step(machine: Machine) -> None:
    for _ in range(60):
        machine.pass_s(1)
    old = entry(ctime_ns=NOW_NS - 10_000_000_000)
    assert not machine.runs(b"/usr/bin/old", old)


def test_l5_a_gate_that_is_upgraded_meanwhile_goes_on_excusing(machine: Machine) -> None:
    """Its postinst restarts it; the scripts and programs of the packages behind it are as new."""
    machine.pass_s(10)
    machine.start()
    assert machine.runs(b"/usr/bin/ls", entry(ctime_ns=machine.wall_ns()))
    assert machine.runs(b"/var/lib/dpkg/info/z.postinst", entry(ino=8), DPKG)
    assert not machine.runs(b"/usr/bin/old", entry(ino=9, ctime_ns=NOW_NS - 10_000_000_000))
    machine.now_mono = 599
    assert machine.packages.changing
    machine.now_mono = 600
    assert not machine.start().changing, "it ends when it would have"


def test_m2_a_clock_that_was_set_back_while_gate_was_away(machine: Machine) -> None:
    machine.now_mono, machine.set_by_s = 10, -86_400
    machine.start()
    assert machine.runs(b"/usr/bin/ls", entry(ctime_ns=machine.wall_ns()))


def test_another_boot_the_hooks_word_and_a_torn_file_end_it(machine: Machine) -> None:
    assert not machine.start("two").changing
    machine.start("one").begin(600, "session-3.scope")
    machine.kept["packages"] = machine.kept["packages"][:-1]
    assert not machine.start().changing
    machine.packages.begin(600, "session-3.scope")
    machine.packages.end()
    assert not machine.start().changing


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/home/uwe/ls", entry()),
        (b"/tmp/ls", entry()),
        (b"/usr/local/bin/ls", entry()),
        (b"/usr/bin/ls", entry(uid=1000)),
        (b"/usr/bin/ls", entry(0o775)),
        (b"/usr/bin/ls", entry(0o757)),
        (b"/usr/bin/ls", entry(ctime_ns=NOW_NS - 10_000_000_000)),
    ],
)
def test_what_an_attacker_could_bring_or_find_is_not_let_through(
    machine: Machine, path: bytes, status: os.stat_result
) -> None:
    assert not machine.runs(path, status)


def forge_name(machine: Machine) -> None:
    """His own file, shown under /usr/bin in a mount namespace of his."""
    machine.files[b"/usr/bin/ls"] = entry(ino=99)


def open_folder(machine: Machine) -> None:
    machine.files[b"/usr/bin"] = os.stat_result((stat.S_IFDIR | 0o777, 1, 1, 1, 0, 0, 0, 0, 0, 0))


def take_away(machine: Machine) -> None:
    machine.status_at = lambda path: None  # type: ignore[method-assign, assignment]
    machine.packages._status_at = machine.status_at


@pytest.mark.parametrize("change", [forge_name, open_folder, take_away])
def test_the_path_must_lead_to_that_file_through_roots_folders(
    machine: Machine, change: Callable[[Machine], None]
) -> None:
    change(machine)
    assert not machine.runs(b"/usr/bin/ls", entry())


def test_nothing_is_asked_of_a_server(machine: Machine) -> None:
    assert not machine.runs(b"/usr/bin/ls", entry(), slow=frozenset((b"/usr",)))


def test_a_second_dpkg_makes_it_longer_and_not_younger(machine: Machine) -> None:
    machine.now_mono = 500
    machine.packages.begin(600, "session-9.scope")
    machine.now_mono = 1000
    assert machine.runs(b"/usr/bin/ls", entry(ctime_ns=NOW_NS - 500_000_000))
