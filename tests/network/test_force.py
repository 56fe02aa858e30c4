"""What the kernel is told of control groups that come, go and come again: with a folder in place of
cgroup2 and a recorder in place of nftables."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from edgewarden.errors import HardwareFault
from edgewarden.network.force import STALE, TRIES, Force
from edgewarden.network.groups import Groups
from edgewarden.network.names import Change
from edgewarden.wire.network_table import NetworkTable, Unit

NUMBER = count()
PATH = "system.slice/historian.service"
TABLE = NetworkTable(1, 1, 3600, 60, (), (Unit(2, "s0", PATH),), (), "chain out { }\n")


class Recorder:
    """Remembers what it is told; ``meanwhile`` happens while the kernel works."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.meanwhile: Callable[[], None] = lambda: None
        self.refuses: Callable[[str], bool] = lambda _: False

    def run(self, text: str) -> str:
        self.meanwhile()
        if self.refuses(text):
            raise HardwareFault("no such group", code="EW-NET-031", next_step="-", name="x")
        self.texts.append(text)
        return ""

    def check(self, text: str) -> None:
        self.run(text)

    def give_back(self, small: str) -> None: ...


@pytest.fixture
def group(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    made = tmp_path / PATH
    made.mkdir(parents=True)
    return made


def again(group: Path) -> None:
    """The unit starts again; the old folder stays under another name, so its number is taken."""
    group.rename(group.with_name(f"gone{next(NUMBER)}"))
    group.mkdir()


@pytest.fixture
def kernel() -> Recorder:
    return Recorder()


@pytest.fixture
def force(tmp_path: Path, group: Path, kernel: Recorder) -> Force:
    made = Force(lambda: 0.0)
    made.nft = kernel
    made.groups = Groups(str(tmp_path))
    return made


def told(kernel: Recorder) -> int:
    return sum(PATH in text for text in kernel.texts)


def test_a_group_is_named_once_and_again_when_it_is_another(
    force: Force, kernel: Recorder, group: Path
) -> None:
    force.put(TABLE, "enforce", 0, {})
    assert told(kernel) == 1
    force.look(TABLE, {})
    assert told(kernel) == 1
    again(group)
    force.look(TABLE, {})
    assert told(kernel) == 2


def test_a_group_replaced_while_the_kernel_works_is_named_again(
    force: Force, kernel: Recorder, group: Path
) -> None:
    """Review B, M7: it was remembered by what was there afterwards, and stayed open."""
    force.put(TABLE, "enforce", 0, {})
    again(group)
    kernel.meanwhile = lambda: again(group)
    force.look(TABLE, {})
    kernel.meanwhile = lambda: None
    assert told(kernel) == 2
    force.look(TABLE, {})
    assert told(kernel) == 3


def test_a_group_replaced_while_a_whole_table_is_put_in_force_is_named_again(
    force: Force, kernel: Recorder, group: Path
) -> None:
    kernel.meanwhile = lambda: again(group)
    force.put(TABLE, "enforce", 0, {})
    kernel.meanwhile = lambda: None
    force.look(TABLE, {})
    assert told(kernel) == 2


def test_what_a_refused_table_would_have_named_is_still_to_be_named(
    force: Force, kernel: Recorder, group: Path
) -> None:
    force.put(TABLE, "enforce", 0, {})
    again(group)
    kernel.refuses = lambda text: "table" in text and "chain out" in text
    with pytest.raises(HardwareFault):
        force.put(TABLE, "enforce", 0, {})
    force.look(TABLE, {})
    assert told(kernel) == 2


def test_a_unit_that_ends_at_that_moment_does_not_refuse_the_table(
    force: Force, kernel: Recorder, group: Path
) -> None:
    kernel.meanwhile = lambda: group.exists() and group.rmdir()
    kernel.refuses = lambda text: PATH in text
    force.put(TABLE, "enforce", 0, {})
    assert (len(kernel.texts), told(kernel), force.mode) == (1, 0, "enforce")


def test_a_kernel_that_refuses_is_not_asked_for_ever(force: Force, kernel: Recorder) -> None:
    asked: list[str] = []

    def refuses(text: str) -> bool:
        asked.append(text)
        return True

    kernel.refuses = refuses
    with pytest.raises(HardwareFault):
        force.put(TABLE, "enforce", 0, {})
    assert 1 <= len(asked) <= TRIES
    assert force.mode == ""


def test_elements_of_groups_that_are_gone_do_not_pile_up(
    force: Force, kernel: Recorder, group: Path
) -> None:
    force.put(TABLE, "enforce", 0, {})
    whole = [text for text in kernel.texts if "chain out" in text]
    for _ in range(STALE + 1):
        again(group)
        force.look(TABLE, {})
    assert len([text for text in kernel.texts if "chain out" in text]) == len(whole) + 1


def test_a_names_addresses_go_to_the_kernel_together_or_each_for_itself(
    force: Force, kernel: Recorder
) -> None:
    force.put(TABLE, "enforce", 0, {})
    changes = [Change(0, 4, f"192.0.2.{i}", 60, True, "") for i in range(3)]
    kernel.texts.clear()
    assert force.allow(changes) == []
    [text] = kernel.texts
    assert all(change.address in text for change in changes)
    kernel.refuses = lambda text: changes[1].address in text
    [fault] = force.allow(changes)
    assert fault.text == "no such group"
    assert [text.count("add element") for text in kernel.texts[1:]] == [1, 1]
