"""Which login a request comes from, and whether it proves that somebody came in anew.

The lines of processes are those seen on Debian 12 and 13 (ps -eo pid,ppid,tty,comm,cgroup) with
OpenSSH 9.2 and 10, dropbear 2025.87 and util-linux's agetty and login, with and without logind.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from edgewarden.gate.sessions import NOBODY, REFUSALS, Session, session_of, unit_around

TRIAL_S = 1000
"""When the trial was asked for, seconds since the boot."""
BEFORE, AFTER = TRIAL_S - 100, TRIAL_S + 100
SINCE_THE_BOOT_S = 10
TICKS = os.sysconf("SC_CLK_TCK")
UNSET = "4294967295"
SSH = "/user.slice/user-1000.slice/session-{}.scope"
USERS_OWN = "/user.slice/user-1000.slice/user@1000.service/{}"


@dataclass
class Line:
    """Processes, the asker first; PID 1 is the last one unless they come from ``outside``."""

    above: list[tuple[int, int]]  # pid, start_s
    cgroup: str = "/"
    audit: str = UNSET
    tty: int = 0
    outside: bool = False
    names: list[str] = field(default_factory=list)

    def session(self, now_s: int) -> Session:
        texts = {}
        pids = [pid for pid, _, _ in self._rows()]
        for (pid, name, start_s), parent in zip(self._rows(), [*pids[1:], 0], strict=True):
            rest = " 0" * 14
            texts[f"{pid}/stat"] = (
                f"{pid} ({name}) S {parent} {pid} {pid} {self.tty}{rest} {start_s * TICKS} 0"
            )
        texts[f"{pids[0]}/cgroup"] = f"1:name=systemd:/x\n0::{self.cgroup}\n"
        texts[f"{pids[0]}/sessionid"] = self.audit
        return session_of(lambda name: texts.get(name, ""), pids[0], now_s * 10**9)

    def _rows(self) -> list[tuple[int, str, int]]:
        pairs = zip(self.above, self.names, strict=True)
        rows = [(pid, name, start_s) for (pid, start_s), name in pairs]
        return rows if self.outside else [*rows, (1, "systemd", 0)]


def line(
    names: str, start_s: int, *, first_pid: int = 500, cgroup: str = "/", audit: str = UNSET,
    tty: int = 0, outside: bool = False,
) -> Line:  # fmt: skip
    """``names`` outermost last; "NAME*" is a daemon that runs since the boot, under one pid."""
    words = names.split()
    above = []
    for at, word in enumerate(words):
        daemon = word.endswith("*")
        pid = 100 if daemon else first_pid - at
        above.append((pid, SINCE_THE_BOOT_S if daemon else start_s))
    made = Line(above, cgroup, audit, tty, outside)
    made.names = [word.rstrip("*") for word in words]
    return made


SSHD = "edgewarden bash sshd-session sshd-session sshd*"
SUDO = "edgewarden sudo sudo bash sshd-session sshd-session sshd*"
DROPBEAR = "edgewarden sh dropbear dropbear*"
CONSOLE = "edgewarden sh login"
DROPBEARS = "/system.slice/dropbear.service"
GETTYS = "/system.slice/system-serial\\x2dgetty.slice/serial-getty@ttyS0.service"

ASKED = {
    "ssh": line(SSHD, BEFORE, cgroup=SSH.format(4), audit="4"),
    "dropbear": line(DROPBEAR, BEFORE, cgroup=DROPBEARS),
    "sshd without logind": line(SSHD, BEFORE, cgroup="/system.slice/ssh.service", audit="4"),
    "serial": line(CONSOLE, BEFORE, cgroup=GETTYS, tty=1088),
    "serial, kernel with audit": line(CONSOLE, BEFORE, cgroup=GETTYS, audit="4", tty=1088),
    "systemd-run": line("edgewarden", BEFORE, cgroup="/system.slice/run-u7.service"),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    "confirms",
    [
        line(SSHD, AFTER, first_pid=700, cgroup=SSH.format(5), audit="5"),
        line(SUDO, AFTER, first_pid=700, cgroup=SSH.format(5), audit="5"),
        line(DROPBEAR, AFTER, first_pid=700, cgroup=DROPBEARS),
        line(DROPBEAR, AFTER, first_pid=700, cgroup=DROPBEARS, audit="2"),
        line(SSHD, AFTER, first_pid=700, cgroup="/system.slice/ssh.service", audit="5"),
        line("edgewarden sshd sshd*", AFTER, first_pid=700, cgroup="/", audit=UNSET),
        line(CONSOLE, AFTER, first_pid=700, cgroup=GETTYS, tty=1088),
        line(CONSOLE, AFTER, first_pid=700, cgroup=GETTYS, audit="5", tty=1088),
        line("edgewarden sh sulogin", AFTER, first_pid=700, cgroup="/system.slice/rescue.service"),
    ],
    ids=lambda made: f"{made.names[1]}-{made.names[-1]}-{made.cgroup.rpartition('/')[2]}",
)
def test_h1_whoever_came_in_after_the_trial_confirms_it(asked: str, confirms: Line) -> None:
    by = ASKED[asked].session(TRIAL_S)
    assert confirms.session(AFTER + 1).why_not(by) == ""


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    "starts",
    [
        line("edgewarden", AFTER, cgroup="/system.slice/run-u8.service"),
        line("edgewarden", AFTER, cgroup="/system.slice/run-u8.service", tty=1026),
        line("edgewarden sh cron*", AFTER, cgroup="/system.slice/cron.service", audit="9"),
        line("edgewarden sh systemd*", AFTER, cgroup=USERS_OWN.format("run-u3.service"),
             audit="9", tty=1026),
        line("edgewarden nsenter bash", AFTER, cgroup="/../../..", audit="9", tty=1026,
             outside=True),
        line("edgewarden", AFTER, cgroup=USERS_OWN.format("session-99.scope")),
        line("edgewarden", AFTER, cgroup="/user.slice/session-99.scope"),
        line("edgewarden", AFTER, cgroup="/system.slice/a.slice/session-99.scope"),
    ],
    ids=["systemd-run", "systemd-run-t", "cron", "users-own", "nsenter", "below-own", "slice",
         "other-slice"],
)  # fmt: skip
def test_m1_what_starts_without_a_login_confirms_nothing(asked: str, starts: Line) -> None:
    by = ASKED[asked].session(TRIAL_S)
    assert starts.session(AFTER + 1).why_not(by) == "no_login"


@pytest.mark.parametrize("asked", [name for name in ASKED if name != "systemd-run"])
def test_the_login_that_asked_is_no_new_one(asked: str) -> None:
    one = ASKED[asked]
    assert one.session(AFTER).why_not(one.session(TRIAL_S)) == "same_login"


@pytest.mark.parametrize(
    ("confirms", "why_not"),
    [
        # sudo with a terminal of its own, tmux, another session of one connection, login typed
        (line(SUDO, BEFORE, cgroup=SSH.format(4), audit="4", tty=2), "same_login"),
        (line("edgewarden bash tmux", AFTER, cgroup=SSH.format(4), audit="4"), "same_login"),
        (line("edgewarden bash sshd-session sshd*", AFTER, cgroup=SSH.format(4)), "same_login"),
        (line("edgewarden sh login sudo bash sshd-session sshd*", BEFORE, cgroup=SSH.format(4),
              audit="9"), "same_login"),
        # systemd-run --scope --slice=user-0.slice --unit=session-9 keeps the processes above
        (line(SSHD, BEFORE, cgroup="/user.slice/user-0.slice/session-9.scope"), "old_login"),
    ],
)  # fmt: skip
def test_the_same_login_in_other_clothes(confirms: Line, why_not: str) -> None:
    by = ASKED["ssh"].session(TRIAL_S)
    assert confirms.session(AFTER + 1).why_not(by) == why_not


def test_several_sessions_of_one_connection_are_one_login() -> None:
    """ssh -o ControlMaster without logind: the shell is new, the sshd above it is not."""
    shared = Line([(700, AFTER), (699, AFTER), (498, BEFORE), (100, 10)])
    shared.names = ["edgewarden", "bash", "sshd-session", "sshd"]
    asked = Line([(500, BEFORE), (499, BEFORE), (498, BEFORE), (100, 10)])
    asked.names = shared.names
    assert shared.session(AFTER).why_not(asked.session(TRIAL_S)) == "same_login"


@pytest.mark.parametrize("asked", ASKED)
def test_a_window_that_was_open_all_along_proves_nothing(asked: str) -> None:
    by = ASKED[asked].session(TRIAL_S)
    early = line(SSHD, BEFORE, first_pid=700, cgroup=SSH.format(3), audit="3")
    assert early.session(AFTER).why_not(by) == "old_login"


def test_a_getty_that_waited_since_the_boot_lets_a_new_person_in() -> None:
    """login is the getty's own process; the shell below it begins with the login."""
    fresh = Line([(700, AFTER), (699, AFTER), (90, 5)], GETTYS, tty=1088)
    fresh.names = ["edgewarden", "sh", "login"]
    assert fresh.session(AFTER + 1).why_not(ASKED["ssh"].session(TRIAL_S)) == ""
    assert fresh.session(AFTER + 1).why_not(ASKED["serial"].session(TRIAL_S)) == ""


