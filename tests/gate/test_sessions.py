"""Which login a request comes from."""

from __future__ import annotations

import pytest

from edgewarden.gate.sessions import Session, session_of


def proc(cgroup: str = "/", audit: str = "4294967295", sid: int = 7, tty: int = 0) -> Session:
    texts = {
        "9/cgroup": f"1:name=systemd:/x\n0::{cgroup}\n",
        "9/sessionid": audit,
        "9/stat": f"9 (a) b) S 1 9 {sid} {tty} -1 0",
    }
    return session_of(lambda name: texts.get(name, ""), 9)


USER = "/user.slice/user-1000.slice/user@1000.service/x"
SSH = "/user.slice/user-1000.slice/session-{}.scope"


@pytest.mark.parametrize(
    ("first", "second", "other"),
    [
        (proc(SSH.format(4)), proc(SSH.format(5)), True),
        (proc(SSH.format(4), tty=1), proc(SSH.format(4), tty=2, sid=8), False),  # sudo's own pty
        (proc(SSH.format(4), audit="3"), proc(SSH.format(4), audit="4"), False),
        (proc(audit="3"), proc(audit="4"), True),
        (proc(audit="3", tty=1), proc(audit="3", tty=2), False),
        (proc(tty=1), proc(tty=2), True),
        (proc(tty=1), proc(tty=1, sid=9), False),
        (proc(sid=7), proc(sid=8), True),
        (proc(sid=7), proc(sid=7), False),
        (proc("/system.slice/run-u7.service"), proc("/system.slice/run-u8.service"), True),
        (
            proc(SSH.format(4)),
            proc(USER, sid=7),
            False,
        ),
        (Session("", "", ""), Session("", "", ""), False),  # nothing is known: nothing is proved
        (proc(), Session("", "", ""), False),
    ],
)
def test_another_login(first: Session, second: Session, other: bool) -> None:
    assert first.is_other_than(second) is other
    assert second.is_other_than(first) is other


def test_a_name_below_a_users_own_service_is_no_login() -> None:
    below = proc("/user.slice/user-1000.slice/user@1000.service/session-99.scope")
    assert below.unit == ""
