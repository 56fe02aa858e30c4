"""No check of the listener's pure part is decoration: take any one out, and a table turns red."""

from __future__ import annotations

from types import ModuleType

import pytest

from edgewarden.appraise import devices as appraised
from edgewarden.downstream import (
    budget,
    certificate,
    desk,
    http,
    lineage,
    mqtt,
    places,
    readings,
    sessions,
    shown,
)
from edgewarden.wire import devices, eat
from edgewarden_fleet.store import submodules
from tests.deciding import Table, holds
from tests.downstream import (
    test_budget,
    test_certificate,
    test_desk,
    test_device_evidence,
    test_http,
    test_lineage,
    test_mqtt,
    test_places,
    test_readings,
    test_sessions,
    test_words,
)
from tests.downstream.mutation import Mutant, cases_of, mutants, without
from tests.fleet import test_devices_behind

GROUPS = (
    ((budget,), (test_budget,)),
    ((desk, shown), (test_desk,)),
    ((lineage,), (test_lineage,)),
    ((certificate,), (test_certificate,)),
    ((sessions,), (test_sessions,)),
    ((places,), (test_places,)),
    ((http,), (test_http,)),
    ((mqtt,), (test_mqtt,)),
    ((readings,), (test_readings,)),
    ((submodules,), (test_devices_behind,)),
    ((devices,), (test_words, test_device_evidence)),
    ((eat, appraised), (test_device_evidence, test_certificate)),
)
TESTS = {modules: cases_of(*tests) for modules, tests in GROUPS}
MUTANTS = [(modules, mutant) for modules in TESTS for mutant in mutants(*modules)]


@pytest.fixture(scope="module")
def tables() -> dict[tuple[ModuleType, ...], Table]:
    """Every test of each group, run once with nothing taken out."""
    return {
        modules: Table([m.function for group, m in MUTANTS if group == modules], tests)
        for modules, tests in TESTS.items()
    }


def test_nothing_is_changed_to_begin_with(tables: dict[tuple[ModuleType, ...], Table]) -> None:
    assert all(table.holds() for table in tables.values())
    assert len(MUTANTS) >= 120


@pytest.mark.parametrize(("modules", "mutant"), MUTANTS, ids=lambda v: str(v) if isinstance(v, Mutant) else "")  # fmt: skip  # noqa: E501
def test_each_check_is_held(
    modules: tuple[ModuleType, ...], mutant: Mutant, tables: dict[tuple[ModuleType, ...], Table]
) -> None:
    nearest = tables[modules].nearest(mutant.function, mutant.line)
    put_back = without(mutant)
    try:
        survives = all(holds(test) for test in nearest)
        assert not survives, "this check can be removed and no test turns red"
    finally:
        put_back()
