"""link's answer to `edgewarden status` (surface: edgewarden.status/1), put together from snapshots.

Nothing here asks the disk or the network: every part keeps its own counters, this file lays them
out and has judge/health.py say what they mean. ``footprint.pss_bytes`` is all three processes:
link's own from the kernel, gate's and guard's as gate reports them (link may not read a root
process's).
"""

from __future__ import annotations

import resource
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from edgewarden import __version__
from edgewarden.confine.record import MAX_BYTES, PROVED_NAME, Proved
from edgewarden.daemon.attester import Attester
from edgewarden.daemon.behind import Behind
from edgewarden.daemon.config import Running
from edgewarden.daemon.gate_facts import GateFacts
from edgewarden.daemon.mirrors import Mirrors
from edgewarden.daemon.overload import Overload
from edgewarden.daemon.sensors import Sensors
from edgewarden.daemon.written import Written, number_in
from edgewarden.errors import TrustFault, WireRefusal
from edgewarden.inventory.processes import ProcessSweep
from edgewarden.inventory.watcher import Watcher
from edgewarden.judge.doctor import (
    judge_clock,
    judge_devices,
    judge_identity,
    judge_overload,
    judge_wear,
)
from edgewarden.judge.health import Picture, judge
from edgewarden.link.uplink import UplinkSnapshot
from edgewarden.plain import dataclass
from edgewarden.ports import ClassState, Clock, Instant
from edgewarden.record.quota import Cap
from edgewarden.record.refuge import Picture as MemoryPicture
from edgewarden.serial.portlife import SensorState
from edgewarden.trust.identity import Identity
from edgewarden.wire.record import MEMORY, RecordClass, label_of

_ROLLUP = Path("/proc/self/smaps_rollup")


class StorageState(Protocol):
    """What status needs of the storage."""

    def state(self) -> dict[int, ClassState]:
        """Counters per class."""

    def fault(self) -> Exception | None:
        """What the disk refused last."""

    def tight(self) -> bool:
        """Whether it is too full for bulk."""

    def memory(self) -> MemoryPicture:
        """Whether the disk is given up, and what is in memory for it."""

    def lost(self) -> int:
        """Facts that found no room."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything status looks at."""

    identity: Identity
    clock: Clock
    attester: Attester
    gate: GateFacts
    storage: StorageState
    sensors: Sensors
    processes: ProcessSweep
    watcher: Watcher
    written: Written
    behind: Behind
    mirrors: Mirrors
    overload: Overload
    cap: Cap


def status(
    parts: Parts, running: Running, faults: tuple[str, ...], up: UplinkSnapshot
) -> dict[str, object]:
    """Return the status object; on the loop's thread, about a millisecond."""
    now = parts.clock.now()
    picture = _picture(parts, running, faults, up, now)
    verdict, reasons = judge(picture)
    sensors = [sensor.snapshot() for sensor in parts.sensors]
    bound_ms = now.uncertainty_ms
    return {
        "schema": "edgewarden.status/1",
        "device": parts.identity.device,
        "version": __version__,
        "verdict": verdict,
        "reasons": [{"code": r.code, "text": r.text, "next": r.next_step} for r in reasons],
        "attestation": {"result": picture.attestation, "age_s": picture.attestation_age_s},
        "identity": {
            "grade": parts.identity.grade,
            "certificate": {
                "serial": parts.identity.serial,
                "not_after_utc": parts.identity.not_after_utc,
            },
        },
        "clock": {
            "state": now.state,
            "uncertainty_s": None if bound_ms is None else bound_ms / 1000,
            "utc": f"{datetime.fromtimestamp(now.wall_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%SZ}",
        },
        "uplink": {
            "connected": up.connected,
            "since_utc": up.since_utc,
            "reconnects": up.reconnects,
        },
        "spool": {
            RecordClass(n).label: asdict(c) for n, c in parts.storage.state().items() if n != MEMORY
        },
        "storage": _storage(parts, picture),
        "overload": parts.overload.state(),
        "enforcement": {
            "exec": _control(parts, picture),
            "peripherals": _area(parts, "peripherals"),
            "network": _area(parts, "network") | {"limits_active": _limits(parts)},
            "confinement": confined(running.settings.paths.run, parts.clock.boot_id()),
        },
        "processes": _processes(parts),
        "sensors": {s.name: _sensor(s) | parts.sensors.quality(s.name) for s in sensors},
        "devices": parts.behind.snapshot(),
        "publishers": parts.mirrors.snapshot(),
        "config": {
            "version": int.from_bytes(running.digest[:4], "big"),
            "state": "rolled_back" if faults and running.faults else "confirmed",
            "signed_by": "local",
        },
        "footprint": footprint(parts, now.boot_ns),
    }


