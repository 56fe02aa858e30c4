"""Has this channel said exactly this before? A recording that is played back gives itself away.

Real measurements carry noise: the same sixteen values in the same order do not come twice. Whoever
plays a recording, once or in a loop, at whatever phase, sends them again.

Rules, in order:

1. Of every GRAM values in a row a hash is made; of every WINDOW hashes in a row the least is kept
   (winnowing: Schleimer, Wilkerson and Aiken, SIGMOD 2003): two equal stretches of
   GRAM + WINDOW - 1 values share at least one that is kept, whatever their phase. KEPT of them
   reach about 2,176 values back.
2. Only stretches that carry noise count: among the last NOISY values at least DISTINCT different
   ones and TURNS changes of direction. A coarse thermometer, an input of two states, a counter and
   a smooth wave repeat themselves honestly; ``judged`` says how many stretches were worth a look.
3. A stretch seen before is a hint. Hints at one and the same distance, with nothing new between
   them and SPAN values or more apart, are a replay: chance does not keep its distance, and what
   starts the same way each time does so for a moment. SURE values of a recording that is played
   from its start are enough; across the seam of a shifted one it took up to 184.
4. A recording of which one value in sixteen was altered leaves stretches of GRAM whole: HINT for
   each hint at the one distance, one back for each stretch that is new or at another: at LIKELY
   it is a replay, too, whatever was new between.
5. It is over when nothing is left of that count, at most MOST of it.

Not seen: a recording older than KEPT reaches, one of which more values were altered (one in eight
leaves nothing whole), and one to which noise, an offset or a gain was added.

    repeats = Repeats()
    [repeats.see(v) for v in recording + recording][-1] == len(recording)
"""

from __future__ import annotations

from array import array

GRAM = 8
NOISY = 16
WINDOW = 16
KEPT = 256
"""Two arrays of 4 bytes each: 2 KiB of the 4 kB that a channel may take."""
DISTINCT = 8
TURNS = 5
SPAN = 3 * GRAM
"""So the first and the last of the hints have no value in common, and there is one between them."""
HINT, LIKELY, MOST = 2, 10, 10
SURE = NOISY + WINDOW - 1 + SPAN + WINDOW - 1
_TURNS = (1 << (NOISY - 2)) - 1
_DULL = 0xFFFFFFFF
"""In the place of the hash of a stretch without noise: greater than every hash, so never kept."""


class Repeats:
    """Of one channel; memory does not grow.

    Attributes:
        judged: kept stretches so far; 0 says that the channel is too coarse to be judged.
    """

    __slots__ = (
        "_at", "_count", "_hashes", "_head", "_lag", "_new", "_past", "_places", "_replay",
        "_rising", "_seen", "_since", "_turns", "_values", "judged",
    )  # fmt: skip

    def __init__(self) -> None:
        self._values = array("d")
        self._hashes = array("I")
        self._past = array("I", bytes(4 * KEPT))
        self._places = array("I", bytes(4 * KEPT))
        self._head = self._seen = self._at = 0
        self._lag = self._since = self._count = 0
        self._new = True
        self._replay = False
        self._turns, self._rising = 0, False
        self.judged = 0

    def see(self, value: float) -> int | None:
        """Take the next value; returns how many values ago it was said before, or None."""
        hashes = self._hashes
        hashes.append(self._hash(value))
        if len(hashes) > WINDOW:
            del hashes[0]
        least = min(hashes)
        if least != _DULL:
            back = 0
            while hashes[-1 - back] != least:
                back += 1
            place = self._seen - back
            if place != self._at:
                self._at = place
                self._keep(least, place)
        return self._lag if self._replay else None

    def _hash(self, value: float) -> int:
        values = self._values
        self._seen = (self._seen + 1) & 0x7FFFFFFF
        turned = False
        if values and value != values[-1]:
            rising = value > values[-1]
            turned, self._rising = rising != self._rising, rising
        self._turns = (self._turns << 1 | turned) & _TURNS
        values.append(value)
        if len(values) > NOISY:
            del values[0]
        if self._turns.bit_count() < TURNS or len(values) < NOISY or len(set(values)) < DISTINCT:
            return _DULL
        return hash(values[-GRAM:].tobytes()) & _DULL

    def _keep(self, least: int, place: int) -> None:
        self.judged += 1
        try:
            slot = self._past.index(least)
        except ValueError:
            self._past[self._head], self._places[self._head] = least, place
            self._head = (self._head + 1) % KEPT
            self._new = True
            self._less()
            return
        lag = place - self._places[slot]
        self._places[slot] = place
        if lag != self._lag and self._count > 0:
            self._new = True  # by chance, or the recording is cut: what was counted decides
            self._less()
            return
        if lag != self._lag or self._new:
            self._since = place
        self._lag, self._new = lag, False
        self._count = min(MOST, self._count + HINT)
        self._replay |= place - self._since >= SPAN or self._count >= LIKELY

    def _less(self) -> None:
        self._count = max(0, self._count - 1)
        self._replay &= self._count > 0
