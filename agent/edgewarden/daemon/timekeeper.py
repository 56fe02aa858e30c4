"""The clock that link goes by: the system's, the floor, and the fleet's signed time, in that order
of order/clock.py.

* ``now()`` is ports.Clock: what is believed, with what vouches for it. Records, evidence and
  status take their time from here; nothing is scheduled by it (that is CLOCK_BOOTTIME).
* ``verify_at()`` is the time to hold certificates to, where the system's clock is not it.
* ``tick()``, each STEP_S: a step of the system's clock is told (EW-HOST-020) and calls those who
  asked for it (renewal looks again); the floor is kept every hour; the first moment that is known
  in a boot becomes an anchor, an audit event that maps the records made before (EW-HOST-021).
* Signed time is asked for when nothing vouches for the clock, when a certificate's dates do not
  hold, and after a step; again after AGAIN_S. Without an answer sooner, ever more slowly.

A step, a clock in 1970 or ten years ahead deletes nothing and overwrites nothing: the time decides
what is believed of certificates and records, never what is kept.

Methods on the loop's thread, but ``fetch`` (executor).
"""

from __future__ import annotations

import asyncio
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.steps import STEP_S, in_step
from edgewarden.errors import EdgewardenError
from edgewarden.order import clock as order
from edgewarden.order.clock import Known, Look
from edgewarden.plain import dataclass
from edgewarden.ports import Clock, Instant, Randomness
from edgewarden.trust import signed_time, time_file
from edgewarden.trust.identity import Identity
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass
from edgewarden.wire.timing import ANCHOR_CODE, Kept, Moment

BUILT_UTC_S = 1_795_564_800
"""2026-11-25: no gateway runs this earlier. Moved up with each release."""
KEEP_EVERY_S = 3600.0
"""What a power cut can take from the floor; 24 small writes a day."""
AGAIN_S = 6 * 3600.0
"""100 ppm over six hours are two seconds: certificates are minutes away from minding."""
FIRST_RETRY_S, LAST_RETRY_S = 10.0, 600.0
STEPPED_CODE = "EW-HOST-020"

EventSink = Callable[[Event, RecordClass], None]
Fetch = Callable[[], Moment]


@dataclass(slots=True)
class Asking:
    """When signed time is asked for next."""

    due_ns: int = 0
    tries: int = 0


