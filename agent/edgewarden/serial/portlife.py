"""The life of a serial port as a table: which state follows which happening, and what is told.

Decides states, backoff and which transitions become events. Leaves to others file descriptors and
time (serialport.py). Pure: no I/O, no clock; randomness is a port.

              opened              frame
    CLOSED ───────────▶ OPEN ───────────────▶ LIVE ◀────────┐
      ▲ │                │ │ quiet              │ quiet      │ frame
      │ │ failed         │ └──────▶ SILENT ◀────┘            │
      │ ▼      opened    │           │ │ └──────────────────┘
      │ REOPEN ──────────┘           │ │
      │ ▲  ▲      lost (from OPEN, LIVE, SILENT)
      │ │  └──────────────────────── ┘ │
      │ └──────── quiet again: reopen ─┘
      └── stop (from every state)

The same as a list, which a test holds to TABLE; ``stop`` leads from every state to closed:

    closed   opened -> open, failed -> reopen
    open     frame -> live, quiet -> silent, lost -> reopen
    live     frame -> live, quiet -> silent, lost -> reopen
    silent   frame -> live, quiet -> reopen, lost -> reopen
    reopen   opened -> open, failed -> reopen

Rules:

1. ``quiet`` means: no good frame for ``silent_s``. Bytes that never become a frame do not make a
   port live.
2. A port that stays silent for another ``silent_s`` is closed and opened again at once, and so on:
   drivers and adapters hang for days and only an open wakes them (Node-RED serialport #537,
   ThingsBoard #1451). That is a cure and no failure: no backoff, it would make us deaf.
3. A transition is told once. The reopening of a port already told silent is the cure and is not
   told again until a good frame arrives: a dead sensor costs one event, not one every
   ``silent_s``.
4. Backoff doubles from 0.5 s to 30 s, jittered by half, and starts over only after ``STABLE_S`` of
   good frames.

    step(PortState.LIVE, Happening.QUIET) is PortState.SILENT
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from edgewarden.errors import OurFault
from edgewarden.plain import dataclass, field
from edgewarden.ports import Randomness
from edgewarden.serial.binary import CHECKS, ByteOrder, Check, Layout
from edgewarden.serial.fields import Field
from edgewarden.serial.registers import ModbusRegister

BACKOFF_FIRST_S = 0.5
BACKOFF_CAP_S = 30.0
"""A technician who plugs a sensor back in waits half a minute at most."""
STABLE_S = 60.0
"""A port that works for less than this is not cured: a loose plug must not reset the backoff."""


class Format(StrEnum):
    """What travels on the port."""

    NMEA = "nmea"
    JSONLINES = "jsonlines"
    LINES = "lines"
    SLIP = "slip"
    COBS = "cobs"
    LENGTH_CRC = "length-crc"
    MODBUS_RTU = "modbus-rtu"


class PortState(StrEnum):
    """Where a port is in its life."""

    CLOSED = "closed"
    OPEN = "open"
    LIVE = "live"
    SILENT = "silent"
    REOPEN = "reopen"


class Happening(StrEnum):
    """What can happen to a port."""

    OPENED = "opened"
    FAILED = "failed"
    FRAME = "frame"
    QUIET = "quiet"
    LOST = "lost"
    STOP = "stop"


S, H = PortState, Happening

TABLE: Mapping[tuple[PortState, Happening], PortState] = {
    (S.CLOSED, H.OPENED): S.OPEN,
    (S.CLOSED, H.FAILED): S.REOPEN,
    (S.OPEN, H.FRAME): S.LIVE,
    (S.OPEN, H.QUIET): S.SILENT,
    (S.OPEN, H.LOST): S.REOPEN,
    (S.LIVE, H.FRAME): S.LIVE,
    (S.LIVE, H.QUIET): S.SILENT,
    (S.LIVE, H.LOST): S.REOPEN,
    (S.SILENT, H.FRAME): S.LIVE,
    (S.SILENT, H.QUIET): S.REOPEN,
    (S.SILENT, H.LOST): S.REOPEN,
    (S.REOPEN, H.OPENED): S.OPEN,
    (S.REOPEN, H.FAILED): S.REOPEN,
    **{(state, H.STOP): S.CLOSED for state in S},
}


def quiet_for(silent_s: float, unused_bytes: int) -> str:
    """Why a port is silent, for people: nothing comes, or nothing that makes a frame."""
    said = f"no good frame for {silent_s:.0f} s"
    return f"{said} in {unused_bytes} bytes (rate? format?)" if unused_bytes else said


def step(state: PortState, happening: Happening) -> PortState:
    """Return the next state; raises OurFault for a happening that cannot occur in ``state``."""
    try:
        return TABLE[state, happening]
    except KeyError:
        raise OurFault(f"port cannot be {state} and see {happening}") from None


class Backoff:
    """How long to wait before the next open: 0.5, 1, 2, ... 30 s, each times a factor in [0.5,
    1)."""

    def __init__(self, random: Randomness) -> None:
        self._random = random
        self._next_s = BACKOFF_FIRST_S

    def delay_s(self) -> float:
        """Return the next delay and double the one after it."""
        delay = self._next_s * self._random.uniform(0.5, 1.0)
        self._next_s = min(BACKOFF_CAP_S, self._next_s * 2)
        return delay

    def reset(self) -> None:
        """The port was good for long enough."""
        self._next_s = BACKOFF_FIRST_S


@dataclass(frozen=True, slots=True)
class Line:
    """How characters travel.

    Attributes:
        baud: bits per second.
        data_bits: 7 or 8.
        parity: none, even or odd.
        stop_bits: 1 or 2.
        rs485: the kernel drives RTS while it sends (TIOCSRS485).
    """

    baud: int = 9600
    data_bits: int = 8
    parity: str = "none"
    stop_bits: int = 1
    rs485: bool = False

    @property
    def character_s(self) -> float:
        """Time of one character on the wire: start bit, data, parity, stop bits."""
        return (1 + self.data_bits + (self.parity != "none") + self.stop_bits) / self.baud


@dataclass(frozen=True, slots=True)
class Framing:
    """How ``lines``, ``slip``, ``cobs`` and ``length-crc`` frame and fill what they send.

    Attributes:
        max_frame_bytes: hard maximum of a line or a payload.
        check: what ends a frame of ``slip`` and ``cobs``.
        layout: of ``length-crc``.
        fields: what a frame holds; none: one JSON object.
        byte_order: of numbers in a payload.
        separator: between two columns of a line; " " is any run of blanks.
    """

    max_frame_bytes: int = 256
    check: Check = CHECKS["none"]
    layout: Layout | None = None
    fields: tuple[Field, ...] = ()
    byte_order: ByteOrder = "big"
    separator: str = ","


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """One serial sensor.

    Attributes:
        name: name of the sensor; the ``source`` of its readings.
        port: device path, best /dev/serial/by-path/...: ttyUSB numbers change over a reboot.
        line: how characters travel on it.
        silent_s: no good frame for so long means silent.
        units: for ``jsonlines``: channel -> SenML unit.
        framing: for ``lines``, ``slip``, ``cobs`` and ``length-crc``.
        registers: for ``modbus-rtu``: what to poll.
        reply_timeout_s: for ``modbus-rtu``: how long a slave may think; time on the wire is added.
        gap_s: for ``modbus-rtu``: rest before a question; None for 3.5 characters.
    """

    name: str
    port: str
    format: Format
    line: Line = Line()
    silent_s: float = 10.0
    units: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = Framing()
    registers: tuple[ModbusRegister, ...] = ()
    reply_timeout_s: float = 0.5
    gap_s: float | None = None


@dataclass(frozen=True, slots=True)
class SensorState:
    """What status shows of one sensor.

    Attributes:
        readings: handed to the sink since start.
        bad_frames: frames with a wrong checksum, too long, or refused for their content.
        silent_s: seconds since the last good frame, or since start when there was none.
        reopens: times the port was opened again.
        reason: why the port is not live, "" when it is.
        counters: the framer's own counts.
        slaves: ``modbus-rtu``: unit -> "ok" or what is wrong.
        port: the path that is opened.
        adapter: which adapter it led to last, "" for unknown.
    """

    name: str
    state: PortState
    readings: int
    bad_frames: int
    silent_s: float
    reopens: int
    reason: str
    counters: Mapping[str, object]
    slaves: Mapping[int, str] = field(default_factory=dict)
    port: str = ""
    adapter: str = ""
