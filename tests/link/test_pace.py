"""How much may fly: held against a simulated link, byte by byte, on a clock of its own."""

from __future__ import annotations

import heapq

import pytest

from edgewarden.link.pace import (
    AGAIN_S,
    MAX_BYTES,
    MIN_BYTES,
    QUEUE_S,
    START_BYTES,
    Bucket,
    Pace,
)

NS = 1_000_000_000


class SlowLink:
    """One wire of bytes_s with a delay, and a peer that acknowledges at once; always enough to
    send.

    Attributes:
        queued_s: how long each message waited behind ours.
        limits: of the pace, after each acknowledgement.
    """

    def __init__(self, pace: Pace, bytes_s: float, delay_s: float, size: int = 1000) -> None:
        self.pace, self.bytes_s, self.delay_s, self.size = pace, bytes_s, delay_s, size
        self.now_s, self.free_s = 0.0, 0.0
        self.flying = 0
        self.sent = 0
        self.acks: list[tuple[float, int, float, bool]] = []
        self.queued_s: list[float] = []
        self.limits: list[int] = []

    def run(self, until_s: float) -> None:
        while self.now_s < until_s:
            while not self.flying or self.flying + self.size <= self.pace.limit_bytes:
                self._send()
            self._hear()

    def _send(self) -> None:
        self.flying += self.size
        crowded = self.flying >= self.pace.limit_bytes // 2
        begins_s = max(self.now_s, self.free_s)
        self.queued_s.append(begins_s - self.now_s)
        self.free_s = begins_s + self.size / self.bytes_s
        self.sent += self.size
        ack = (self.free_s + self.delay_s, self.sent, self.now_s, crowded)
        heapq.heappush(self.acks, ack)

    def _hear(self) -> None:
        self.now_s, _, sent_s, crowded = heapq.heappop(self.acks)
        self.flying -= self.size
        now_ns, sent_ns = round(self.now_s * NS), round(sent_s * NS)
        self.pace.acked(self.size, sent_ns, now_ns, crowded=crowded)
        self.limits.append(self.pace.limit_bytes)


@pytest.mark.parametrize("kbit_s", [32, 64, 256, 2000])
@pytest.mark.parametrize("delay_s", [0.02, 0.6])
def test_the_queue_in_front_of_an_alarm_stays_short_and_the_link_is_used(
    kbit_s: int, delay_s: float
) -> None:
    link = SlowLink(Pace(), kbit_s * 125.0, delay_s)
    link.run(20)
    link.queued_s.clear()
    sent_before, began_s = link.sent, link.now_s
    link.run(140)
    allowed_s = QUEUE_S + 2 * link.size / link.bytes_s + 0.1
    late = sorted(link.queued_s)[int(0.99 * len(link.queued_s)) - 1]
    assert late <= allowed_s, "p99 of what stands in front of an alarm"
    used = (link.sent - sent_before) / ((link.now_s - began_s) * link.bytes_s)
    assert used >= 0.5 * min(1.0, MAX_BYTES / delay_s / link.bytes_s)


def test_a_fast_link_soon_has_the_whole_window() -> None:
    link = SlowLink(Pace(), 10_000_000, 0.001)
    link.run(0.1)
    assert link.pace.limit_bytes == MAX_BYTES


def test_a_link_that_becomes_slow_is_met_with_less() -> None:
    link = SlowLink(Pace(), 1_000_000, 0.02)
    link.run(5)
    link.bytes_s = 8_000
    link.run(25)
    assert link.pace.limit_bytes <= 4 * MIN_BYTES
    link.queued_s.clear()
    link.run(60)
    assert max(link.queued_s) <= QUEUE_S + 0.5


def test_a_route_that_became_longer_is_no_queue_for_ever() -> None:
    link = SlowLink(Pace(), 1_000_000, 0.02)
    link.run(10)
    link.delay_s = 0.6
    link.run(20)
    assert link.pace.limit_bytes == MIN_BYTES, "taken for a queue"
    link.run(AGAIN_S + 30)
    assert link.pace.limit_bytes > 8 * MIN_BYTES, "until the next look"


def test_what_did_not_need_the_room_does_not_widen_it() -> None:
    pace = Pace()
    for n in range(1000):
        pace.acked(1000, n * NS, n * NS + 1, crowded=False)
    assert pace.limit_bytes <= START_BYTES


def test_a_burst_of_late_answers_cuts_once() -> None:
    pace = Pace()
    for n in range(8):
        pace.acked(1000, n, NS // 100, crowded=True)
    before = pace.limit_bytes
    for n in range(5):
        pace.acked(1000, NS + n, 3 * NS + n, crowded=True)
    assert pace.limit_bytes == before // 2


def test_a_clock_that_stands_still_or_goes_back_is_harmless() -> None:
    pace = Pace()
    pace.acked(1000, 5 * NS, 4 * NS, crowded=True)
    assert MIN_BYTES <= pace.limit_bytes <= MAX_BYTES


# --- the backlog's bucket ------------------------------------------------------------------------


def test_a_backlog_has_its_burst_and_then_its_rate() -> None:
    bucket, now_ns, sent = Bucket(1000, 5000, 0), 0, 0
    while now_ns < 10 * NS:
        if bucket.may_take(now_ns):
            bucket.take(500, now_ns)
            sent += 500
        else:
            now_ns += max(1, round(bucket.due_s(now_ns) * NS))
    assert 5000 + 10 * 1000 - 500 <= sent <= 5000 + 10 * 1000 + 500


def test_a_message_longer_than_the_burst_goes_and_is_paid_for() -> None:
    bucket = Bucket(1000, 2000, 0)
    assert bucket.may_take(0)
    bucket.take(10_000, 0)
    assert not bucket.may_take(7 * NS)
    assert bucket.may_take(9 * NS)


def test_what_was_not_used_is_not_saved_beyond_the_burst() -> None:
    bucket = Bucket(1000, 2000, 0)
    bucket.take(2000, 3600 * NS)
    assert not bucket.may_take(3600 * NS)


def test_no_rate_is_no_bound() -> None:
    bucket = Bucket(0, 10, 0)
    bucket.take(1 << 40, 0)
    assert bucket.may_take(0)
    assert bucket.due_s(0) == 0
