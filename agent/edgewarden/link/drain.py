"""From the spool to one session: what is sent next, and what an answer means.

Decides the moments; the rules themselves are in window.py. Leaves connecting to uplink.py.

* Only durable records are fetched, a few at a time: memory does not grow with the backlog.
* The spool hears of a record's end only through Lane.accept: after a PUBACK that counts, in order.
* Status and evidence go first and are not kept: they speak of this session only.
* While an alarm waits in the spool, fetched or not, nothing of another class is sent.
* With a verifier's key only that verifier's signed word lets the spool forget, and memory, too,
  while the disk takes nothing (acknowledged.py); a PUBACK frees a slot and means nothing else.
* A PUBACK that does not come in UNANSWERED_S ends the session: its record and slot would wait on.
* What was durable when the session began is backlog: beside live data it may send backlog_bytes_s
  and no more, alarms excepted.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping

from edgewarden.errors import EdgewardenError
from edgewarden.link.acknowledged import OTHER_RECORD, Awaited
from edgewarden.link.pace import MAX_BYTES, Bucket, Pace
from edgewarden.link.session import Session, Terms
from edgewarden.link.window import (
    FAILURE,
    LASTING,
    NO_MATCHING_SUBSCRIBERS,
    PACKET_TOO_LARGE,
    PARK_AFTER,
    UNANSWERED,
    UNVERIFIED,
    URGENT,
    Flight,
    Lane,
    Refusal,
    Turns,
    Window,
    is_accepted,
)
from edgewarden.ports import Clock, Drain
from edgewarden.wire.acknowledgement import Acknowledgement, InMemory
from edgewarden.wire.record import MEMORY, RecordClass, record_hash
from edgewarden.wire.topics import record_topic

FETCH_COUNT = 32
"""Records of a class in memory: a window and a half."""
FETCH_BYTES = 64 * 1024
PACKET_OVERHEAD_BYTES = 512
"""PUBLISH's own fields: topic of at most 150 bytes, length, identifier, no properties."""
MAX_PACKET_BYTES = 268_435_455  # MQTT 5.0 §1.5.5, where the broker names no limit
FIRST_REFUSED_WAIT_S = 0.5
MAX_REFUSED_WAIT_S = 10.0
"""Between tries after a refusal that may pass: a try costs one record, a late fleet costs this."""
STORAGE_RETRY_S = 5.0  # after the disk refused to be read
UNANSWERED_S = 120.0
"""A PUBACK so late does not come: pings are answered. 64 kB take so long at 4 kbit/s."""
MAX_CONTROL = 8  # status and evidence waiting: a nonce a minute is the most a verifier asks

Lanes = Mapping[int, Lane]  # classes, and what is in memory only as MEMORY


