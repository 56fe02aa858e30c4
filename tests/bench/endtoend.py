"""From the wire to the broker: a real link, its ports ptys, its broker a Mosquitto.

    data.4.8-lost        lines of 32 ports at 115,200 baud that reached the broker in no record
    data.4.8-share       what that takes of one core, one value in a line of 75 bytes
    data.4.8-nmea        the same with NMEA sentences, of which one gives several values
    data.4.8-flat        four ports as fast as link reads, batches of 100: readings a second, signed
                         and durable   against   encoding, signing and committing such batches alone
    data.4.8-flat-bare   the same   against   the commits alone, records made before

A line holds its number, so that what is lost is known by name. The sender keeps to the line's own
pace; what link leaves too long is dropped, as on a UART, and counts as lost. Flat out nothing is
dropped on the line: the sender waits. Turns, not blocks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edgewarden.daemon.clock import SystemClock
from edgewarden.ports import Stored
from edgewarden.serial.nmea import NmeaDecoder
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.facts import Reading, readings_from_senml
from edgewarden.wire.record import Kind, RecordClass, decode_record
from hw.rigs.data.make_nmea_noisy import epoch
from hw.rigs.ptys import PtyPort
from tests.bench import proc
from tests.bench.data import open_journal
from tests.bench.linked import Linked, Site, await_quiet
from tests.bench.place import CannotMeasure, Place, await_
from tests.bench.ports import BYTES_S, TICK_S
from tests.bench.rows import HIGHER, Figure, Spec, middle
from tests.broker import Subscriber

PORTS, FLAT_PORTS = 32, 4
RUNS, PACED_S, FLAT_S = 3, 8.0, 4.0
LINE_BYTES = 75
"""A value each: 4,909 readings a second from 32 ports, what the prototype of the research had."""
BATCH = 100
BATCH_BYTES = BATCH * 43
"""[spool] bulk_commit_bytes for as many readings of this size (record/intake.py)."""
STAGE_BATCHES = 150
QUIET_S = 3.0
"""Without a reading in so long all have arrived: commits are a second apart."""
LINES = """\
format = "lines"
[[serial.field]]
name = "n"
at = 0
type = "number"
"""
PORT = """\
[[serial]]
name = "{name}"
port = "{port}"
baud = 115200
"""
AT_PACE = f"{PORTS} ports at 115,200 baud"

SPECS = (
    Spec("data.4.8-lost", f"lines of {AT_PACE} that the broker has in no signed record", "lost", 0),
    Spec("data.4.8-share", f"processor time of link, {AT_PACE}, a value in each line of"
         f" {LINE_BYTES} bytes, signed, durable, published", "%", 8.0),
    Spec("data.4.8-nmea", "the same with NMEA sentences (GGA, RMC, VTG, GSA)", "%", 8.0),
    Spec("data.4.8-flat", f"readings a second of {FLAT_PORTS} ports flat out, batches of {BATCH}, /"
         " the commit stage alone (encoding, signing, one commit a batch)", "x", 0.6, HIGHER),
    Spec("data.4.8-flat-bare", "the same / its commits alone, of records made before", "x", 0.6,
         HIGHER),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    site = Site(place, "endtoend")
    fleet = site.pki.context(site.pki.folder / "fleet.pem", site.pki.folder / "fleet.key")
    with Subscriber(site.broker.port, fleet, ["ew/1/#"]) as heard:
        lines, nmea = [], []
        for run in range(RUNS):
            lines.append(paced(site, heard, f"lines-{run}", LINES))
            nmea.append(paced(site, heard, f"nmea-{run}", 'format = "nmea"\n'))
        lost, sent = (sum(getattr(one, part) for one in lines) for part in ("lost", "sent"))
        missed, values = (sum(getattr(one, part) for one in nmea) for part in ("lost", "sent"))
        note = f"with NMEA {missed} of {values} values"
        yield Figure("data.4.8-lost", lost, f"{sent} sent", RUNS, note)
        for name, turns in (("share", lines), ("nmea", nmea)):
            rate = middle(one.sent / one.lasted_s for one in turns)
            share = middle(100 * one.cpu_s / one.lasted_s for one in turns)
            yield Figure(
                f"data.4.8-{name}", share, "100 % are one core", RUNS,
                f"{rate:.0f} readings/s, {share * 1e4 / rate:.1f} us each",
            )  # fmt: skip
        yield from flat(site, heard)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn came to: readings sent and lost, processor and wall seconds of the sending."""

    sent: int
    lost: int
    cpu_s: float
    lasted_s: float


