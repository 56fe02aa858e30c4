"""A board whose clock nobody sets: link in 1970, ten years ahead, and set to and fro while it runs.

libfaketime shifts what link's process takes for the wall clock, its OpenSSL's included; time since
boot stays. The certificates are of today: at such a time none of them holds.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.kernel import timex
from edgewarden.trust import time_file
from tests.system.cards import DEVICE, WAIT_S, Card, Stage, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto", "faketime")

LIBRARY = "/usr/$LIB/faketime/libfaketimeMT.so.1"
POLICY = b"# a policy that only a person may change\n"


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path ends at 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="ew-clock-") as folder,
        standing(Path(folder)) as made,
    ):
        yield made


def faked(card: Card, when: str) -> dict[str, str]:
    """Environment of a process whose wall clock a file rules."""
    file = card.state.with_name("clock")
    file.write_text(f"{when}\n")
    return {
        "LD_PRELOAD": LIBRARY,
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
    }


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


@pytest.mark.parametrize("when", ["@1970-01-01 00:01:00", "+3650d", "-1000d"])
def test_a12_signed_time_brings_a_board_with_a_wrong_clock_on_line(stage: Stage, when: str) -> None:
    card = stage.enrolled()
    before = kept(card)
    card.start(faked(card, when))
    card.reports()
    assert clock_state(card) == "signed"
    wait_until(lambda: clock_facet(stage) == "affirming", WAIT_S)
    card.end()
    assert kept(card) == before
    assert stage.quarantine() is None


def test_a12_a_clock_that_is_set_to_and_fro_costs_nothing(stage: Stage) -> None:
    card = stage.enrolled()
    before = kept(card)
    environment = faked(card, "+0")
    card.start(environment)
    card.reports()
    for when in ("+3650d", "-7300d", "+0", "-10m", "+400d"):
        faked(card, when)
        stage.fleet.stop_broker()
        stage.fleet.start_broker()  # a new connection is made under that clock
        card.reports()
    assert kept(card) == before
    assert stage.quarantine() is None
    assert not stage.findings() & {"clone", "fork", "older_state"}


def another_boot(card: Card) -> None:
    """What was kept was kept in an earlier boot: the floor counts, the signed moment does not."""
    kept = time_file.read(card.state)
    assert kept is not None
    assert time_file.keep(card.state, replace(kept, boot_id=os.urandom(16)))


def test_a_boot_in_1970_without_the_service_goes_by_the_floor(stage: Stage) -> None:
    """The enrolment service is not reached, the broker is: the floor is enough for its dates."""
    card = stage.enrolled()
    environment = faked(card, "+0")
    card.start(environment)
    card.reports()
    card.end()
    identity = card.state / "identity" / "current" / "identity.json"
    text = identity.read_text()
    assert '"service"' in text
    identity.write_text(text.replace('"service"', '"was_service"'))
    if timex.discipline().synchronised:
        return  # this machine's kernel vouches for what libfaketime says: no board to play
    another_boot(card)
    faked(card, "@1970-01-01 00:01:00")
    card.start(environment)
    card.reports()
    assert clock_state(card) == "unsynced"
