"""Required processes: there, missing, back, or starting over and over.

A requirement names a program (``exe``), a unit, or what the process calls itself (``comm``); all
that are given must fit. What calls itself something vouches for nothing: name the unit where you
can. Where the program is not visible yet (only root may see another user's, once a minute) its own
word stands for ``exe``, from root and from users whose program was seen to be it. A program whose
file an upgrade has replaced since it started is there.

Rules, in order:

1. A start is a matching process whose parent does not match: workers that a server forks are
   none.
2. Missing: nobody matches for ``grace_s``. EW-PROC-008, HIGH, once; when somebody matches again,
   the same code, closed, with how long it was away.
3. Restart loop: ``restarts`` starts within ``within_s``. EW-PROC-009, MEDIUM, once; when
   ``within_s`` passes without reaching that number, closed, with the exact count of starts.
4. What was there at the baseline is no start.

Time comes in with each look; state is in the value that is handed back and forth.

    state, events = look(requirement, state, delta)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from edgewarden.plain import dataclass, field
from edgewarden.watch.command_lines import DELETED
from edgewarden.watch.findings import finding
from edgewarden.wire.facts import Event, Severity
from edgewarden.wire.processes import Delta, Process

MAX_RECENT = 1024
"""Starts remembered per requirement; ``restarts`` is far below."""
MAX_USERS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """A process that must be there; "" for what does not matter."""

    name: str
    exe: str = ""
    unit: str = ""
    comm: str = ""
    grace_s: float = 30.0
    restarts: int = 5
    within_s: float = 300.0

    def fits(self, process: Process) -> bool:
        """Whether ``process`` is one of these."""
        return (
            self.exe in ("", process.program.removesuffix(DELETED))
            and self.unit in ("", process.unit)
            and self.comm in ("", process.comm)
        )


@dataclass(slots=True)
class Watched:
    """What is remembered of one requirement between two looks.

    Attributes:
        members: processes that match now.
        absent_ns: since when nobody does; None while somebody does.
        missing: whether that was told.
        recent: times of starts within ``within_s``.
        looping: whether a restart loop was told.
        starts: since the watching began.
        loop_starts: in the loop that is going on.
        users: real users of processes that were seen to run the program; the first MAX_USERS.
    """

    members: set[tuple[int, int]] = field(default_factory=set)
    absent_ns: int | None = None
    missing: bool = False
    recent: list[int] = field(default_factory=list)
    looping: bool = False
    starts: int = 0
    loop_starts: int = 0
    users: set[int] = field(default_factory=set)


class Required:
    """All requirements and what is remembered of each."""

    def __init__(self, requirements: Iterable[Requirement]) -> None:
        self.watched = {one: Watched() for one in requirements}

    def see(self, delta: Delta) -> Iterator[Event]:
        """What one look means."""
        for one, state in self.watched.items():
            yield from look(one, state, delta)

    @property
    def missing(self) -> list[str]:
        """Names of what is missing and was told so."""
        return [one.name for one, state in self.watched.items() if state.missing]


def look(one: Requirement, state: Watched, delta: Delta) -> Iterator[Event]:
    """Bring ``state`` up to date; yield what is to be told."""
    fitting = [p for p in delta.present.values() if _vouched(one, state, p)]
    if delta.baseline:
        state.members = {p.key for p in fitting}
    else:
        began = [p for p in delta.began if p.key not in state.members and _vouched(one, state, p)]
        keys = {p.pid for p in began} | {pid for pid, _ in state.members}
        fresh = sum(not _within(p, one, delta.present, keys) for p in began)
        _count(state, fresh, delta.now_ns)
        state.members |= {p.key for p in began}
    state.members &= {p.key for p in fitting}
    yield from _presence(one, state, delta)
    yield from _loop(one, state, delta.now_ns)


def _vouched(one: Requirement, state: Watched, process: Process) -> bool:
    """Whether it is one of these, and not by the word of somebody who never was."""
    if not one.fits(process):
        return False
    if process.exe and len(state.users) < MAX_USERS:
        state.users.add(process.uid)
    known = not state.users or process.uid in state.users or process.uid == 0
    return bool(process.exe) or not one.exe or known


def _within(
    process: Process, one: Requirement, present: Mapping[int, Process], keys: set[int]
) -> bool:
    """Whether its parent is one of these, too."""
    parent = present.get(process.ppid)
    return process.ppid in keys and (parent is None or one.fits(parent))


def _count(state: Watched, fresh: int, now_ns: int) -> None:
    state.starts += fresh
    state.recent += [now_ns] * min(fresh, MAX_RECENT)
    del state.recent[:-MAX_RECENT]
    if state.looping:
        state.loop_starts += fresh


def _presence(one: Requirement, state: Watched, delta: Delta) -> Iterator[Event]:
    if state.members:
        if state.missing and state.absent_ns is not None:
            away_s = round((delta.now_ns - state.absent_ns) / 1e9, 1)
            process = next(p for p in delta.present.values() if p.key in state.members)
            title = f"required process is back: {one.name}"
            yield finding(
                delta.now_ns, "EW-PROC-008", title, Severity.INFORMATIONAL, process,
                {"required": one.name, "away_s": away_s}, over=True,
            )  # fmt: skip
        state.absent_ns, state.missing = None, False
        return
    if state.absent_ns is None:
        state.absent_ns = delta.now_ns
    if not state.missing and delta.now_ns - state.absent_ns >= one.grace_s * 1e9:
        state.missing = True
        title = f"required process is missing: {one.name}"
        yield finding(
            delta.now_ns, "EW-PROC-008", title, Severity.HIGH, None,
            {
                "required": one.name, "exe": one.exe, "unit": one.unit, "name": one.comm,
                "grace_s": one.grace_s, "starts": state.starts,
            },
        )  # fmt: skip


def _loop(one: Requirement, state: Watched, now_ns: int) -> Iterator[Event]:
    limit_ns = now_ns - round(one.within_s * 1e9)
    state.recent = [at for at in state.recent if at > limit_ns]
    if len(state.recent) >= one.restarts and not state.looping:
        state.looping, state.loop_starts = True, len(state.recent)
        title = f"required process starts over and over: {one.name}"
        yield finding(
            now_ns, "EW-PROC-009", title, Severity.MEDIUM, None,
            {"required": one.name, "starts": state.loop_starts, "within_s": one.within_s},
        )  # fmt: skip
    elif state.looping and len(state.recent) < one.restarts:
        title = f"required process no longer starts over and over: {one.name}"
        yield finding(
            now_ns, "EW-PROC-009", title, Severity.INFORMATIONAL, None,
            {"required": one.name, "starts": state.loop_starts}, over=True,
        )  # fmt: skip
        state.looping, state.loop_starts = False, 0
