"""Who speaks on a port: how often, how long its frames are, how soon it answers.

Another device in the place of the first, or a second one beside it, keeps its own time. Judged is
what the sender makes and our own scheduling does not: frames a second and bytes a frame over whole
windows, or, where the port answers questions (Modbus), how long the answer took. Jitter and the
shape of bursts depend on when we were scheduled: they are evidence in the finding, never its cause.

On a bus each unit is a voice of its own (worth.py): the mix of all of them changes when one dies.

Rules, in order:

1. FRAMES frames are one window. LEARN windows are learned: the least and the most of each feature.
2. A window is strange when a feature leaves what was learned by more than its factor. An irregular
   sender has wide bounds of its own making.
3. A strange window counts one, a usual one takes half of one back: STRANGE of them are a finding,
   and USUAL usual ones in a row end it. One stall or one unplugging spoils one window only; a
   second voice that is silent every other window is heard all the same.
   Who spoke irregularly while it was learned (EVENTFUL) speaks when something happens: that it
   speaks seldom is then nothing strange.
4. What was learned lives as long as this object: link learns anew at each start. Who speaks during
   the learning is who is believed to be the device: docs/threat-model.md says so.

    for seen in reads: strange = cadence.see(seen)      # None, or what is strange
"""

from __future__ import annotations

from array import array

from edgewarden.wire.facts import FramesSeen, Plain

FRAMES = 32
LEARN = 8
"""256 frames: four minutes of a sensor that speaks once a second."""
STRANGE = 2
USUAL = 3
EVENTFUL = 0.6
"""Spread of the pauses by their mean, in more than half of what was learned: 1 for events that know
nothing of each other, near 0 for a sensor with a clock."""
RATE_FACTOR = 1.5
BYTES_FACTOR = 1.6
"""A GPS that lost its fix sends empty fields: a third shorter."""
ANSWER_FACTOR = 3.0
ANSWER_FLOOR_S = 0.02
"""USB adapters gather for up to 16 ms (latency_timer), and so may we."""


class Cadence:
    """Of one voice: a port, or one unit of a bus; flat memory.

    Attributes:
        usual: feature -> (least, most) as learned so far.
        strange: what the last windows were, "" for as usual; names the feature.
    """

    __slots__ = (
        "_answers",
        "_began_ns",
        "_bytes",
        "_eventful",
        "_evidence",
        "_frames",
        "_gap_sq",
        "_gap_sum",
        "_last_ns",
        "_learned",
        "_reads",
        "_row",
        "strange",
        "usual",
    )  # fmt: skip

    def __init__(self) -> None:
        self.usual: dict[str, tuple[float, float]] = {}
        self.strange = ""
        self._evidence: dict[str, Plain] = {}
        self._learned = self._eventful = 0
        self._row = 0.0
        self._last_ns = -1
        self._open(-1)

    @property
    def learning(self) -> bool:
        """Nothing is judged yet."""
        return self._learned < LEARN

    def _open(self, now_ns: int) -> None:
        self._began_ns = now_ns
        self._frames = self._bytes = self._reads = 0
        self._gap_sum = self._gap_sq = 0.0
        self._answers = array("d")

    def reopened(self) -> None:
        """The port was opened anew: the window that was open is worth nothing."""
        self._last_ns = -1
        self._open(-1)

    def see(self, seen: FramesSeen) -> dict[str, Plain] | None:
        """Take what one read completed; evidence while it is strange, else None."""
        if self._began_ns < 0:  # the first frame opens the window and is not in it
            self._open(seen.seen_mono_ns)
            self._last_ns = seen.seen_mono_ns
            return self._evidence if self.strange else None
        gap_s = (seen.seen_mono_ns - self._last_ns) / 1e9
        self._last_ns = seen.seen_mono_ns
        self._gap_sum += gap_s
        self._gap_sq += gap_s * gap_s
        self._reads += 1
        self._frames += seen.frames + seen.bad
        self._bytes += seen.size_bytes
        if seen.took_ns is not None:
            self._answers.append(seen.took_ns / 1e9)
        if self._frames >= FRAMES and seen.seen_mono_ns > self._began_ns:
            self._close(seen.seen_mono_ns)
        return self._evidence if self.strange else None

    def _close(self, now_ns: int) -> None:
        features = {"bytes_per_frame": self._bytes / self._frames}
        if self._answers:
            # The middle one: a single stall of ours must not make the device look slow.
            features["answer_s"] = sorted(self._answers)[len(self._answers) // 2]
        elif "answer_s" not in self.usual:  # of one that is asked: all of its answers were bad
            features["frames_per_s"] = self._frames / ((now_ns - self._began_ns) / 1e9)
        if self.learning:
            self._learned += 1
            mean, spread = self._pauses()
            self._eventful += spread >= EVENTFUL * mean > 0
            for name, value in features.items():
                least, most = self.usual.get(name, (value, value))
                self.usual[name] = min(least, value), max(most, value)
        else:
            self._judge(features)
        self._open(now_ns)

    def _judge(self, features: dict[str, float]) -> None:
        odd = next((n for n, v in features.items() if self._leaves(n, v)), "")
        if bool(odd) == bool(self.strange):
            self._row = 0.0 if odd else max(0.0, self._row - 0.5)
            if odd:
                self._evidence = self._told(odd, features)
            return
        self._row += 1.0
        if self._row >= (STRANGE if odd else USUAL):
            self.strange, self._row = odd, 0.0
            self._evidence = self._told(odd, features) if odd else {}

    def _leaves(self, name: str, value: float) -> bool:
        if name not in self.usual:
            return True  # answers where there were none
        least, most = self.usual[name]
        if name == "answer_s":
            return value > most * ANSWER_FACTOR + ANSWER_FLOOR_S
        factor = RATE_FACTOR if name == "frames_per_s" else BYTES_FACTOR
        if name == "frames_per_s" and self._eventful > LEARN // 2:
            least = 0.0
        return not least / factor <= value <= most * factor

    def _pauses(self) -> tuple[float, float]:
        """Mean and spread of the pauses in this window, in seconds."""
        mean = self._gap_sum / self._reads if self._reads else 0.0
        return mean, max(0.0, self._gap_sq / max(1, self._reads) - mean * mean) ** 0.5

    def _told(self, odd: str, features: dict[str, float]) -> dict[str, Plain]:
        mean, spread = self._pauses()
        least, most = self.usual.get(odd, (0.0, 0.0))
        return {
            "feature": odd,
            "now": round(features[odd], 4),
            "least": round(least, 4),
            "most": round(most, 4),
            "period_s": round(mean, 4),
            "jitter_s": round(spread, 4),
            "frames_per_read": round(self._frames / max(1, self._reads), 2),
        }
