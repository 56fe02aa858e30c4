"""What the uplink tells about itself: facts and alarms, each matter once.

Decides what is an alarm and what is a record. Leaves to uplink.py when something happened.

* A session that began or ended is bulk. No trust, a session taken over, a parked class and a
  record set aside are alarms. Nobody subscribed (PUBACK 0x10) is a record at once and an alarm when
  it lasts VOID_ALARM_S: a restarted broker says it for a moment.
* One event per matter, again only after a session that was stable (``anew``). A record set aside is
  told each time: the fleet will not see it by itself.

    telling = Telling(sink, clock, "broker.example", 8883, counters)
    telling.connected()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edgewarden.errors import TrustFault
from edgewarden.link.session import SESSION_TAKEN_OVER, Ending
from edgewarden.link.window import NO_MATCHING_SUBSCRIBERS, UNANSWERED, UNVERIFIED, Lane
from edgewarden.ports import Clock
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.record import RecordClass, label_of

VOID_ALARM_S = 60.0
"""Without a subscriber for so long is no broker's restart: the fleet's verifier is gone."""

# OCSF network_activity (4001), activity_id
_OPEN, _CLOSE, _FAIL, _REFUSE = 1, 2, 4, 5

_SILENT = {UNVERIFIED: ("verifier", "EW-NET-016"), UNANSWERED: ("broker", "EW-NET-010")}

EventSink = Callable[[Event, RecordClass], None]


class Telling:
    """See the module's docstring. On the event loop's thread.

    Args:
        sink: must not block.
        host, port: the broker, in every event.
        counters: shared with the uplink.
    """

    def __init__(
        self, sink: EventSink, clock: Clock, host: str, port: int, counters: Counter[str]
    ) -> None:
        self._sink = sink
        self._clock = clock
        self._host = host
        self._port = port
        self._counters = counters
        self._told: set[str] = set()

    def anew(self) -> None:
        """The session was stable: what comes now is told again."""
        self._told.clear()

    def connected(self) -> None:
        """A session stands."""
        self._tell(_OPEN, Severity.INFORMATIONAL, RecordClass.BULK, {"what": "uplink connected"})

    def lost(self, ending: Ending) -> None:
        """It ended."""
        detail: dict[str, Plain] = {"what": "uplink lost", "why": ending.text}
        self._tell(_CLOSE, Severity.LOW, RecordClass.BULK, detail)
        if ending.reason == SESSION_TAKEN_OVER:
            taken: dict[str, Plain] = {"what": "another client took over this session"}
            self._once("EW-NET-011", Severity.HIGH, RecordClass.ALARM, taken)

    def distrusted(self, fault: TrustFault) -> None:
        """There is no trust; the caller says it once."""
        detail: dict[str, Plain] = {"what": "no trust in the uplink", "why": fault.text}
        self._tell(_FAIL, Severity.HIGH, RecordClass.ALARM, detail, fault.code)

    def refused(self, lane: Lane, reason: int) -> None:
        """A class was parked, or a record of it went into the void."""
        record_class = lane.record_class
        if reason == NO_MATCHING_SUBSCRIBERS:
            # Usual for a moment after a broker's restart: worth a record, not yet an alarm.
            detail: dict[str, Plain] = {"what": "nobody subscribed to our records"}
            self._once("EW-NET-012", Severity.MEDIUM, RecordClass.AUDIT, detail)
            since_ns = lane.void_since_ns
            if since_ns is not None:
                lasts_s = (self._clock.now().boot_ns - since_ns) / 1e9
                if lasts_s >= VOID_ALARM_S:
                    lasting: dict[str, Plain] = {"what": "still nobody", "class": "any"}
                    self._once("EW-NET-012", Severity.HIGH, RecordClass.ALARM, lasting)
            return
        self._counters["parked"] += 1
        if reason in (UNVERIFIED, UNANSWERED):
            who, code = _SILENT[reason]
            silent: dict[str, Plain] = {
                "what": f"the {who} does not acknowledge a class of records",
                "class": label_of(record_class),
            }
            self._once(code, Severity.HIGH, RecordClass.ALARM, silent)
            return
        detail = {
            "what": "the broker refuses a class of records",
            "class": label_of(record_class),
            "reason": reason,
        }
        self._once("EW-NET-010", Severity.HIGH, RecordClass.ALARM, detail)

    def other_record(self) -> None:
        """The verifier's word names another record than ours: two histories exist."""
        detail: dict[str, Plain] = {"what": "the verifier acknowledges another record than ours"}
        self._once("EW-NET-017", Severity.HIGH, RecordClass.ALARM, detail)

    def aside(self, record_class: int, seq: int, reason: int) -> None:
        """Each one by name: it is a record that the fleet will not see by itself."""
        detail: dict[str, Plain] = {
            "what": "a record was set aside",
            "class": label_of(record_class),
            "seq": seq,
            "reason": reason,
        }
        self._tell(_REFUSE, Severity.HIGH, RecordClass.ALARM, detail, "EW-NET-013")

    def _once(
        self, code: str, severity: Severity, record_class: RecordClass, detail: dict[str, Plain]
    ) -> None:
        """One event per matter, again only after a session that was stable."""
        key = f"{code} {detail.get('class')!r}"
        if key not in self._told:
            self._told.add(key)
            self._tell(_REFUSE, severity, record_class, detail, code)

    def _tell(
        self,
        activity_id: int,
        severity: Severity,
        record_class: RecordClass,
        detail: dict[str, Plain],
        code: str = "",
    ) -> None:
        detail["host"], detail["port"] = self._host, self._port
        seen_ns = self._clock.now().boot_ns
        self._sink(
            Event(OCSF.NETWORK_ACTIVITY, activity_id, severity, seen_ns, detail, code), record_class
        )
