"""What may never be dropped (ADR 17): denials and alarms, each once and then as an exact count.

What this decides: what is the same alarm (its key), and that a flood costs memory for KEYS of them
and a message per key each TELL_S, however fast it comes. What it leaves to others: the socket and
whatever may be dropped (gate/facts.py), bytes (wire/local.py), what an alarm means (link).

Rules, in order:

1. A key never seen is told at once, whole, before anything else; until the client takes it, it
   stays here.
2. What has the same key is counted. The counts go out each TELL_S, one ``Repeated`` a key.
3. A key is forgotten when it has been told and nothing came for HOLD_S; its next is a first again.
4. More than KEYS at a time, of which the last RESERVED are for owners (a uid, a code) that hold
   fewer than SHARE: nobody's flood hides somebody else's first. The ones that find no place are
   counted by what they are (decision or code), and told as ``Repeated`` with ``others``: the number
   is exact, the names are not kept.
5. Nothing is told twice and nothing is forgotten untold; while nobody listens, everything waits.

    ledger.take(verdict)                 # first of its key: waits to be told
    ledger.take(verdict)                 # the same again: counted
    ledger.tell(send, now_mono)          # ExecVerdict; after TELL_S Repeated(1, ...)
"""

from __future__ import annotations

from edgewarden.wire.local import (
    Alarm,
    ExecVerdict,
    NetworkVerdict,
    ProcessAlert,
    Repeated,
    encode,
)
from edgewarden.wire.peripherals import PeripheralVerdict

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from edgewarden.wire.local import AnyMessage

KEYS = 512
"""About 900 bytes each when every path is long: 460 kB. A gateway that refuses this many different
programs within a minute is attacked or badly configured; both show in the first five hundred."""
RESERVED = 128
SHARE = 16
"""Places for eight more owners after one has taken all it may."""
OTHERS = 64
"""Kinds of what found no place: decisions and alarm codes, a closed list far below this."""
TELL_S = 2.0
"""A person's list is fresh enough, and 512 busy keys cost link 256 messages a second."""
HOLD_S = 60.0
"""As link's own period (judge/triage.py): a minute of quiet, and it is news again."""


def _verdict_key(m: ExecVerdict) -> tuple[object, ...]:
    """Content says which program it is; where there is none, the path must."""
    program = m.sha256 or (m.reason, m.path)
    return ExecVerdict, m.decision, m.rule, m.uid, program


def _peripheral_key(m: PeripheralVerdict) -> tuple[object, ...]:
    """One device at one place; a descriptor that changes with every plugging-in is another."""
    thing = m.vid, m.pid, m.serial, m.descriptors
    return PeripheralVerdict, m.decision, m.reason, m.place, thing


def _peer_key(m: NetworkVerdict) -> tuple[object, ...]:
    """Limits are keyed by limit alone: a flood's addresses are as many as its sender likes."""
    peer = () if m.direction == "limit" else (m.uid, m.protocol, m.address, m.port)
    return NetworkVerdict, m.decision, m.direction, m.rule, *peer


_ALARMING = ("deny", "would_deny", "killed")
KEY_OF: dict[type, Callable[[Any], tuple[object, ...] | None]] = {
    ExecVerdict: lambda m: _verdict_key(m) if m.decision in _ALARMING else None,
    NetworkVerdict: _peer_key,
    Alarm: lambda m: (Alarm, m.code, m.text),
    PeripheralVerdict: lambda m: (
        _peripheral_key(m) if m.decision in ("deny", "would_deny") else None
    ),
    ProcessAlert: lambda m: (ProcessAlert, m.kind, m.uid, m.program, m.by_program),
}
"""What makes two messages the same alarm. A type that is not here, or None: no alarm, may be
dropped."""
OWNER_OF: dict[type, Callable[[Any], object]] = {
    ExecVerdict: lambda m: m.uid,
    NetworkVerdict: lambda m: (m.direction, m.rule),
    Alarm: lambda m: m.code,
    PeripheralVerdict: lambda m: m.place,
    ProcessAlert: lambda m: (m.kind, m.uid),
}
"""Whose share a place counts to."""
KIND_OF: dict[type, Callable[[Any], str]] = {
    ExecVerdict: lambda m: m.decision,
    NetworkVerdict: lambda m: f"{m.decision} {m.direction}",
    Alarm: lambda m: m.code,
    PeripheralVerdict: lambda m: m.decision,
    ProcessAlert: lambda m: m.kind,
}
"""What stays of a message that finds no place."""


