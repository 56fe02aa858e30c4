"""What the fleet sends down: two or three topics, bounded, handed on as bytes.

Decides which messages are looked at at all. Leaves to the daemon what they mean: signature first,
then parsing (wire.cose, wire.evidence).

Each message that is not handed on is counted by name: ``unknown_topic``, ``too_long``; a callback
that raises is counted as ``refused`` and never reaches paho.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edgewarden.errors import EdgewardenError
from edgewarden.link.client import MAX_DOWN_BYTES
from edgewarden.wire.topics import Topic


class Receiver:
    """Takes messages by topic.

    Args:
        tenant, device: whose topics.
        on_nonce, on_result: called with the payload on the event loop; must not block.
        on_acknowledgement: None where the broker's word is enough: then it is not subscribed to.
    """

    def __init__(
        self,
        tenant: str,
        device: str,
        on_nonce: Callable[[bytes], None],
        on_result: Callable[[bytes], None],
        on_acknowledgement: Callable[[bytes], None] | None = None,
    ) -> None:
        self._handlers = {
            str(Topic(tenant, device, "e", "nonce")): on_nonce,
            str(Topic(tenant, device, "e", "result")): on_result,
        }
        if on_acknowledgement is not None:
            self._handlers[str(Topic(tenant, device, "e", "ack"))] = on_acknowledgement
        self.counters: Counter[str] = Counter()

    @property
    def topics(self) -> tuple[str, ...]:
        """What to subscribe to."""
        return tuple(self._handlers)

    def take(self, topic: str, payload: bytes) -> None:
        """One message; never raises what a handler raises on purpose."""
        handler = self._handlers.get(topic)
        if handler is None:
            self.counters["unknown_topic"] += 1
        elif len(payload) > MAX_DOWN_BYTES:
            self.counters["too_long"] += 1
        else:
            self.counters["received"] += 1
            try:
                handler(payload)
            except EdgewardenError:
                self.counters["refused"] += 1
