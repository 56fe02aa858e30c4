"""A sensor that lies, from its wire to the operator's desk: real port, real link, real broker.

One device speaks 50 times a second on a pty. It leaves its range, is replaced by another one at the
same place, and is played back; each becomes a signed finding at the fleet, and the readings say
what they are worth.
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hw.rigs.ptys import PtyPort
from tests.system.standing import Site, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto")

EVERY_S = 0.02
SETTINGS = """
[[serial]]
name = "boiler"
port = "{port}"
format = "jsonlines"
[[serial.channel]]
name = "t"
low = 0
high = 110
on_fault = "substitute"
failsafe = 25
[[serial.channel]]
name = "p"
"""


class Device(threading.Thread):
    """Says the next line every EVERY_S until it is stopped; what it says can be changed."""

    def __init__(self, port: PtyPort) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._chance = random.Random(7)
        self._ended = threading.Event()
        self.temperature = 20.0
        self.more = ""
        self.playing: list[float] = []
        self.said: list[float] = []

    def run(self) -> None:
        while not self._ended.wait(EVERY_S):
            if self.playing:
                pressure = self.playing.pop(0)
            else:
                pressure = round(1013 + self._chance.gauss(0, 0.5), 4)
            self.said.append(pressure)
            body = {"t": self.temperature, "p": pressure} | ({"id": self.more} if self.more else {})
            self._port.send(json.dumps(body).encode() + b"\n")

    def stop(self) -> None:
        self._ended.set()
        self.join(60)


@contextmanager
def speaking(folder: Path) -> Iterator[tuple[Site, Device]]:
    with PtyPort(folder / "boiler") as port:
        port.link.resolve().chmod(0o666)
        device = Device(port)
        device.start()
        try:
            with standing(lambda demo: add(demo.gateway.settings, port.link)) as site:
                yield site, device
        finally:
            device.stop()


def add(settings: Path, port: Path) -> None:
    with settings.open("a") as file:
        file.write(SETTINGS.format(port=port))


def kinds(shown: dict[str, object]) -> set[str]:
    findings = shown["findings"]
    assert isinstance(findings, list)
    return {f["kind"] for f in findings if "boiler" in f["text"]}


def watched(site: Site) -> list[dict[str, object]]:
    """Readings of two seconds."""
    told = site.command("sensors", "watch", "boiler", "--for", "2", "--json")
    looked = [json.loads(line) for line in told.stdout.splitlines()]
    return [r for one in looked for line in one["lines"] for r in line["readings"]]


def of_boiler(status: dict[str, object]) -> dict[str, object]:
    sensors = status["sensors"]
    assert isinstance(sensors, dict)
    return dict(sensors["boiler"])


def test_a_sensor_that_lies_is_seen_at_the_operators_desk(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("port")
    for above in (folder, *folder.parents[:3]):
        above.chmod(above.stat().st_mode | 0o055)
    with speaking(folder) as (site, device):
        site.await_status(lambda s: of_boiler(s)["state"] == "live")
        assert of_boiler(site.status())["quality"] == "good"

        # It leaves its range: a fail-safe takes the value's place, and says so.
        device.temperature = 400.0
        site.await_status(lambda s: of_boiler(s)["quality"] == "substituted")
        seen: list[dict[str, object]] = []
        wait_until(lambda: seen.extend(watched(site)) or seen)  # a device may stand still
        read = seen[0]
        assert (read["value"], read["raw"], read["why"]) == (25, 400.0, ["range"])
        site.await_fleet(lambda f: "EW-SER-010" in kinds(f))
        site.await_fleet(lambda f: f["sensors"]["boiler"]["channels"]["t"]["value"] == "25")
        assert site.shown()["sensors"]["boiler"]["channels"]["t"]["quality"] == "substituted"
        device.temperature = 20.0
        site.await_status(lambda s: of_boiler(s)["quality"] == "good")

        # A recording of it is played in its place.
        device.playing = device.said[-300:] * 100
        site.await_status(lambda s: "p: replay" in of_boiler(s)["why"])  # type: ignore[operator]
        site.await_fleet(lambda f: "EW-SER-013" in kinds(f))
        device.playing = []

        # Another device at the same place: the same values, another manner.
        site.await_status(lambda s: int(str(of_boiler(s)["readings"])) > 1500)
        device.more = "another-device-with-longer-frames-than-before"
        site.await_status(lambda s: "cadence" in of_boiler(s)["why"])  # type: ignore[operator]
        site.await_fleet(lambda f: "EW-SER-014" in kinds(f))
        listed = json.loads(site.command("findings", "--json").stdout)["findings"]
        assert {f["code"] for f in listed} >= {"EW-SER-010", "EW-SER-013", "EW-SER-014"}
        shown = site.shown()
        assert shown["reports_rejected"] == {}