def test_without_a_door_in_sight_another_scope_decides() -> None:
    by = ASKED["ssh"].session(TRIAL_S)
    desktop = line("edgewarden bash lxterminal", AFTER, cgroup=SSH.format(7), tty=1026)
    assert desktop.session(AFTER).why_not(by) == ""
    unheard_of = line("edgewarden bash webshell*", AFTER, cgroup="/x.service", audit="8", tty=1026)
    assert unheard_of.session(AFTER).why_not(by) == ""
    assert unheard_of.session(AFTER).why_not(ASKED["dropbear"].session(TRIAL_S)) == "unknown_login"


def test_where_nothing_is_known_nothing_is_proved() -> None:
    gone = session_of(lambda _: "", 9, 0)
    assert gone.why_not(gone) == "no_login"
    assert NOBODY.why_not(NOBODY) == "no_login"


def test_a_long_or_broken_way_up_ends() -> None:
    texts = {f"{pid}/stat": f"{pid} (a) b) S {pid + 1}{' 0' * 17} 5" for pid in range(2, 9000)}
    asked: list[str] = []

    def proc_text(name: str) -> str:
        asked.append(name)
        return texts.get(name, "")

    assert session_of(proc_text, 2, 0).door == ""
    assert len(asked) < 100
    assert session_of(lambda _: "9 (x) S nothing", 9, 0).door == ""


def test_words_are_read_back_and_others_are_nobodys() -> None:
    made = ASKED["ssh"].session(TRIAL_S)
    assert Session.of(made.words()) == made
    assert Session.of(("session-5.scope", "7", "tty 1")) == NOBODY
    assert Session.of((*made.words()[:3], "soon", *made.words()[4:])) == NOBODY


def test_every_refusal_has_words() -> None:
    assert set(REFUSALS) == {"no_login", "same_login", "old_login", "unknown_login"}


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        (SSH.format(4), "session-4.scope"),
        ("/system.slice/run-u7.service", "run-u7.service"),
        (USERS_OWN.format("session-99.scope"), ""),
        ("/user.slice", ""),
        ("/", ""),
    ],
)
def test_the_unit_around_a_process(cgroup: str, unit: str) -> None:
    assert unit_around(lambda _: f"0::{cgroup}\n", 9) == unit
