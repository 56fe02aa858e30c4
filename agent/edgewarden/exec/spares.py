"""Programs that start again and again: the kernel need not ask for each, it only tells.

What this decides: of which contents gate is not asked while they start, and until when. All of this
must hold:

1. A read lease on the file is ours and stays ours (exec/hold.py): nobody can write to it, cut it
   short or map it for writing before gate lets go. Who asks to, waits. So the mark cannot cover a
   content that nobody judged, which is what an ignore mark alone does (a store through a mapping
   that was there before leaves it in place; a lease is refused while there is one).
2. Nobody but root can write to it, as far as its inode says.
3. The rule that lets it through is the same for all who ask (exec/quick.py).
4. It was started again within LINGER_S of a start. It is asked for again when it was not started
   for so long, when somebody wants to write, when the policy is another, when the marks end.

The mark is on the inode, found through the descriptor that carries the lease: a rename, a link or
another mount leads to the same content, and another content is another inode.

Each start is told by a group of its own, which makes nobody wait and wakes nobody: it is read every
LOOK_S while there is such a program, so each start is reported by name, rule and pid. Of one that
has ended by then the uid is not known any more.

A start that was not asked for may not have taken the kernel's own write lock when the mark is taken
away: the lease is kept QUIET_S longer, and as long as one that was told has not started.

What it leaves to others: the lease (exec/hold.py), the verdict that is repeated (exec/quick.py).

    spares.begin(group, permitted=True)
    spares.spare(event, known, under_way=[pids])       # from now on nobody is asked
    for one in spares.hear(now_mono): ...              # starts, to be reported and held
    spares.ask_again(known, now_mono); spares.drop(known)
"""

from __future__ import annotations

from os import fstat

from edgewarden.errors import HardwareFault
from edgewarden.exec.digest import only_root
from edgewarden.exec.judged import Judged
from edgewarden.judge.exec_table import CRITICAL
from edgewarden.kernel.fanotify import FAN_NOPIDFD, open_group

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgewarden.exec.digest import Known
    from edgewarden.exec.judged import Counters
    from edgewarden.exec.subject import Subjects
    from edgewarden.judge.exec_rules import Rule
    from edgewarden.kernel.fanotify import ExecEvent, Group

    Inode = tuple[int, int]
    """st_dev, st_ino."""

QUIET_S = 0.02
"""From the kernel's look at our mark to its telling us there is nothing that sleeps; this is for a
processor that somebody else gets just then (a slice is 1 to 4 ms)."""
SPARED_AT_MOST = 64
"""A mark keeps an inode in memory; a gateway has not so many programs in a loop at once."""
READS_AT_MOST = 32
"""Of EVENTS_PER_READ starts each; the rest is for the next time."""


class _Spared:
    """``asked``: pids that were asked for all the same; they will be told, too."""

    __slots__ = ("asked", "fd", "known", "quiet_mono", "rule")

    def __init__(self, known: Known, rule: Rule, fd: int) -> None:
        self.known = known
        self.rule = rule
        self.fd = fd
        self.asked: set[int] = set()
        self.quiet_mono: float | None = None
        """When the lease may go; None while nobody is asked."""


