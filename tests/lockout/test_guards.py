"""What the guards are told by a reload, and what they make of it."""

from __future__ import annotations

import os

import pytest

from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import RuleSpec, Table, compile_table
from edgewarden.kernel.mounts import Mounts
from edgewarden.lockout.guards import Clocks, Guards
from edgewarden.wire.lean import Frozen


class Machine(Frozen):
    """As much of gate/doors.py as the guards ask for."""

    __slots__ = ()

    def boot_id(self) -> str:
        return "one"

    def system_age_s(self, boot_s: float) -> float:
        return 0.0

    def status_at(self, path: bytes) -> os.stat_result | None:
        return None

    def proc_text(self, name: str) -> str:
        return ""

    def proc_link(self, name: str) -> bytes:
        return b""

    def unit_of(self, pid: int) -> str:
        return ""


class Policy:
    def __init__(self) -> None:
        self.table = table(1)

    def recall(self, name: str) -> bytes | None:
        return None

    def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
        return ""


def table(generation: int) -> Table:
    rule = Rule("one", True, (), (), ())
    return Table.load(
        compile_table([RuleSpec(rule, any_content=True)], {}, critical=(), generation=generation)
    )


class Bench:
    def __init__(self) -> None:
        self.now_mono = 0.0
        self.policy = Policy()
        fd = os.open("/proc", os.O_RDONLY)
        try:
            self.guards = Guards(
                self.policy, Machine(), Mounts(fd), lambda *_: None,
                Clocks(lambda: self.now_mono, 0.0, lambda: 0),
            )  # fmt: skip
        finally:
            os.close(fd)
        for _ in range(720):
            self.now_mono += 5
            self.guards.coverage.look("observe", sees=True)

    def reload(self, *, same_rules: bool) -> int:
        self.policy.table = table(self.policy.table.generation + 1)
        self.guards.on_reload(same_rules=same_rules)
        return int(self.guards.coverage.observed_s)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("changing", "same_rules", "kept_s"),
    [(True, True, 3600), (True, False, 0), (False, True, 0), (False, False, 0)],
)
def test_m3_coverage_is_kept_for_packages_alone(
    bench: Bench, changing: bool, same_rules: bool, kept_s: int
) -> None:
    """An edited policy compiled while apt works is an edited policy."""
    if changing:
        bench.guards.hear("packages", 600, "apt.service")
    assert bench.reload(same_rules=same_rules) == kept_s
