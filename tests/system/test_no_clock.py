"""A board whose clock nobody sets: link in 1970, ten years ahead, and set to and fro while it runs.

A preloaded library shifts what link's process takes for the wall clock, its OpenSSL's included;
time since boot stays. The certificates are of today: at such a time none of them holds.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.cards import DEVICE, WAIT_S, Card, Stage, standing
from tests.system.stepped_clock import YEAR_S, SteppedClock
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto", "gcc")

DAY_S = 86_400
SINCE_1970_S = time.time() - 60
POLICY = b"# a policy that only a person may change\n"


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path ends at 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="ew-clock-") as folder,
        standing(Path(folder)) as made,
    ):
        yield made


@pytest.fixture
def clock(stage: Stage) -> SteppedClock:
    return SteppedClock(stage.fleet.folder.with_name("clock"))


def kept(card: Card) -> dict[str, str]:
    """Everything of identity and policy, by content."""
    (card.state / "policy").mkdir(exist_ok=True)
    (card.state / "policy" / "policy.toml").write_bytes(POLICY)
    return {
        str(path.relative_to(card.state)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("identity", "policy")
        for path in sorted((card.state / folder).rglob("*"))
        if path.is_file()
    }


def clock_state(card: Card) -> object:
    clock = card.status().get("clock")
    return clock.get("state") if isinstance(clock, dict) else None


def clock_facet(stage: Stage) -> str:
    attestation = stage.fleet.show(DEVICE)["attestation"]
    assert isinstance(attestation, dict)
    return str(attestation["facets"].get("clock"))


WRONG_S = {"1970": -SINCE_1970_S, "ten-years-ahead": 10 * YEAR_S, "behind": -1000 * DAY_S}


@pytest.mark.parametrize("ahead_s", WRONG_S.values(), ids=WRONG_S)
def test_a12_signed_time_brings_a_board_with_a_wrong_clock_on_line(
    stage: Stage, clock: SteppedClock, ahead_s: float
) -> None:
    card = stage.enrolled()
    before = kept(card)
    clock.ahead(ahead_s)
    card.start(clock.environment)
    card.reports()
    wait_until(lambda: clock_state(card) == "signed", WAIT_S)
    wait_until(lambda: clock_facet(stage) == "affirming", WAIT_S)
    card.end()
    assert kept(card) == before
    assert stage.quarantine() is None


def test_a12_a_clock_that_is_set_to_and_fro_costs_nothing(
    stage: Stage, clock: SteppedClock
) -> None:
    card = stage.enrolled()
    before = kept(card)
    card.start(clock.environment)
    card.reports()
    for ahead_s in (10 * YEAR_S, -20 * YEAR_S, 0, -600, 400 * DAY_S):
        clock.ahead(ahead_s)
        stage.fleet.stop_broker()
        stage.fleet.start_broker()  # a new connection is made under that clock
        card.reports(1)
    assert kept(card) == before
    assert stage.quarantine() is None
    assert not stage.findings() & {"clone", "fork", "older_state"}


def test_a_boot_in_1970_without_the_service_goes_by_the_floor(
    stage: Stage, clock: SteppedClock
) -> None:
    """The enrolment service is not reached, the broker is: the floor is enough for its dates."""
    card = stage.enrolled()
    card.start(clock.environment)
    card.reports()
    card.end()
    identity = card.state / "identity" / "current" / "identity.json"
    text = identity.read_text()
    assert '"service"' in text
    identity.write_text(text.replace('"service"', '"was_service"'))
    clock.another_boot()  # what was kept is of an earlier one: the floor counts, the moment not
    clock.ahead(-SINCE_1970_S)
    card.start(clock.environment)
    card.reports()
    wait_until(lambda: clock_state(card), WAIT_S)  # no answer from a link that stands still
    assert clock_state(card) == "unsynced"
