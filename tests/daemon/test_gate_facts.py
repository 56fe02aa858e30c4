"""Gate's messages as events; a connection that lies is ended; a gate that is away is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgewarden.daemon.gate_facts import (
    NO_CONNECTOR,
    GateFacts,
    alarm_event,
    peripheral_event,
    repeated_event,
    verdict_event,
)
from edgewarden.judge.describe import describe, subject_of, times
from edgewarden.ports import FactSink
from edgewarden.wire import local
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from edgewarden.wire.peripherals import PeripheralVerdict
from tests.fakes.agent import stats
from tests.fakes.clock import FakeClock
from tests.waiting import until


def verdict(decision: str, uid: int = 1000) -> local.ExecVerdict:
    return local.ExecVerdict(
        decision, "unlisted", "enforce", "T3", b"\x01" * 32, "", b"/mnt/x/tool", 7, uid, 99
    )


@pytest.mark.parametrize(
    ("decision", "action", "severity", "code"),
    [
        ("deny", "denied", Severity.HIGH, "EW-EXEC-002"),
        ("would_deny", "would_deny", Severity.MEDIUM, "EW-EXEC-003"),
        ("allow", "allowed", Severity.INFORMATIONAL, ""),
        ("learned", "learned", Severity.INFORMATIONAL, ""),
        ("killed", "killed after start", Severity.HIGH, "EW-EXEC-064"),
    ],
)
def test_verdict(decision: str, action: str, severity: Severity, code: str) -> None:
    event = verdict_event(verdict(decision))
    assert event.class_uid is OCSF.PROCESS_ACTIVITY
    assert event.detail["action"] == action
    assert event.detail["file"] == {"path": "/mnt/x/tool", "sha256": b"\x01" * 32}
    assert (event.severity_id, event.code, event.seen_mono_ns) == (severity, code, 99)


def test_a_user_that_is_gone_is_not_named() -> None:
    assert verdict_event(verdict("allow", local.UNKNOWN_UID)).detail["process"] == {"pid": 7}


def test_alarm() -> None:
    event = alarm_event(local.Alarm("EW-EXEC-004", 4, "gate was ended", 5))
    assert event.class_uid is OCSF.DETECTION_FINDING
    assert (event.code, event.severity_id) == ("EW-EXEC-004", Severity.HIGH)


def test_a_repeated_denial_is_the_same_matter_with_its_count() -> None:
    first = verdict("deny")
    event = repeated_event(local.Repeated(41, 100, 300, False, first))
    assert subject_of(event) == subject_of(verdict_event(first))
    assert (times(event), event.seen_mono_ns, event.code) == (41, 300, "EW-EXEC-002")
    assert describe(event).endswith("41 more times")


def test_what_gate_could_not_tell_apart_is_a_matter_of_its_own() -> None:
    first = verdict("deny")
    event = repeated_event(local.Repeated(41, 100, 300, True, first))
    assert subject_of(event) != subject_of(verdict_event(first))
    assert (event.class_uid, event.code) == (OCSF.DETECTION_FINDING, "EW-AGT-010")
    assert times(event) == 41
    assert "programs denied" in describe(event)


def peripheral(decision: str) -> PeripheralVerdict:
    return PeripheralVerdict(
        "device", decision, "unnamed_class", "enforce", True, 0x0403, 0x6001, 7, 99, b"\x01" * 32,
        ((3, 1, 1), (255, 255, 255)), "1-1.2", "meter", "offers 03/01/01 besides", "A1", "FT232R",
        "",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("decision", "activity", "severity", "code"),
    [
        ("deny", 4, Severity.HIGH, "EW-USB-008"),
        ("would_deny", 1, Severity.MEDIUM, "EW-USB-009"),
        ("allow", 1, Severity.INFORMATIONAL, ""),
        ("learned", 1, Severity.INFORMATIONAL, ""),
        ("gone", 2, Severity.INFORMATIONAL, ""),
    ],
)
def test_peripheral(decision: str, activity: int, severity: Severity, code: str) -> None:
    event = peripheral_event(peripheral(decision))
    assert event.class_uid is OCSF.PERIPHERAL_ACTIVITY
    assert (event.activity_id, event.severity_id, event.code) == (activity, severity, code)
    assert (event.detail["rule"], event.detail["reason"]) == ("meter", "unnamed_class")
    device = event.detail["peripheral_device"]
    assert isinstance(device, dict)
    assert (device["uid"], device["vendor_id"], device["product_id"]) == ("1-1.2", "0403", "6001")
    assert device["interfaces"] == ["03/01/01", "ff/ff/ff"]
    told = describe(event)
    assert told.startswith("FT232R at 1-1.2: ")
    again = repeated_event(local.Repeated(2, 1, 3, False, peripheral(decision)))
    assert subject_of(again) == subject_of(event)


class Gate:
    """The other end: a listening seqpacket socket, as gate has one."""

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.listener.setblocking(False)

    async def accept(self) -> socket.socket:
        client, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        return client


@contextlib.asynccontextmanager
async def connected(
    path: Path, sink: FactSink, seen: list[int]
) -> AsyncIterator[tuple[GateFacts, Gate]]:
    gate = Gate(path)
    facts = GateFacts(str(path), sink, FakeClock(), seen.append, lambda: seen.append(-1))
    task = asyncio.create_task(facts.run())
    try:
        yield facts, gate
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        gate.listener.close()


def test_takes_facts_and_hints(tmp_path: Path) -> None:
    taken: list[Event | Reading] = []
    hints: list[int] = []

    async def play() -> None:
        async with connected(tmp_path / "s", taken.append, hints) as (facts, gate):
            with await gate.accept() as peer:
                peer.send(local.encode(verdict("deny")))
                entries = (
                    local.ProcEntry("fork", 4, 1, 5),
                    local.ProcEntry("exec", 4, 0, 6),
                )
                peer.send(local.encode(local.ProcBatch(1, 1, 0, True, entries)))
                tier = local.TierSaid("T2", "EINVAL", ("inline", "resume"))
                peer.send(local.encode(tier))
                await until(lambda: hints == [-1, 4] and facts.tier == tier)
                assert facts.denied_ns > 0

    asyncio.run(play())
    assert [e.detail["action"] for e in taken if isinstance(e, Event)] == ["denied"]


def test_what_gate_says_of_itself_and_its_end_are_heard(tmp_path: Path) -> None:
    taken: list[Event | Reading] = []
    stats = local.GateStats("observe", "T3", "none", *[True] * 3, *[0] * 18)

    async def play() -> None:
        async with connected(tmp_path / "s", taken.append, []) as (facts, gate):
            assert facts.heard.starting()
            with await gate.accept() as peer:
                peer.send(local.encode(stats))
                await until(lambda: facts.heard.silent_s() is None)
            await until(lambda: facts.heard.silent_s() is not None)

    asyncio.run(play())
    assert [e.detail["gate"] for e in taken if isinstance(e, Event)] == ["heard"]


def test_garbage_ends_the_connection_and_a_new_one_is_made(tmp_path: Path) -> None:
    taken: list[Event | Reading] = []

    async def play() -> None:
        async with connected(tmp_path / "s", taken.append, []) as (facts, gate):
            with await gate.accept() as peer:
                peer.send(b"not one of gate's")
                await until(lambda: not facts.connected)
            with await gate.accept() as peer:
                peer.send(local.encode(verdict("deny")))
                await until(lambda: len(taken) == 1)

    asyncio.run(play())
    assert len(taken) == 1


def test_gate_hears_of_processes_until_it_says_otherwise_or_is_gone(tmp_path: Path) -> None:
    async def play() -> None:
        async with connected(tmp_path / "s", lambda _: None, []) as (facts, gate):
            assert not facts.hears_processes()
            with await gate.accept() as peer:
                peer.send(local.encode(stats(proc_events=0)))
                await until(lambda: facts.stats is not None)
                assert not facts.hears_processes(), "it never heard of any"
                peer.send(local.encode(stats(proc_events=7)))
                await until(facts.hears_processes)
                peer.send(local.encode(local.Alarm(NO_CONNECTOR, 3, "it failed", 5)))
                await until(lambda: not facts.hears_processes())
            with await gate.accept() as peer:
                peer.send(local.encode(stats(proc_events=7)))
                await until(facts.hears_processes)
            await until(lambda: not facts.hears_processes())

    asyncio.run(play())
