"""Whether gate is heard of, told to the fleet: link neither waits for gate at a start nor needs it.

Rules in order:

1. A start says that gate is not heard yet (link.py); the first that gate tells of itself is an
   event, so that the two together say when this gateway's programs were watched again.
2. Not heard for SILENT_S, at a start or later: one alarm. Heard after that: one event.
3. Lost and heard again OFTEN times within OFTEN_S: one alarm, and one in that time at most. A gate
   that ends by itself as soon as it works is never silent for long, and enforces nothing.
4. Evidence waits until START_S after the start for the tier and mode that it is to name, and no
   longer: what answers a challenge would else say for a whole period what was true for a moment.

A gate that is restarted once, by guard or by a person, is back in a second and no event.

    heard = Heard(sink, clock)
    heard.came(stats); heard.went(); heard.look(); await heard.settled()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from edgewarden.ports import Clock, FactSink
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.local import GateStats

START_S = 8.0
"""A board that needs two seconds for its policy has gate up in four. Less than a challenge lives
(nonce_ttl_s of the fleet's settings, 60), and than link keeps what only its start needs."""
SILENT_S = 30.0
"""Far above a start, half of what the policy one-shot may take before it is ended."""
OFTEN, OFTEN_S = 3, 600.0
"""As guard's kills (daemon/gate.py): an upgrade or a person's restart is one or two."""
CODE = "EW-AGT-003"
_STATUS, _CREATE = 3, 1


class Heard:
    """See the module. Every method on the loop's thread.

    Args:
        sink: takes the events.
        clock: tells since when.
    """

    def __init__(self, sink: FactSink, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._since_ns: int | None = clock.now().boot_ns
        self._began_ns = self._since_ns
        self._owed = True
        self._alarmed = False
        self._come = asyncio.Event()
        self._back_ns = deque[int](maxlen=OFTEN)
        self._often_ns: int | None = None

    def came(self, stats: GateStats) -> None:
        """Gate told how it is."""
        if self._since_ns is not None and self._come.is_set():
            self._came_back()
        self._since_ns = None
        self._come.set()
        if self._owed:
            self._owed = self._alarmed = False
            detail: dict[str, Plain] = {
                "gate": "heard",
                "tier": stats.tier,
                "mode": stats.mode,
                "armed": stats.armed,
            }
            now_ns = self._clock.now().boot_ns
            self._sink(Event(OCSF.HEALTH, _STATUS, Severity.INFORMATIONAL, now_ns, detail))

    def went(self) -> None:
        """The connection to gate is gone, or there was none."""
        if self._since_ns is None:
            self._since_ns = self._clock.now().boot_ns

    def look(self) -> None:
        """Tell of a gate that was not heard for too long; from time to time."""
        silent_s = self.silent_s()
        if silent_s is None or silent_s < SILENT_S or self._alarmed:
            return
        self._owed = self._alarmed = True
        title = f"gate was not heard for {SILENT_S:.0f} s: programs start unchecked"
        self._alarm(title, "not heard")

    def _came_back(self) -> None:
        now_ns = self._clock.now().boot_ns
        self._back_ns.append(now_ns)
        often_ns = int(OFTEN_S * 1e9)
        lately = self._often_ns is not None and now_ns - self._often_ns < often_ns
        if len(self._back_ns) < OFTEN or now_ns - self._back_ns[0] >= often_ns or lately:
            return
        self._often_ns = now_ns
        title = f"gate was lost {OFTEN} times in {OFTEN_S / 60:.0f} min: programs start unchecked"
        self._alarm(title, "lost again and again")

    def _alarm(self, title: str, gate: str) -> None:
        now_ns = self._clock.now().boot_ns
        detail: dict[str, Plain] = {"title": title, "gate": gate}
        self._sink(Event(OCSF.DETECTION_FINDING, _CREATE, Severity.HIGH, now_ns, detail, CODE))

    def silent_s(self) -> float | None:
        """Since when gate is not heard, in seconds; None while it is."""
        if self._since_ns is None:
            return None
        return (self._clock.now().boot_ns - self._since_ns) / 1e9

    def starting(self) -> bool:
        """Whether gate was not heard since this start, which is not long ago."""
        return not self._come.is_set() and self._left_s() > 0

    async def settled(self) -> None:
        """Return when gate was heard once, or START_S after the start."""
        if self.starting():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._left_s()):
                    await self._come.wait()

    def _left_s(self) -> float:
        return START_S - (self._clock.now().boot_ns - self._began_ns) / 1e9