class _Entry:
    __slots__ = ("count", "first_ns", "idle_mono", "last_ns", "message", "others", "owner")

    def __init__(self, message: AnyMessage, owner: object, boot_ns: int, *, others: bool) -> None:
        self.message = message
        self.owner = owner
        self.others = others
        self.count = 0
        self.first_ns = self.last_ns = boot_ns
        self.idle_mono: float | None = None

    def again(self, boot_ns: int) -> None:
        if self.count == 0:
            self.first_ns = boot_ns
        self.count += 1
        self.last_ns = boot_ns
        self.idle_mono = None


class Ledger:
    """See the module. One thread.

    Attributes:
        crowded: what found no place since the start.
    """

    def __init__(self, keys: int = KEYS) -> None:
        self.crowded = 0
        self._keys = keys
        self._entries: dict[tuple[object, ...], _Entry] = {}
        self._held: dict[object, int] = {}
        self._others: dict[tuple[type, str], _Entry] = {}
        self._fresh: list[_Entry] = []
        self._next_mono = 0.0
        self._due_mono: float | None = None

    def take(self, message: AnyMessage) -> bool:
        """Keep an alarm; False when it is none."""
        kind = type(message)
        key_of = KEY_OF.get(kind)
        key = None if key_of is None else key_of(message)
        if key is None:
            return False
        boot_ns: int = message.boot_ns  # type: ignore[union-attr]  # every type in KEY_OF has it
        entry = self._entries.get(key)
        if entry is not None:
            entry.again(boot_ns)
            self._due_mono = self._next_mono
            return True
        owner = kind, OWNER_OF[kind](message)
        held, room = self._held.get(owner, 0), self._keys - len(self._entries)
        if room > (RESERVED if held >= SHARE else 0):
            entry = self._entries[key] = _Entry(message, owner, boot_ns, others=False)
            self._held[owner] = held + 1
            self._fresh.append(entry)
            self._due_mono = self._next_mono
        else:
            self._crowd(message, kind, boot_ns)
        return True

    def _crowd(self, message: AnyMessage, kind: type, boot_ns: int) -> None:
        self.crowded += 1
        what = KIND_OF[kind](message) if len(self._others) < OTHERS else ""
        other = self._others.get((kind, what))
        if other is None:
            other = self._others[kind, what] = _Entry(message, None, boot_ns, others=True)
        other.again(boot_ns)
        self._due_mono = self._next_mono

    @property
    def urgent(self) -> bool:
        """Whether something has never been told."""
        return bool(self._fresh)

    def due_mono(self, now_mono: float) -> float | None:
        """When counts are to be told or keys forgotten; None while there is nothing of either."""
        if self._fresh:
            return now_mono
        return self._due_mono

    def tell(
        self, send: Callable[[bytes], bool | None], now_mono: float, *, all_now: bool = False
    ) -> bool:
        """Hand out what is due, in order, as long as ``send`` says True.

        Args:
            send: True taken, None not now, False nobody is there any more.
            now_mono: seconds.
            all_now: the counts, too, whether due or not.

        Returns:
            Whether everything due was taken.
        """
        told = 0
        for entry in self._fresh:
            if not send(encode(entry.message)):
                break
            told += 1
        del self._fresh[:told]
        if self._fresh:
            return False
        if now_mono < self._next_mono and not all_now:
            return True
        for entry in (*self._entries.values(), *self._others.values()):
            if entry.count:
                counted = Repeated(
                    entry.count, entry.first_ns, entry.last_ns, entry.others, entry.message
                )
                if not send(encode(counted)):
                    return False
                entry.count = 0
        self._forget(now_mono)
        self._next_mono = now_mono + TELL_S
        return True

    def _forget(self, now_mono: float) -> None:
        """Let go of what was told a while ago; called when nothing is untold. The next of it is
        due when the one that has been quiet for longest is: a key with no count wakes nobody."""
        for key, entry in list(self._entries.items()):
            if entry.idle_mono is None:
                entry.idle_mono = now_mono
            elif now_mono - entry.idle_mono >= HOLD_S:
                del self._entries[key]
                self._held[entry.owner] -= 1
                if not self._held[entry.owner]:
                    del self._held[entry.owner]
        self._others.clear()
        quiet = [e.idle_mono for e in self._entries.values() if e.idle_mono is not None]
        self._due_mono = min(quiet) + HOLD_S if quiet else None
