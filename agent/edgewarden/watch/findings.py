"""How a rule says what it found: an OCSF detection finding with its evidence.

Decides nothing; every watching rule makes its findings here, so that describe.py and triage.py read
them all alike. What stands in the title, the program, its user and ``device`` make it one matter;
numbers and pids belong into the evidence.

    finding(now_ns, "EW-HOST-008", "program runs from ...", Severity.MEDIUM, process)
"""

from __future__ import annotations

from collections.abc import Mapping

from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.processes import Process

CREATE, CLOSE = 1, 3
"""OCSF detection_finding: a finding, and that it is over."""


def finding(
    now_ns: int,
    code: str,
    title: str,
    severity: Severity,
    process: Process | None = None,
    evidence: Mapping[str, Plain] | None = None,
    *,
    over: bool = False,
) -> Event:
    """Return the event.

    Args:
        now_ns: CLOCK_BOOTTIME.
        code: of codes.toml.
        title: a line for a person.
        severity: OCSF.
        process: whom it is about.
        evidence: attributes of the detail.
        over: what the code says has ended.
    """
    info: dict[str, Plain] = {"title": title}
    detail: dict[str, Plain] = {"finding_info": info, **(evidence or {})}
    if process is not None:
        info["uid"] = f"{process.pid}.{process.start_ticks}"
        detail["process"] = process.as_map()
    activity = CLOSE if over else CREATE
    return Event(OCSF.DETECTION_FINDING, activity, severity, now_ns, detail, code)
