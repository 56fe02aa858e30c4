"""How much may be on its way to the broker, and how fast a backlog may follow. Pure.

Decides bytes and moments; time comes in as numbers. Leaves slots and turns to window.py.

* What flies stands in front of the next alarm: on one TCP connection nothing overtakes it. A bound
  of 64 kB is 8 s at 64 kbit/s. So Pace keeps the queue that is ours short, whatever the link: the
  delay of a PUBACK above the shortest one seen is a queue. Longer than QUEUE_S: half as much may
  fly, once per round trip. Shorter: more, doubling per round trip before the first cut, one
  RECORD_BYTES per round trip after it. A round trip that did not need the room says nothing.
* The shortest delay is looked for again every AGAIN_S with MIN_BYTES in flight: a route that
  changed is no queue, and a queue that never ends is no route.
* Never above MAX_BYTES, never under MIN_BYTES; a record longer than that travels alone.
* Bucket: what a backlog may send beside live data, in bytes a second with a burst.

    pace = Pace()
    pace.acked(1000, sent_ns, now_ns, crowded=True)
    room = pace.limit_bytes
"""

from __future__ import annotations

MAX_BYTES = 64 * 1024
"""What a fast broker on a satellite link (600 ms) needs for 100 kB/s; more only makes paho slow."""
START_BYTES = 2 * 1024
"""Until the first answers say more; it doubles with every round trip. 8 kB at once stood in front
of the first alarm for 1.5 s at 64 kbit/s (measured)."""
MIN_BYTES = 2 * 1024
"""Two usual records: while one is acknowledged the next one is on the wire."""
RECORD_BYTES = 1024
"""A usual record of one event, signed."""
QUEUE_S = 0.25
"""Of our own bytes in front of an alarm: a quarter of what issue 6 allows, the rest is one
record being sent and the wire's own variation."""
AGAIN_S = 300.0
"""Between two looks for the shortest delay: mobile networks change routes within minutes."""

_NS = 1_000_000_000


class Pace:
    """Bytes that may fly in one session.

    Attributes:
        limit_bytes: the bound at this moment.
    """

    def __init__(self) -> None:
        self.limit_bytes = START_BYTES
        self._shortest_ns: int | None = None
        self._looked_ns: int | None = None
        self._cut_ns = -1
        self._steady = False
        self._kept_bytes = 0

    def acked(self, size_bytes: int, sent_ns: int, now_ns: int, *, crowded: bool) -> None:
        """A PUBACK came.

        Args:
            size_bytes: of its message.
            sent_ns, now_ns: CLOCK_BOOTTIME.
            crowded: whether with this message at least half of the bound was in flight.
        """
        took_ns = max(0, now_ns - sent_ns)
        if self._looked_ns is None:
            self._looked_ns = now_ns
        if now_ns - self._looked_ns >= AGAIN_S * _NS:
            self._look_again(now_ns)
            return
        if sent_ns <= self._cut_ns:
            return  # sent before the last cut: it says what is known
        if self._kept_bytes:
            self.limit_bytes, self._kept_bytes = self._kept_bytes, 0
        if self._shortest_ns is None or took_ns < self._shortest_ns:
            self._shortest_ns = took_ns
        if took_ns - self._shortest_ns > QUEUE_S * _NS:
            self._cut(now_ns)
        elif crowded:
            grown = RECORD_BYTES * size_bytes // self.limit_bytes if self._steady else size_bytes
            self.limit_bytes = min(MAX_BYTES, self.limit_bytes + max(1, grown))

    def _cut(self, now_ns: int) -> None:
        self.limit_bytes = max(MIN_BYTES, self.limit_bytes // 2)
        self._steady = True
        self._cut_ns = now_ns

    def _look_again(self, now_ns: int) -> None:
        """The next message finds the link empty of ours; then everything goes on as before."""
        self._looked_ns = self._cut_ns = now_ns
        self._shortest_ns = None
        self._kept_bytes = max(self._kept_bytes, self.limit_bytes)
        self.limit_bytes = MIN_BYTES


class Bucket:
    """A token bucket in bytes; a message may overdraw it once and then waits the debt off.

    Args:
        bytes_s: how fast it fills; 0 has no bound at all.
        burst_bytes: how much it holds.
    """

    def __init__(self, bytes_s: int, burst_bytes: int, now_ns: int) -> None:
        self._bytes_s = bytes_s
        self._burst_bytes = burst_bytes
        self._held = float(burst_bytes)
        self._seen_ns = now_ns

    def may_take(self, now_ns: int) -> bool:
        """Whether the next message may go."""
        self._fill(now_ns)
        return self._bytes_s == 0 or self._held > 0

    def take(self, size_bytes: int, now_ns: int) -> None:
        """A message goes."""
        self._fill(now_ns)
        self._held -= size_bytes

    def due_s(self, now_ns: int) -> float:
        """Seconds until may_take(); 0 when it may."""
        self._fill(now_ns)
        if self._bytes_s == 0 or self._held > 0:
            return 0.0
        return (1 - self._held) / self._bytes_s

    def _fill(self, now_ns: int) -> None:
        spent_s = max(0, now_ns - self._seen_ns) / _NS
        self._seen_ns = max(self._seen_ns, now_ns)
        self._held = min(float(self._burst_bytes), self._held + spent_s * self._bytes_s)
