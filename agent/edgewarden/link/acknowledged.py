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

At most MAX_UNVERIFIED records of a class wait; then it sends no more. Whatever waits longer than
``wait_s`` without any progress is late: the session ends and everything is sent again in the next
one, whose status tells the verifier so. A lost word costs duplicates and nothing else.

    awaited = Awaited(60.0)
    awaited.sent(RecordClass.ALARM, 7, record_hash(data), now_ns)
    awaited.take(word, {RecordClass.ALARM: 6}, now_ns) == ({RecordClass.ALARM: 7}, [])
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from edgewarden.errors import WireRefusal
from edgewarden.wire import cose
from edgewarden.wire.acknowledgement import (
    MAX_ACKNOWLEDGEMENT_BYTES,
    Acknowledgement,
    decode_acknowledgement,
)
from edgewarden.wire.record import RecordClass

MAX_UNVERIFIED = 256
"""Two groups of the fleet's worker (ingest/worker.py): one being committed, one on its way."""
OLDER, NOT_SENT, OTHER_RECORD = "older", "not_sent", "other_record"


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
    """What one session has sent and the verifier has not confirmed; see the module's docstring."""

    def __init__(self, wait_s: float) -> None:
        self._wait_ns = round(wait_s * 1e9)
        self._sent: dict[RecordClass, OrderedDict[int, bytes]] = {
            c: OrderedDict() for c in RecordClass
        }
        self._since_ns: dict[RecordClass, int] = {}

    def room_for(self, record_class: RecordClass) -> bool:
        """Whether one more of this class may wait."""
        return len(self._sent[record_class]) < MAX_UNVERIFIED

    def sent(self, record_class: RecordClass, seq: int, digest: bytes, now_ns: int) -> None:
        """A record was published."""
        self._sent[record_class][seq] = digest
        self._since_ns.setdefault(record_class, now_ns)

    def oldest(self, record_class: RecordClass) -> int | None:
        """The first sequence that waits."""
        return next(iter(self._sent[record_class]), None)

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

    def refused(self, record_class: RecordClass) -> None:
        """The broker refused one: the class goes back, and nothing of it waits."""
        self._sent[record_class].clear()
        self._since_ns.pop(record_class, None)

    def late(self, now_ns: int) -> list[RecordClass]:
        """Classes that have waited too long."""
        return [c for c, since in self._since_ns.items() if now_ns - since >= self._wait_ns]

    def due_s(self, now_ns: int) -> float | None:
        """Seconds until one is late; None while nothing waits."""
        if not self._since_ns:
            return None
        return max(0.0, (min(self._since_ns.values()) + self._wait_ns - now_ns) / 1e9)

    def _forget(self, record_class: RecordClass, upto: int, now_ns: int) -> None:
        waiting = self._sent[record_class]
        while waiting and next(iter(waiting)) <= upto:
            waiting.popitem(last=False)
        self._since_ns.pop(record_class, None)
        if waiting:
            self._since_ns[record_class] = now_ns
