"""A flood on three ports during an outage: link gives up what is worth least, says so, comes back.

The broker is stopped while the ports speak, until the readings have nearly used their share of the
spool. Then the readings of a channel become one (coalescing) and nothing is evicted; a finding
raised meanwhile is at the fleet first of all; when the outage ends, so does the mode. At the fleet
every reading that the ports gave is counted, alone or as part of one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgewarden.record.quota import Quotas
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import Event, event_from_map, readings_from_senml
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from hw.rigs.ptys import PtyPort
from tests.noise import noise
from tests.system.standing import Site, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto")

PORTS = ("flood0", "flood1", "flood2")
CAP_BYTES = 4 << 20
QUOTA_BYTES = Quotas().quota_bytes(CAP_BYTES, RecordClass.BULK)
NEAR = 0.86
"""Of the quota: so far the ports flood; then they only speak, and the mode has time to change
before anything is evicted."""
TICK_S = 0.01
HALF = 0.55
FAST, STEADY, SLOW, IDLE = 12.0, 2.0, 0.4, 0.05
"""Lines of 180 bytes a tick on each port: 650, 110, 22 and 3 kB a second of all of them."""
AHEAD_BYTES = 700_000
"""That the ports may have said beyond what lies in the spool: a disk, link or this test may stand
still for as long as it likes, and what comes meanwhile finds room (eight ninths of what is said
are stored; up to 450 kB wait for a commit or are there twice while nothing stands still)."""
TEXT_BYTES = 150
WAIT_S = 120.0
SETTINGS = """
[overload]
calm_s = 8
"""
SERIAL = """
[[serial]]
name = "{name}"
port = "{port}"
format = "jsonlines"
fingerprint = "off"
[[serial.channel]]
name = "n"
high = 110
"""


class Flood(threading.Thread):
    """Speaks on every port until it is stopped.

    Attributes:
        lines_a_tick: on each port; below one, one line in so many ticks.
        sent_bytes, may_send_bytes: of all ports; silent where it has sent more than it may.
        value: of the first port.
    """

    def __init__(self, ports: list[PtyPort]) -> None:
        super().__init__(daemon=True)
        self._ports = ports
        self._chance = random.Random(41)
        self._ended = threading.Event()
        self.lines_a_tick = IDLE
        self.sent_bytes = 0
        self.may_send_bytes = sys.maxsize
        self.value = 20.0

    def run(self) -> None:
        owed = 0.0
        while not self._ended.wait(TICK_S):
            if self.sent_bytes > self.may_send_bytes:
                continue
            owed += self.lines_a_tick
            for _ in range(int(owed)):
                for n, port in enumerate(self._ports):
                    near = self.value if n == 0 else 20.0
                    text = noise(TEXT_BYTES, self._chance.randrange(1 << 32))
                    body = {"n": round(near + self._chance.random(), 3), "t": text}
                    line = json.dumps(body).encode() + b"\n"
                    port.send(line)
                    self.sent_bytes += len(line)
            owed %= 1

    def stop(self) -> None:
        self._ended.set()
        self.join(60)


@contextmanager
def flooded() -> Iterator[tuple[Site, Flood]]:
    with contextlib.ExitStack() as stack:
        # Not below pytest's private folders: link's user must reach it.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ew-ports-")))
        folder.chmod(0o755)
        ports = [stack.enter_context(PtyPort(folder / name)) for name in PORTS]
        for port in ports:
            port.link.resolve().chmod(0o666)
        flood = Flood(ports)
        flood.start()
        stack.callback(flood.stop)

        def add(settings: Path) -> None:
            text = settings.read_text() + SETTINGS
            text = text.replace(
                "[spool]\n",
                f"[spool]\nfree_percent = 0\ncap_bytes = {CAP_BYTES}\ncap_percent = 95\n",
            )
            settings.write_text(
                text + "".join(SERIAL.format(name=p.link.name, port=p.link) for p in ports)
            )

        yield stack.enter_context(standing(lambda demo: add(demo.gateway.settings))), flood


@contextmanager
def outage(site: Site) -> Iterator[None]:
    """The broker is there and says nothing."""
    pid = dict(site.stage._running)["mosquitto"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def held_bytes(site: Site) -> int:
    """What bulk takes on the gateway's disk."""
    found = 0
    for path in (site.gateway.folder / "state" / "spool" / "bulk").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


def holds(site: Site, flood: Flood, wanted_bytes: float) -> bool:
    """Whether bulk takes so much; the ports may say as much more as there is room for."""
    held = held_bytes(site)
    flood.may_send_bytes = held + AHEAD_BYTES
    return held > wanted_bytes


