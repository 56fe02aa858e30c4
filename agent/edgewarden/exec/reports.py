"""What was answered, on its way to link: after the answer, and a moment later.

What this decides: when. Answers come first: neither /proc nor a slow link can delay an exec then,
and gate, which goes before others, is not in the way of the process that it has just let go (+140
us at p10 when it reported at once, machine busy). And that whatever fails on the way costs no
descriptor: each event is closed, or handed to ``Hold``.

What it leaves to others: the verdict (exec/responder.py), the wire (wire/local.py).

    reports.add(one); reports.after_round(now_mono, at_once=False)
    reports.tick(now_mono)              # at due_mono
"""

from __future__ import annotations

from edgewarden.exec.hold import LOOK_S
from edgewarden.wire.local import Alarm, AnyMessage, ExecVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.exec.hold import Hold
    from edgewarden.exec.judged import Counters, Judged

REPORT_AFTER_S = LOOK_S
"""One wake-up for both: by then most programs have started and need not be held."""
REPORTS_AT_MOST = 64
"""Two descriptors each."""


class Reports:
    """See the module.

    Args:
        report: takes a fact; must not block.
        proc_link: name below /proc -> what the link says.
        hold: takes what may not have started yet.
        counters: counts what could not be reported.
        tier: of TIERS, for the facts.

    Attributes:
        due_mono: when ``tick`` has something to do; None while it has not.
        tier: of TIERS, for the facts.
    """

    __slots__ = ("_answered", "_counters", "_hold", "_proc_link", "_report", "due_mono", "tier")

    def __init__(
        self,
        report: Callable[[AnyMessage], None],
        proc_link: Callable[[str], bytes],
        hold: Hold,
        counters: Counters,
        tier: str,
    ) -> None:
        self._report = report
        self._proc_link = proc_link
        self._hold = hold
        self._counters = counters
        self.tier = tier
        self._answered: list[Judged] = []
        self.due_mono: float | None = None

    def add(self, one: Judged) -> None:
        """It has its answer."""
        self._answered.append(one)

    def after_round(self, now_mono: float, *, at_once: bool) -> None:
        """Report now if nobody waits for gate, or if it is much; otherwise soon."""
        if at_once or len(self._answered) >= REPORTS_AT_MOST:
            self.all(now_mono)
        elif self.due_mono is None and self._answered:
            self.due_mono = now_mono + REPORT_AFTER_S

    def tick(self, now_mono: float) -> None:
        """Report what is due."""
        if self.due_mono is not None and now_mono >= self.due_mono:
            self.all(now_mono)

    def all(self, now_mono: float) -> None:
        """Report everything, and let go of what need not be held."""
        answered, self._answered, self.due_mono = self._answered, [], None
        for one in answered:
            try:
                self._one(one)
            except Exception:
                self._counters.unreported += 1
            finally:
                if one.inode is None:
                    one.event.close()
                else:
                    self._hold.keep(
                        one.event, one.inode, one.known, owner=one.owner, now_mono=now_mono
                    )

    def _one(self, one: Judged) -> None:
        path = self._proc_link(f"self/fd/{one.event.fd}")
        self._report(
            ExecVerdict(
                one.decision,
                one.reason,
                one.mode,
                self.tier,
                one.digest,
                one.rule or "",
                path,
                max(one.event.pid, 0),
                one.uid,
                one.boot_ns,
            )
        )
        if one.reason == "undecidable":
            answer = "denied" if one.decision == "deny" else "allowed"
            text = f"not judged, {answer}: {path.decode('utf-8', 'backslashreplace')}: {one.fault}"
            self._report(Alarm("EW-EXEC-007", 4, text, one.boot_ns))
