"""One line for a person, and what makes two events the same matter."""

from __future__ import annotations

import pytest

from edgewarden.judge.describe import MAX_LINE, describe, subject_of
from edgewarden.wire.facts import OCSF, Event, Plain, Severity


def event(uid: OCSF = OCSF.DETECTION_FINDING, **detail: Plain) -> Event:
    return Event(uid, 1, Severity.HIGH, 5, detail, "EW-X-001")


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        (
            {"action": "denied", "file": {"path": "/a/b", "sha256": b"\x9f" * 32}},
            "denied: /a/b (sha256 9f9f9f9f9f9f9f9f)",
        ),
        ({"file": {"path": "/a/b"}}, "seen: /a/b"),
        (
            {"finding_info": {"title": "runs from memory"}, "process": {"path": "/memfd:x"}},
            "runs from memory: /memfd:x",
        ),
        (
            {"title": "script runs", "process": {"path": "/usr/bin/python3"}, "path": "/tmp/x"},
            "script runs: /tmp/x, by /usr/bin/python3",
        ),
        (
            {"title": "program runs", "process": {"path": "/tmp/x"}, "path": "/tmp/x"},
            "program runs: /tmp/x",
        ),
        (
            {
                "peripheral_device": {"name": "gps"},
                "state": "silent",
                "reason": "no good frame for 10 s",
            },
            "gps: silent, no good frame for 10 s",
        ),
        ({"title": "policy not taken"}, "policy not taken"),
        ({"what": "no trust", "why": "another root"}, "no trust: another root"),
        ({"title": "storm", "repeated": 41}, "storm, 41 more times"),
        ({}, "detection finding"),
        ({"file": {"path": 7}, "title": ["not text"]}, "detection finding"),
    ],
)
def test_line(detail: dict[str, Plain], line: str) -> None:
    assert describe(event(**detail)) == line


def test_a_long_path_stays_a_line() -> None:
    assert len(describe(event(file={"path": "/" + "x" * 4000}))) == MAX_LINE


def test_another_program_is_another_matter() -> None:
    one = event(finding_info={"title": "t"}, process={"path": "/tmp/a", "pid": 7})
    two = event(finding_info={"title": "t"}, process={"path": "/tmp/b", "pid": 7})
    assert subject_of(one) != subject_of(two)


def test_another_script_is_another_matter() -> None:
    python: Plain = {"path": "/usr/bin/python3", "pid": 7}
    for key in ("path", "script"):
        one = event(title="t", process=python, **{key: "/tmp/a"})
        two = event(title="t", process=python, **{key: "/tmp/b"})
        assert subject_of(one) != subject_of(two)


def test_another_pid_is_the_same_matter() -> None:
    one = event(finding_info={"title": "t", "uid": "7.1"}, process={"path": "/tmp/a", "pid": 7})
    two = event(finding_info={"title": "t", "uid": "8.2"}, process={"path": "/tmp/a", "pid": 8})
    assert subject_of(one) == subject_of(two)


def test_other_arguments_are_the_same_matter() -> None:
    one = event(finding_info={"title": "t"}, process={"cmd_line": "/tmp/a -1"})
    two = event(finding_info={"title": "t"}, process={"cmd_line": "/tmp/a -2"})
    assert subject_of(one) == subject_of(two)


def test_another_class_refused_is_another_matter() -> None:
    one, two = event(**{"class": "bulk"}), event(**{"class": "alarm"})
    assert subject_of(one) != subject_of(two)


def test_another_user_is_another_matter() -> None:
    one = event(action="denied", file={"path": "/a"}, process={"pid": 7, "uid": 0})
    two = event(action="denied", file={"path": "/a"}, process={"pid": 7, "uid": 1000})
    assert subject_of(one) != subject_of(two)
