"""One serial sensor: opens the port, reads its descriptor from the event loop, tells what it sees.

Decides when to open, close and reopen (by portlife.py's table) and which transitions become
events. Leaves to others what bytes mean (the framers and decoders of this room, modbus_bus.py) and
what happens to facts (the sink).

The loop reads the descriptor itself: pyserial's read calls cost 13 to 36 times the CPU of
``os.read`` (research: 93.9 % of a core against 2.6 % for 32 ports at 115200).

Rules, in order:

1. The port is opened exclusively (opening.py): a second reader would steal every other byte.
2. At most ``READ_BYTES`` per wake-up: a flooded port cannot starve the loop. When: pace.py.
3. EIO, any other read error and a wake-up for b"" of a descriptor that hung up mean unplugged: the
   reader is removed at once, so a dead descriptor never spins. b"" alone means nothing: a question
   of Modbus flushes what the loop has just been woken for.
4. Each opening asks which adapter it reached (sense/adapter.py, handed in). Another one than last
   time is a finding: a renumbered port, a swap, or somebody in between; the readings go on, and say
   nothing of it.
5. Time between retries is Backoff's, unless the path leads to another port before (hotplug.py);
   time for silence is the loop's own monotonic clock; facts are stamped by Clock.

    sensor = build_serial_sensor(SerialSettings("gps", "/dev/serial0", Format.NMEA), sink, clock,
    random, adapter_of)
    task = asyncio.create_task(sensor.run())    # cancel it to close the port
    sensor.snapshot().state is PortState.LIVE
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence

import serial

from edgewarden.errors import HardwareFault
from edgewarden.ports import Clock, FactSink, Randomness, ReadingsSink
from edgewarden.serial.binary import CountedFramer, StuffedFramer, Stuffing
from edgewarden.serial.fields import FieldsDecoder, Framer, LineReader, PayloadReader
from edgewarden.serial.framing import Decoder, FrameCounters, LineFramer
from edgewarden.serial.hotplug import Identity, identity, plugged_in
from edgewarden.serial.jsonlines import JsonLinesDecoder
from edgewarden.serial.modbus_bus import ModbusBus
from edgewarden.serial.nmea import NmeaDecoder
from edgewarden.serial.opening import close_port, hung_up, open_port
from edgewarden.serial.pace import GONE, Pace, Readable
from edgewarden.serial.portlife import (
    STABLE_S,
    Backoff,
    Format,
    Happening,
    Line,
    PortState,
    SensorState,
    SerialSettings,
    quiet_for,
    step,
)
from edgewarden.serial.silence import Silence
from edgewarden.wire.facts import OCSF, Event, FramesSeen, Plain, Reading, Severity

READ_BYTES = 4096
"""The kernel's own tty buffer: one wake-up never finds more."""

SETTLE_S = 0.25
"""The least time between two openings: a plug that flutters must not become a storm of events."""

# OCSF peripheral_activity and detection_finding activities.
CONNECT, DISCONNECT, ENABLE = 1, 2, 3
CREATE, CLOSE = 1, 3


AdapterOf = Callable[[int], str]