@contextlib.contextmanager
def talking(
    site: Site, heard: Subscriber, name: str, ports: int, kind: str, more: str
) -> Iterator[tuple[list[PtyPort], Linked]]:
    """link with so many ports open and a session, its start over."""
    heard.messages.clear()
    board = site.folder / f"{name}-board"
    board.mkdir()
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(PtyPort(board / f"p{i}")) for i in range(ports)]
        text = "".join(PORT.format(name=line.link.name, port=line.link) + kind for line in lines)
        link = stack.enter_context(site.start(site.state(name), more + text))
        descriptors = Path(f"/proc/{link.pid}/fd")
        await_("open ports", lambda: _ptys(descriptors) >= ports, 20)
        await_("session", lambda: any("/r/" in topic for topic, _, _ in heard.messages), 30)
        time.sleep(QUIET_S)
        yield lines, link


def _ptys(descriptors: Path) -> int:
    found = 0
    for one in descriptors.iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(one).startswith("/dev/pts/")
    return found


def paced(site: Site, heard: Subscriber, name: str, kind: str) -> Turn:
    """PORTS ports at the line's pace for PACED_S, then what came of it."""
    epochs = [b"".join(epoch(second)) for second in range(60)]
    each = [len(NmeaDecoder("p").feed(sentences, 1)) for sentences in epochs]
    with talking(site, heard, name, PORTS, kind, "[spool]\nbulk_commit_s = 1\n") as (lines, link):
        cpu_s, began_s, at, owed, values = proc.cpu_s(link.pid), time.monotonic(), 0, 0, 0
        while (elapsed_s := time.monotonic() - began_s) < PACED_S:
            chunk = b""
            while owed + len(chunk) < elapsed_s * BYTES_S:
                chunk += _line(at) if kind == LINES else epochs[at % 60]
                values += 1 if kind == LINES else each[at % 60]
                at += 1
            for line in lines:
                line.send(chunk)
            owed += len(chunk)
            time.sleep(TICK_S)
        lasted_s = time.monotonic() - began_s
        cpu_s = proc.cpu_s(link.pid) - cpu_s
        dropped = sum(line.dropped_bytes for line in lines)
        link.check()
        await_quiet(QUIET_S, lambda: with_readings(heard))
    came = readings(heard)
    if kind == LINES:
        wanted = {(f"p{i}", n) for i in range(PORTS) for n in range(at)}
        lost = len(wanted - {(r.source, r.value) for r in came})
    else:
        lost = values * PORTS - len(came)
    if dropped and not lost:
        raise CannotMeasure(f"{dropped} bytes did not fit the line, and nothing is missing")
    return Turn(values * PORTS, lost, cpu_s, lasted_s)


def _line(number: int) -> bytes:
    return f"{number},".encode().ljust(LINE_BYTES - 2, b"x") + b"\r\n"


def with_readings(heard: Subscriber) -> int:
    """Records so far that hold a reading of the first port: link has others to send, too."""
    return sum(b"p0/" in payload for payload in heard.payloads(f"/r/{RecordClass.BULK.label}"))


