"""Everything the outside world can do, on one page.

Each Protocol states four things: whether it blocks, who may call it, what it raises, what close
means. Real adapters live in kernel/, sense/, serial/, act/, trust/, record/ and link/; fakes live
in tests/fakes/ and are held to the same contract suite as the real thing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from edgewarden.plain import dataclass
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.tpm_quote import TpmQuote

FactSink = Callable[[Event | Reading], None]
"""Takes one fact. Never blocks, never raises, called on the event loop's thread only."""
ReadingsSink = Callable[[Sequence[Reading]], None]
"""Takes the readings of one read of a port, in order, under the same terms: thousands a second are
handed on once a read."""
Sleep = Callable[[float], Awaitable[None]]
"""Waits so many seconds, or less where several had better wake at one moment; asyncio.sleep."""


@dataclass(frozen=True, slots=True)
class Instant:
    """One look at all clocks.

    Attributes:
        boot_ns: CLOCK_BOOTTIME, nanoseconds since boot, counts through suspend.
        wall_ns: CLOCK_REALTIME, nanoseconds since 1970.
        uncertainty_ms: how far wall_ns may be off, or None when nothing vouches for it.
        state: unsynced, ntp, gps or signed.
    """

    boot_ns: int
    wall_ns: int
    uncertainty_ms: int | None
    state: str


class Clock(Protocol):
    """Time. Does not block; callable from any thread; raises nothing; nothing to close."""

    def now(self) -> Instant:
        """All clocks at one moment."""

    def mono_ns(self) -> int:
        """``now().boot_ns`` alone, for who asks many times a second: one clock is read, not two and
        the kernel's word about them."""

    def boot_id(self) -> bytes:
        """16 bytes, new at every boot (the kernel's random boot id)."""


class Randomness(Protocol):
    """Entropy. Does not block after boot; any thread; raises nothing; nothing to close."""

    def token_bytes(self, count: int) -> bytes:
        """Unpredictable bytes for secrets and nonces."""

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high) for jitter; not for secrets."""


class Signer(Protocol):
    """A private key that never leaves its holder.

    sign() may block for as long as the key's holder takes (a TPM: a second); callable from the
    storage thread and executors, never from the event loop. Raises HardwareFault when the holder
    refuses. Nothing to close.
    """

    kid: bytes
    """First 8 bytes of the COSE key thumbprint (RFC 9679)."""

    def sign(self, message: bytes) -> bytes:
        """ES256 over message: 64 bytes, r || s."""

    def public_key(self) -> bytes:
        """The deterministic CBOR encoding of the COSE_Key."""


class Quoter(Protocol):
    """A TPM that vouches for this boot, by an attestation key that signs nothing else.

    Blocks up to a second on a real chip: executors only. Raises HardwareFault when the TPM refuses
    or is gone. Nothing to close; handles that it opened are flushed before it returns.
    """

    def quote(self, qualifying: bytes) -> TpmQuote:
        """A fresh quote over QUOTE_PCRS with these bytes (at most 64) as qualifying data.

        The certification of the TLS key may be from the start of the process.
        """

    def meanwhile(self, pieces: Iterator[object]) -> AbstractContextManager[None]:
        """While it lasts, take some of ``pieces``, or none, whenever this thread waits for the TPM.

        That is for its quotes and for what else its TPM signs; pieces raise nothing.
        """


@dataclass(frozen=True, slots=True)
class Stored:
    """One durable record as the drain sees it: class number, sequence, the exact bytes to
    publish."""

    record_class: int
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class ClassState:
    """State of one class in the spool; durable is what survives a power cut at this moment."""

    next: int
    durable: int
    acked: int
    bytes: int
    evicted: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Records of one class that are, or are about to be, gone without having been accepted.

    Attributes:
        before: hash of the record before ``first``.
        after: hash that the record behind ``last`` carries as its predecessor.
        reason: one line.
    """

    record_class: int
    first: int
    last: int
    before: bytes
    after: bytes
    reason: str


