"""A copied card for real: a Mosquitto, a fleet, and link processes on copies of one state folder.

The model (tests/order/test_ratchet_model.py) says what every interleaving leads to; here the parts
are the programs that a user runs.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgewarden.errors import WireRefusal
from edgewarden.record.segment import SUFFIX
from edgewarden.trust.continuity import FOLDER, NAME, SLOT_BYTES
from edgewarden.wire.ratchet import decode_slot
from tests.fleet.standing import ENV, Standing, fleet_command
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

DEVICE = "gw-clone"
WAIT_S = 40.0
SETTINGS = """\
[paths]
state = "{state}"
run = "{run}"
[uplink]
start_spread_s = 0
reconnect_base_s = 0.2
reconnect_cap_s = 1.0
[spool]
bulk_commit_s = 1
[host]
period_s = 5
"""


class Card:
    """A gateway's state folder, and the link that runs on it."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.link: subprocess.Popen[bytes] | None = None
        run = state.with_name(f"{state.name}-run")
        (run / "link").mkdir(parents=True, exist_ok=True)
        self.settings = state.with_name(f"{state.name}.toml")
        self.settings.write_text(SETTINGS.format(state=state, run=run))
        self.log = state.with_name(f"{state.name}.log")

    def start(self) -> None:
        line = [sys.executable, "-m", "edgewarden", "link", "--settings", str(self.settings)]
        with self.log.open("ab") as log:
            self.link = subprocess.Popen(line, env=ENV, stdout=log, stderr=log)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.link is not None:
            self.link.send_signal(number)
            self.link.wait(20)
            self.link = None

    def copy(self, name: str) -> Card:
        there = self.state.with_name(name)
        shutil.copytree(self.state, there, symlinks=True)
        return Card(there)

    def step(self) -> int:
        """How many answers of the fleet this card has taken."""
        file = self.state / FOLDER / NAME
        data = file.read_bytes() if file.exists() else b""
        found = [0]
        for start in range(0, len(data), SLOT_BYTES):
            with contextlib.suppress(WireRefusal):
                found.append(decode_slot(data[start : start + SLOT_BYTES])[2].step)
        return max(found)

    def reports(self, count: int = 2) -> None:
        """Run until so many more pieces of evidence were answered with a token."""
        wanted = self.step() + count
        wait_until(lambda: self.step() >= wanted, WAIT_S)

    def tear_spool(self) -> None:
        """The card was copied while it was written: the newest segment of each class is torn."""
        for folder in (self.state / "spool").iterdir():
            if folder.is_dir():
                newest = max(folder.glob(f"*{SUFFIX}"), key=lambda p: p.name)
                newest.write_bytes(newest.read_bytes()[:5000] + bytes(3000))


class Stage:
    """A fleet that asks every second, and the cards around it."""

    def __init__(self, folder: Path) -> None:
        self.fleet = Standing(folder / "fleet", "--attestation-period", "1")
        self.cards: list[Card] = []

    def enrolled(self) -> Card:
        self.fleet.enrol(DEVICE)
        return self.keep(Card(self.fleet.state / DEVICE))

    def keep(self, card: Card) -> Card:
        self.cards.append(card)
        return card

    def quarantine(self) -> dict[str, str] | None:
        found = self.fleet.show(DEVICE)["quarantine"]
        assert found is None or isinstance(found, dict)
        return found

    def await_quarantine(self) -> dict[str, str]:
        wait_until(lambda: self.quarantine() is not None, WAIT_S)
        found = self.quarantine()
        assert found is not None
        return found

    def result(self) -> str:
        attestation = self.fleet.show(DEVICE)["attestation"]
        assert isinstance(attestation, dict)
        return str(attestation["result"])

    def findings(self) -> set[str]:
        found = self.fleet.show(DEVICE)["findings"]
        assert isinstance(found, list)
        return {str(f["kind"]) for f in found}


@contextmanager
def standing(folder: Path) -> Iterator[Stage]:
    stage = Stage(folder)
    try:
        stage.fleet.start_broker()
        stage.fleet.start_server()
        yield stage
    finally:
        for card in stage.cards:
            card.end(signal.SIGKILL)
        stage.fleet.close()


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
    with urllib.request.urlopen(str(stage.fleet.init["console"]), timeout=10) as page:
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


def test_a_restored_backup_is_caught(stage: Stage) -> None:
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
