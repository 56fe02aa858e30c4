"""When a rule matches who asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.judge.exec_rules import Rule
from edgewarden.wire.units import unit_of
from tests.fakes.subject import Someone

SHELL, CRON = b"s" * 32, b"c" * 32
NGINX = "/system.slice/nginx.service"


def rule(
    allow: bool = True,
    uids: tuple[tuple[int, int], ...] = (),
    parents: tuple[bytes, ...] = (),
    units: tuple[str, ...] = (),
) -> Rule:
    return Rule("r", allow, uids, parents, units)


@pytest.mark.parametrize(
    ("conditions", "subject", "matches"),
    [
        (rule(), Someone(), True),
        (rule(uids=((33, 33),)), Someone(who=33), True),
        (rule(uids=((33, 33),)), Someone(who=34), False),
        (rule(uids=((0, 0), (1000, 1999))), Someone(who=1500), True),
        (rule(uids=((0, 0), (1000, 1999))), Someone(who=999), False),
        (rule(parents=(CRON,)), Someone(image=CRON), True),
        (rule(parents=(CRON,)), Someone(image=SHELL), False),
        (rule(units=("nginx.service",)), Someone(place=NGINX), True),
        (rule(units=("system.slice",)), Someone(place=NGINX), True),
        (rule(units=("user-*",)), Someone(place="/user.slice/user-1000.slice/x.scope"), True),
        (rule(units=("user-*.slice",)), Someone(place="/user.slice/user-7.slice/a.scope"), True),
        (rule(units=("user-*.slice",)), Someone(place="/user.slice/a.scope"), False),
        (rule(units=("aa*a",)), Someone(place="/aa"), False),
        (rule(units=("cron.service",)), Someone(place=NGINX), False),
        (rule(uids=((33, 33),), units=("nginx.service",)), Someone(33, b"", NGINX), True),
        (rule(uids=((33, 33),), units=("nginx.service",)), Someone(0, b"", NGINX), False),
    ],
)
def test_every_condition_must_hold(conditions: Rule, subject: Someone, matches: bool) -> None:
    assert conditions.matches(subject) is matches


@pytest.mark.parametrize(
    "conditions",
    [{"uids": ((0, 0),)}, {"parents": (CRON,)}, {"units": ("a.service",)}],
)
def test_a_subject_that_cannot_be_told_never_gets_through(conditions: dict[str, object]) -> None:
    assert not rule(True, **conditions).matches(Someone())  # type: ignore[arg-type]
    assert rule(False, **conditions).matches(Someone())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cgroup", "names"),
    [
        ("/", ()),
        ("", ()),
        ("/init.scope", ("init.scope",)),
        (NGINX, ("system.slice", "nginx.service")),
        ("/system.slice/nginx.service/cron.service", ("system.slice", "nginx.service")),
        ("/system.slice/_memory.service", ("system.slice", "memory.service")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
            ("user.slice", "user-1000.slice", "user@1000.service"),
        ),
    ],
)
def test_a_unit_is_the_one_that_systemd_made(cgroup: str, names: tuple[str, ...]) -> None:
    """Below its own service a user makes cgroups of any name."""
    assert unit_of(cgroup) == names


def test_a_unit_that_is_called_like_a_controller_is_known_by_its_name() -> None:
    """systemd calls its group ``_memory.service``: a rule that denies would not hold."""
    denied = rule(False, units=("memory.service",))
    assert denied.matches(Someone(place="/system.slice/_memory.service"))


def test_nothing_is_asked_that_no_rule_wants_to_know() -> None:
    subject = Someone()
    assert rule().matches(subject)
    assert subject.asked == []
    assert not rule(uids=((1, 1),), units=("x",)).matches(subject)
    assert subject.asked == ["uid"]


@given(st.text(alphabet="abc/.-*", max_size=40), st.text(alphabet="abc.-*", min_size=1, max_size=8))
def test_a_pattern_never_matches_below_the_first_unit(cgroup: str, unit: str) -> None:
    own = f"/own.service/{cgroup}"
    pattern = rule(units=(unit,))
    alone = pattern.matches(Someone(place="/own.service"))
    assert pattern.matches(Someone(place=own)) is alone