class SerialSensor:
    """One sensor on one port. Built by ``build_serial_sensor``; every method on the loop's thread.

    Args:
        settings: what to open and how to read it.
        decoder: bytes to readings, or a ModbusBus that also speaks.
        sink: takes the facts.
        clock: stamps the facts.
        random: jitter of the backoff.
        adapter_of: descriptor -> the adapter behind it, "" for unknown.
        opener: opens a port; a parameter so that tests can hold the kernel's part.
        seen: takes what each read completed, before the readings it gave.
        tap: takes each read as it came, before anything is made of it.
        many: takes the readings of one read at once; without it each goes to the sink.
        pace: of the busy ports of this loop; without it each wake-up is a read.
    """

    def __init__(
        self,
        settings: SerialSettings,
        decoder: Decoder | ModbusBus,
        sink: FactSink,
        clock: Clock,
        random: Randomness,
        adapter_of: AdapterOf,
        opener: Callable[[str, Line], serial.Serial] = open_port,
        seen: Callable[[FramesSeen], None] | None = None,
        tap: Callable[[bytes, int], None] | None = None,
        many: ReadingsSink | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._sink = sink
        self._clock = clock
        self._opener = opener
        self._seen, self._tap, self._many = seen, tap, many
        self._pace = None if isinstance(decoder, ModbusBus) else pace
        self._untold_bytes = self._unused_bytes = 0
        self._latest = Happening.STOP
        self._adapter_of = adapter_of
        self._adapter = ""
        self._backoff = Backoff(random)
        # A port whose registers are polled rarely is not silent between two polls, and whichever
        # of its slaves is the only one left speaks once in its own shortest period.
        of: dict[int, float] = {}
        for one in settings.registers:
            of[one.unit] = min(one.period_s, of.get(one.unit, one.period_s))
        silent_s = max(settings.silent_s, 3 * max(of.values(), default=0.0))
        self._woken = asyncio.Event()
        self._silence = Silence(silent_s, self._woken.set)
        self._state = PortState.CLOSED
        self._told_silent = False
        self._curing = False
        self._reason = "not started"
        self._readings = 0
        self._opens = 0
        self._lost = ""
        self._fault: BaseException | None = None
        self._born_ns = clock.now().boot_ns
        self._good_ns: int | None = None
        self._live_since_s: float | None = None

    def snapshot(self) -> SensorState:
        """What status shows; cheap, callable at any time. Silent is silent while it is cured."""
        since_ns = self._born_ns if self._good_ns is None else self._good_ns
        silent_s = max(0.0, (self._clock.now().boot_ns - since_ns) / 1e9)
        state, reason = self._state, self._reason
        if self._told_silent and self._latest in (Happening.QUIET, Happening.OPENED):
            state, reason = PortState.SILENT, quiet_for(silent_s, self._unused_bytes)
        slaves = self._decoder.slaves() if isinstance(self._decoder, ModbusBus) else {}
        return SensorState(
            name=self._settings.name,
            state=state,
            readings=self._readings,
            bad_frames=self._decoder.counters.bad,
            silent_s=silent_s,
            reopens=max(0, self._opens - 1),
            reason=reason,
            counters=self._decoder.counters.as_map(),
            slaves=slaves,
            port=self._settings.port,
            adapter=self._adapter,
        )

    async def run(self) -> None:
        """Keep the port open until cancelled; cancelling closes it."""
        try:
            while True:
                known: Identity | None = None
                try:
                    port = self._opener(self._settings.port, self._settings.line)
                except HardwareFault as fault:
                    if not fault.fields.get("missing"):
                        known = identity(self._settings.port)
                    self._happen(Happening.FAILED, str(fault))
                else:
                    try:
                        known = identity(port.fileno())
                        await self._serve(port.fileno())
                    finally:
                        close_port(port)
                await self._wait(known)
        finally:
            self._happen(Happening.STOP, "stopped")

    async def _wait(self, known: Identity | None) -> None:
        """The backoff, cut short when the path leads to another port than ``known``; after a cure
        none: while it is closed nobody is heard."""
        wait_s = SETTLE_S if self._latest is Happening.QUIET else self._backoff.delay_s()
        settle_s = min(wait_s, SETTLE_S)
        await asyncio.sleep(settle_s)
        await plugged_in(self._settings.port, known, wait_s - settle_s)

    async def _serve(self, fd: int) -> None:
        """Read until the port is lost or has to be reopened."""
        self._opens += 1
        self._lost = ""
        self._woken.clear()
        self._live_since_s = None
        self._compare_adapter(self._adapter_of(fd))
        self._happen(Happening.OPENED, "waiting for the first good frame")
        readable = Readable(fd, self._on_readable, self._pace)
        talk = None
        if isinstance(self._decoder, ModbusBus):
            talk = asyncio.create_task(self._decoder.talk(fd, self._on_good))
            talk.add_done_callback(self._on_talk_ended)
        try:
            await self._supervise()
        finally:
            self._silence.end()
            readable.close()
            if talk is not None:
                talk.cancel()
                await asyncio.wait([talk])

    def _compare_adapter(self, now: str) -> None:
        """Tell of another adapter than at the last opening; one that is not known is no news."""
        last, self._adapter = self._adapter, now or self._adapter
        if not last or not now or last == now:
            return
        detail = self._port() | {"title": f"another adapter, {now}, was {last}", "previous": last}
        boot_ns = self._clock.now().boot_ns
        finding = OCSF.DETECTION_FINDING
        self._sink(Event(finding, CREATE, Severity.HIGH, boot_ns, detail, "EW-USB-003"))

    def _port(self) -> dict[str, Plain]:
        device: dict[str, Plain] = {
            "name": self._settings.name,
            "class": "serial",
            "path": self._settings.port,
        }
        if self._adapter:
            device["adapter"] = self._adapter
        return {"peripheral_device": device}

    def _on_talk_ended(self, talk: asyncio.Task[None]) -> None:
        if not talk.cancelled():
            fault = talk.exception()
            self._fault = None if isinstance(fault, HardwareFault) else fault
            self._on_lost(str(fault))

    async def _supervise(self) -> None:
        """Return when the port is lost, or silent for a second ``silent_s``.

        Raises what ended the bus task when that is not the port's fault: a mistake of ours must
        not look like a loose plug.
        """
        self._silence.begin()
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._fault is not None:
                raise self._fault
            if self._lost:
                self._happen(Happening.LOST, self._lost)
                return
            if self._silence.over():
                self._happen(Happening.QUIET, f"no good frame for {self._silence.silent_s:g} s")
                if self._state is PortState.REOPEN:
                    return
                self._silence.begin()

    def _on_readable(self, fd: int, woken: bool) -> int:
        """A ``pace.Read``."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return 0
        except OSError as fault:
            self._on_lost(os.strerror(fault.errno or 0))
            return GONE
        if not data:
            if not woken or not hung_up(fd):
                return 0
            self._on_lost("end of file")
            return GONE
        counters = self._decoder.counters
        frames, bad = counters.frames, counters.bad
        seen_mono_ns = self._clock.mono_ns()
        if self._tap:
            self._tap(data, seen_mono_ns)
        readings = self._decoder.feed(data, seen_mono_ns)
        self._untold_bytes += len(data)
        self._unused_bytes += len(data)
        if self._seen and (counters.frames != frames or counters.bad != bad):
            self._tell_frames(self._seen, self._untold_bytes, frames, bad, seen_mono_ns)
            self._untold_bytes = 0
        # A refused frame is a frame: the port works even where the content is useless.
        if counters.frames != frames:
            self._on_good(readings, seen_mono_ns)
        return len(data)

    def _tell_frames(
        self, seen: Callable[[FramesSeen], None], size: int, frames: int, bad: int, now_ns: int
    ) -> None:
        decoder, counters = self._decoder, self._decoder.counters
        asked = (decoder.took_ns, decoder.voice) if isinstance(decoder, ModbusBus) else (None, 0)
        new, new_bad = counters.frames - frames, counters.bad - bad
        seen(FramesSeen(self._settings.name, now_ns, size, new, new_bad, *asked))

    def _on_lost(self, reason: str) -> None:
        self._lost = self._lost or reason or "lost"
        self._woken.set()

    def _on_good(self, readings: Sequence[Reading], seen_mono_ns: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._silence.good_s = now_s
        self._good_ns, self._unused_bytes = seen_mono_ns, 0
        if self._state is not PortState.LIVE:
            self._live_since_s = now_s
            self._happen(Happening.FRAME, "")
        elif self._live_since_s is not None and now_s - self._live_since_s >= STABLE_S:
            self._backoff.reset()
            self._live_since_s = None
        self._readings += len(readings)
        if self._many is not None:
            self._many(readings)
            return
        for reading in readings:
            self._sink(reading)

    def _happen(self, happening: Happening, reason: str) -> None:
        before, self._state = self._state, step(self._state, happening)
        self._reason, self._latest = reason, happening
        if before is self._state:
            return
        event = self._event(before, happening)
        if event is not None:
            self._sink(event)

    def _event(self, before: PortState, happening: Happening) -> Event | None:
        """The event of one transition, or None for the untold cure of a silent port."""
        after, class_uid = self._state, OCSF.PERIPHERAL_ACTIVITY
        severity, code = Severity.INFORMATIONAL, ""
        untold = False
        if after is PortState.OPEN:
            activity, untold = CONNECT, self._curing
        elif after is PortState.LIVE:
            activity = ENABLE
            if self._told_silent:
                class_uid, activity, code = OCSF.DETECTION_FINDING, CLOSE, "EW-SER-002"
            self._told_silent = self._curing = False
        elif after is PortState.SILENT:
            class_uid, activity, severity = OCSF.DETECTION_FINDING, CREATE, Severity.MEDIUM
            code, untold = "EW-SER-002", self._told_silent
            self._told_silent = True
        elif after is PortState.REOPEN:
            activity, severity = DISCONNECT, Severity.LOW
            code = "EW-SER-001" if happening is Happening.FAILED else "EW-SER-003"
            untold = self._curing = happening is Happening.QUIET
        else:
            activity = DISCONNECT
        if untold:
            return None
        said = {"state": str(after), "previous": str(before), "reason": self._reason}
        boot_ns = self._clock.now().boot_ns
        return Event(class_uid, activity, severity, boot_ns, {**self._port(), **said}, code)


def build_serial_sensor(
    settings: SerialSettings,
    sink: FactSink,
    clock: Clock,
    random: Randomness,
    adapter_of: AdapterOf,
    seen: Callable[[FramesSeen], None] | None = None,
    tap: Callable[[bytes, int], None] | None = None,
    many: ReadingsSink | None = None,
    pace: Pace | None = None,
) -> SerialSensor:
    """Return the sensor for ``settings``; call on the loop's thread, then run ``run()`` as a
    task."""
    decoder = _decoder(settings, sink, clock)
    return SerialSensor(
        settings, decoder, sink, clock, random, adapter_of, seen=seen, tap=tap, many=many, pace=pace
    )


def _decoder(settings: SerialSettings, sink: FactSink, clock: Clock) -> Decoder | ModbusBus:
    name, framing, counters = settings.name, settings.framing, FrameCounters()
    match settings.format:
        case Format.NMEA:
            return NmeaDecoder(name)
        case Format.JSONLINES:
            return JsonLinesDecoder(name, settings.units)
        case Format.MODBUS_RTU:
            return ModbusBus(settings, sink, clock)
        case Format.LINES:
            lines = LineFramer(framing.max_frame_bytes, counters)
            return FieldsDecoder(name, lines, LineReader(framing.fields, framing.separator))
    framer: Framer
    if framing.layout is not None:
        framer = CountedFramer(framing.layout, framing.max_frame_bytes, counters)
    else:
        stuffing = Stuffing(settings.format)
        framer = StuffedFramer(stuffing, framing.check, framing.max_frame_bytes, counters)
    if not framing.fields:
        return JsonLinesDecoder(name, settings.units, framer)
    return FieldsDecoder(name, framer, PayloadReader(framing.fields, framing.byte_order))
