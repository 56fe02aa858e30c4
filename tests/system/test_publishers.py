"""Copies for Home Assistant and Sparkplug B on a real broker, seen by mosquitto_sub.

What came as Sparkplug B is read by Google's protobuf (tests/peers/sparkplug_proto.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edgewarden.daemon.publish import build
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
from edgewarden.wire.facts import Quality
from hw.rigs.ports import free_port
from tests.broker import Pki
from tests.fakes.mirrored import Mirrored
from tests.system.standing import ROOT, Demo, standing
from tests.waiting import until, wait_until

pytestmark = pytest.mark.needs(
    "root", "mosquitto", "mosquitto_sub", "mosquitto_pub", "peers-protobuf"
)

SETTINGS = """
[homeassistant]
host = "127.0.0.1"
port = {port}
period_s = 1
[sparkplug]
host = "127.0.0.1"
port = {port}
group = "plant"
period_s = 1
"""
DEVICE = "gw-demo"
_NAME = b"Node Control/Rebirth"
_METRIC = b"\x0a" + bytes([len(_NAME)]) + _NAME + b"\x20\x0b\x70\x01"
REBIRTH = b"\x12" + bytes([len(_METRIC)]) + _METRIC
"""name 1, datatype 4 = Boolean, boolean_value 14 = true; in a payload's metrics 2."""
Seen = list[tuple[bool, str, bytes]]
"""Retained or not, topic, payload."""


class SiteBroker:
    """A Mosquitto without TLS on the loopback, and somebody who hears everything."""

    def __init__(self, folder: Path, tls: Sequence[str] = ()) -> None:
        self._tls = tls
        self.port = free_port()
        self._conf, self._heard = folder / "site.conf", folder / "heard"
        lines = [f"listener {self.port} 127.0.0.1", "allow_anonymous true", *tls]
        if os.geteuid() == 0:
            lines.append("user root")
        self._conf.write_text("\n".join(lines) + "\n")
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> SiteBroker:
        self._start(["/usr/sbin/mosquitto", "-c", str(self._conf)], subprocess.DEVNULL)
        if self._tls:
            wait_until(self._listens)
            return self
        wait_until(lambda: self.client("mosquitto_pub", "-t", "up", "-n").returncode == 0)
        with self._heard.open("wb") as out:
            self._start(
                ["mosquitto_sub", "-p", str(self.port), "-t", "#", "-F", "%r %t %x"], out.fileno()
            )
        # A birth is retained by nobody: who is not subscribed yet never hears of it.
        wait_until(lambda: self.client("mosquitto_pub", "-t", "up", "-n") and self.heard())
        return self

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5):
            return True
        return False

    def _start(self, line: list[str], out: int) -> None:
        self._running.append(subprocess.Popen(line, stdout=out, stderr=subprocess.DEVNULL))

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(60)

    def client(self, program: str, *words: str) -> subprocess.CompletedProcess[bytes]:
        line = [program, "-p", str(self.port), *words]
        return subprocess.run(line, capture_output=True, timeout=60, check=False)

    def heard(self) -> Seen:
        lines = self._heard.read_text().split("\n")[:-1]
        cut = [line.split(" ") for line in lines]
        return [(r == "1", topic, bytes.fromhex(body)) for r, topic, body in cut]

    def last(self, topic: str) -> bytes | None:
        return next((b for _, t, b in reversed(self.heard()) if t == topic), None)

    def retained(self, topic: str) -> bytes:
        """What somebody who comes now is told; b"" for nothing. A broker tells what it has in the
        order it was asked for, so that nothing is seen by what comes behind it."""
        last = "retained/last"
        self.client("mosquitto_pub", "-r", "-t", last, "-m", "x")
        words = ("-t", topic, "-t", last, "-C", "1", "-W", "50", "--retained-only", "-F", "%t %p")
        said = self.client("mosquitto_sub", *words).stdout.removesuffix(b"\n")
        heard, _, body = said.partition(b" ")
        assert heard in (topic.encode(), last.encode()), said
        return body if heard == topic.encode() else b""

    def sparkplug(self) -> list[dict[str, object]]:
        """Everything of Sparkplug B, as Google's library reads it."""
        lines = [f"{t} {b.hex()}" for _, t, b in self.heard() if "/NCMD/" not in t]
        done = subprocess.run(
            [ROOT / ".venv-peers/bin/python", "-m", "tests.peers.sparkplug_proto"],
            input="".join(f"{line}\n" for line in lines if line.startswith("spBv1.0/")),
            text=True,
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]


