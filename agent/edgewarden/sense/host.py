"""Health of the board, every period: each thing is a reading, or "not available" with the reason.

Decides where a figure is read and when a condition becomes a finding. Leaves to others what a
figure means for the fleet (judge/).

Load, memory, disk and processor time are the running kernel's (proc_stat.py). Temperature,
throttling, supply voltage and card wear are read from sysfs below ``root``. No program is started
(vcgencmd is not needed: the firmware driver publishes the same word in sysfs).

Rules, in order:

1. One look never fails as a whole: what cannot be read is named in ``unavailable`` with the
   reason, the rest goes on.
2. What is not available is told in one event when it is first known and again only when the list
   changes.
3. A condition (undervoltage, throttling, worn card) is told when it begins and when it ends, once
   each.

Sources: Linux ABI/testing/sysfs-class-thermal, sysfs-class-hwmon; Raspberry Pi firmware
``get_throttled`` bits; JEDEC eMMC 5.1 §7.4.62-64 as published by the kernel in life_time and
pre_eol_info.

    sensor = HostSensor(HostSettings(state_path="/var/lib/edgewarden"), sink, clock)
    sensor.look()
    sensor.snapshot().unavailable["temperature"] == "no thermal zone and no hwmon input below
    /sys/class"
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from edgewarden.plain import dataclass
from edgewarden.ports import Clock, FactSink, ReadingsSink, Sleep
from edgewarden.sense import proc_stat
from edgewarden.sense.proc_stat import text_of
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity

SOURCE = "host"
_STAT, _MEMINFO = "/proc/stat", "/proc/meminfo"
CREATE, CLOSE = 1, 3
"""OCSF detection_finding activities."""
STATUS = 99
"""OCSF activity "other", for the list of what is not available."""

MAX_ZONES = 16
"""A Pi has one zone, server boards under a dozen."""
TEMPERATURE_MIN_C, TEMPERATURE_MAX_C = -60.0, 200.0

# Raspberry Pi firmware, get_throttled: bits 0-3 hold now, bits 16-19 held since boot.
UNDERVOLTAGE_NOW, UNDERVOLTAGE_SINCE_BOOT = 1 << 0, 1 << 16
THROTTLED_BITS = {
    "frequency-capped": 1,
    "throttled": 2,
    "soft-temperature-limit": 3,
}
THROTTLED_DRIVER = "sys/bus/platform/drivers/raspberrypi-firmware"
THROTTLED_CLASSIC = "sys/devices/platform/soc/soc:firmware"
"""The driver's folder links to its device, whatever the model calls it; the second is the
classic."""
SUPPLY_CHIP = "rpi_volt"
"""Name of the hwmon chip of the mainline driver raspberrypi-hwmon: one alarm, no history."""

_DISK = re.compile("mmcblk[0-9]")
# JEDEC eMMC 5.1: life time in steps of 10 %, 0x0B = beyond the estimate; 0 = not defined.
LIFE_STEPS_END = 0x0B
PRE_EOL = {1: "normal", 2: "warning", 3: "urgent"}

CONDITION_CODES = {
    "undervoltage": "EW-HOST-005",
    "throttled": "EW-HOST-005",
    "card-worn": "EW-HOST-007",
}

Value = tuple[str, float | str | bool]
"""SenML unit, value."""


class NotAvailable(Exception):
    """A figure that this machine does not give; the text says why."""


@dataclass(frozen=True, slots=True)
class HostSettings:
    """Attributes:
    period_s: seconds between two looks.
    state_path: whose filesystem's space counts.
    root: where sysfs hangs; / but in tests.
    """

    state_path: str
    period_s: float = 10.0
    root: str = "/"


@dataclass(frozen=True, slots=True)
class HostState:
    """What status shows: the last figure of every channel, and why others are missing."""

    values: Mapping[str, Value]
    unavailable: Mapping[str, str]


class HostSensor:
    """Looks at the board. Every method on the loop's thread; a look takes about a millisecond.

    Args:
        settings: where and how often.
        sink: takes the facts.
        clock: stamps them.
        sleep: between two looks.
        many: takes the readings of a look at once; without it each goes to the sink.
    """

    def __init__(
        self,
        settings: HostSettings,
        sink: FactSink,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
        many: ReadingsSink | None = None,
    ) -> None:
        self._sleep = sleep
        self._settings = settings
        self._sink = sink
        self._many = many or self._each
        self._clock = clock
        self._root = Path(settings.root)
        self._values: dict[str, Value] = {}
        self._unavailable: dict[str, str] = {}
        self._told_unavailable: dict[str, str] | None = None
        self._holding: set[str] = set()
        processors = proc_stat.Processors()
        self._probes: dict[str, Callable[[], dict[str, Value]]] = {
            "load": _load,
            "cpu": lambda: _cpu(processors),
            "memory": _memory,
            "disk": lambda: _disk(settings.state_path),
            "temperature": lambda: read_temperatures(self._root),
            "undervoltage": lambda: read_supply(self._root),
            "throttling": lambda: read_throttling(self._root),
            "card-wear": lambda: read_wear(self._root),
        }

    async def run(self) -> None:
        """Look every period until cancelled."""
        while True:
            self.look()
            await self._sleep(self._settings.period_s)

    def snapshot(self) -> HostState:
        """The last look."""
        return HostState(dict(self._values), dict(self._unavailable))

    def look(self) -> None:
        """One look: readings and, where something changed, events."""
        values: dict[str, Value] = {}
        unavailable: dict[str, str] = {}
        for name, probe in self._probes.items():
            try:
                values.update(probe())
            except NotAvailable as why:
                unavailable[name] = str(why)
            except (OSError, ValueError) as fault:
                unavailable[name] = f"cannot be read: {fault}"
        self._values, self._unavailable = values, unavailable
        seen_mono_ns = self._clock.mono_ns()
        self._many(
            [Reading(SOURCE, name, unit, v, seen_mono_ns) for name, (unit, v) in values.items()]
        )
        if unavailable != self._told_unavailable:
            self._told_unavailable = unavailable
            self._tell_unavailable(seen_mono_ns)
        self._tell_conditions(seen_mono_ns)

    def _each(self, readings: Sequence[Reading]) -> None:
        for reading in readings:
            self._sink(reading)

    def _tell_unavailable(self, seen_mono_ns: int) -> None:
        names: dict[str, Plain] = dict(self._unavailable.items())
        detail: dict[str, Plain] = {"part": "host-health", "not_available": names}
        self._sink(Event(OCSF.HEALTH, STATUS, Severity.INFORMATIONAL, seen_mono_ns, detail))

    def _tell_conditions(self, seen_mono_ns: int) -> None:
        now = {
            name
            for name in CONDITION_CODES
            if name in self._values and self._values[name][1] is True
        }
        for name in sorted(now ^ self._holding):
            begins = name in now
            severity = Severity.HIGH if begins else Severity.INFORMATIONAL
            detail: dict[str, Plain] = {
                "finding_info": {"title": name, "uid": f"host/{name}"},
                "holds": begins,
            }
            self._sink(
                Event(
                    OCSF.DETECTION_FINDING,
                    CREATE if begins else CLOSE,
                    severity,
                    seen_mono_ns,
                    detail,
                    CONDITION_CODES[name],
                )
            )
        self._holding = now


def _load() -> dict[str, Value]:
    one, five, _ = os.getloadavg()
    return {"load-1m": ("", round(one, 2)), "load-5m": ("", round(five, 2))}


def _cpu(processors: proc_stat.Processors) -> dict[str, Value]:
    return {"cpu-used": ("/", round(processors.used(text_of(_STAT)), 4))}


def _memory() -> dict[str, Value]:
    available, used = proc_stat.memory(text_of(_MEMINFO))
    return {"memory-available": ("B", available), "memory-used": ("/", round(used, 4))}


def _disk(path: str) -> dict[str, Value]:
    free, used = proc_stat.disk(path)
    return {"disk-free": ("B", free), "disk-used": ("/", round(used, 4))}


def read_temperatures(root: Path) -> dict[str, Value]:
    """Return ``temperature.<zone type>`` in degrees Celsius.

    Raises:
        NotAvailable: there is no zone and no hwmon input, or none gives a believable figure.
    """
    found: dict[str, Value] = {}
    pairs = [
        (f"{zone}/temp", f"{zone}/type")
        for zone in _folders(f"{root}/sys/class/thermal", "thermal_zone")
    ] or [
        (f"{chip}/temp1_input", f"{chip}/name")
        for chip in _folders(f"{root}/sys/class/hwmon", "hwmon")
        if os.path.exists(f"{chip}/temp1_input")
    ]
    if not pairs:
        raise NotAvailable("no thermal zone and no hwmon input below /sys/class")
    faults = []
    for temperature, kind in pairs[:MAX_ZONES]:
        try:
            celsius = int(text_of(temperature)) / 1000
            if not TEMPERATURE_MIN_C <= celsius <= TEMPERATURE_MAX_C:
                raise ValueError(f"{celsius} degrees")
            name = f"temperature.{_channel(text_of(kind))}"
            found[_free(name, found)] = ("Cel", celsius)
        except (OSError, ValueError) as fault:
            faults.append(f"{temperature.split('/')[-2]}: {fault}")
    if not found:
        raise NotAvailable("; ".join(faults))
    return found


def read_throttling(root: Path) -> dict[str, Value]:
    """Return the firmware's throttling bits, as they hold now.

    Raises:
        NotAvailable: the firmware driver does not publish its word.
    """
    word = _throttled_word(root)
    return {name: ("", bool(word >> bit & 1)) for name, bit in THROTTLED_BITS.items()}


def read_supply(root: Path) -> dict[str, Value]:
    """Return ``undervoltage`` from the firmware's word, or else from the supply's own alarm.

    Raises:
        NotAvailable: there is neither.
    """
    try:
        word = _throttled_word(root)
    except NotAvailable:
        for chip in _folders(f"{root}/sys/class/hwmon", "hwmon"):
            alarm = f"{chip}/in0_lcrit_alarm"
            if os.path.exists(alarm) and text_of(f"{chip}/name").strip() == SUPPLY_CHIP:
                return {"undervoltage": ("", text_of(alarm).strip() == "1")}
        raise NotAvailable("no Raspberry Pi firmware word and no supply alarm in sysfs") from None
    return {
        "undervoltage": ("", bool(word & UNDERVOLTAGE_NOW)),
        "undervoltage-since-boot": ("", bool(word & UNDERVOLTAGE_SINCE_BOOT)),
    }


def _throttled_word(root: Path) -> int:
    for place in (*_folders(f"{root}/{THROTTLED_DRIVER}"), f"{root}/{THROTTLED_CLASSIC}"):
        if os.path.exists(path := f"{place}/get_throttled"):
            return int(text_of(path).strip().removeprefix("0x"), 16)
    raise NotAvailable("no Raspberry Pi firmware driver in sysfs")


def read_wear(root: Path) -> dict[str, Value]:
    """Return ``wear.<disk>.a``, ``.b`` (share of the rated life used, in tenths, upper end) and
    ``card-worn``.

    Raises:
        NotAvailable: no MMC disk, or none that reports wear (SD cards have no standard for it).
    """
    block = root / "sys/block"
    disks = [Path(d) for d in _folders(str(block), "mmcblk") if _DISK.fullmatch(d.split("/")[-1])]
    if not disks:
        raise NotAvailable("no mmcblk disk below /sys/block")
    found: dict[str, Value] = {}
    worn, faults = False, []
    for disk in disks:
        life = disk / "device/life_time"
        if not life.exists():
            kind_file = disk / "device/type"
            kind = kind_file.read_text().strip() if kind_file.exists() else "unknown type"
            faults.append(f"{disk.name}: {kind} cards do not report wear")
            continue
        steps = [int(text, 16) for text in life.read_text().split()]
        for name, step in zip("ab", steps, strict=False):
            if 0 < step <= LIFE_STEPS_END:
                found[f"wear.{disk.name}.{name}"] = ("/", round(step / 10, 1))
                worn = worn or step >= LIFE_STEPS_END - 1
        end_file = disk / "device/pre_eol_info"
        end = PRE_EOL.get(int(end_file.read_text(), 16), "") if end_file.exists() else ""
        if end:
            found[f"wear.{disk.name}.reserve"] = ("", end)
            worn = worn or end == "urgent"
        if not steps or not any(steps):
            faults.append(f"{disk.name}: the card leaves its life time undefined")
    if not found:
        raise NotAvailable("; ".join(faults))
    return {**found, "card-worn": ("", worn)}


def _folders(parent: str, prefix: str = "") -> list[str]:
    """Paths of what is in a folder under such a name, in order; [] where there is no folder."""
    try:
        names = sorted(os.listdir(parent))
        return [f"{parent}/{name}" for name in names if name.startswith(prefix)]
    except OSError:
        return []


def _channel(text: str) -> str:
    """A SenML-safe part of a name out of a driver's own."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in text.strip())
    return kept[:32] or "unnamed"


def _free(name: str, taken: Mapping[str, object]) -> str:
    """``name``, or ``name.2``, ``name.3``, ... when two zones carry one type."""
    candidate, number = name, 1
    while candidate in taken:
        number += 1
        candidate = f"{name}.{number}"
    return candidate
