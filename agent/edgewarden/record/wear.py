"""Whose facts the bytes of durable records are: one number for each collector since the start.

Decides who a collector is and how a batch's bytes are shared out. Leaves to journal.py when a
record is durable, to daemon/written.py what of it belongs to the last day and what the disk was
given besides.

* A reading's collector is its source: ``host``, a serial port's name, ``device:NAME``. So is a
  finding about a serial port. Every other event is named by its kind: ``exec``, ``processes``,
  ``peripherals``, ``network``, ``settings``, ``findings``, ``agent``. What the record itself needs
  (who signs, gaps, what was kept in memory) is ``journal``, evidence is ``evidence``. A port that
  has one of these names is counted with it.
* A record of one fact is that collector's, signature and all. A batch's bytes are shared in
  proportion to the estimated lengths of its facts, and the shares add up to the record, exactly.
* Bytes of records as they were stored, packed where they were (rows.py); the log's second copy and
  the pages around them are not.
* MAX_NAMES names; whoever comes later is counted as OTHER: outside names cost no memory.

    wear = Wear()
    wear.add(weights(readings, events), len(stored.data))
    wear.snapshot()             # {"gps": 81234, "host": 9120, "evidence": 2048}
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edgewarden.record.intake import EVENT_BYTES, READING_BYTES
from edgewarden.wire.burst import Part
from edgewarden.wire.facts import OCSF, Event, Reading

MAX_NAMES = 48
"""Thirty-two ports, eleven of our own, and a few devices behind the gateway."""
OTHER = "other"
JOURNAL, EVIDENCE, AGENT = "journal", "evidence", "agent"
_NAMES = MappingProxyType(
    {
        OCSF.PROCESS_ACTIVITY: "processes",
        OCSF.PERIPHERAL_ACTIVITY: "peripherals",
        OCSF.NETWORK_ACTIVITY: "network",
        OCSF.CONFIG_STATE: "settings",
        OCSF.DETECTION_FINDING: "findings",
    }
)
_SERIAL = ("serial", "modbus")
"""peripheral_device.class of what a port says of itself, under its name in the settings."""


class Wear:
    """Bytes of durable records by collector; any thread."""

    def __init__(self) -> None:
        self._bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, shares: Mapping[str, int], size_bytes: int) -> None:
        """Count one record.

        Args:
            shares: collector -> weight; with no weight at all it is the agent's.
            size_bytes: the record's, shared out to the last byte.
        """
        left, rest = size_bytes, sum(shares.values())
        with self._lock:
            for name, weight in shares.items():
                if weight > 0:
                    part = left * weight // rest
                    left, rest = left - part, rest - weight
                    self._count(name, part)
            if left:
                self._count(AGENT, left)

    def snapshot(self) -> dict[str, int]:
        """Collector -> bytes since the start."""
        with self._lock:
            return dict(self._bytes)

    def _count(self, name: str, amount: int) -> None:
        known = name in self._bytes or len(self._bytes) < MAX_NAMES
        name = name if known else OTHER
        self._bytes[name] = self._bytes.get(name, 0) + amount


def collector_of(event: Event) -> str:
    """Who an event is counted for."""
    device = event.detail.get("peripheral_device")
    if isinstance(device, dict) and device.get("class") in _SERIAL:
        name = device.get("name")
        if isinstance(name, str):
            return name
    if event.class_uid is OCSF.PROCESS_ACTIVITY and "action" in event.detail:
        return "exec"
    return _NAMES.get(event.class_uid, AGENT)


def weights(readings: Sequence[Part], events: Sequence[Event]) -> dict[str, int]:
    """Collector -> estimated length of its facts in a batch."""
    found: dict[str, int] = {}
    for part in readings:
        size = READING_BYTES * (1 if isinstance(part, Reading) else len(part))
        found[part.source] = found.get(part.source, 0) + size
    for event in events:
        name = collector_of(event)
        size = EVENT_BYTES + READING_BYTES * len(event.detail)
        found[name] = found.get(name, 0) + size
    return found