def _picture(
    parts: Parts, running: Running, faults: tuple[str, ...], up: UplinkSnapshot, now: Instant
) -> Picture:
    """Everything that judge/health.py looks at."""
    result, stats = parts.attester.result, parts.gate.stats
    classes, storage_fault = parts.storage.state().values(), parts.storage.fault()
    since_ns = parts.storage.memory().since_ns
    sensors = [sensor.snapshot() for sensor in parts.sensors]
    return Picture(
        connected=up.connected,
        offline_s=_offline_s(up, parts, now),
        trust_fault=str(up.fault) if isinstance(up.fault, TrustFault) else "",
        uplink_why=("", "", "")
        if up.fault is None
        else (up.fault.code, up.fault.text, up.fault.next_step),
        parked=tuple(label_of(c) for c in up.parked),
        parked_by=running.settings.uplink.acknowledged_by,
        attestation="none" if result is None else result.overall.label,
        attestation_age_s=None
        if result is None
        else (now.boot_ns - parts.attester.result_ns) / 1e9,
        attestation_period_s=running.settings.attestation.period_s,
        storage_fault="" if storage_fault is None else str(storage_fault),
        tight=parts.storage.tight(),
        unsent=sum(c.durable - c.acked for c in classes),
        evicted=sum(c.evicted for c in classes),
        cap_setting=parts.cap.setting,
        gate=stats is not None,
        gate_starting=stats is None and parts.gate.heard.starting(),
        guard=stats is not None and stats.guard,
        mode=running.settings.exec.mode if stats is None else stats.mode,
        armed=stats is not None and stats.armed,
        tier="T0" if stats is None else stats.tier,
        responds=running.settings.exec.kill_after_start,
        watches=bool(running.settings.exec.filesystems),
        unheld={
            name: seen.why_not
            for name, seen in parts.gate.areas.items()
            if seen.mode == "enforce" and not seen.armed and seen.why_not
        },
        sensors={s.name: (str(s.state), s.reason) for s in sensors},
        doubtful=parts.sensors.doubtful(),
        missing=parts.watcher.missing,
        settings_faults=faults,
        rungs=(
            judge_identity(parts.identity, running.settings.device, now),
            judge_clock(now),
            *judge_devices(parts.behind.snapshot()),
            judge_overload(parts.overload.state()),
            judge_wear(_wear(parts, now.boot_ns)),
        ),
        memory_s=None if since_ns is None else (now.boot_ns - since_ns) / 1e9,
    )


def _storage(parts: Parts, picture: Picture) -> dict[str, object]:
    """Where records go: to the disk, or to memory while that takes nothing."""
    seen = parts.storage.memory()
    return {
        "mode": "disk" if picture.memory_s is None else "memory",
        "since_s": picture.memory_s,
        "why": picture.storage_fault,
        "signed_in_memory": seen.signed,
        "waiting_in_memory": seen.waiting,
        "lost": parts.storage.lost(),
        "cap_bytes": parts.cap.size_bytes,
    }


