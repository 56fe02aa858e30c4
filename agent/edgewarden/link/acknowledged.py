"""What waits for the verifier's word, and what that word releases. Pure.

Where a broker's PUBACK proves nothing (MQTT 3.1.1 acknowledges what it refuses and throws away) a
record is let go of only when the fleet's verifier has said, signed, that it is stored there. The
rules, in order:

1. The word is opened like everything signed: form, key, signature, then content. Not the pinned
   verifier's: ``unknown_key``, ``bad_signature``. For another gateway: ``foreign_device``.
2. Per class. Below what is released already: ``older`` (a replay, or an answer that was overtaken);
   it releases nothing. The same once more: nothing.
3. A sequence that was not sent in this session: ``not_sent``. Who acknowledges what he cannot have
   received is not believed, and what was sent before is sent and acknowledged again.
4. Another hash than that of the record we sent: ``other_record``. Two histories exist; an alarm.
5. Otherwise everything of the class up to it is released.
6. Of the chain in memory the word names runs. One that begins where we are or before, and whose
   last record is the very one that we sent, releases up to there. The hash of another start's chain
   is no second history: ``other_chain``, and no alarm.

At most MAX_UNVERIFIED records of a lane wait; then it sends no more. Whatever waits longer than
``wait_s`` without any progress is late: the session ends and everything is sent again in the next
one, whose status tells the verifier so. A lost word costs duplicates and nothing else.

    awaited = Awaited(60.0)
    awaited.sent(RecordClass.ALARM, 7, record_hash(data), now_ns)
    awaited.take(word, {RecordClass.ALARM: 6}, now_ns) == ({RecordClass.ALARM: 7}, [])
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import (
    MAX_ACKNOWLEDGEMENT_BYTES,
    Acknowledgement,
    InMemory,
    decode_acknowledgement,
)
from edgewarden.wire.record import MEMORY, RecordClass

MAX_UNVERIFIED = 256
"""Two groups of the fleet's worker (ingest/worker.py): one being committed, one on its way."""
OLDER, NOT_SENT, OTHER_RECORD = "older", "not_sent", "other_record"
OTHER_CHAIN = "other_chain"


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Whose word counts, pinned at enrolment, and how long it may take.

    Attributes:
        kid: names its key.
        verify: does that key say so.
        wait_s: without progress for so long, everything is sent again.
    """

    kid: bytes
    verify: cose.Verify
    wait_s: float = 60.0


def open_word(message: bytes, verifier: VerifierKey, tenant: str, device: str) -> Acknowledgement:
    """Believe one message of e/ack, or raise WireRefusal by the names of rule 1."""
    envelope = cose.open_envelope(
        message, cose.ContentType.ACKNOWLEDGEMENT, MAX_ACKNOWLEDGEMENT_BYTES
    )
    if envelope.kid != verifier.kid:
        raise WireRefusal("unknown_key", "not signed by the verifier this gateway enrolled with")
    cose.check_signature(envelope, verifier.verify)
    word = decode_acknowledgement(envelope.payload)
    if (word.tenant, word.device) != (tenant, device):
        raise WireRefusal("foreign_device", f"an acknowledgement for {word.device}")
    return word


class Awaited:
    """What one session has sent and the verifier has not confirmed; see the module's docstring.

    A lane is a class, or MEMORY.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_ns = round(wait_s * 1e9)
        self._sent: dict[int, OrderedDict[int, bytes]] = {
            c: OrderedDict() for c in (MEMORY, *RecordClass)
        }
        self._since_ns: dict[int, int] = {}

    def room_for(self, lane: int) -> bool:
        """Whether one more of this lane may wait."""
        return len(self._sent[lane]) < MAX_UNVERIFIED

    def sent(self, lane: int, seq: int, digest: bytes, now_ns: int) -> None:
        """A record was published."""
        self._sent[lane][seq] = digest
        self._since_ns.setdefault(lane, now_ns)

    def oldest(self, lane: int) -> int | None:
        """The first sequence that waits."""
        return next(iter(self._sent[lane]), None)

    def settled(self, lane: int, upto: int, now_ns: int) -> None:
        """The storage has let go of a lane up to there by itself: evicted, or taken back to disk"""
        oldest = self.oldest(lane)
        if oldest is not None and oldest <= upto:
            self._forget(lane, upto, now_ns)

    def take(
        self, word: Acknowledgement, released: Mapping[RecordClass, int], now_ns: int
    ) -> tuple[dict[RecordClass, int], list[str]]:
        """Rules 2 to 5: (class -> released up to, names of what was refused)."""
        free: dict[RecordClass, int] = {}
        refused: list[str] = []
        for c, upto in word.upto.items():
            if upto.seq <= released[c]:
                refused += [OLDER] if upto.seq < released[c] else []
                continue
            digest = self._sent[c].get(upto.seq)
            if digest is None:
                refused.append(NOT_SENT)
            elif digest != upto.hash:
                refused.append(OTHER_RECORD)
            else:
                free[c] = upto.seq
                self._forget(c, upto.seq, now_ns)
        return free, refused

    def take_memory(self, said: InMemory, released: int, now_ns: int) -> tuple[int, int, list[str]]:
        """Rule 6: (released up to, the highest of ours that is stored, names of what was refused).

        Args:
            released: up to where it was before; returned where nothing moves.
        """
        head, refused, sent = 0, [], self._sent[MEMORY]
        for run in said.runs:
            digest = sent.get(run.last)
            if run.last <= released:
                continue
            if digest != run.hash:
                refused.append(NOT_SENT if digest is None else OTHER_CHAIN)
                continue
            head = run.last
            if run.first <= released + 1:
                released = run.last
        self.settled(MEMORY, released, now_ns)
        return released, head, refused

    def refused(self, lane: int) -> None:
        """The broker refused one: the lane goes back, and nothing of it waits."""
        self._sent[lane].clear()
        self._since_ns.pop(lane, None)

    def late(self, now_ns: int) -> list[int]:
        """Lanes that have waited too long."""
        return [c for c, since in self._since_ns.items() if now_ns - since >= self._wait_ns]

    def due_s(self, now_ns: int) -> float | None:
        """Seconds until one is late; None while nothing waits."""
        if not self._since_ns:
            return None
        return max(0.0, (min(self._since_ns.values()) + self._wait_ns - now_ns) / 1e9)

    def _forget(self, lane: int, upto: int, now_ns: int) -> None:
        waiting = self._sent[lane]
        while waiting and next(iter(waiting)) <= upto:
            waiting.popitem(last=False)
        self._since_ns.pop(lane, None)
        if waiting:
            self._since_ns[lane] = now_ns
