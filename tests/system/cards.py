"""Cards: a fleet with its broker, and link processes on state folders that a test may copy.

with standing(folder) as stage:
    card = stage.enrolled(); card.start(); card.reports()
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgewarden.errors import WireRefusal
from edgewarden.record.segment import PAGE_BYTES, SUFFIX
from edgewarden.trust.continuity import FOLDER, NAME, SLOT_BYTES
from edgewarden.wire.ratchet import decode_slot
from tests.fleet.standing import ENV, Standing
from tests.waiting import wait_until

DEVICE = "gw-clone"
WAIT_S = 90.0
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

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        line = [sys.executable, "-m", "edgewarden", "link", "--settings", str(self.settings)]
        env = {**ENV, **(environment or {})}
        with self.log.open("ab") as log:
            self.link = subprocess.Popen(line, env=env, stdout=log, stderr=log)

    def status(self) -> dict[str, object]:
        """`edgewarden status --json` of the running link."""
        line = [sys.executable, "-m", "edgewarden", "status", "--json", "--settings"]
        done = subprocess.run(
            [*line, str(self.settings)], env=ENV, capture_output=True, timeout=300, check=False
        )
        with contextlib.suppress(ValueError):
            body = json.loads(done.stdout)
            assert isinstance(body, dict)
            return body
        return {}

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.link is not None:
            self.link.send_signal(number)
            self.link.wait(60)
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
        """The card was copied while it was written: the newest segment of each class is torn behind
        its first page, so that none has kept its last record."""
        for folder in (self.state / "spool").iterdir():
            if folder.is_dir():
                newest = max(folder.glob(f"*{SUFFIX}"), key=lambda p: p.name)
                newest.write_bytes(newest.read_bytes()[:PAGE_BYTES] + bytes(3000))


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
def standing(folder: Path, *, acknowledge: bool = False) -> Iterator[Stage]:
    """With acknowledge the fleet gives its word (docs/adr/0040)."""
    stage = Stage(folder)
    if acknowledge:
        toml = stage.fleet.folder / "fleet.toml"
        toml.write_text(toml.read_text().replace("[broker]\n", "[broker]\nacknowledge = true\n"))
    try:
        stage.fleet.start_broker()
        stage.fleet.start_server()
        yield stage
    finally:
        for card in stage.cards:
            card.end(signal.SIGKILL)
        stage.fleet.close()