def kinds(broker: SiteBroker) -> list[str]:
    """NBIRTH, DBIRTH boiler, ...: in the order in which they came."""
    found = [t.split("/") for _, t, _ in broker.heard() if t.startswith("spBv1.0/plant/")]
    return [" ".join((parts[2], *parts[4:])) for parts in found]


def numbered(messages: list[dict[str, object]]) -> bool:
    """Whether every NBIRTH is number 0 and what follows it has the next numbers."""
    last = -1
    for message in messages:
        kind = str(message["topic"]).split("/")[2]
        if kind == "NDEATH":
            continue
        number = int(str(message["seq"]))
        if number != (0 if kind == "NBIRTH" else (last + 1) % 256):
            return False
        last = number
    return last >= 0


def state(broker: SiteBroker, channel: str) -> dict[str, object]:
    body = broker.last(f"edgewarden/{DEVICE}/boiler/state/{channel}")
    return {} if body is None else dict(json.loads(body))


def bd_seqs(messages: list[dict[str, object]]) -> list[tuple[str, object]]:
    """(NBIRTH or NDEATH, its bdSeq) of each."""
    return [
        (kind, message["metrics"][0]["long_value"])  # type: ignore[index]
        for message in messages
        if (kind := str(message["topic"]).split("/")[2]) in ("NBIRTH", "NDEATH")
    ]


def test_a_site_sees_births_data_deaths_and_what_a_value_is_worth(tmp_path: Path) -> None:
    with SiteBroker(tmp_path) as broker:
        asyncio.run(story(tmp_path, broker))
        messages = broker.sparkplug()
        assert numbered(messages)
        assert bd_seqs(messages) == [("NBIRTH", "0"), ("NBIRTH", "0"), ("NDEATH", "0")]
        assert broker.last(f"edgewarden/{DEVICE}/status") == b"offline"


async def story(folder: Path, broker: SiteBroker) -> None:
    owner = Mirrored()
    sensors = "".join(
        f'[[serial]]\nname = "{name}"\nport = "/dev/{name}"\nformat = "jsonlines"\n'
        for name in ("boiler", "pump")
    )
    text = f'[paths]\nstate = "{folder}"\n{sensors}{SETTINGS.format(port=broker.port)}'
    kept_before = {"sources": ["boiler", "kettle"]}
    (folder / "link").mkdir()
    (folder / "link" / "homeassistant.json").write_text(json.dumps(kept_before))
    gone = f"homeassistant/device/edgewarden_{DEVICE}_kettle/config"
    broker.client("mosquitto_pub", "-r", "-t", gone, "-m", "{}")

    publishers = build(load_settings([SourceFile("edgewarden.toml", text)]), DEVICE, owner)
    running = asyncio.create_task(publishers.run())

    async def soon(holds: Callable[[], object]) -> None:
        def faults() -> list[str]:
            return [str(p["fault"]) for p in publishers.snapshot().values() if p["sessions"]]  # type: ignore[index]

        await until(lambda: holds() or any("defect" in fault for fault in faults()), 60)
        assert holds(), publishers.snapshot()

    try:
        # Born and said; what is in no setting any more is taken back.
        publishers.take(owner.reading("t", 21.5))
        await soon(lambda: "DBIRTH boiler" in kinds(broker))
        assert kinds(broker) == ["NBIRTH", "DBIRTH boiler"]
        await soon(lambda: state(broker, "t").get("value") == 21.5)
        await soon(lambda: broker.last(gone) == b"")
        kept = folder / "link" / "homeassistant.json"
        await soon(lambda: json.loads(kept.read_text()) == {"sources": ["boiler", "pump"]})
        assert broker.retained(gone) == b""
        announced = f"homeassistant/device/edgewarden_{DEVICE}_boiler/config"
        assert set(json.loads(broker.retained(announced))["components"]) == {"t"}

        # A value that is none is marked in both.
        publishers.take(owner.reading("t", 25.0, Quality.SUBSTITUTED, 400.0))
        await soon(lambda: state(broker, "t").get("quality") == "substituted")
        assert (state(broker, "t")["value"], state(broker, "t")["measured"]) == (25.0, 400.0)
        await soon(lambda: "DDATA boiler" in kinds(broker))
        (metric,) = broker.sparkplug()[-1]["metrics"]  # type: ignore[misc]
        told = dict(zip(metric["properties"]["keys"], metric["properties"]["values"], strict=True))
        assert told["Quality"]["int_value"] == 0
        assert told["ew-quality"]["string_value"] == "substituted"

        # A rebirth is honoured; another command does nothing and ends nothing.
        node, asked = f"spBv1.0/plant/NCMD/{DEVICE}", folder / "rebirth"
        asked.write_bytes(REBIRTH)
        broker.client("mosquitto_pub", "-t", node, "-m", "reboot")
        broker.client("mosquitto_pub", "-t", node, "-f", str(asked))
        await soon(lambda: kinds(broker).count("DBIRTH boiler") == 2)
        assert kinds(broker).count("NBIRTH") == 2

        # The sensor goes, and comes again.
        owner.alive = False
        await soon(lambda: kinds(broker)[-1] == "DDEATH boiler")
        await soon(lambda: broker.last(f"edgewarden/{DEVICE}/boiler/status") == b"offline")
        owner.alive = True
        await soon(lambda: kinds(broker)[-1] == "DBIRTH boiler")
        await soon(lambda: broker.last(f"edgewarden/{DEVICE}/boiler/status") == b"online")
        assert len(owner.taken) == 2  # the signed way had each of them, too
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await soon(lambda: kinds(broker)[-1] == "NDEATH")
    await soon(lambda: broker.last(f"edgewarden/{DEVICE}/status") == b"offline")