class Drainer:
    """Sends through one session until it ends.

    Args:
        topics: (tenant, device).
        lanes: outlive sessions; their fetched and sent parts are forgotten here.
        park_s: how often a parked class is tried.
        backlog_bytes_s: see the module's docstring; 0 has no bound.
        verified_within_s: the verifier's word counts, and takes no longer; None: the broker's does.
        on_refused: called with the lane and the reason code when that parks it, and for each 0x10.
        on_aside: called with class, sequence and reason of a record that was set aside.
        counters: shared with the uplink.
    """

    def __init__(
        self,
        storage: Drain,
        clock: Clock,
        lanes: Lanes,
        topics: tuple[str, str],
        *,
        window: int,
        park_s: float,
        backlog_bytes_s: int,
        on_refused: Callable[[Lane, int], None],
        on_aside: Callable[[int, int, int], None],
        on_other_record: Callable[[], None] = lambda: None,
        verified_within_s: float | None = None,
        counters: Counter[str],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._lanes = lanes
        self._topics = {c: record_topic(*topics, c) for c in (MEMORY, *RecordClass)}
        self._window_messages = window
        self._park_s = park_s
        self._on_refused = on_refused
        self._on_aside = on_aside
        self._on_other_record = on_other_record
        self._awaited = None if verified_within_s is None else Awaited(verified_within_s)
        self._pace = Pace()
        self._bucket = Bucket(backlog_bytes_s, MAX_BYTES, clock.mono_ns())
        self._counters = counters
        self._control: deque[tuple[str, bytes, bool]] = deque(maxlen=MAX_CONTROL)
        self._turns = Turns()
        self._unread_ns: dict[int, int] = {}  # class -> when the disk is asked for it again
        self._window = Window(window)
        self._window.limit_bytes = self._pace.limit_bytes
        self._max_packet_bytes = MAX_PACKET_BYTES
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self.accepted_any = False

    @property
    def window(self) -> Window:
        """What is in flight."""
        return self._window

    def changed(self) -> None:
        """There may be something to do; any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake.set)

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Status or evidence: next in line; the oldest of too many is dropped."""
        self._control.append((topic, payload, retain))
        self._wake.set()

    async def run(self, session: Session, terms: Terms) -> None:
        """Send until the session ends."""
        self._max_packet_bytes = terms.max_packet_bytes or MAX_PACKET_BYTES
        self._window = Window(max(1, min(self._window_messages, terms.receive_maximum)))
        self._window.limit_bytes = self._pace.limit_bytes
        state = self._storage.state()
        for c, lane in self._lanes.items():
            lane.go_back(state[c].acked if c in state else None)
            lane.old_upto = state[c].durable if c in state else 0
        while not session.ended.done():
            self._wake.clear()
            self._send_control(session)
            await self._set_aside()
            refused_s = await self._fetch()
            self._fill(session, alarms_readable=refused_s is None)
            await self._look_for_late(session)
            self._look_for_unanswered(session)
            await self._sleep(session, refused_s)

    async def ended(self, reason: int | None) -> None:
        """The broker said why it ended the session: perhaps because of what we sent."""
        flight = self._window.blamed(reason)
        if reason is not None and flight is not None and flight.record_class is not None:
            self._refused(self._lanes[flight.record_class], flight, reason)
            await self._set_aside()

    def acked(self, mid: int, reason: int) -> None:
        """A PUBACK came."""
        flight = self._window.ended(mid)
        self._wake.set()
        if flight is None:
            self._counters["stray_acks"] += 1
            return
        self._counters["pubacks"] += 1
        now_ns = self._clock.mono_ns()
        self._pace.acked(flight.size_bytes, flight.sent_ns, now_ns, crowded=flight.crowded)
        self._window.limit_bytes = self._pace.limit_bytes
        if flight.record_class is None:
            if reason >= FAILURE:
                self._counters["control_refused"] += 1
            return
        lane = self._lanes[flight.record_class]
        if not is_accepted(reason):
            self._refused(lane, flight, reason)
            return
        if self._awaited is not None:
            return
        self.accepted_any = True
        upto = lane.accept(flight)
        if upto is not None:
            self._storage.ack(lane.record_class, upto)

    def acknowledged(self, word: Acknowledgement) -> None:
        """The verifier's word, its signature checked."""
        if self._awaited is None:
            return
        for c, upto in word.upto.items():
            self._lanes[c].verifier_head = max(self._lanes[c].verifier_head, upto.head)
        released = {c: self._lanes[c].accepted for c in RecordClass}
        free, refused = self._awaited.take(word, released, self._clock.mono_ns())
        for c, seq in free.items():
            self._verified(c, seq)
        if word.memory is not None and MEMORY in self._lanes:
            refused += self._acknowledged_in_memory(self._awaited, word.memory)
        for name in refused:
            self._counters[f"word_{name}"] += 1
        if OTHER_RECORD in refused:
            self._on_other_record()
        self._wake.set()

    def _acknowledged_in_memory(self, awaited: Awaited, said: InMemory) -> list[str]:
        lane = self._lanes[MEMORY]
        now_ns = self._clock.mono_ns()
        upto, head, refused = awaited.take_memory(said, lane.accepted, now_ns)
        lane.verifier_head = max(lane.verifier_head, head)
        if upto > lane.accepted:
            self._verified(MEMORY, upto)
        return refused

    def _verified(self, lane: int, seq: int) -> None:
        self.accepted_any = True
        self._lanes[lane].verified(seq)
        self._storage.ack(lane, seq)

    async def _look_for_late(self, session: Session) -> None:
        """End a session in which the verifier's word does not come: the next one sends again."""
        awaited, now_ns = self._awaited, self._clock.mono_ns()
        if awaited is None:
            return
        for number, state in self._storage.state().items():
            awaited.settled(number, state.acked, now_ns)
        late = awaited.late(now_ns)
        if not late:
            return
        for c in late:
            seq = awaited.oldest(c)
            assert seq is not None
            self._counters["unverified"] += 1
            if self._lanes[c].unverified(seq, now_ns, self._park_s) is Refusal.PARKS:
                self._on_refused(self._lanes[c], UNVERIFIED)
        await self._set_aside()
        session.abort("the verifier did not acknowledge in time")

    def _look_for_unanswered(self, session: Session) -> None:
        flight, now_ns = self._window.oldest(), self._clock.mono_ns()
        if flight is None or now_ns - flight.sent_ns < UNANSWERED_S * 1e9:
            return
        self._counters["unanswered"] += 1
        if flight.record_class is not None:
            lane = self._lanes[flight.record_class]
            if lane.unverified(flight.seq, now_ns, self._park_s) is Refusal.PARKS:
                self._on_refused(lane, UNANSWERED)
        session.abort(f"the broker did not acknowledge a message for {UNANSWERED_S:g} s")

    def _refused(self, lane: Lane, flight: Flight, reason: int) -> None:
        self._counters[f"refused_{reason:#04x}"] += 1
        wait_s = min(MAX_REFUSED_WAIT_S, FIRST_REFUSED_WAIT_S * 2.0**lane.refusals)
        if reason in LASTING and lane.refusals + 1 >= PARK_AFTER:
            wait_s = self._park_s
        if self._awaited is not None:
            self._awaited.refused(lane.record_class)
        found = lane.refuse(flight, reason, self._clock.mono_ns(), wait_s)
        if found is Refusal.PARKS or reason == NO_MATCHING_SUBSCRIBERS:
            self._on_refused(lane, reason)

    async def _set_aside(self) -> None:
        """Records that the broker will never take leave the way, as far as there is room."""
        for c, lane in self._lanes.items():
            if lane.aside is None:
                continue
            seq, reason = lane.aside
            try:
                done = await self._storage.set_aside(c, seq, reason)
            except EdgewardenError:
                self._counters["storage_refused"] += 1
                done = False
            if lane.aside != (seq, reason):
                continue
            now_ns = self._clock.mono_ns()
            lane.was_set_aside(done=done, now_ns=now_ns, wait_s=self._park_s)
            if done:
                self._counters["set_aside"] += 1
                self._on_aside(c, seq, reason)
            else:
                self._on_refused(lane, reason)

    def _send_control(self, session: Session) -> None:
        while self._control and self._window.room_for(None, len(self._control[0][1])):
            topic, payload, retain = self._control.popleft()
            if self._too_large(payload):  # MQTT 5.0 §3.2.2.3.6; the broker would end the session
                self._counters["control_too_large"] += 1
                continue
            mid = session.publish(topic, payload, retain=retain)
            if mid is None:
                return
            now_ns, crowded = self._clock.mono_ns(), self._window.crowded(len(payload))
            self._window.sent(mid, Flight(None, 0, len(payload), 0, now_ns, crowded))

    async def _fetch(self) -> float | None:
        """Refill empty lanes; return after how long to try again when the disk refuses one: the
        others are asked all the same."""
        state, refused_s = self._storage.state(), None
        now_ns = self._clock.mono_ns()
        for c, lane in self._lanes.items():
            if lane.ready or c not in state or state[c].durable <= lane.fetched:
                continue
            if now_ns < self._unread_ns.get(c, 0):
                refused_s = STORAGE_RETRY_S
                continue
            epoch = lane.epoch
            try:
                found = await self._storage.peek(c, lane.fetched, FETCH_COUNT, FETCH_BYTES)
            except EdgewardenError:
                self._counters["storage_refused"] += 1
                self._unread_ns[c] = now_ns + round(STORAGE_RETRY_S * 1e9)
                refused_s = STORAGE_RETRY_S
                continue
            if lane.epoch == epoch:
                lane.fetch(found)
                if not found:  # everything up to the head was evicted meanwhile
                    lane.fetched = state[c].durable
        return refused_s

    def _fill(self, session: Session, *, alarms_readable: bool) -> None:
        """Send as much as window and turns allow; stop for alarms that must be fetched first."""
        while not session.ended.done():
            now_ns = self._clock.mono_ns()
            if alarms_readable and self._alarms_unfetched(now_ns):
                self._wake.set()
                return
            waiting = [c for c, lane in self._lanes.items() if self._may_send(lane, now_ns)]
            chosen = self._choose(waiting)
            if chosen is None:
                return
            lane = self._lanes[chosen]
            data, seq = lane.ready[0].data, lane.ready[0].seq
            if self._too_large(data):
                self._refused(lane, lane.send(), PACKET_TOO_LARGE)
                continue
            mid = session.publish(self._topics[chosen], data)
            if mid is None:
                return
            if lane.is_backlog():
                self._bucket.take(len(data), now_ns)
            crowded = self._window.crowded(len(data))
            self._window.sent(mid, lane.send(now_ns, crowded=crowded))
            self._turns.took(chosen)
            if self._awaited is not None:
                self._awaited.sent(chosen, seq, record_hash(data), now_ns)
            self._counters["published"] += 1

    def _may_send(self, lane: Lane, now_ns: int) -> bool:
        if not lane.may_send(now_ns) or self._too_many_await(lane):
            return False
        return not lane.is_backlog() or self._bucket.may_take(now_ns)

    def _too_many_await(self, lane: Lane) -> bool:
        return self._awaited is not None and not self._awaited.room_for(lane.record_class)

    def _alarms_unfetched(self, now_ns: int) -> bool:
        """Whether the next alarm could be sent and still lies in the spool."""
        lane, state = self._lanes[RecordClass.ALARM], self._storage.state()
        if lane.ready or RecordClass.ALARM not in state or not lane.is_free(now_ns):
            return False
        return state[RecordClass.ALARM].durable > lane.fetched and not self._too_many_await(lane)

    def _choose(self, waiting: list[int]) -> int | None:
        """Whose turn it is and who has room; behind one without room only an alarm may pass."""
        for place, c in enumerate(self._turns.order(waiting)):
            if place > 0 and c not in URGENT:
                return None
            if self._window.room_for(c, len(self._lanes[c].ready[0].data)):
                return c
        return None

    def _too_large(self, data: bytes) -> bool:
        return len(data) + PACKET_OVERHEAD_BYTES > self._max_packet_bytes

    async def _sleep(self, session: Session, refused_s: float | None) -> None:
        """Until something changes, the session ends, or a held class may go on."""
        now_ns = self._clock.mono_ns()
        due_s = [
            (lane.held_until_ns - now_ns) / 1e9
            for lane in self._lanes.values()
            if lane.held_until_ns > now_ns
        ]
        if refused_s is not None:
            due_s.append(refused_s)
        waits = any(lane.may_send(now_ns) and lane.is_backlog() for lane in self._lanes.values())
        if waits and (refill_s := self._bucket.due_s(now_ns)) > 0:
            due_s.append(refill_s)
        if self._awaited is not None and (late_s := self._awaited.due_s(now_ns)) is not None:
            due_s.append(late_s)
        if (oldest := self._window.oldest()) is not None:
            due_s.append(max(0.0, UNANSWERED_S - (now_ns - oldest.sent_ns) / 1e9))
        session.ended.add_done_callback(self._ended)
        try:
            if due_s:
                async with asyncio.timeout(min(due_s)):
                    await self._wake.wait()
            else:
                await self._wake.wait()
        except TimeoutError:
            pass
        finally:
            session.ended.remove_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._wake.set()
