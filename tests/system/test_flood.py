"""A flood of denials at 20,000 a second, from gate's queue to the signed records on the disk.

Judged (issue 4): no alarm lost, memory flat. gate's half is a process of its own (denier.py), over
a real socket; link's half (facts, triage, storage thread, spool) is this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.gate_facts import GateFacts
from edgewarden.judge.describe import times
from edgewarden.judge.triage import Triage
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.reader import iterate
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.record.storage import StorageThread
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import Event, Reading, event_from_map
from edgewarden.wire.record import Kind, RecordClass, decode_record
from tests.system.denier import PROGRAMS, RATE
from tests.waiting import until, wait_until

pytestmark = pytest.mark.alone

KEY = FileSigner.generate()
FLOOD_S = 5
CODES = ("EW-EXEC-002", "EW-EXEC-004", "EW-AGT-010")


def rss_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4


def recorded(state: Path) -> list[Event]:
    """The alarms that were signed and stored, but for the storage's own."""
    found = []
    for stored in iterate(state, RecordClass.ALARM):
        record = decode_record(cose.open_envelope(stored.data, ContentType.RECORD).payload)
        if record.kind == Kind.EVENT:
            found.append(event_from_map(record.body))
    return [event for event in found if event.code in CODES]


async def take(path: Path, denier: subprocess.Popen[str], triage: Triage, storage: Any) -> int:
    """link's half; returns how much its memory grew after the first quarter of all, in kB."""
    clock = SystemClock()
    came: Counter[str] = Counter()
    early_kb = 0

    def sink(fact: Event | Reading) -> None:
        nonlocal early_kb
        assert isinstance(fact, Event)
        came[fact.code] += times(fact)
        if not early_kb and came.total() >= RATE * FLOOD_S / 4:
            early_kb = rss_kb()
        for event, record_class in triage.admit(fact):
            storage.submit_event(event, record_class)

    facts = GateFacts(str(path), sink, clock, lambda _: None, lambda: None)
    task = asyncio.create_task(facts.run())
    loop = asyncio.get_running_loop()
    assert denier.stdout is not None
    line = loop.run_in_executor(None, denier.stdout.readline)
    said = json.loads(await line)
    assert not said["waiting"]
    denier.said = said  # type: ignore[attr-defined]
    offered = sum(said["offered"].values())
    with contextlib.suppress(TimeoutError):  # what is still in the socket; what never comes is seen
        await until(
            lambda: came["EW-EXEC-002"] + came["EW-AGT-010"] >= offered and came["EW-EXEC-004"] >= 1
        )
    assert early_kb, came
    grown_kb = rss_kb() - early_kb
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return grown_kb


def test_judged_a_flood_of_denials_loses_no_alarm(tmp_path: Path) -> None:
    path, state = tmp_path / "facts.sock", tmp_path / "state"
    clock, triage = SystemClock(), Triage()
    storage = StorageThread(
        lambda: Journal(DiskSpool(state / FOLDER, 64 << 20), "gw-flood", clock, KEY),
        Introduction(KEY, (b"leaf",), "test"),
        clock,
        bulk_commit_s=3600,
        bulk_commit_bytes=1 << 16,
    )
    state.mkdir()
    storage.start()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    denier = subprocess.Popen(
        [sys.executable, "-m", "tests.system.denier", str(path), str(FLOOD_S)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[2],
    )
    try:
        wait_until(path.exists)
        grown_kb = asyncio.run(take(path, denier, triage, storage))
    finally:
        denier.communicate(timeout=60)
        for event, record_class in triage.due(clock.now().boot_ns, all_now=True):
            storage.submit_event(event, record_class)
        storage.stop()
    said = denier.said  # type: ignore[attr-defined]
    events = recorded(state)
    first = {
        (e.detail["file"]["path"], e.detail["process"].get("uid"))  # type: ignore[index,call-overload,union-attr]
        for e in events
        if e.code == "EW-EXEC-002" and "repeated" not in e.detail
    }
    folder = "/mnt/apps/a-folder/of-some-length"
    mine = {(f"{folder}/program-{n}", 1000) for n in range(1, PROGRAMS + 1)}
    assert not mine - first
    assert (f"{folder}/program-77", 0) in first
    assert sum(e.code == "EW-EXEC-004" for e in events) == 1
    counted: Counter[str] = Counter()
    for event in events:
        counted[event.code] += times(event)
    assert counted["EW-EXEC-002"] + counted["EW-AGT-010"] == sum(said["offered"].values())
    assert counted["EW-AGT-010"] == said["crowded"] + triage.overflow
    print(said, "link grew", grown_kb, "kB;", len(events), "alarm records")
    assert sum(said["offered"].values()) >= RATE * FLOOD_S, "all of it, however long it took"
    assert said["rss_kb"] - said["rss_kb_early"] < 1024
    assert grown_kb < 4096
