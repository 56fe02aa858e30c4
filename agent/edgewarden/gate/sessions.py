"""From which login a person speaks: what "confirmed from a new connection" is measured by.

A trial of enforcement proves that one still gets in only if whoever confirms it came in anew. So
each request carries the login it came from, as the kernel and systemd know it; a person cannot
choose it.

What this decides, for two requests, in order (the first that both have decides):

1. the session scope that logind made for the login (``session-5.scope`` in the cgroup path), or the
   unit of whoever is no login at all (a transient ``run-u7.service``);
2. the audit session (/proc/PID/sessionid), which pam_loginuid sets once for a login;
3. the terminal, and where there is none the process's session: weaker, for machines with neither.
   A second terminal of the same login counts as new there.

What it leaves to others: what follows (gate/modes.py). Nothing here can wait: /proc/PID/cgroup,
sessionid and stat take no lock of the other process's memory.

    session_of(doors.proc_text, pid).is_other_than(session_of(doors.proc_text, earlier))
"""

from __future__ import annotations

from edgewarden.judge.exec_rules import unit_of
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

NO_AUDIT_SESSION = "4294967295"
"""AUDIT_SID_UNSET of <linux/audit.h>, (unsigned)-1."""
_UNIFIED = "0::"


class Session(Frozen):
    """One login.

    Attributes:
        unit: session scope or unit, "" when the cgroup path names none.
        audit: number of the audit session, "" when none was set.
        terminal: controlling terminal, or session leader where there is none; "" when gone.
    """

    __slots__ = ("audit", "terminal", "unit")
    unit: str
    audit: str
    terminal: str

    def is_other_than(self, earlier: Session) -> bool:
        """Whether this is certainly not the login of ``earlier``."""
        for field in ("unit", "audit", "terminal"):
            ours, theirs = getattr(self, field), getattr(earlier, field)
            if ours and theirs:
                return bool(ours != theirs)
        return False


def session_of(proc_text: Callable[[str], str], pid: int) -> Session:
    """The login of a process.

    Args:
        proc_text: name below /proc -> its text, "" when it is gone.
        pid: from SO_PEERCRED, so it lived when it connected.
    """
    unit = ""
    for line in proc_text(f"{pid}/cgroup").split("\n"):
        if line.startswith(_UNIFIED):
            names = unit_of(line[len(_UNIFIED) :])
            last = names[-1] if names else ""
            # user@.service is the same for every login of a user, and a slice is nobody's.
            if not last.endswith(".slice") and not last.startswith("user@"):
                unit = last
    audit = proc_text(f"{pid}/sessionid").strip()
    return Session(unit, "" if audit == NO_AUDIT_SESSION else audit, _terminal(proc_text, pid))


def _terminal(proc_text: Callable[[str], str], pid: int) -> str:
    """proc(5), stat: fields after the last ``)``: state, ppid, pgrp, session, tty_nr."""
    fields = proc_text(f"{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 5:
        return ""
    return f"tty {fields[4]}" if fields[4] != "0" else f"session {fields[3]}"
