"""What link watches about processes and listeners: looks and rules, put together.

Decides the order only: a look at processes, the rules on what is new and what changed, required
processes, storms; and a look at listeners when it is due. Gate's alerts and totals come in through
``alert`` and ``batch``. Leaves to watch/ what a finding is, to triage what is told how often.

What cannot be seen from here is said in ``gaps``, which status shows: link has no privilege.

    watcher = Watcher(settings.processes, sink, clock, Sockets())
    ProcessSweep(..., watch=watcher.see)
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator, Mapping

from edgewarden.inventory.looked import LATE_S, Looks
from edgewarden.inventory.preloads import PATH, read_preload
from edgewarden.inventory.procfiles import forks_ever
from edgewarden.inventory.sockets import Sockets, ephemeral_ports
from edgewarden.ports import Clock, FactSink, Sleep
from edgewarden.settings.processes import Processes as Settings
from edgewarden.watch.findings import finding
from edgewarden.watch.listeners import Expected, Listeners
from edgewarden.watch.process_rules import Rules, judge_change, judge_new
from edgewarden.watch.required import Required, Requirement
from edgewarden.watch.storms import Storms
from edgewarden.wire.facts import Event, Plain, Severity
from edgewarden.wire.local import ProcBatch
from edgewarden.wire.local_processes import ProcessAlert
from edgewarden.wire.processes import Delta, Listener, Process

DEAF_NS = 30 * 10**9
"""Without a word from gate for so long the sweep tells of root starts and tracers itself: gate
tells of each fork within a second, and who is new was forked."""
ARMMEM = re.compile(r"/usr/lib/arm-linux-gnueabihf/libarmmem[-a-z0-9${}A-Z_]*\.so")
"""Raspberry Pi OS (32 bits) has this line from its first boot (package raspi-copies-and-fills)."""
NOBODY: Mapping[int, Process] = {}
FINDINGS_PER_LOOK = 256
"""More at a time are counted by their code: triage would fold most of them anyway."""


class Watcher:
    """Every method on the loop's thread.

    Args:
        settings: [processes].
        sink: takes the findings.
        clock: stamps them.
        sockets: lists listeners.
        looks: what the privileged look leaves.
    """

    def __init__(
        self,
        settings: Settings,
        sink: FactSink,
        clock: Clock,
        sockets: Sockets,
        looks: Looks | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self._settings = settings
        self._sink = sink
        self._clock = clock
        self._sockets = sockets
        self._looks = looks
        self._present: Mapping[int, Process] = {}
        self._required = Required(_requirements(settings))
        self._listeners = Listeners(_expected(settings), ephemeral_ports())
        self._storms = Storms(settings.storm_per_s, forks_ever)
        self._heard_ns: int | None = None
        self._preload: tuple[str, ...] = ()
        self._preload_seen = False
        self.findings = 0

    async def run(self) -> None:
        """Look at listeners and the loader's file until cancelled."""
        while True:
            self.look_at_listeners()
            self.look_at_preload()
            await self._sleep(self._sockets.period_s)

    # --- what comes in ------------------------------------------------------------------------

    def see(self, delta: Delta) -> None:
        """A sweep's result."""
        self._present = delta.present
        self._tell_some(self._judge(delta), delta.now_ns)
        self._tell(self._required.see(delta))
        self._tell(self._storms.due(delta.now_ns))

    def _judge(self, delta: Delta) -> Iterator[Event]:
        rules = Rules(
            frozenset(self._settings.may_elevate),
            self._settings.most_sockets,
            self.hears(delta.now_ns),
        )
        for process in delta.began:
            parent = delta.present.get(process.ppid)
            yield from judge_new(process, parent, rules, delta.now_ns, baseline=delta.baseline)
        for before, after in delta.changed:
            yield from judge_change(before, after, rules, delta.now_ns, delta.present)

    def hears(self, now_ns: int) -> bool:
        """Whether gate tells of root starts and tracers, from the kernel's own events."""
        return self._heard_ns is not None and now_ns - self._heard_ns <= DEAF_NS

    def batch(self, batch: ProcBatch) -> None:
        """Gate's totals."""
        now_ns = self._heard_ns = self._clock.mono_ns()
        self._tell(self._storms.take(now_ns, batch.forks, batch.execs, batch.exits))

    def alert(self, message: ProcessAlert) -> Event:
        """The event of one of gate's alerts."""
        self._heard_ns = self._clock.mono_ns()
        return alert_event(message, self._present, frozenset(self._settings.may_elevate))

    def look_at_listeners(self) -> None:
        """List, compare, tell."""
        now_ns = self._clock.mono_ns()
        self._tell(self._listeners.see(now_ns, self._sockets.listeners(), self._who))

    def look_at_preload(self, path: str = PATH) -> None:
        """Tell when a library is loaded into every program."""
        libraries = read_preload(path)
        if libraries != self._preload and libraries:
            title = f"a library is loaded into every program: {', '.join(libraries)}"
            named: list[Plain] = [*libraries]
            evidence: dict[str, Plain] = {"path": path, "libraries": named}
            now_ns = self._clock.mono_ns()
            usual = not self._preload_seen and all(ARMMEM.fullmatch(one) for one in libraries)
            severity = Severity.LOW if usual else Severity.HIGH
            self._tell(iter([finding(now_ns, "EW-PROC-004", title, severity, None, evidence)]))
        self._preload, self._preload_seen = libraries, True

    def _who(self, listener: Listener) -> Process | None:
        pids = [p.pid for p in self._present.values() if listener.uid in (p.uid, p.euid)]
        owner = self._sockets.owner(listener, pids)
        if owner is None and self._looks is not None:
            owner = self._looks.owner_of(listener.inode)
        return None if owner is None else self._present.get(owner)

    def finish(self) -> None:
        """Before the end: the totals that were not told yet."""
        self._tell(self._storms.due(self._clock.mono_ns(), all_now=True))

    # --- what goes out ------------------------------------------------------------------------

    def _tell(self, events: Iterator[Event]) -> None:
        for event in events:
            self.findings += 1
            self._sink(event)

    def _tell_some(self, events: Iterator[Event], now_ns: int) -> None:
        """At most FINDINGS_PER_LOOK one by one."""
        more: Counter[str] = Counter()
        for number, event in enumerate(events):
            self.findings += 1
            if number < FINDINGS_PER_LOOK:
                self._sink(event)
            else:
                more[event.code] += 1
        for code, count in more.items():
            title = "more findings in one look than are told one by one"
            self._sink(finding(now_ns, code, title, Severity.MEDIUM, None, {"repeated": count}))

    @property
    def missing(self) -> tuple[str, ...]:
        """Required processes that are not there."""
        return tuple(self._required.missing)

    def state(self, unanswering: int = 0) -> dict[str, object]:
        """For status.

        Args:
            unanswering: processes that do not show their command line.
        """
        return {
            "findings": self.findings,
            "required_missing": self._required.missing,
            "listeners_by": self._sockets.source,
            "not_visible": [*self._gaps(unanswering)],
        }

    def _gaps(self, unanswering: int) -> Iterator[str]:
        """What cannot be seen from here, and why."""
        yield "code given to an interpreter inline (-c, -e, standard input): there is no file"
        if not self.hears(self._clock.mono_ns()):
            yield "root starts, tracers and storms between two sweeps: nothing heard from gate"
        if unanswering:
            yield f"command lines of {unanswering} processes: their memory does not answer"
        age_s = None
        if self._looks is not None:
            age_s = self._looks.age_s(self._clock.mono_ns())
            if self._looks.fault:
                yield f"what the privileged look left is not believed: {self._looks.fault}"
        yield from self._missed()
        what = "programs, environment and sockets of other users' processes"
        if age_s is None:
            yield f"{what}: no privileged look has run (edgewarden-look.timer)"
        elif age_s > LATE_S:
            yield f"{what}: the last privileged look is {age_s:.0f} s old"
        else:
            yield f"{what} that live shorter than the minute between two privileged looks"

    def _missed(self) -> Iterator[str]:
        """What the last privileged look had no time or room for."""
        last = None if self._looks is None else self._looks.last
        if last is not None and last.left_out:
            yield f"{last.left_out} processes that the last privileged look had no room for"
        if last is not None and last.unread:
            yield f"environment of {last.unread} processes: it did not answer in time"