class Spool(Protocol):
    """Durable records. Every method blocks on the disk and is called from the storage thread only.

    Raises HardwareFault (EW-SPL-...) when the disk refuses; never loses what it reported durable.
    close() makes no record durable that was not, and leaves every file consistent.
    """

    def heads(self) -> dict[int, tuple[int, bytes]]:
        """class -> (highest sequence ever written, SHA-256 of that record or 32 zero bytes)."""

    def put(self, records: Sequence[Stored]) -> int:
        """Make records of one class durable, all or none. Returns after fsync, how many bytes they
        are as they were stored."""

    def peek(self, record_class: int, after_seq: int, count: int, max_bytes: int) -> list[Stored]:
        """The oldest unacknowledged records of a class with seq > after_seq, in order."""

    def ack(self, record_class: int, upto_seq: int) -> None:
        """Remember that everything up to and including upto_seq was accepted; may free space."""

    def room_for(self, record_class: int, size_bytes: int) -> bool:
        """Whether size_bytes more of this class stay within the spool's bounds."""

    def tight(self) -> bool:
        """Whether the filesystem has too little left to take more bulk."""

    def victim(self, reason: str) -> Loss | None:
        """What would have to go next: the oldest bulk segment, or as many as room_for() was short
        of. Deletes nothing."""

    def put_gap(self, record: Stored, loss: Loss) -> int:
        """Make the gap record durable, then delete what it speaks of: in this order, one call;
        returns as put()."""

    def evict(self, loss: Loss) -> None:
        """Delete what victim() named without waiting for its gap record; losses() then names it.

        Only for a disk without room for the gap record itself.
        """

    def finish(self, record_class: int, upto_seq: int) -> None:
        """Delete what a gap record gave up, where a power cut came between it and the deletion;
        counted it is already."""

    def losses(self) -> list[Loss]:
        """Damage found so far that no gap record speaks of yet."""

    def lend_ballast(self) -> bool:
        """Give the reserve back to a full disk; False when it is lent already."""

    def state(self) -> dict[int, ClassState]:
        """Counters per class."""

    def close(self) -> None:
        """Close every file."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code and what it wrote."""

    code: int
    text: str


class Systemd(Protocol):
    """The machine's init, asked by its own commands. Blocks, for at most a bounded time; any
    thread. Raises HardwareFault (EW-EXEC-040) when it does not answer. Nothing to close."""

    def show(self, units: Sequence[str], properties: Sequence[str]) -> dict[str, dict[str, str]]:
        """unit -> property -> value, as loaded now; [""] asks for the manager's own."""

    def do(self, verb: str, *units: str) -> Ended:
        """daemon-reload, start, stop, reload; the code says whether it was done."""

    def restart(self, unit: str) -> bool:
        """Restart a unit and look again a moment later: whether it runs."""

    def transient(
        self, properties: Sequence[tuple[str, str]], command: Sequence[str], limit_s: float
    ) -> Ended:
        """Run a program in a unit of its own with these directives, and wait for its end."""

    def later(self, unit: str, after_s: int, command: Sequence[str]) -> None:
        """Run a command once after a time; a boot forgets it. ``do("stop", unit + ".timer")``."""


class Drain(Protocol):
    """The spool as the uplink sees it, from the event loop. Nothing here blocks the loop."""

    async def peek(
        self, record_class: int, after_seq: int, count: int, max_bytes: int
    ) -> list[Stored]:
        """As Spool.peek, durable records only, or those in memory; raises HardwareFault."""

    def ack(self, record_class: int, upto_seq: int) -> None:
        """As Spool.ack, at some later moment; raises nothing."""

    async def set_aside(self, record_class: int, seq: int, reason: int) -> bool:
        """Keep the oldest unaccepted record where a person finds it, say so in a signed gap record
        and let the class go on behind it; False when there is no room for it (nothing was done).

        Raises HardwareFault.
        """

    def state(self) -> dict[int, ClassState]:
        """Counters per class as of the last commit; as wire.record.MEMORY those of the chain in
        memory, once there is one. There ``durable`` is what may be sent."""

    def watch(self, changed: Callable[[], None]) -> None:
        """Call changed() after each commit, from the storage thread: it must not block."""
