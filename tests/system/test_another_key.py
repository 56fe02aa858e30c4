"""A board gets another key: the steps of docs/keys.md, with the state folder that is there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.enrol import by_token
from edgewarden.errors import OperatorFault
from edgewarden.trust.identity import load
from tests.fleet.standing import ENV, fleet_command
from tests.rules.planting import ROOT
from tests.system.cards import DEVICE, WAIT_S, Card, Stage, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")


@pytest.fixture
def stage() -> Iterator[Stage]:
    """In a folder with a short name: a socket's path ends at 107 bytes."""
    with (
        tempfile.TemporaryDirectory(prefix="ew-key-") as folder,
        standing(Path(folder)) as made,
    ):
        yield made


def steps() -> list[str]:
    """What the page has a person type, below "Another key"."""
    page = (ROOT / "docs" / "keys.md").read_text()
    page = page[page.index("## Another key") :]
    page = page[: page.index("\n## ")]
    lines = [line.strip() for line in page.splitlines() if line.startswith("    ")]
    return [line.partition(" # ")[0].strip() for line in lines]


def drained(card: Card) -> bool:
    spool = card.status().get("spool")  # none of a link that does not answer yet
    if not isinstance(spool, dict):
        return False
    return bool(spool) and all(c["acked"] == c["durable"] for c in spool.values())


def enrol(stage: Stage, card: Card, token: str) -> None:
    by_token.enroll(card.state, str(stage.fleet.init["enroll"]), token)


def test_the_pages_steps_give_a_board_another_key(stage: Stage) -> None:
    card = stage.enrolled()
    card.start()
    card.reports()
    wait_until(lambda: drained(card), WAIT_S)
    card.end()
    old = load(card.state)
    with pytest.raises(OperatorFault) as refused:
        enrol(stage, card, stage.fleet.token(DEVICE))
    assert refused.value.code == "EW-ID-007"

    replace, token, stop, aside, enroll, start = steps()
    assert replace == "edgewarden-fleet replace ID --reason TEXT"
    fleet_command("replace", DEVICE, "--reason", "TPM fitted", "--dir", stage.fleet.folder)
    assert token == "edgewarden-fleet token new --device ID > token"
    made = stage.fleet.token(DEVICE)
    assert stop == start.replace("start", "stop")
    line = aside.replace("/var/lib/edgewarden", str(card.state))
    subprocess.run(["bash", "-euc", line], check=True)
    assert enroll.startswith("edgewarden enroll --ca URL --token-file token")
    enrol(stage, card, made)

    fresh = load(card.state)
    assert fresh.device == old.device
    assert fresh.signer().public_key() != old.signer().public_key()
    card.start()
    card.reports()
    wait_until(lambda: drained(card), WAIT_S)
    shown = stage.fleet.show(DEVICE)
    assert stage.quarantine() is None
    told = {"clone", "fork", "older_state", "state_adopted", "withheld", "lineage"}
    assert not stage.findings() & told
    assert shown["reports_rejected"] == {}
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]  # type: ignore[attr-defined]
    assert [e["device"] for e in shown["earlier"]] == [f"{DEVICE}~1"]  # type: ignore[attr-defined]
    before = ["spool", "verify", "--state", str(card.state / "before")]
    done = subprocess.run(
        [sys.executable, "-m", "edgewarden", *before], env=ENV, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