def test_with_tls_the_broker_must_be_who_it_says(tmp_path: Path) -> None:
    async def tried(port: int, ca: Path) -> dict[str, object]:
        text = f'[paths]\nstate = "{tmp_path}"\n[sparkplug]\nhost = "localhost"\nport = {port}\n'
        text += f'ca = "{ca}"\nperiod_s = 1\n'
        publishers = build(load_settings([SourceFile("x", text)]), DEVICE, Mirrored())
        running = asyncio.create_task(publishers.run())

        def told() -> dict[str, object]:
            (found,) = publishers.snapshot().values()
            assert isinstance(found, dict)
            return found

        await until(lambda: told()["connected"] or told()["fault"] != "not tried yet", 60)
        said = told()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return said

    ours, other = Pki(tmp_path / "ours"), Pki(tmp_path / "other", "other")
    cert, key = ours.issue("site", server=True)
    with SiteBroker(tmp_path, [f"certfile {cert}", f"keyfile {key}"]) as broker:
        assert asyncio.run(tried(broker.port, ours.ca))["connected"]
        refused = asyncio.run(tried(broker.port, other.ca))
        assert not refused["connected"]
        assert "does not prove to be the broker" in str(refused["fault"])


def test_a_gateway_that_is_killed_is_told_dead_and_comes_back(tmp_path: Path) -> None:
    """The whole agent with the demo's sensors, mutual TLS and a fleet beside it."""
    with SiteBroker(tmp_path) as broker:

        def settings(demo: Demo) -> None:
            with demo.gateway.settings.open("a") as file:
                file.write(SETTINGS.format(port=broker.port))

        with standing(settings) as site:
            wait_until(lambda: {"DDATA gps", "DBIRTH env"} <= set(kinds(broker)), 120)
            wait_until(lambda: broker.last(f"edgewarden/{DEVICE}/env/state/temperature"), 120)
            told = site.status()["publishers"]
            assert {n: p["fault"] for n, p in told.items()} == {
                "homeassistant": "",
                "sparkplug": "",
            }
            births = kinds(broker).count("NBIRTH")
            os.kill(site.pids()["link"], signal.SIGKILL)
            wait_until(lambda: "NDEATH" in kinds(broker), 120)
            wait_until(lambda: kinds(broker).count("NBIRTH") > births, 120)
            wait_until(lambda: broker.last(f"edgewarden/{DEVICE}/status") == b"online", 120)
            said = [b for _, t, b in broker.heard() if t == f"edgewarden/{DEVICE}/status"]
            assert said == [b"online", b"offline", b"online"]
            messages = broker.sparkplug()
            assert numbered(messages)
            first, *_, death, birth = bd_seqs(messages)
            assert (first, death, birth) == (("NBIRTH", "0"), ("NDEATH", "0"), ("NBIRTH", "1"))
            assert site.shown()["reports_rejected"] == {}
