"""From settings to serial sensors: serial/ knows neither settings/ nor sense/ nor readings/, so the
words are translated here, the question which adapter a port leads to is handed in, and what a port
says goes by way of what it is worth.

    port ── tap ─▶ view (what came, for whoever watches)
      ├── frames seen ─▶ worth ─▶ finding ─▶ sink
      └── readings of a read ─▶ worth ─▶ each with its quality ─▶ many; findings ─▶ sink
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edgewarden.daemon.view import View
from edgewarden.errors import OperatorFault
from edgewarden.ports import Clock, FactSink, Randomness, ReadingsSink
from edgewarden.readings.limits import Limits, OnFault
from edgewarden.readings.worth import Worth
from edgewarden.sense.adapter import adapter_of
from edgewarden.serial.binary import CHECKS, ByteOrder, Counts, Layout, Start
from edgewarden.serial.fields import Field, FieldType
from edgewarden.serial.pace import Pace
from edgewarden.serial.portlife import Format, Framing, Line, SensorState, SerialSettings
from edgewarden.serial.registers import ModbusRegister, Order, RegisterType
from edgewarden.serial.serialport import SerialSensor, build_serial_sensor
from edgewarden.settings import serial as schema
from edgewarden.settings.channels import SerialChannel
from edgewarden.wire.facts import Event, FramesSeen, Quality, Reading

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "space": " "}


class Port:
    """One sensor with what its readings are worth; every method on the loop's thread."""

    def __init__(
        self,
        wanted: schema.Serial,
        sink: FactSink,
        clock: Clock,
        random: Randomness,
        many: ReadingsSink | None = None,
        pace: Pace | None = None,
    ) -> None:
        limits = {channel.name: _limits(channel) for channel in wanted.channel}
        self.worth = Worth(wanted.name, limits, fingerprint=wanted.fingerprint == "on")
        self.view = View()
        self._sink, self._many = sink, many
        # How fast a value may change is judged by the time of each: it is read as soon as it comes.
        if any(limit.max_rate_per_s is not None for limit in limits.values()):
            pace = None
        self.sensor = build_serial_sensor(
            serial_settings(wanted), self.take, clock, random, adapter_of, self.seen, self.view.tap,
            self.take_many, pace,
        )  # fmt: skip

    def take(self, fact: Event | Reading) -> None:
        """The sink of the sensor."""
        if isinstance(fact, Event):
            self.worth.happened(fact)
            self._sink(fact)
            return
        marked, findings = self.worth.reading(fact)
        self.view.reading(marked, self.worth)
        self._sink(marked)
        for finding in findings:
            self._sink(finding)

    def take_many(self, readings: Sequence[Reading]) -> None:
        """The readings of one read: judged in their order, then handed on at once."""
        if self._many is None or self.view.watched:
            for reading in readings:
                self.take(reading)
            return
        marked, findings = self.worth.readings(readings)
        self._many(marked)
        for finding in findings:
            self._sink(finding)

    def seen(self, frames: FramesSeen) -> None:
        """What a read completed."""
        for finding in self.worth.frames(frames):
            self._sink(finding)


class Sensors:
    """All ports; iterating gives the sensors that run."""

    def __init__(self, ports: Iterable[Port], clock: Clock) -> None:
        self._ports = {port.sensor.snapshot().name: port for port in ports}
        self._clock = clock

    def __iter__(self) -> Iterator[SerialSensor]:
        return (port.sensor for port in self._ports.values())

    def told(self) -> dict[str, object]:
        """link's answer to `edgewarden sensors`: name -> everything that is known of the port."""
        return {name: _told(port) for name, port in self._ports.items()}

    def quality(self, name: str) -> dict[str, object]:
        """What status says of a sensor's readings."""
        worth = self._ports[name].worth
        return {"quality": str(worth.quality()), "why": list(worth.why())}

    def doubtful(self) -> dict[str, tuple[str, str]]:
        """Sensors whose readings are not good: name -> (quality, why)."""
        worths = ((name, port.worth) for name, port in self._ports.items())
        return {
            name: (str(worth.quality()), "; ".join(worth.why()))
            for name, worth in worths
            if worth.quality() is not Quality.GOOD
        }

    def watched(self, name: str, after: int) -> dict[str, object]:
        """link's answer to `edgewarden sensors watch`; raises OperatorFault."""
        port = self._ports.get(name)
        if port is None:
            known = ", ".join(self._ports) or "none"
            raise OperatorFault(
                f"no sensor is called {name:.64}; there are: {known}",
                code="EW-AGT-007",
                next_step="see `edgewarden sensors`",
            )
        state = _told(port)
        lines = port.view.since(after, self._clock.now().boot_ns)
        return {"sensor": name, "state": state, **lines}


