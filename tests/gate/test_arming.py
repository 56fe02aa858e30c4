"""When permission marks are armed where people log in, and what is said when they are not."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.exec.judged import Counters
from edgewarden.gate.arming import Arming
from edgewarden.kernel.mounts import Filesystem, Mounts

CRITICAL = (b"/usr/bin/sudo",)


class Machine(Mounts):
    """/ on 8:1, /srv on 8:2."""

    def __init__(self) -> None:
        pass

    def at(self, path: str) -> Filesystem:
        return Filesystem("8:2" if path == "/srv" else "8:1", "ext4", ())

    def devices(self) -> dict[int, str]:
        return {os.makedev(8, 1): "ext4", os.makedev(8, 2): "ext4", os.makedev(0, 9): "overlay"}


class Bench:
    """Arming without a kernel: marks are remembered, nothing is marked."""

    def __init__(self) -> None:
        self.alarms: list[tuple[str, str]] = []
        self.config = SimpleNamespace(
            kill_after_start=False, filesystems=("/",), observe_h=24, strict=False
        )
        self.table = SimpleNamespace(critical=CRITICAL, count=0, generation=1)
        self.tier = SimpleNamespace(tier="T3", reason="")
        self.images: dict[bytes, bytes] = {}
        self.proved = "T3"
        self.observed = ""
        self.granted = False
        self.arming = Arming(
            doors=SimpleNamespace(  # type: ignore[arg-type]
                open=None, permission_marks=False, run_fd=-1, proc_text=lambda name: ""
            ),
            mounts=Machine(),
            policy=self,  # type: ignore[arg-type]
            responder=SimpleNamespace(  # type: ignore[arg-type]
                counters=Counters(),
                digests=SimpleNamespace(
                    images={}, watched_by=lambda writers: None, catch_up=lambda: None
                ),
                finish=lambda: None,
                spares=SimpleNamespace(begin=lambda group, permitted: None),
                mode="",
                reports=SimpleNamespace(),
            ),
            guard=SimpleNamespace(present=True),  # type: ignore[arg-type]
            stopping=SimpleNamespace(look=lambda armed: None),  # type: ignore[arg-type]
            coverage=self,  # type: ignore[arg-type]
            alarm=lambda code, severity, text: self.alarms.append((code, text)),
            watch=lambda fd: None,
            forget=lambda fd: None,
            fallback=lambda: "none",
            arm=self.arm,
        )
        self.arming.settle("observe")

    # coverage
    def missing(self, observe_h: int) -> str:
        return self.observed

    def grant(self, granted: bool) -> None:
        self.granted = granted

    def look(self, mode: str, *, sees: bool) -> None: ...

    def arm(
        self, paths: tuple[str, ...], *, enforce: bool, mounts: Mounts, against_root: Any, **_: Any
    ) -> Any:
        if enforce and against_root is not None and "/" in paths:
            raise against_root
        group = SimpleNamespace(fd=-1, permission=enforce)
        return SimpleNamespace(
            devices={os.makedev(8, 1)},
            writers=None,
            group=group,
            cacheable=set(),
            refused=[],
            superblocks=set(),
            opens=False,
            close=lambda: None,
        )

    def refusal(self, trial_s: int = 0) -> str:
        with pytest.raises(OperatorFault) as caught:
            self.arming.apply("enforce", trial_s)
        assert isinstance(caught.value, EdgewardenError)
        assert caught.value.next_step
        return str(caught.value.fields["name"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_root_needs_a_critical_set_even_for_a_trial(bench: Bench) -> None:
    bench.table.critical = ()
    assert bench.refusal() == "holds_root"
    assert bench.refusal(600) == "holds_root"
    assert (bench.arming.mode, bench.arming.permission) == ("observe", False)


def test_root_is_not_kept_before_it_was_observed_and_may_be_tried(bench: Bench) -> None:
    bench.observed = "observed 3 h of 24 h"
    assert bench.refusal() == "not_covered"
    said = bench.arming.apply("enforce", 600)
    assert said == "on trial only: observed 3 h of 24 h"
    assert bench.arming.permission
    assert not bench.granted


def test_a_trial_that_was_not_observed_for_long_enough_cannot_be_confirmed(bench: Bench) -> None:
    bench.observed = "no whole boot observed"
    bench.arming.apply("enforce", 600)
    assert bench.refusal() == "not_covered"
    assert bench.arming.permission, "it stays on trial, and goes back in its time"
    bench.observed = ""
    assert bench.arming.apply("enforce", 0) == ""
    assert bench.granted


def test_after_a_restart_what_was_accepted_is_armed_again_and_nothing_else(bench: Bench) -> None:
    bench.observed = "observed 0 min of 24 h"
    bench.arming.settle("enforce")
    assert not bench.arming.permission
    assert [code for code, _ in bench.alarms] == ["EW-EXEC-008"]
    assert "observed 0 min of 24 h" in bench.alarms[0][1]
    bench.granted = True
    bench.arming.renew()
    assert bench.arming.permission


def test_what_opens_files_is_done_while_nobody_waits(bench: Bench) -> None:
    bench.arming.apply("enforce", 0)
    seen: list[tuple[bool, bool]] = []

    def action() -> None:
        seen.append((bench.arming.permission, bench.arming._doors.permission_marks))

    bench.arming.unhindered(action)
    assert seen == [(False, False)]
    assert bench.arming.permission
    assert [code for code, _ in bench.alarms] == ["EW-EXEC-068"]


def test_marks_come_back_when_that_fails_and_nobody_is_told_where_there_were_none(
    bench: Bench,
) -> None:
    def fails() -> None:
        raise OperatorFault("no library", code="EW-NET-031", name="x")

    with pytest.raises(OperatorFault):
        bench.arming.unhindered(fails)
    assert bench.alarms == []
    bench.arming.apply("enforce", 0)
    with pytest.raises(OperatorFault):
        bench.arming.unhindered(fails)
    assert bench.arming.permission


def test_a_trial_of_what_was_accepted_takes_nothing_away(bench: Bench) -> None:
    bench.arming.apply("enforce", 0)
    bench.observed = "observed 0 min of 24 h"
    bench.arming.apply("enforce", 60)
    bench.arming.settle("enforce")
    assert bench.arming.permission
    bench.arming.apply("observe", 0)
    assert not bench.granted


def test_another_disk_needs_neither(bench: Bench) -> None:
    bench.config.filesystems = ("/srv",)
    bench.table.critical = ()
    bench.observed = "observed 0 min of 24 h"
    assert bench.arming.apply("enforce", 0) == ""
    assert bench.arming.permission
    assert not bench.granted


def test_what_is_missing_can_be_asked_for(bench: Bench) -> None:
    bench.observed = "observed 3 h of 24 h"
    assert bench.arming.stats().why_not == "enforce would not be kept yet: observed 3 h of 24 h"
    bench.config.filesystems = ("/srv",)
    assert bench.arming.stats().why_not == ""


def test_settings_that_name_root_later_find_no_open_door(bench: Bench) -> None:
    bench.config.filesystems = ("/srv",)
    bench.arming.apply("enforce", 0)
    bench.observed = "observed 0 min of 24 h"
    bench.config.filesystems = ("/srv", "/")
    bench.arming.renew()
    assert not bench.arming.permission
