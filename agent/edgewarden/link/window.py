"""What may be in flight, whose turn it is, and what an acknowledgement is worth. Pure.

The rules, in order:

1. At most ``messages`` in flight (our window, or the broker's Receive Maximum if less) and as many
   bytes as pace.py allows; a record longer than that travels alone. More would only stand in front
   of the next alarm.
2. The last slot is for alarms, and the first alarm needs no room in bytes. What is in memory only
   (wire/record.py) goes as an alarm does, and before it: nothing else is lost by waiting.
3. Alarms first, whatever else waits and for how long: they are few (triage bounds them a minute).
   Then audit before bulk; but every BULK_TURN-th record is bulk when bulk waits, so that no flood
   of audit records starves it.
4. A record counts as accepted when it and all records sent before it in its class are
   (acknowledgements may come out of order). Only that contiguous end is told to the spool.
5. PUBACK 0x10 (accepted, and nobody subscribed) is not accepted here: the broker forgot the record
   at once. It is what a restarted broker says until its fleet is back, and it passes.
6. After a refusal the class goes back to its last accepted record, waits, and then sends one
   record at a time until one is accepted. Answers to what was sent before going back free their
   slots and mean nothing else.
7. A session that the broker ends with such a reason is a refusal of the message it looked at; one
   in which an acknowledgement does not come is ended, and the third such parks the class.
8. The third refusal in a row that no waiting cures: what speaks of the topic parks the class, what
   speaks of the record (ABOUT_RECORD) sets that record aside, so that the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from enum import Enum

from edgewarden.link.pace import MAX_BYTES
from edgewarden.plain import dataclass, field
from edgewarden.ports import Stored
from edgewarden.wire.record import MEMORY, RecordClass

BULK_TURN = 8
PARK_AFTER = 3
"""Refusals in a row of the kind that does not pass, before the class is parked."""

# MQTT 5.0 §2.4, reason codes of PUBACK.
NO_MATCHING_SUBSCRIBERS = 0x10
FAILURE = 0x80
NOT_AUTHORIZED = 0x87
TOPIC_NAME_INVALID = 0x90
PACKET_TOO_LARGE = 0x95
QUOTA_EXCEEDED = 0x97
PAYLOAD_FORMAT_INVALID = 0x99
UNVERIFIED = 0x100
"""No code of MQTT's: the verifier did not acknowledge in time (acknowledged.py)."""
UNANSWERED = 0x101
"""None of MQTT's either: the broker did not acknowledge in time."""
LASTING = frozenset({NOT_AUTHORIZED, TOPIC_NAME_INVALID, PACKET_TOO_LARGE, PAYLOAD_FORMAT_INVALID})
"""Refusals that no waiting cures: somebody must change something."""
ABOUT_RECORD = frozenset({PACKET_TOO_LARGE, PAYLOAD_FORMAT_INVALID})
"""Those that the next record of the class may be spared."""


URGENT = (None, MEMORY, RecordClass.ALARM)
"""What the last slot is for; None is status and evidence."""


class Refusal(Enum):
    """What a refusal leads to (rules 6 to 8)."""

    AGAIN = "tried again"
    PARKS = "the class is parked, from now on"
    ASIDE = "the record is to be set aside"


def is_accepted(reason: int) -> bool:
    """Whether a PUBACK's reason code lets the spool forget the record (rule 5)."""
    return reason < FAILURE and reason != NO_MATCHING_SUBSCRIBERS


@dataclass(frozen=True, slots=True)
class Flight:
    """One message on its way.

    Attributes:
        record_class: None for status and evidence.
        seq: 0 for status and evidence.
        epoch: of its lane when it was sent.
        sent_ns: CLOCK_BOOTTIME.
        crowded: whether half of what may fly was flying then.
    """

    record_class: int | None
    seq: int
    size_bytes: int
    epoch: int = 0
    sent_ns: int = 0
    crowded: bool = False