def build_sensors(
    wanted: Iterable[schema.Serial],
    sink: FactSink,
    clock: Clock,
    random: Randomness,
    many: ReadingsSink | None = None,
) -> Sensors:
    """One sensor for each [[serial]]; none is opened before its ``run``.

    Args:
        many: takes the readings of one read at once; without it each goes to the sink.
    """
    pace = Pace()
    return Sensors((Port(one, sink, clock, random, many, pace) for one in wanted), clock)


def _limits(wanted: SerialChannel) -> Limits:
    return Limits(
        low=float("-inf") if wanted.low is None else wanted.low,
        high=float("inf") if wanted.high is None else wanted.high,
        max_rate_per_s=wanted.max_rate_per_s,
        stuck_s=wanted.stuck_s,
        replay=wanted.replay == "on",
        on_fault=OnFault(wanted.on_fault),
        failsafe=wanted.failsafe,
    )


def _told(port: Port) -> dict[str, object]:
    seen: SensorState = port.sensor.snapshot()
    return {
        "state": str(seen.state),
        "readings": seen.readings,
        "bad_frames": seen.bad_frames,
        "silent_s": round(seen.silent_s, 3),
        "port": seen.port,
        "adapter": seen.adapter,
        "reason": seen.reason,
        "reopens": seen.reopens,
        "counters": dict(seen.counters),
        "slaves": {str(unit): note for unit, note in seen.slaves.items()},
        "quality": str(port.worth.quality()),
        "why": list(port.worth.why()),
    }


def serial_settings(wanted: schema.Serial) -> SerialSettings:
    """The same port in the words of serial/."""
    return SerialSettings(
        name=wanted.name,
        port=wanted.port,
        format=Format(wanted.format),
        line=Line(
            wanted.baud, wanted.data_bits, wanted.parity, wanted.stop_bits, wanted.rs485 == "rts"
        ),
        silent_s=wanted.silent_s,
        framing=_framing(wanted),
        registers=tuple(_register(r) for r in wanted.modbus),
        reply_timeout_s=wanted.reply_timeout_s,
        gap_s=None if wanted.gap_ms is None else wanted.gap_ms / 1000,
    )


def _framing(wanted: schema.Serial) -> Framing:
    check, usual = CHECKS[wanted.check], wanted.check_order == "usual"
    if not usual:
        check = replace(check, order=_order(wanted.check_order))
    layout = Layout(
        start=bytes.fromhex(wanted.start),
        length_bytes=wanted.length_bytes,
        length_order=_order(wanted.byte_order),
        counts=Counts(wanted.length_counts),
        check=check,
        check_from=Start(wanted.check_from),
    )
    return Framing(
        max_frame_bytes=wanted.max_frame_bytes,
        check=check,
        layout=layout if wanted.format == "length-crc" else None,
        fields=tuple(
            Field(f.name, f.at, FieldType(f.type), f.scale, f.senml_unit, f.bit, f.size)
            for f in wanted.field
        ),
        byte_order=_order(wanted.byte_order),
        separator=SEPARATORS[wanted.separator],
    )


def _order(word: str) -> ByteOrder:
    return "little" if word == "little" else "big"


def _register(wanted: schema.ModbusRegister) -> ModbusRegister:
    return ModbusRegister(
        name=wanted.name,
        unit=wanted.unit,
        address=wanted.address,
        count=wanted.count or schema.REGISTERS[wanted.type],
        type=RegisterType(wanted.type),
        function=wanted.function,
        scale=wanted.scale,
        senml_unit=wanted.senml_unit,
        period_s=wanted.period_s,
        word_order=Order(wanted.word_order),
        byte_order=Order(wanted.byte_order),
        bit=wanted.bit or 0,
    )