class Timekeeper:
    """See the module's docstring.

    Args:
        system: the machine's own clocks.
        state_dir: where the floor is kept.
        fetch: one exchange for signed time, blocks; raises EdgewardenError.
        sink: takes events.
    """

    def __init__(
        self, system: Clock, state_dir: Path, fetch: Fetch | None, sink: EventSink
    ) -> None:
        self._system = system
        self._state_dir = state_dir
        self._fetch = fetch
        self._sink = sink
        self._known = self._from_before()
        self._last = self._look()
        self._kept_ns = self._last.boot_ns
        self._asking = Asking()
        self._anchored = self.now().uncertainty_ms is not None
        self.on_step: list[Callable[[int], None]] = []
        self.fault: EdgewardenError | None = None

    # --- ports.Clock, and what TLS needs ------------------------------------------------------

    def now(self) -> Instant:
        """All clocks at one moment, as believed."""
        found = order.believe(self._look(), self._known)
        return Instant(found.boot_ns, found.wall_ns, found.uncertainty_ms, found.state)

    def mono_ns(self) -> int:
        """CLOCK_BOOTTIME: nobody steps it, so there is nothing to believe."""
        return self._system.mono_ns()

    def boot_id(self) -> bytes:
        """16 bytes, new at every boot."""
        return self._system.boot_id()

    def verify_at(self) -> int | None:
        """Seconds since 1970 to hold certificates to; None for the system's own clock."""
        at_ns = order.verify_at_ns(self._look(), self._known)
        return None if at_ns is None else at_ns // 10**9

    def floor_utc_s(self) -> float:
        """What the time cannot be before."""
        return order.floor(self._known, self._look().boot_ns) / 1e9

    # --- housekeeping -------------------------------------------------------------------------

    async def run(self, dates_fail: Callable[[], bool]) -> None:
        """Tick and ask, until cancelled; the floor is kept at the end.

        Args:
            dates_fail: whether the uplink has no session because of a certificate's dates.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                self.tick()
                if self.wants_signed(dates_fail()):
                    self.asked(await loop.run_in_executor(None, self.fetch))
                await in_step(STEP_S)
        finally:
            self.keep()

    def tick(self) -> None:
        """Look at the clock; tell of a step, keep the floor, tell the first known moment."""
        look = self._look()
        moved_ns = order.step_ns(self._last, look)
        self._last = look
        self._known = order.raised(self._known, look)
        if moved_ns:
            self._told_step(look, moved_ns)
        if look.boot_ns - self._kept_ns >= KEEP_EVERY_S * 1e9:
            self.keep()
        self._anchor()

    def wants_signed(self, dates_fail: bool) -> bool:
        """Is it time to ask the fleet? dates_fail: a certificate was refused for its dates."""
        if self._fetch is None:
            return False
        if self._asking.due_ns:
            return self.mono_ns() >= self._asking.due_ns
        return dates_fail or self.now().state not in ("ntp", "gps")

    def fetch(self) -> Moment | None:
        """Ask; None without an answer. Blocks."""
        assert self._fetch is not None
        try:
            moment = self._fetch()
        except EdgewardenError as fault:
            self.fault = fault.to_keep()
            return None
        self.fault = None
        return moment

    def asked(self, moment: Moment | None) -> None:
        """Take what ``fetch`` brought and set the next time to ask."""
        now_ns = self._look().boot_ns
        if moment is None:
            wait_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2.0**self._asking.tries)
            self._asking = Asking(now_ns + round(wait_s * 1e9), self._asking.tries + 1)
            return
        self._asking = Asking(now_ns + round(AGAIN_S * 1e9))
        self._known = order.signed(self._known, moment)
        self.keep()
        self._anchor()

    def keep(self) -> None:
        """Put the floor on the disk; a disk that refuses is asked again next time."""
        known = self._known
        kept = Kept(self.boot_id(), known.floor_ns, known.floor_boot_ns, known.moment)
        if time_file.keep(self._state_dir, kept):
            self._kept_ns = self._look().boot_ns

    # --- inside -------------------------------------------------------------------------------

    def _look(self) -> Look:
        now = self._system.now()
        return Look(now.boot_ns, now.wall_ns, now.uncertainty_ms, now.state)

    def _from_before(self) -> Known:
        """The kept floor; of the same boot also its signed moment."""
        build_ns, boot_ns = BUILT_UTC_S * 10**9, self._look().boot_ns
        kept = time_file.read(self._state_dir)
        if kept is None:
            return Known(build_ns, build_ns, boot_ns)
        if kept.boot_id == self.boot_id():
            return Known(build_ns, kept.floor_ns, kept.floor_boot_ns, kept.moment)
        return Known(build_ns, kept.floor_ns, 0)

    def _told_step(self, look: Look, moved_ns: int) -> None:
        detail: dict[str, Plain] = {
            "what": "the system's clock was set",
            "by_ms": moved_ns // 10**6,
            "state": look.state,
        }
        self._tell(Severity.LOW, detail, STEPPED_CODE, look.boot_ns)
        self._asking = Asking(look.boot_ns, 0)
        for told in self.on_step:
            told(moved_ns)

    def _anchor(self) -> None:
        """Once a boot: from here on the records before can be mapped."""
        if self._anchored:
            return
        now = self.now()
        if now.uncertainty_ms is None:
            return
        self._anchored = True
        detail: dict[str, Plain] = {
            "what": "this boot's time is known from here on",
            "utc_ns": now.wall_ns,
            "uncertainty_ms": now.uncertainty_ms,
            "source": now.state,
        }
        self._tell(Severity.INFORMATIONAL, detail, ANCHOR_CODE, now.boot_ns)

    def _tell(self, severity: Severity, detail: dict[str, Plain], code: str, boot_ns: int) -> None:
        self._sink(Event(OCSF.HEALTH, 99, severity, boot_ns, detail, code), RecordClass.AUDIT)


def keep_time(
    identity: Identity, state_dir: Path, randomness: Randomness, sink: EventSink
) -> Timekeeper:
    """The timekeeper of this machine; it asks the fleet that the identity is of."""
    system = SystemClock()
    service = urllib.parse.urlsplit(identity.service)
    host, port = service.hostname, service.port or 443

    def fetch() -> Moment:
        assert host
        return signed_time.fetch(identity, host, port, system, randomness)

    return Timekeeper(system, state_dir, fetch if host else None, sink)
