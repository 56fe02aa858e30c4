"""Whose programs are stopped at tier T2.

What this decides: what the settings' words (a cgroup's path, users) are to the BPF program (an
inode number and a depth, uids). A user who is not named among those who may start programs is
killed in the kernel, which nobody can take back; a SIGSTOP can be, by whoever has the same uid.
What it leaves to others: stopping (stop/stopper.py).

    aim_of(StopConfig("/system.slice", ()), mountinfo)      # Aim(STOP, (), (4711, 1))
"""

from __future__ import annotations

import os

from edgewarden.errors import OperatorFault
from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgewarden.wire.gate_files import StopConfig

PASS, STOP, KILL = 0, 1, 2
"""As in exec_stop.bpf.c."""


class Aim(Frozen):
    """Whom to stop.

    Attributes:
        otherwise: PASS, STOP or KILL, for a user who is not named.
        users: uid -> PASS, STOP or KILL.
        cgroup: id (inode) of a cgroup v2 and its depth; (0, 0): the whole host.
    """

    __slots__ = ("cgroup", "otherwise", "users")
    otherwise: int
    users: tuple[tuple[int, int], ...]
    cgroup: tuple[int, int]


def aim_of(config: StopConfig, mountinfo: str) -> Aim:
    """Whom to stop, with the cgroup looked up as it is now.

    Args:
        mountinfo: /proc/self/mountinfo, whole.

    Raises:
        OperatorFault: no such cgroup (field name ``no_cgroup``), or no cgroup v2 at all.
    """
    users = tuple((uid, STOP) for uid in config.users)
    otherwise = KILL if users else STOP
    if config.cgroup == "/":
        return Aim(otherwise, users, (0, 0))
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 ") and before.split()[3] == "/":
            where = before.split()[4] + config.cgroup
            break
    else:
        raise _fault("this host has no cgroup v2 hierarchy")
    try:
        number = os.stat(where).st_ino
    except OSError as fault:
        raise _fault(f"{where}: {os.strerror(fault.errno or 0)}") from fault
    return Aim(otherwise, users, (number, config.cgroup.count("/")))


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        f"programs cannot be stopped there: {text}",
        code="EW-EXEC-010",
        next_step="change [exec] bpf_cgroup in the settings; / is the whole host",
        name="no_cgroup",
    )