def answer(site: Site) -> dict[str, Any]:
    """The status, from a link that may stand still for a while."""
    found: list[dict[str, Any]] = []

    def answered(status: dict[str, Any]) -> bool:
        found.append(status)
        return True

    site.await_status(answered, WAIT_S)
    return found[-1]


def stored(site: Site) -> list[tuple[Record, float]]:
    """Every record of the gateway that its fleet has, and when it came."""
    with closing(sqlite3.connect(Path(site.demo.fleet, "store/fleet.db"))) as db:
        rows = db.execute("SELECT data, received_utc_s FROM record ORDER BY class, seq").fetchall()
    return [
        (decode_record(cose.open_envelope(data, ContentType.RECORD).payload), at)
        for data, at in rows
    ]


def events(records: list[tuple[Record, float]], code: str) -> list[tuple[Event, Record, float]]:
    found = []
    for record, at in records:
        if record.kind == Kind.EVENT:
            event = event_from_map(record.body)
            if event.code == code:
                found.append((event, record, at))
    return found


def readings(records: list[tuple[Record, float]]) -> tuple[int, int]:
    """(readings that the ports' entries stand for, entries)."""
    stands_for = entries = 0
    for record, _ in records:
        if record.kind != Kind.BATCH:
            continue
        for r in readings_from_senml(record.body["readings"], record.time.boot_ns):
            if r.source in PORTS:
                entries += 1
                stands_for += 1 if r.spread is None else r.spread.count
    return stands_for, entries


def given(status: dict[str, object]) -> int:
    """Readings that link has had from the ports."""
    sensors = status["sensors"]
    assert isinstance(sensors, dict)
    return sum(sensors[name]["readings"] for name in PORTS)


def drained(status: dict[str, object]) -> bool:
    spool = status["spool"]
    assert isinstance(spool, dict)
    return all(c["acked"] == c["durable"] for c in spool.values())


def test_a_flood_in_an_outage_costs_detail_and_no_record_and_no_alarm() -> None:
    with flooded() as (site, flood):
        site.await_status(lambda s: all(s["sensors"][p]["state"] == "live" for p in PORTS), WAIT_S)
        site.await_status(lambda s: s["overload"]["mode"] == "normal", WAIT_S)
        with outage(site):
            for lines, share in ((FAST, HALF), (STEADY, NEAR)):
                flood.lines_a_tick = lines
                wait_until(lambda s=share: holds(site, flood, s * QUOTA_BYTES), WAIT_S)
            flood.lines_a_tick, flood.may_send_bytes = SLOW, sys.maxsize
            site.await_status(lambda s: s["overload"]["level"] > 0, WAIT_S)
            said = json.loads(site.command("doctor", "agent", "--json").stdout)["rungs"]
            (rung,) = [r for r in said if r["name"] == "overload"]
            assert (rung["state"], rung["code"]) == ("degraded", "EW-AGT-012")
            assert "EW-AGT-012" in {r["code"] for r in answer(site)["reasons"]}
            flood.value = 500.0  # leaves its range
        site.await_fleet(lambda f: any(x["kind"] == "EW-SER-010" for x in f["findings"]), WAIT_S)
        flood.lines_a_tick = IDLE
        site.await_status(lambda s: s["overload"]["level"] == 0, WAIT_S)
        flood.stop()
        was = -1
        while was != (was := given(answer(site))):
            pass
        site.await_status(drained, WAIT_S)
        wait_until(lambda: readings(stored(site))[0] >= was, WAIT_S)
        status, shown, records = answer(site), site.shown(), stored(site)
    steps = events(records, "EW-AGT-012")
    modes = [str(e.detail["mode"]) for e, _, _ in steps]
    assert (modes[0], modes[-1]) == ("coalescing", "normal"), "up and down, each told"
    for (before, _, _), (after, _, _) in pairwise(steps):
        assert after.detail["previous"] == before.detail["mode"]
    _, down, _ = steps[-1]
    _, _, alarm_came_s = events(records, "EW-SER-010")[0]
    assert alarm_came_s < down.time.wall_ns / 1e9, "delivered in the degraded mode"
    stands_for, entries = readings(records)
    shed = steps[-1][0].detail["shed"]
    assert isinstance(shed, dict)
    assert (stands_for, shed["readings_shed"]) == (given(status), 0), "every reading is counted"
    assert shed == status["overload"]["shed"]
    assert shed["readings_aggregated"] > stands_for - entries > 0
    assert sum(shown["sensors"][p]["readings"] for p in PORTS) == stands_for
    assert sum(c["evicted"] for c in status["spool"].values()) == 0
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]