def _control(parts: Parts, picture: Picture) -> dict[str, object]:
    stats, said = parts.gate.stats, parts.gate.tier
    return {
        "tier": picture.tier,
        "tier_reason": "gate has not told" if said is None else said.reason,
        "gaps": [] if said is None else list(said.gaps),
        "source": "none" if stats is None else stats.source,
        "mode": picture.mode,
        "armed": picture.armed,
        "allowed": 0 if stats is None else stats.allowed,
        "denied": 0 if stats is None else stats.denied,
        "would_deny": 0 if stats is None else stats.would_deny,
        "killed_after_start": 0 if stats is None else stats.killed,
        "unreported": 0 if stats is None else stats.unreported,
    }


def confined(run_dir: str, boot_id: bytes) -> dict[str, object]:
    """What `edgewarden confine verify` last proved on this boot; nothing without its word."""
    try:
        with Path(run_dir, PROVED_NAME).open("rb") as file:
            proved = Proved.load(file.read(MAX_BYTES + 1))
    except (OSError, WireRefusal):
        return {"services": [], "gaps": []}
    if proved.boot_id.replace("-", "") != boot_id.hex():
        return {"services": [], "gaps": []}
    return {"services": list(proved.units), "gaps": list(proved.gaps)}


def _area(parts: Parts, name: str) -> dict[str, object]:
    """An area as gate told it last; before that, one that does nothing."""
    seen = parts.gate.areas.get(name)
    return {
        "mode": "learn" if seen is None else seen.mode,
        "armed": seen is not None and seen.armed,
        "allowed": 0 if seen is None else seen.allowed,
        "denied": 0 if seen is None else seen.denied,
        "would_deny": 0 if seen is None else seen.would_deny,
        "rules": 0 if seen is None else seen.rules,
        "why_not": "gate has not told" if seen is None else seen.why_not,
    }


def _limits(parts: Parts) -> list[str]:
    """Flood limits that refused something lately."""
    seen = parts.gate.areas.get("network")
    return [] if seen is None else seen.limits.split()


def _processes(parts: Parts) -> dict[str, object]:
    seen = parts.processes.snapshot()
    return {
        "known": seen.known,
        "launches": seen.launches,
        "ends": seen.ends,
        "unwatched": seen.unwatched,
        "limited": seen.limited,
        **parts.watcher.state(seen.unanswering),
    }


def _sensor(s: SensorState) -> dict[str, object]:
    return {
        "state": str(s.state),
        "readings": s.readings,
        "bad_frames": s.bad_frames,
        "silent_s": round(s.silent_s, 3),
        "reason": s.reason,
    }


def _offline_s(up: UplinkSnapshot, parts: Parts, now: Instant) -> float:
    """Seconds without a session; since the start when there never was one."""
    if up.connected:
        return 0.0
    if up.since_utc is None:
        return (now.boot_ns - parts.written.began_ns) / 1e9
    return max(0.0, now.wall_ns / 1e9 - datetime.fromisoformat(up.since_utc).timestamp())


def footprint(parts: Parts, now_ns: int) -> dict[str, object]:
    """Memory of gate, guard and link; link's CPU; link's writes within the last day."""
    stats = parts.gate.stats
    others = 0 if stats is None else stats.gate_pss_bytes + stats.guard_pss_bytes
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "pss_bytes": number_in(_ROLLUP, "Pss:", 1024) + others,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 3),
        **_wear(parts, now_ns),
    }


def _wear(parts: Parts, now_ns: int) -> dict[str, object]:
    """What link wrote within the last day, for whom, and the span that both were counted over,
    which is shorter before link has run a day."""
    day = parts.written.day(now_ns)
    return {
        "written_bytes_day": day.total,
        "written_span_s": day.span_s,
        "written_by": dict(day.by),
        "overhead_bytes_day": day.overhead,
        "budget_bytes_day": parts.written.budget_bytes,
    }
