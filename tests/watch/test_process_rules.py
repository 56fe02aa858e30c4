"""Rules about one process: a table of findings, a table of what is none, and any bytes at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.judge.describe import describe
from edgewarden.watch.command_lines import script_of
from edgewarden.watch.process_rules import Rules, judge_change, judge_new, origin
from edgewarden.wire.cbor import decode, encode
from edgewarden.wire.facts import Event, Severity, event_to_map
from edgewarden.wire.processes import Process

RULES = Rules(may_elevate=frozenset({"/usr/bin/sudo"}), most_sockets=100)


def process(command: str = "", **more: Any) -> Process:
    fields: dict[str, Any] = {
        "pid": 7, "start_ticks": 1, "comm": "c", "ppid": 3, "uid": 1000, "euid": 1000,
        "command": command.replace(" ", "\0"),
    }  # fmt: skip
    return Process(**fields | more)


PARENT = process(pid=3, comm="bash")


def new(one: Process, parent: Process | None = PARENT, **kind: Any) -> list[Event]:
    return list(judge_new(one, parent, kind.get("rules", RULES), 5, baseline="baseline" in kind))


def told(events: list[Event]) -> list[tuple[str, Severity]]:
    return [(e.code, e.severity_id) for e in events]


@pytest.mark.parametrize(
    ("exe", "command", "code", "severity"),
    [
        ("/tmp/x", "x", "EW-HOST-008", Severity.MEDIUM),
        ("/var/tmp/a/b", "b", "EW-HOST-008", Severity.MEDIUM),
        ("/dev/shm/x (deleted)", "x", "EW-HOST-008", Severity.MEDIUM),
        ("/run/user/1000/x", "x", "EW-HOST-008", Severity.MEDIUM),
        ("", "/tmp/x -d", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/python3.11", "python3 /tmp/x.py", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/python3.11", "python3 -W error /tmp/x.py", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/dash", "sh /dev/shm/x.sh", "EW-HOST-008", Severity.MEDIUM),
        ("/memfd:x (deleted)", "x", "EW-HOST-009", Severity.HIGH),
        ("/usr/bin/x (deleted)", "x", "EW-HOST-009", Severity.LOW),
        ("/usr/bin/bash", "bash +x /tmp/x.sh", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/bash", "bash +o posix +O extglob /tmp/x.sh", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/zsh", "zsh /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/ksh93", "ksh -o noglob /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/tclsh8.6", "tclsh /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/pypy3", "pypy3 -u /tmp/x.py", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/busybox", "busybox sh /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/busybox", "/bin/ash -e /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/busybox", "-ash /tmp/x", "EW-HOST-008", Severity.MEDIUM),
        ("/usr/bin/dash", "sh /home/pi/x.sh", "EW-PROC-005", Severity.LOW),
        ("/usr/bin/dash", "sh x.sh", "EW-PROC-005", Severity.LOW),
        ("/usr/bin/python3.13", "python3 -B -u /srv/x.py -c", "EW-PROC-005", Severity.LOW),
        ("", "/usr/bin/perl -w /home/pi/x.pl", "EW-PROC-005", Severity.LOW),
        ("/usr/bin/python3.13", "python3 /usr/share/../../srv/x", "EW-PROC-005", Severity.LOW),
        (
            "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1",
            "ld.so /srv/prog",
            "EW-PROC-005",
            Severity.MEDIUM,
        ),
        (
            "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "/lib64/ld-linux-x86-64.so.2 --argv0 ls /bin/ls",
            "EW-PROC-005",
            Severity.LOW,
        ),
    ],
)
def test_a7_where_a_program_runs_from(
    exe: str, command: str, code: str, severity: Severity
) -> None:
    assert told(new(process(command, exe=exe))) == [(code, severity)]


@pytest.mark.parametrize(
    ("exe", "command"),
    [
        ("/usr/bin/cat", "cat /tmp/x"),
        ("/usr/bin/ls", "/tmp/pretends"),
        ("/tmpfoo/x", "x"),
        ("", ""),
        ("/usr/bin/python3.11", "python3 -m http.server"),
        ("/usr/bin/python3.11", "python3 -c print(1) /tmp/x"),
        ("/usr/bin/dash", "sh -ec date /tmp/x"),
        ("/usr/bin/dash", "sh -"),
        ("/usr/bin/python3.11", "python3 -Im x"),
        ("/usr/bin/perl", "perl -ne print /tmp/x"),
        ("/usr/bin/python3.11", "/usr/bin/python3 /usr/bin/networkd-dispatcher"),
        ("/usr/bin/bash", "bash /etc/init.d/x start"),
        ("/usr/bin/zsh", "zsh -c date /tmp/x"),
        ("/usr/bin/busybox", "busybox cat /tmp/x"),
        ("/usr/bin/busybox", "busybox sh -c date"),
        ("/usr/bin/busybox", "busybox"),
        ("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", "ld.so --list /tmp/x"),
    ],
)
def test_ordinary_programs_are_no_finding(exe: str, command: str) -> None:
    assert new(process(command, exe=exe)) == []


def test_a_folder_everybody_can_write_counts_by_its_mode() -> None:
    [found] = new(process("d", exe="/srv/drop/d", loose_folder="/srv/drop"))
    assert (found.code, found.detail["folder"]) == ("EW-HOST-008", "/srv/drop")


def test_flags_with_a_letter_in_common_are_not_inline_code() -> None:
    assert script_of("/usr/bin/python3", ["python3", "-E", "-s", "x.py"]) == "x.py"
    assert script_of("/bin/bash", ["bash", "--norc", "x.sh"]) == "x.sh"
    assert script_of("/bin/bash", ["bash", "-x", "x.sh"]) == "x.sh"


def test_a_file_that_is_deleted_while_its_program_runs_is_told() -> None:
    before = process("x", exe="/usr/bin/x")
    after = replace(before, exe="/usr/bin/x (deleted)")
    assert told(list(judge_change(before, after, RULES, 5, {}))) == [("EW-HOST-009", Severity.LOW)]
    assert list(judge_change(after, after, RULES, 5, {})) == []


# --- root ----------------------------------------------------------------------------------------

ROOT = process("x", uid=1000, euid=0, exe="/usr/local/bin/x")


def test_a_program_that_became_root_is_high_and_an_expected_one_low() -> None:
    [found] = new(ROOT)
    assert told([found]) == [("EW-PROC-001", Severity.HIGH)]
    assert found.detail["from_uid"] == 1000
    assert found.detail["parent"]["pid"] == 3  # type: ignore[index,call-overload]
    assert told(new(replace(ROOT, exe="/usr/bin/sudo"))) == [("EW-PROC-001", Severity.LOW)]


def test_a_program_that_calls_itself_sudo_is_believed_nothing() -> None:
    [found] = new(replace(ROOT, exe="", command="/usr/bin/sudo\0-i"))
    assert told([found]) == [("EW-PROC-001", Severity.HIGH)]


@pytest.mark.parametrize(
    "parent",
    [None, replace(PARENT, uid=0, euid=0), replace(PARENT, euid=0), replace(PARENT, uid=-1)],
)
def test_root_under_root_or_under_nobody_known_is_no_news(parent: Process | None) -> None:
    assert new(ROOT, parent) == []
    assert new(ROOT, baseline=True) == []


def test_where_the_kernel_tells_it_the_sweep_does_not_tell_it_again() -> None:
    rules = replace(RULES, kernel_events=True)
    traced = replace(ROOT, tracer_pid=9)
    assert new(traced, rules=rules) == []
    assert list(judge_change(replace(ROOT, euid=1000), traced, rules, 5, {})) == []


def test_becoming_root_in_place_is_told_once() -> None:
    before = replace(ROOT, euid=1000)
    [found] = judge_change(before, ROOT, RULES, 5, {3: PARENT})
    assert (found.code, found.detail["from_uid"]) == ("EW-PROC-001", 1000)
    assert list(judge_change(ROOT, replace(ROOT, comm="y"), RULES, 5, {})) == []
    assert list(judge_change(replace(ROOT, euid=-1), ROOT, RULES, 5, {})) == []


@pytest.mark.parametrize(
    ("mine", "parents", "uid", "found"),
    [
        (0x2000, 0, 1000, [("EW-PROC-001", Severity.MEDIUM)]),
        (0x2000, 0x2000, 1000, []),  # a service that was given it hands it on
        (0x2000, 0, 0, []),  # root has them all
        (0, 0x2000, 1000, []),
    ],
)
def test_capabilities_by_a_file(
    mine: int, parents: int, uid: int, found: list[tuple[str, Severity]]
) -> None:
    one = process("x", exe="/usr/bin/ping", capabilities=mine, uid=uid, euid=uid)
    parent = replace(PARENT, capabilities=parents)
    rules = replace(RULES, kernel_events=True)  # the kernel has no event for this
    assert told(new(one, parent, rules=rules)) == found
    assert new(one, parent, baseline=True) == []


# --- tracers, preload, sockets, silence -----------------------------------------------------------


def test_a_tracer_is_told_when_it_comes() -> None:
    traced = process("d", tracer_pid=9)
    assert told(new(traced)) == [("EW-PROC-002", Severity.MEDIUM)]
    [found] = judge_change(process("d"), traced, RULES, 5, {9: process("gdb", pid=9)})
    assert found.detail["tracer"]["cmd_line"] == "gdb"  # type: ignore[index,call-overload]
    assert list(judge_change(traced, process("d"), RULES, 5, {})) == []


@pytest.mark.parametrize(
    ("line", "severity"),
    [
        ("LD_PRELOAD=/tmp/evil.so", Severity.HIGH),
        ("LD_PRELOAD=/usr/lib/a.so /dev/shm/b.so", Severity.HIGH),
        ("LD_AUDIT=evil.so", Severity.HIGH),
        ("LD_LIBRARY_PATH=/opt/vendor/lib", Severity.MEDIUM),
    ],
)
def test_foreign_code_by_the_environment(line: str, severity: Severity) -> None:
    loaded = process("d", preload=(line,))
    [found] = new(loaded)
    assert told([found]) == [("EW-PROC-003", severity)]
    assert found.detail["environment"] == [line]
    assert told(list(judge_change(process("d"), loaded, RULES, 5, {}))) == told([found])
    assert list(judge_change(loaded, replace(loaded, comm="e"), RULES, 5, {})) == []


def test_too_many_sockets_are_told_when_the_limit_is_crossed() -> None:
    few, many = process("d", sockets=100), process("d", sockets=101)
    assert new(few) == []
    assert told(new(many)) == [("EW-PROC-006", Severity.MEDIUM)]
    [found] = judge_change(few, many, RULES, 5, {})
    assert (found.detail["count"], found.detail["of"]) == (101, "sockets")
    assert list(judge_change(many, replace(many, sockets=150), RULES, 5, {})) == []
    [files] = new(process("d", descriptors=101))
    assert files.detail["of"] == "open files"
    assert new(process("d", descriptors=500, sockets=3)) == []


def test_a_silent_process_is_told() -> None:
    silent = process(blocked=True)
    assert told(new(silent)) == [("EW-PROC-011", Severity.MEDIUM)]
    assert told([*judge_change(process(), silent, RULES, 5, {})]) == told(new(silent))
    assert [*judge_change(silent, replace(silent, comm="x"), RULES, 5, {})] == []


def test_what_somebody_with_more_rights_saw_is_judged_then() -> None:
    before = process("d", loose_folder="")
    after = replace(before, exe="/dev/shm/d")
    assert told(list(judge_change(before, after, RULES, 5, {}))) == [
        ("EW-HOST-008", Severity.MEDIUM)
    ]


TEXT = st.text(max_size=60)
ANY = st.builds(
    Process,
    pid=st.integers(1, 9), start_ticks=st.integers(0, 9), comm=TEXT, ppid=st.integers(0, 9),
    uid=st.integers(-1, 2), euid=st.integers(-1, 2), tracer_pid=st.integers(0, 2), command=TEXT,
    exe=TEXT, unit=TEXT, loose_folder=TEXT, blocked=st.booleans(),
    descriptors=st.integers(-1, 200), sockets=st.integers(-1, 200),
    preload=st.lists(TEXT, max_size=3).map(tuple),
)  # fmt: skip


@given(ANY, ANY)
def test_whatever_a_process_is_findings_can_be_stored_and_shown(one: Process, two: Process) -> None:
    events = [*new(one, two), *judge_change(one, two, RULES, 5, {two.pid: two})]
    for event in events:
        assert decode(encode(event_to_map(event))) == event_to_map(event)
        assert describe(event)
    assert origin(one) is None or origin(one)[1].startswith("EW-")  # type: ignore[index]
