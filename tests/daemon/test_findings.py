"""What `edgewarden findings` is told of, and what is kept for it."""

from __future__ import annotations

import sys

from edgewarden.daemon.findings import MAX_FINDINGS, Findings
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from tests.fakes.clock import FakeClock

SECOND = 10**9


def alarm(title: str, at_ns: int, **more: Plain) -> Event:
    detail: dict[str, Plain] = {"finding_info": {"title": title}, **more}
    code = "EW-PROC-007"
    return Event(OCSF.DETECTION_FINDING, 1, Severity.MEDIUM, at_ns, detail, code)


def test_one_line_for_what_is_the_same_with_its_count() -> None:
    findings = Findings(FakeClock())
    for at_s in (1, 2, 3):
        findings.see(alarm("new listener", at_s * SECOND))
    findings.see(alarm("another", 4 * SECOND, repeated=5))
    last, first = findings.listed()
    assert (first["text"], first["count"], last["count"]) == ("new listener", 3, 5)
    assert (first["code"], first["severity"]) == ("EW-PROC-007", int(Severity.MEDIUM))
    assert first["id"] != last["id"]
    assert str(first["first_utc"]) < str(first["last_utc"])


def test_of_the_event_itself_nothing_is_kept() -> None:
    process: dict[str, Plain] = {"pid": 7, "cmd_line": "x" * 4000, "path": "/usr/bin/x"}
    event = alarm("new listener", SECOND, process=process)
    before = sys.getrefcount(event), sys.getrefcount(event.detail), sys.getrefcount(process)
    findings = Findings(FakeClock())
    findings.see(event)
    after = sys.getrefcount(event), sys.getrefcount(event.detail), sys.getrefcount(process)
    assert after == before
    assert [line["text"] for line in findings.listed()] == ["new listener: /usr/bin/x"]


def test_the_least_recently_seen_leaves_first() -> None:
    findings = Findings(FakeClock())
    for number in range(MAX_FINDINGS):
        findings.see(alarm(f"{number}", SECOND))
    findings.see(alarm("0", 2 * SECOND))
    findings.see(alarm("one more", 3 * SECOND))
    texts = [line["text"] for line in findings.listed()]
    assert len(texts) == MAX_FINDINGS
    assert texts[:2] == ["one more", "0"]
    assert "1" not in texts