class Spares:
    """See the module.

    Args:
        word: content -> the rule that lets it through whoever asks, or None.
        subjects: who started it.
        counters: of the responder.
        boot_ns: CLOCK_BOOTTIME.
        mono_s: CLOCK_MONOTONIC in seconds.
        open_group: as kernel/fanotify.py's.
    """

    __slots__ = (
        "_boot_ns", "_counters", "_group", "_mono_s", "_open_group", "_permitted", "_spared",
        "_starts", "_subjects", "_word",
    )  # fmt: skip

    def __init__(
        self,
        word: Callable[[Known], Rule | None],
        subjects: Subjects,
        counters: Counters,
        boot_ns: Callable[[], int],
        mono_s: Callable[[], float],
        open_group: Callable[..., Group] = open_group,
    ) -> None:
        self._word = word
        self._subjects = subjects
        self._counters = counters
        self._boot_ns = boot_ns
        self._mono_s = mono_s
        self._open_group = open_group
        self._permitted = False
        self._group: Group | None = None
        self._starts: Group | None = None
        self._spared: dict[Inode, _Spared] = {}

    def __len__(self) -> int:
        return len(self._spared)

    def begin(self, group: Group, *, permitted: bool) -> None:
        """Marks were put, in another group or anew; whatever was spared before is asked for.

        Args:
            permitted: they are permission marks, and not of strict mode.
        """
        if group is self._group:
            self.all_again()
        else:
            self.end()
        self._group, self._permitted = group, permitted

    def end(self) -> None:
        """The group is closed, and with it its marks."""
        if self._starts is not None:
            self._starts.close()
        self._group = self._starts = None
        self._permitted = False
        self._spared.clear()

    def spare(self, event: ExecEvent, known: Known, under_way: Iterable[int]) -> bool:
        """Ask no more for what starts this file, if all but 1 and 4 of the module holds.

        Args:
            event: whose descriptor carries the lease, seen to be held a moment ago.
            known: its content.
            under_way: pids that have their answer and may not have been told yet.
        """
        group, rule = self._group, self._word(known)
        if group is None or not self._permitted or rule is None or not rule.allow:
            return False
        status = fstat(event.fd)
        inode = status.st_dev, status.st_ino
        before = self._spared.get(inode)
        if before is not None and before.known is not known:
            return False
        if not only_root(status) or len(self) >= SPARED_AT_MOST:
            return False
        self.drop(known)
        if not self._mark(group, event.fd):
            self._permitted = False  # a kernel before 6.0, or no room: the marks stay as they are
            return False
        one = self._spared[inode] = _Spared(known, rule, event.fd)
        one.asked.update(under_way)
        return True

    def _mark(self, group: Group, fd: int) -> bool:
        try:
            if self._starts is None:
                self._starts = self._open_group(permission=False)
            self._starts.mark_file(fd)  # first: none may start unseen
        except HardwareFault:
            return False
        try:
            group.mark_file(fd)
        except HardwareFault:
            self._starts.mark_file(fd, remove=True)
            return False
        return True

    def asked(self, event: ExecEvent, inode: Inode) -> None:
        """A start that was asked for and is reported: it is not to be reported again."""
        one = self._spared.get(inode)
        if one is not None and event.wants_answer and event.pid > 0:
            one.asked.add(event.pid)

    def hear(self, now_mono: float) -> list[Judged]:
        """What has started since, as it is to be reported; each relies on the lease."""
        heard: list[Judged] = []
        if self._starts is None:
            return heard
        for _ in range(READS_AT_MOST):
            try:
                events = self._starts.read()
            except HardwareFault:  # no descriptor is left: that one started unseen
                self._counters.unreported += 1
                break
            if not events:
                break
            for event in events:
                judged = self._told(event, now_mono)
                if judged is None:
                    event.close()
                else:
                    heard.append(judged)
        return heard

    def _told(self, event: ExecEvent, now_mono: float) -> Judged | None:
        if event.fd < 0:
            return None
        status = fstat(event.fd)
        inode = status.st_dev, status.st_ino
        one = self._spared.get(inode)
        if one is None:
            return None
        if event.pid in one.asked:
            one.asked.remove(event.pid)
            return None
        judged = Judged(event, "enforce", self._boot_ns())
        judged.reason = "critical" if one.rule is CRITICAL else "listed"
        judged.digest, judged.rule = one.known.digest, one.rule.name
        judged.known, judged.inode = one.known, inode
        one.known.starting += 1
        one.known.used_mono = now_mono
        self._counters.cached += 1
        self._counters.allowed += 1
        if event.pidfd != FAN_NOPIDFD:
            judged.uid = self._subjects.uid_of(event)
        return judged

    def is_spared(self, known: Known) -> bool:
        """Whether nobody is asked for what starts it."""
        one = self._find(known)
        return one is not None and one.quiet_mono is None

    def ask_again(self, known: Known, now_mono: float) -> None:
        """Each start is asked for again. Twice is harmless."""
        one = self._find(known)
        if one is not None and one.quiet_mono is None:
            self._ask_again(one)
            one.quiet_mono = now_mono + QUIET_S

    def all_again(self) -> None:
        """As ``ask_again``, for all: what the policy says may be another."""
        now_mono = self._mono_s()
        for one in self._spared.values():
            self.ask_again(one.known, now_mono)

    def keeps(self, known: Known, now_mono: float) -> bool:
        """Whether the lease must stay: nobody is asked, or was until a moment ago."""
        one = self._find(known)
        return one is not None and (one.quiet_mono is None or now_mono < one.quiet_mono)

    def drop(self, known: Known) -> None:
        """The lease goes: whatever is left of this goes first."""
        for inode, one in self._spared.items():
            if one.known is known:
                del self._spared[inode]
                if one.quiet_mono is None:
                    self._ask_again(one)
                if self._starts is not None:
                    self._starts.mark_file(one.fd, remove=True)
                return

    def _ask_again(self, one: _Spared) -> None:
        if self._group is not None and self._group.fd >= 0:
            self._group.mark_file(one.fd, remove=True)

    def _find(self, known: Known) -> _Spared | None:
        for one in self._spared.values():
            if one.known is known:
                return one
        return None
