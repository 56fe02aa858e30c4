"""L3 and L4: boots that never became healthy, and the switch on the boot partition."""

from __future__ import annotations

import os
import stat

import pytest

from edgewarden.lockout.boots import HEALTHY_AFTER_S, BootGuard, kill_switch


class Machine:
    """state/policy/boots over many boots."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.durable: list[bool] = []
        self.now_mono = 0.0
        self.boots = 0

    def recall(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
        self.kept[name] = data
        self.durable.append(durable)
        return ""

    def boot(self, *, healthy: bool = False) -> BootGuard:
        self.boots += 1
        return self.restart(healthy=healthy)

    def restart(self, *, healthy: bool = False) -> BootGuard:
        made = BootGuard(self, f"boot-{self.boots}", lambda: self.now_mono)
        made.begin()
        if healthy:
            made.became_healthy()
        return made


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_l3_two_boots_in_a_row_that_never_became_healthy(machine: Machine) -> None:
    assert not machine.boot().holds
    assert not machine.boot().holds
    third = machine.boot()
    assert third.holds
    assert third.unhealthy == 2


def test_a_healthy_boot_in_between_begins_anew(machine: Machine) -> None:
    machine.boot()
    machine.boot(healthy=True)
    machine.boot()
    assert not machine.boot().holds
    assert machine.boot().holds


def test_restarts_of_gate_are_no_boots(machine: Machine) -> None:
    machine.boot()
    for _ in range(5):
        assert not machine.restart().holds


def test_a_healthy_boot_in_observe_does_not_lift_it_and_a_person_does(machine: Machine) -> None:
    machine.boot(), machine.boot()
    machine.boot(healthy=True)
    held = machine.boot(healthy=True)
    assert held.holds
    held.lifted()
    assert not machine.boot().holds, "the first after the person's word"
    assert machine.boot().holds, "and the one before it was never healthy either"


def test_that_a_boot_began_is_on_the_disk_before_anything_is_armed(machine: Machine) -> None:
    machine.boot(healthy=True)
    assert machine.durable == [True, False]


def test_without_systemd_a_quarter_of_an_hour_with_link_is_healthy(machine: Machine) -> None:
    boot = machine.boot()
    for link, trips in ((False, 0), (True, 1), (True, 0)):
        assert not boot.look(link=link, trips=trips)
        machine.now_mono += HEALTHY_AFTER_S / 2
    machine.now_mono += HEALTHY_AFTER_S
    assert boot.look(link=True, trips=0)
    assert boot.healthy
    assert not boot.look(link=True, trips=0), "once"


def test_a_torn_file_holds_nothing(machine: Machine) -> None:
    machine.boot(), machine.boot()
    machine.kept["boots"] = machine.kept["boots"][:-1]
    assert not machine.boot().holds


def entry(mode: int, uid: int = 0) -> os.stat_result:
    return os.stat_result((mode, 1, 1, 1, uid, 0, 0, 0, 0, 0))


FOLDER, FILE = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o644


@pytest.mark.parametrize("place", ["/boot/firmware", "/boot"])
def test_l4_a_marker_on_the_boot_partition(place: str) -> None:
    files = {
        place.encode(): entry(FOLDER),
        f"{place}/edgewarden-observe".encode(): entry(FILE),
    }
    alarms: list[str] = []
    found = kill_switch("quiet", files.get, lambda code, *_: alarms.append(code))
    assert found == f"{place}/edgewarden-observe is there"
    assert kill_switch("quiet", {}.get, lambda *_: None) == ""
    assert alarms == []


@pytest.mark.parametrize(
    ("folder", "marker"),
    [
        (entry(stat.S_IFDIR | 0o777), entry(FILE)),
        (entry(FOLDER, uid=1000), entry(FILE, uid=1000)),
        (entry(FOLDER), entry(FILE, uid=1000)),
    ],
)
def test_a_marker_that_a_user_could_have_put_there_is_none(
    folder: os.stat_result, marker: os.stat_result
) -> None:
    files = {b"/boot/firmware": folder, b"/boot/firmware/edgewarden-observe": marker}
    alarms: list[str] = []
    assert kill_switch("", files.get, lambda code, *_: alarms.append(code)) == ""
    assert alarms == ["EW-EXEC-033"]


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("root=/dev/mmcblk0p2 edgewarden.observe quiet", True),
        ("edgewarden.observe=1", True),
        ("edgewarden.observe=0", False),
        ("edgewarden.observed", False),
        ("", False),
    ],
)
def test_l4_a_word_on_the_kernels_command_line(line: str, holds: bool) -> None:
    found = kill_switch(f"{line}\n", lambda path: None, lambda *_: None)
    assert bool(found) is holds