def readings(heard: Subscriber, within_ns: tuple[int, int] = (0, 1 << 63)) -> list[Reading]:
    """What the records hold that the broker has, each record once, made in that time."""
    found: dict[int, list[Reading]] = {}
    for payload in heard.payloads(f"/r/{RecordClass.BULK.label}"):
        record = decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
        if record.kind == Kind.BATCH and within_ns[0] <= record.time.boot_ns <= within_ns[1]:
            pack = readings_from_senml(record.body["readings"], record.time.boot_ns)
            found[record.seq] = [r for r in pack if r.source.startswith("p")]
    return [reading for pack in found.values() for reading in pack]


# --- flat out --------------------------------------------------------------------------------


def flat(site: Site, heard: Subscriber) -> Iterator[Figure]:
    """Everything at once, and the stage that takes longest by itself."""
    rates, sizes, whole, bare = [], [], [], []
    for run in range(RUNS):
        rate, size = flat_out(site, heard, f"flat-{run}")
        rates.append(rate)
        sizes.append(size)
        made, committed = stage(site.folder / f"stage-{run}")
        whole.append(made)
        bare.append(committed)
    note = (
        f"{middle(rates):.0f} readings/s, {middle(sizes):.0f} in a record; the stage alone"
        f" {middle(whole):.0f}, its commits {middle(bare):.0f}"
    )
    for name, alone in (("flat", whole), ("flat-bare", bare)):
        ratio = middle(a / b for a, b in zip(rates, alone, strict=True))
        against = f"{middle(alone):.0f} readings/s"
        yield Figure(f"data.4.8-{name}", ratio, against, RUNS, note)


def flat_out(site: Site, heard: Subscriber, name: str) -> tuple[float, float]:
    """(readings a second that became durable and left, readings in a record)."""
    more = f"[spool]\nbulk_commit_bytes = {BATCH_BYTES}\n"
    data = b"".join(_line(n) for n in range(200))
    with talking(site, heard, name, FLAT_PORTS, LINES, more) as (lines, link):
        waiting = {line.master: b"" for line in lines}
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        end_ns = began_ns + round(FLAT_S * 1e9)
        while (now_ns := time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < end_ns:
            taken = 0
            for master, rest in waiting.items():
                rest = rest or data
                with contextlib.suppress(BlockingIOError):
                    sent = os.write(master, rest)
                    taken += sent
                    rest = rest[sent:]
                waiting[master] = rest
            if not taken:
                time.sleep(0.0005)
        link.check()
        await_quiet(QUIET_S, lambda: with_readings(heard))
    came = readings(heard, (began_ns, now_ns))
    records = len({id(p) for p in heard.payloads("/r/bulk")})
    return len(came) / ((now_ns - began_ns) / 1e9), len(came) / max(1, records)


def stage(folder: Path) -> tuple[float, float]:
    """Readings a second of the storage's work by itself, and of its commits by themselves."""
    clock = SystemClock()
    now_ns = clock.now().boot_ns
    batch = [Reading("p0", "n", "", float(n), now_ns) for n in range(BATCH)]
    journal, again = open_journal(folder / "whole"), open_journal(folder / "bare")
    try:
        head = journal.heads()[RecordClass.BULK][0]
        began = time.perf_counter()
        for _ in range(STAGE_BATCHES):
            journal.batch(batch, [], {})
        whole_s = time.perf_counter() - began
        made = journal.spool.peek(RecordClass.BULK, head, STAGE_BATCHES, 1 << 30)
        if len(made) != STAGE_BATCHES:
            raise CannotMeasure(f"{len(made)} of {STAGE_BATCHES} records are in the spool")
        first = again.heads()[RecordClass.BULK][0] + 1
        rows = [Stored(r.record_class, first + i, r.data) for i, r in enumerate(made)]
        began = time.perf_counter()
        for row in rows:
            again.spool.put([row])
        bare_s = time.perf_counter() - began
    finally:
        journal.spool.close()
        again.spool.close()
    return STAGE_BATCHES * BATCH / whole_s, STAGE_BATCHES * BATCH / bare_s
