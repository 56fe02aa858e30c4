"""From which login a person speaks: what "confirmed from a new connection" is measured by.

A trial of enforcement proves that one still gets in only if whoever confirms it came in after it
began. So each request carries the login it came from, as the kernel and systemd know it.

What this decides about who confirms, in order (``why_not``):

1. It must be a login: in a session scope that logind made; or below a program that lets people in
   (DOORS: sshd, dropbear, login), whatever unit that runs in, so that a board without logind and a
   serial console count too; or, for a door that nobody listed, on a terminal with an audit session.
   Else ``no_login``: systemd-run, cron and nsenter start without anybody coming in.
2. It must be another than the one that asked. Of scope, door and audit session the first that both
   have decides, else ``same_login``. sudo's own terminal, tmux, a second window of one connection
   and ``login`` typed in it are the same login.
3. It must have begun after the trial, else ``old_login``: that another window was open all along
   proves nothing either. When one began is told by the first process below the door; where there is
   no door in sight (tmux, a desktop's terminal) another scope or audit session must do.

What can be faked: root may give a scope or a process any name. Only root is heard at all, and who
would cheat himself can as well leave ``--confirm`` out.

What it leaves to others: what follows (gate/modes.py, cli/confine.py). Nothing here can wait:
/proc/PID/cgroup, sessionid and stat take no lock of the other process's memory.

    session_of(doors.proc_text, pid, now_ns).why_not(trial.by)       # "" for a new login
"""

from __future__ import annotations

import os

from edgewarden.wire.lean import Frozen, field_names
from edgewarden.wire.units import unit_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOORS = frozenset(
    (
        "sshd", "sshd-session", "dropbear", "tinysshd", "tailscaled", "login", "sulogin",
        "cockpit-session",
    )
)  # fmt: skip
"""Programs behind which a person was let in, by the kernel's name of a process (15 bytes).
sshd-session: OpenSSH 9.8 and on. telnetd and every getty start login."""
MAX_ANCESTORS = 64
"""Far more than a person's shells; a longer way up is nobody's login."""
NO_AUDIT_SESSION = "4294967295"
"""AUDIT_SID_UNSET of <linux/audit.h>, (unsigned)-1."""
REFUSALS = {
    "no_login": "this is no login (systemd-run, cron, nsenter?): that it runs proves nothing",
    "same_login": "this login asked for the trial; that it is still here proves nothing",
    "old_login": "this login is older than the trial; that it is still here proves nothing",
    "unknown_login": "this login cannot be told from the one that asked for the trial",
}
_UNIFIED = "0::"


class Session(Frozen):
    """One login.

    Attributes:
        scope: the session scope that logind made, "" for none.
        door: process and start of the program that let somebody in, "" for none.
        audit: number of the audit session, "" when none was set.
        terminal: "1" when it has a controlling terminal and is of this host's processes.
        began_ticks: when the first process below the door started, since the boot; "" unknown.
        now_ticks: when this was asked.
    """

    __slots__ = ("audit", "began_ticks", "door", "now_ticks", "scope", "terminal")
    audit: str
    began_ticks: str
    door: str
    now_ticks: str
    scope: str
    terminal: str

    def why_not(self, earlier: Session) -> str:
        """Why this is certainly no login that began after ``earlier`` asked; "" when it is.

        Returns:
            A key of REFUSALS, or "".
        """
        if not (self.scope or self.door or (self.audit and self.terminal)):
            return "no_login"
        other = False
        for field in ("scope", "door", "audit"):
            ours, theirs = getattr(self, field), getattr(earlier, field)
            if ours and theirs:
                if ours == theirs:
                    return "same_login"
                other = True
                break
        if self.began_ticks and earlier.now_ticks:
            return "" if int(self.began_ticks) > int(earlier.now_ticks) else "old_login"
        return "" if other else "unknown_login"

    def words(self) -> tuple[str, ...]:
        """For a record that outlives the process."""
        return tuple(str(getattr(self, field)) for field in field_names(self))

    @staticmethod
    def of(words: Sequence[str]) -> Session:
        """What ``words`` gave; words of another version name no login."""
        if len(words) != len(Session.__slots__):
            return NOBODY
        made = Session(*words)
        ticks = made.began_ticks + made.now_ticks
        return made if ticks.isascii() and ticks.isdigit() else NOBODY


NOBODY = Session("", "", "", "", "", "")


class _Process(Frozen):
    """One line of /proc/PID/stat."""

    __slots__ = ("name", "parent", "pid", "start_ticks", "terminal")
    name: str
    parent: int
    pid: int
    start_ticks: str
    terminal: bool


def session_of(proc_text: Callable[[str], str], pid: int, now_ns: int) -> Session:
    """The login of a process.

    Args:
        proc_text: name below /proc -> its text, "" when it is gone.
        pid: from SO_PEERCRED, so it lived when it connected.
        now_ns: CLOCK_BOOTTIME.
    """
    names = _units(proc_text, pid)
    scope = names[-1] if len(names) == 3 and names[0] == "user.slice" else ""
    if not (scope.startswith("session-") and scope.endswith(".scope")):
        scope = ""
    line = _ancestors(proc_text, pid)
    # user@.service starts what a timer of the user's asks for, and has an audit session too.
    at_terminal = bool(line) and line[0].terminal and line[-1].pid == 1
    alone = any(name.startswith("user@") for name in names)
    audit = proc_text(f"{pid}/sessionid").strip()
    door, below = _door(line)
    return Session(
        "" if audit == NO_AUDIT_SESSION else audit,
        below.start_ticks if below else "",
        f"{door.pid} {door.start_ticks}" if door else "",
        str(now_ns * os.sysconf("SC_CLK_TCK") // 1_000_000_000),
        scope,
        "1" if at_terminal and not alone else "",
    )


def unit_around(proc_text: Callable[[str], str], pid: int) -> str:
    """The login scope or unit that a process runs in; "" where that is a slice, or a user's own
    service, which is the same for every login of his."""
    names = _units(proc_text, pid)
    last = names[-1] if names else ""
    return "" if last.endswith(".slice") or last.startswith("user@") else last


def _units(proc_text: Callable[[str], str], pid: int) -> tuple[str, ...]:
    for line in proc_text(f"{pid}/cgroup").split("\n"):
        if line.startswith(_UNIFIED):
            return unit_of(line[len(_UNIFIED) :])
    return ()


def _ancestors(proc_text: Callable[[str], str], pid: int) -> list[_Process]:
    """The process and those above it, PID 1 last; shorter where it was started from outside."""
    found: list[_Process] = []
    while pid > 0 and len(found) < MAX_ANCESTORS:
        head, _, tail = proc_text(f"{pid}/stat").rpartition(")")
        fields = tail.split()  # proc(5): state, ppid, pgrp, session, tty_nr, ..., starttime (22nd)
        if len(fields) < 20 or not (fields[1].isdigit() and fields[19].isdigit()):
            break
        name, parent = head.partition("(")[2], int(fields[1])
        found.append(_Process(name, parent, pid, fields[19], fields[4] != "0"))
        pid = parent
    return found


def _door(line: list[_Process]) -> tuple[_Process | None, _Process | None]:
    """The program that let the person in, and the first process below it.

    The outermost row of doors counts, not one that was typed later; of sshd's row (listener, a
    process of root's, one of the user's) the innermost, which is this connection's alone.
    """
    at = len(line) - 1
    while at > 0 and line[at].name not in DOORS:
        at -= 1
    while at > 0 and line[at - 1].name in DOORS:
        at -= 1
    return (line[at], line[at - 1]) if at > 0 else (None, None)