class Window:
    """Slots in flight, by packet identifier (rules 1 and 2).

    Attributes:
        limit_bytes: what may fly, set by whoever keeps the pace.
    """

    def __init__(self, messages: int) -> None:
        self._messages = messages
        self._flying: dict[int, Flight] = {}
        self.bytes_flying = 0
        self.limit_bytes = MAX_BYTES

    def __len__(self) -> int:
        return len(self._flying)

    def room_for(self, record_class: int | None, size_bytes: int) -> bool:
        """Whether one more message may be sent now; None is status and evidence."""
        urgent = record_class in URGENT
        reserved = 0 if urgent or self._messages == 1 else 1
        if len(self._flying) >= self._messages - reserved:
            return False
        if self.bytes_flying + size_bytes <= self.limit_bytes or not self._flying:
            return True
        return urgent and all(f.record_class != record_class for f in self._flying.values())

    def crowded(self, size_bytes: int) -> bool:
        """Whether at least half of the bytes that may fly do, with one more message."""
        return self.bytes_flying + size_bytes >= self.limit_bytes // 2

    def sent(self, mid: int, flight: Flight) -> None:
        """Take a slot."""
        self._flying[mid] = flight
        self.bytes_flying += flight.size_bytes

    def oldest(self) -> Flight | None:
        """What has waited longest for its acknowledgement."""
        return next(iter(self._flying.values()), None)

    def blamed(self, reason: int | None) -> Flight | None:
        """What a broker meant that ended the session with this reason: brokers look at one message
        after the other, so it is the oldest that has no answer; of what is too large the longest.
        """
        if reason == PACKET_TOO_LARGE:
            return max(self._flying.values(), key=lambda f: f.size_bytes, default=None)
        return self.oldest() if reason in LASTING else None

    def ended(self, mid: int) -> Flight | None:
        """Free a slot; None when nothing of ours has this identifier."""
        flight = self._flying.pop(mid, None)
        if flight is not None:
            self.bytes_flying -= flight.size_bytes
        return flight


class Turns:
    """Whose turn it is (rule 3)."""

    def __init__(self) -> None:
        self._since_bulk = 0

    def order(self, waiting: Collection[int]) -> Sequence[int]:
        """The waiting classes, the one whose turn it is first."""
        ordered = sorted(waiting)
        its_turn = self._since_bulk >= BULK_TURN - 1 and RecordClass.BULK in ordered
        if its_turn and ordered[0] not in URGENT:
            ordered.remove(RecordClass.BULK)
            ordered.insert(0, RecordClass.BULK)
        return ordered

    def took(self, record_class: int) -> None:
        """A record of this class was sent."""
        self._since_bulk = 0 if record_class == RecordClass.BULK else self._since_bulk + 1


