"""Another root, issuing certificate and server keys under a real broker, without a visit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edgewarden.enrol.by_key import renew
from edgewarden.trust.identity import load
from tests.fleet.standing import RealBoard, Standing, client_of, fleet_command
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")
DEVICE = "gw-root"


def again(fleet: Standing) -> None:
    """What the command says to do."""
    fleet.stop_server()
    fleet.stop_broker()
    fleet.start_broker()
    fleet.start_server()


def reports(fleet: Standing, state: Path) -> None:
    """A session under the present identity, and one record that the verifier takes."""
    board = RealBoard(load(state))
    client = client_of(fleet, board)
    try:
        topic = f"ew/1/main/{DEVICE}/r/bulk"
        wait_until(lambda: client.publish(topic, b"x") < 0x80, 60)
    finally:
        client.close()


def renewed(fleet: Standing, state: Path) -> None:
    time.sleep(1.1)  # certificates say when they were made in whole seconds
    renew(state, load(state), lambda _: b"", str(fleet.init["enroll"]))


def test_a_root_takes_its_turn_under_a_running_broker(tmp_path: Path) -> None:
    fleet = Standing(tmp_path / "fleet")
    state = fleet.state / DEVICE
    rotate = ("ca", "rotate")
    try:
        fleet.start_broker()
        fleet.start_server()
        fleet.enrol(DEVICE)
        reports(fleet, state)
        fleet_command(*rotate, "root", "begin", "--dir", fleet.folder)
        again(fleet)
        reports(fleet, state)
        refused = fleet_command(*rotate, "root", "switch", "--dir", fleet.folder, check=False)
        assert refused.returncode == 65
        assert DEVICE in refused.stderr
        renewed(fleet, state)
        reports(fleet, state)
        fleet_command(*rotate, "root", "switch", "--dir", fleet.folder)
        again(fleet)
        reports(fleet, state)
        renewed(fleet, state)
        fleet_command(*rotate, "root", "finish", "--dir", fleet.folder)
        again(fleet)
        reports(fleet, state)
        fleet_command(*rotate, "issuing", "--dir", fleet.folder)
        fleet_command(*rotate, "servers", "--dir", fleet.folder)
        again(fleet)
        reports(fleet, state)
        renewed(fleet, state)
        reports(fleet, state)
        shown = fleet_command("ca", "show", "--dir", fleet.folder).stdout
        assert shown.count("edgewarden root") == 1
        assert "change of roots" not in shown
    finally:
        fleet.close()
