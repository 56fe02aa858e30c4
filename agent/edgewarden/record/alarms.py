"""What the storage says about itself: each trouble as an event, in one place for the words.

Decides codes and severities. Leaves to storage.py when one is told, and how often.
"""

from __future__ import annotations

from edgewarden.ports import Loss
from edgewarden.record.journal import DISK_FULL, SPOOL_FULL
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass

ACTIVITY_OTHER = 99
"""OCSF activity_id of what the class has no number for."""
DISK_TIGHT = "disk nearly full"
LOSS_CODES = {SPOOL_FULL: "EW-SPL-003", DISK_FULL: "EW-SPL-006"}
"""Reason of a loss -> code; every other reason is damage."""
IN_MEMORY = "records are kept in memory only"


def tight_event(now_ns: int) -> Event:
    """The alarm about bulk that is not stored; how much it was rides in the next batch's counts."""
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.HIGH,
        seen_mono_ns=now_ns,
        detail={"what": "bulk is not stored", "why": DISK_TIGHT},
        code="EW-SPL-006",
    )


def loss_event(loss: Loss, now_ns: int) -> Event:
    """The alarm about records that are gone; the gap record in audit has the hashes."""
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.HIGH,
        seen_mono_ns=now_ns,
        detail={
            "what": "records lost",
            "why": loss.reason,
            "class": RecordClass(loss.record_class).label,
            "first": loss.first,
            "last": loss.last,
        },
        code=LOSS_CODES.get(loss.reason, "EW-SPL-002"),
    )


def away_event(why: str, now_ns: int) -> Event:
    """The alarm that from here on nothing is durable."""
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.HIGH,
        seen_mono_ns=now_ns,
        detail={"what": IN_MEMORY, "why": why},
        code="EW-SPL-010",
    )


def back_event(since_ns: int, signed: int, lost: int, now_ns: int) -> Event:
    """The end of that: how long it was, what was signed without a disk, what found no room."""
    detail: dict[str, Plain] = {
        "what": "records are durable again",
        "lasted_s": (now_ns - since_ns) // 10**9,
        "signed_in_memory": signed,
        "lost": lost,
    }
    return Event(
        class_uid=OCSF.HEALTH,
        activity_id=ACTIVITY_OTHER,
        severity_id=Severity.MEDIUM,
        seen_mono_ns=now_ns,
        detail=detail,
        code="EW-SPL-010",
    )