@dataclass(slots=True)
class Lane:
    """One class on its way to the broker (rules 4 to 8).

    Attributes:
        accepted: everything up to here was accepted.
        fetched: highest sequence taken from the spool.
        ready: taken from the spool, not sent yet.
        epoch: counts the times this class went back.
        refusals: in a row.
        held_until_ns: nothing is sent before this moment of CLOCK_BOOTTIME.
        parked: refused PARK_AFTER times for a lasting reason; tried slowly until it passes.
        aside: (sequence, reason) of a record to be set aside before anything else of the class.
        verifier_head: highest sequence that the verifier says it has stored.
        old_upto: what was durable when the session began: up to here it is backlog.
        void_since_ns: since when nobody is subscribed; None while somebody is.
    """

    record_class: int
    accepted: int = 0
    fetched: int = 0
    ready: deque[Stored] = field(default_factory=deque)
    epoch: int = 0
    refusals: int = 0
    held_until_ns: int = 0
    parked: bool = False
    aside: tuple[int, int] | None = None
    old_upto: int = 0
    void_since_ns: int | None = None
    verifier_head: int = 0
    _sent: deque[int] = field(default_factory=deque)
    _done: set[int] = field(default_factory=set)

    def go_back(self, accepted: int | None = None) -> None:
        """Forget what was fetched and sent; go on behind the last accepted record."""
        if accepted is not None:
            self.accepted = max(self.accepted, accepted)
        self.fetched = self.accepted
        self.aside = None
        self.ready.clear()
        self._sent.clear()
        self._done.clear()
        self.epoch += 1

    def fetch(self, records: Sequence[Stored]) -> None:
        """Take records from the spool."""
        self.ready.extend(records)
        if records:
            self.fetched = records[-1].seq

    def may_send(self, now_ns: int) -> bool:
        """Whether the front record may go, as far as this class is concerned."""
        return bool(self.ready) and self.is_free(now_ns)

    def is_free(self, now_ns: int) -> bool:
        """Whether nothing holds this class back, if it had a record."""
        if self.aside or now_ns < self.held_until_ns:
            return False
        return self.refusals == 0 or not self._sent

    def is_backlog(self) -> bool:
        """Whether the front record was there when the session began. An alarm never counts."""
        return self.record_class not in URGENT and self.ready[0].seq <= self.old_upto

    def send(self, now_ns: int = 0, *, crowded: bool = False) -> Flight:
        """The front record is being sent."""
        record = self.ready.popleft()
        self._sent.append(record.seq)
        size_bytes = len(record.data)
        return Flight(self.record_class, record.seq, size_bytes, self.epoch, now_ns, crowded)

    def accept(self, flight: Flight) -> int | None:
        """A record was accepted; return the new contiguous end when it moved."""
        if flight.epoch != self.epoch:
            return None
        self.refusals, self.parked, self.void_since_ns = 0, False, None
        self._done.add(flight.seq)
        before = self.accepted
        while self._sent and self._sent[0] in self._done:
            self.accepted = self._sent.popleft()
            self._done.discard(self.accepted)
        return self.accepted if self.accepted != before else None

    def verified(self, seq: int) -> None:
        """The verifier has everything up to here."""
        self.refusals, self.parked, self.void_since_ns = 0, False, None
        self.accepted, self.fetched = seq, max(self.fetched, seq)
        while self._sent and self._sent[0] <= seq:
            self._done.discard(self._sent.popleft())
        while self.ready and self.ready[0].seq <= seq:
            self.ready.popleft()

    def unverified(self, seq: int, now_ns: int, wait_s: float) -> Refusal:
        """The word on ``seq``, the oldest that waits, did not come in time.

        Where it has stored what comes behind it, the record itself is what is not taken.
        """
        self.go_back()
        self.refusals += 1
        if self.refusals < PARK_AFTER or self.parked:
            if self.parked:
                self.held_until_ns = now_ns + round(wait_s * 1e9)
            return Refusal.AGAIN
        if self.verifier_head > seq:
            self.aside = (seq, UNVERIFIED)
            return Refusal.ASIDE
        self.parked = True
        self.held_until_ns = now_ns + round(wait_s * 1e9)
        return Refusal.PARKS

    def refuse(self, flight: Flight, reason: int, now_ns: int, wait_s: float) -> Refusal:
        """A record was refused: go back and wait; return what else is to be done."""
        if flight.epoch != self.epoch:
            return Refusal.AGAIN
        self.go_back()
        self.refusals += 1
        self.held_until_ns = now_ns + round(wait_s * 1e9)
        if reason == NO_MATCHING_SUBSCRIBERS and self.void_since_ns is None:
            self.void_since_ns = now_ns
        if reason not in LASTING or self.refusals < PARK_AFTER or self.parked:
            return Refusal.AGAIN
        if reason in ABOUT_RECORD:
            self.aside = (flight.seq, reason)
            return Refusal.ASIDE
        self.parked = True
        return Refusal.PARKS

    def was_set_aside(self, *, done: bool, now_ns: int, wait_s: float) -> None:
        """The record of ``aside`` is out of the way; without ``done`` the class is parked."""
        assert self.aside is not None
        seq, _ = self.aside
        if done:
            self.refusals, self.held_until_ns = 0, 0
            self.go_back(seq)
            return
        self.aside, self.parked = None, True
        self.held_until_ns = now_ns + round(wait_s * 1e9)
