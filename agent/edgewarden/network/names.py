"""Today's addresses of the policy's DNS names: what link may say, and no more.

What this decides: link's uid (or root) says ``NameAnswer`` on run/gate-names.sock, about names of
the table in use, by number and generation, at most MAX_ADDRESSES at a time, ANSWERS_PER_S on the
average. An answer only ever adds an address to the rules that name the name, for a time between
MIN_KEEP_S and the table's limit; addresses that mean this host, many hosts or nobody are not taken.
A captured link can therefore let through peers of its choice where a rule says by-name, which is
why every record says so, and nowhere else. One answer is taken a time, and between two of them gate
does everything else: all that may be said at once kept it for 5 s (measured on two busy cores),
and after 2 s guard ends it.

What it leaves to others: asking DNS (link), the elements in the kernel (network/area.py).

    names = Names(listener, {0, 995}, mono_s)
    for change in names.hear(table): change.host, change.version, change.address, change.keep_s
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop

from edgewarden.errors import WireRefusal
from edgewarden.gate.sockets import receive
from edgewarden.kernel.process import accept_connection
from edgewarden.wire.lean import Frozen
from edgewarden.wire.local import NameAnswer, parse
from edgewarden.wire.local_network import MAX_ADDRESSES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from edgewarden.wire.network_table import NetworkTable

MIN_KEEP_S = 60
"""Less would let a short TTL cut a connection's set-up off."""
ANSWERS_PER_S, ANSWERS_AT_ONCE = 10.0, 256
"""64 names in two families at a start, twice; an answer of 16 addresses costs a millisecond."""
_BAD_V4 = (b"\x00", b"\x7f")
_MULTICAST_V4, _MULTICAST_V6 = 0xE0, 0xFF


class Change(Frozen):
    """An address that is allowed for a name from now on.

    Attributes:
        host, version, address: as in the table; the address as text.
        keep_s: bounded.
        fresh: it was not allowed before.
        dropped: the address that had to make room, or "".
    """

    __slots__ = ("address", "dropped", "fresh", "host", "keep_s", "version")
    host: int
    version: int
    address: str
    keep_s: int
    fresh: bool
    dropped: str


class Names:
    """See the module.

    Attributes:
        client: the connection, or None.
        refused: answers and connections that were not taken.
        why: the last refusal, in words.
    """

    def __init__(self, listener: socket, uids: set[int], mono_s: Callable[[], float]) -> None:
        self.listener = listener
        self.client: socket | None = None
        self.refused = 0
        self.why = ""
        self._uids = uids
        self._mono_s = mono_s
        self._known: dict[tuple[int, int], dict[str, float]] = {}
        """(host, version) -> address -> when it ends."""
        self._tokens = float(ANSWERS_AT_ONCE)
        self._tokens_mono = mono_s()

    def accept(self) -> bool:
        """Take a client; True when there is a new one. One at a time."""
        taken = False
        while (found := accept_connection(self.listener)) is not None:
            client, peer = found
            if peer.uid not in self._uids or self.client is not None:
                self._refuse(f"a connection of uid {peer.uid}")
                client.close()
                continue
            self.client = client
            taken = True
        return taken

    def hear(self, table: NetworkTable) -> list[Change]:
        """What the client's next answer changes; closes a client that says anything else."""
        data = None if self.client is None else receive(self.client)
        if data is None:
            return []
        try:
            answer = parse(data, NameAnswer)
        except WireRefusal as refusal:
            if data:
                self._refuse(refusal.text)
            self.drop()
            return []
        return self.take(answer, table)

    def take(self, answer: NameAnswer, table: NetworkTable) -> list[Change]:
        """The changes of one answer; none where it is not believed."""
        if answer.generation != table.generation or answer.host >= len(table.hosts):
            self._refuse(f"name {answer.host} of table {answer.generation}")
            return []
        if not self._spend():
            self._refuse("too many answers")
            return []
        now_mono = self._mono_s()
        keep_s = min(max(answer.keep_s, MIN_KEEP_S), table.dns_keep_s)
        known = self._known.setdefault((answer.host, answer.version), {})
        for address in [a for a, end in known.items() if end <= now_mono]:
            del known[address]
        changes = []
        for raw in answer.addresses:
            if not _is_a_peer(raw):
                self._refuse(f"{table.hosts[answer.host]}: an address that is no peer")
                continue
            address = inet_ntop(AF_INET if answer.version == 4 else AF_INET6, raw)
            fresh, dropped = address not in known, ""
            if fresh and len(known) >= MAX_ADDRESSES:
                dropped = min(known, key=lambda a: known[a])
                del known[dropped]
            known[address] = now_mono + keep_s
            changes.append(Change(answer.host, answer.version, address, keep_s, fresh, dropped))
        return changes

    def standing(self) -> dict[int, list[tuple[int, str, int]]]:
        """host -> (version, address, seconds left), for a table that is made anew."""
        now_mono = self._mono_s()
        found: dict[int, list[tuple[int, str, int]]] = {}
        for (host, version), known in self._known.items():
            left = [(version, a, int(end - now_mono)) for a, end in known.items()]
            found.setdefault(host, []).extend(entry for entry in left if entry[2] >= 1)
        return found

    def move_to(self, before: tuple[str, ...], after: tuple[str, ...]) -> None:
        """Another table: what is known of a name that stays goes on, by its new number."""
        numbers = {name: i for i, name in enumerate(after)}
        self._known = {
            (numbers[before[host]], version): known
            for (host, version), known in self._known.items()
            if before[host] in numbers
        }

    def known(self) -> dict[tuple[int, int], dict[str, float]]:
        """What is known, for ``back_to``."""
        return dict(self._known)

    def back_to(self, known: dict[tuple[int, int], dict[str, float]]) -> None:
        """The other table is refused: nothing is forgotten."""
        self._known = known

    def fileno(self) -> int:
        """Of the client's connection, -1 without one."""
        return -1 if self.client is None else self.client.fileno()

    def drop(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None

    def _spend(self) -> bool:
        now_mono = self._mono_s()
        earned = (now_mono - self._tokens_mono) * ANSWERS_PER_S
        self._tokens = min(float(ANSWERS_AT_ONCE), self._tokens + earned)
        self._tokens_mono = now_mono
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _refuse(self, why: str) -> None:
        self.refused += 1
        self.why = why


def _is_a_peer(raw: bytes) -> bool:
    """Not this host, many hosts, or nobody (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5)."""
    if len(raw) == 4:
        return raw[:1] not in _BAD_V4 and raw[0] < _MULTICAST_V4
    mapped = raw[:12] == bytes(10) + b"\xff\xff"
    return raw[0] != _MULTICAST_V6 and raw[:15] != bytes(15) and not mapped
