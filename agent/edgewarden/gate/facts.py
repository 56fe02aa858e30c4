"""Facts on their way to link: what waits, in which order, and what may be lost.

What this decides, in order: denials and alarms never are (gate/ledger.py keeps and counts them);
process batches are added up while they wait, so that their totals stay exact; of statistics the
newest counts, and what the client knows already wakes it each AGAIN_S only; the rest (allowed
execs) waits in a ring of ROUTINE_FACTS, where the oldest goes and is counted. Every send is
non-blocking: nobody who listens slowly can delay gate. What it leaves to others: the listening
socket (gate/sockets.py), the loop (daemon/gate.py).

    facts = FactsOut(listen(path, owner_uid=995), {0, 995})
    facts.put(Alarm(...)); facts.flush(now_mono)
"""

from __future__ import annotations

from edgewarden.gate.ledger import Ledger
from edgewarden.gate.sockets import receive, send
from edgewarden.kernel.process import accept_connection
from edgewarden.wire.lean import field_names
from edgewarden.wire.local import MAX_BATCH, AreaStats, GateStats, ProcBatch, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence

    from edgewarden.wire.local import AnyMessage

ROUTINE_FACTS = 512
"""At most 650 bytes each: 330 kB if link stays away and every path is long; typically 75 kB."""
FLUSH_S = 0.1
"""Routine facts go out together: one wake-up of link for many starts."""
AGAIN_S = 60.0
"""Between two statistics that differ in nothing but sizes and time."""
SIZES = frozenset({"boot_ns", "gate_pss_bytes", "guard_pss_bytes"})
_U32 = 0xFFFFFFFF


class FactsOut:
    """Facts to the one client that may take them.

    Attributes:
        client: the connection, or None.
        due_mono: when facts are due, None while there are none or nobody listens.
        dropped: routine facts that found no place.
        refused: connections of other users, and clients that spoke.
        ledger: denials and alarms.
    """

    def __init__(self, listener: socket, uids: set[int]) -> None:
        self.listener = listener
        self.uids = uids
        self.client: socket | None = None
        self.dropped = 0
        self.refused = 0
        self.due_mono: float | None = None
        self.ledger = Ledger()
        self._routine: list[bytes] = []
        self._processes: ProcBatch | None = None
        self._stats: dict[str, GateStats | AreaStats] = {}
        self._full = False
        self._told: list[dict[str, object]] = []
        self._again_mono = 0.0

    def accept(self) -> bool:
        """Take a client; True when there is a new one. One at a time."""
        taken = False
        while (found := accept_connection(self.listener)) is not None:
            client, peer = found
            if peer.uid not in self.uids or self.client is not None:
                self.refused += 1
                client.close()
                continue
            self.client = client
            self._told.clear()
            taken = True
        return taken

    def put(self, message: AnyMessage) -> None:
        """Queue a fact."""
        if isinstance(message, ProcBatch):
            waiting = self._processes
            self._processes = message if waiting is None else added(waiting, message)
        elif isinstance(message, GateStats | AreaStats):
            self._stats[getattr(message, "area", "")] = message
        elif not self.ledger.take(message):
            if len(self._routine) >= ROUTINE_FACTS:
                del self._routine[0]
                self.dropped += 1
            self._routine.append(encode(message))

    def tell(self, pictures: Sequence[AnyMessage], now_mono: float) -> None:
        """Queue what gate is and has done, as far as the client does not know it."""
        told = [_but_sizes(picture) for picture in pictures]
        if told != self._told or now_mono >= self._again_mono:
            self._told, self._again_mono = told, now_mono + AGAIN_S
            for picture in pictures:
                self.put(picture)

    @property
    def waiting(self) -> bool:
        """Whether the client has to be asked for when it can take more."""
        return self.client is not None and self._full

    def due(self, now_mono: float) -> bool:
        """Whether to flush now: for a denial or an alarm at once, else every FLUSH_S."""
        if self.client is None:
            self.due_mono = None
            return False
        if self._full:
            self.due_mono = None  # the loop is told when there is room
            return False
        if self.ledger.urgent:
            return True
        if not (self._routine or self._processes or self._stats):
            self.due_mono = self.ledger.due_mono(now_mono)
        elif self.due_mono is None or self.due_mono > now_mono + FLUSH_S:
            self.due_mono = now_mono + FLUSH_S
        return self.due_mono is not None and now_mono >= self.due_mono

    def flush(self, now_mono: float, *, all_now: bool = False) -> None:
        """Send what the client takes now; with ``all_now`` the counts, too."""
        self.due_mono, self._full = None, False
        if self.client is None:
            return
        told = self.ledger.tell(self._send, now_mono, all_now=all_now) and self._flush_routine()
        self._full = not told and self.fileno() >= 0

    def _flush_routine(self) -> bool:
        sent = 0
        for data in self._routine:
            if not self._send(data):
                break
            sent += 1
        del self._routine[:sent]
        if self._routine:
            return False
        if self._processes is not None:
            if not self._send(encode(self._processes)):
                return False
            self._processes = None
        for area, stats in list(self._stats.items()):
            if not self._send(encode(stats)):
                return False
            del self._stats[area]
        return True

    def _send(self, data: bytes) -> bool | None:
        if self.client is None:
            return False
        done = send(self.client, data)
        if done is False:
            self.drop_client()
        return done

    def hear(self) -> None:
        """The client closed, or said something: it may only listen."""
        if self.client is not None and (data := receive(self.client)) is not None:
            if data:
                self.refused += 1
            self.drop_client()

    def fileno(self) -> int:
        """Of the client's connection, -1 without one."""
        return -1 if self.client is None else self.client.fileno()

    def drop_client(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None
            self._full = False


def _but_sizes(message: AnyMessage) -> dict[str, object]:
    return {name: getattr(message, name) for name in field_names(message) if name not in SIZES}


def added(one: ProcBatch, two: ProcBatch) -> ProcBatch:
    """Both as one: counts added, the first MAX_BATCH entries kept; a sweep where some are not."""
    entries = one.entries + two.entries
    return ProcBatch(
        min(_U32, one.forks + two.forks),
        min(_U32, one.execs + two.execs),
        min(_U32, one.exits + two.exits),
        one.resync or two.resync or len(entries) > MAX_BATCH,
        entries[:MAX_BATCH],
    )