def alert_event(
    m: ProcessAlert,
    present: Mapping[int, Process] = NOBODY,
    may_elevate: frozenset[str] = frozenset(),
) -> Event:
    """The finding of an alert; what the sweep knows of the process completes it."""
    known = present.get(m.pid)
    program = m.program.decode("utf-8", "backslashreplace")
    process: dict[str, Plain] = {} if known is None else known.as_map()
    process |= {"pid": m.pid, "uid": m.uid}
    if program:
        process["path"] = program
    evidence: dict[str, Plain] = {"source": "proc connector", "process": process}
    if m.kind == "root":
        severity = Severity.LOW if program in may_elevate else Severity.HIGH
        evidence["from_uid"] = m.uid
        return finding(m.boot_ns, "EW-PROC-001", "program became root", severity, None, evidence)
    by: dict[str, Plain] = {"pid": m.by_pid}
    if m.by_program:
        by["path"] = m.by_program.decode("utf-8", "backslashreplace")
    evidence["tracer"] = by
    title = f"process is traced by {m.by_program.decode('utf-8', 'backslashreplace') or 'another'}"
    return finding(m.boot_ns, "EW-PROC-002", title, Severity.MEDIUM, None, evidence)


def _requirements(settings: Settings) -> Iterator[Requirement]:
    for one in settings.required:
        yield Requirement(
            name=one.name, exe=one.exe or "", unit=one.unit or "", comm=one.process or "",
            grace_s=one.grace_s, restarts=one.restarts, within_s=one.within_s,
        )  # fmt: skip


def _expected(settings: Settings) -> Iterator[Expected]:
    for one in settings.listener:
        yield Expected(
            name=one.name, protocol=one.protocol, port=one.port, address=one.address or "",
            uid=one.uid,
        )  # fmt: skip
