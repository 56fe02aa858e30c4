"""A copied card for real: a Mosquitto, a fleet, and link processes on copies of one state folder.

The model (tests/order/test_ratchet_model.py) says what every interleaving leads to; here the parts
are the programs that a user runs.
"""

from __future__ import annotations

import signal
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.standing import fleet_command
from tests.system.cards import DEVICE, WAIT_S, Stage, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path ends at 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="ew-clone-") as folder,
        standing(Path(folder)) as made,
    ):
        yield made


def test_an_honest_gateway_through_kills_and_restarts_of_everything(stage: Stage) -> None:
    """The control: nothing that happens to an honest gateway is taken for a copy."""
    card = stage.enrolled()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        card.start()
        card.reports()
        card.end(number)
    card.start()
    stage.fleet.stop_server(signal.SIGKILL)
    stage.fleet.start_server()
    card.reports()
    stage.fleet.stop_broker()
    stage.fleet.start_broker()
    card.reports()
    assert stage.quarantine() is None
    assert not stage.findings() & {"clone", "fork", "older_state", "state_adopted"}


def test_two_links_on_one_card_are_quarantined(stage: Stage) -> None:
    card = stage.enrolled()
    card.start()
    card.reports()
    card.end()
    copy = stage.keep(card.copy("copy"))
    card.start()
    copy.start()
    found = stage.await_quarantine()
    assert found["kind"] in ("fork", "clone")
    wait_until(
        lambda: stage.fleet.show(DEVICE)["attestation"]["result"] == "contraindicated", WAIT_S
    )  # type: ignore[index]
    text = fleet_command("show", DEVICE, "--dir", stage.fleet.folder, check=False)
    assert text.returncode == 2
    assert f"quarantine  {found['kind']}" in text.stdout
    listed = fleet_command("quarantine", "list", "--dir", stage.fleet.folder)
    assert DEVICE in listed.stdout
    with urllib.request.urlopen(str(stage.fleet.init["console"]), timeout=60) as page:
        shown = page.read().decode()
    assert "quarantine" in shown
    assert found["why"].split(",")[0][:20] in shown


def test_a_copy_whose_spool_was_torn_shares_no_number_and_is_caught(stage: Stage) -> None:
    """Its chains jump far ahead, so no record collides: only the token tells."""
    card = stage.enrolled()
    card.start()
    card.reports()
    card.end()
    copy = stage.keep(card.copy("copy"))
    copy.tear_spool()
    card.start()
    card.reports()
    card.end()
    assert stage.quarantine() is None
    copy.start()
    found = stage.await_quarantine()
    assert found["kind"] == "clone", (found, copy.log.read_text()[-2000:])
    assert "fork" not in stage.findings()


def test_a_restored_backup_is_caught_and_goes_on_by_a_persons_word(stage: Stage) -> None:
    card = stage.enrolled()
    card.start()
    card.reports()
    card.end()
    backup = stage.keep(card.copy("backup"))
    card.start()
    card.reports(3)
    card.end()
    assert stage.quarantine() is None
    backup.start()
    assert stage.await_quarantine()["kind"] in ("fork", "clone", "older_state")
    # The card it was taken from is gone for good, says a person: the backup goes on, and only it.
    backup.end()
    lifted = ("quarantine", "lift", DEVICE, "--why", "the old card broke")
    fleet_command(*lifted, "--dir", stage.fleet.folder)
    backup.start()
    backup.reports(3)
    assert stage.quarantine() is None
    backup.end()
    card.start()
    assert stage.await_quarantine()["kind"] in ("fork", "clone", "older_state")
