"""Host health on fake sysfs trees, and once on this machine as it is."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from edgewarden.sense.host import (
    HostSensor,
    HostSettings,
    NotAvailable,
    read_supply,
    read_temperatures,
    read_throttling,
    read_wear,
)
from edgewarden.wire.facts import OCSF, Event, Reading, Severity
from tests.fakes.clock import FakeClock

FIRMWARE = "sys/bus/platform/drivers/raspberrypi-firmware/soc:firmware/get_throttled"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pi(root: Path, throttled: str = "0") -> Path:
    """A Raspberry Pi with a good eMMC module, as its sysfs reads."""
    return write(
        root,
        {
            "sys/class/thermal/thermal_zone0/temp": "48312\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            FIRMWARE: f"{throttled}\n",
            "sys/block/mmcblk0/device/life_time": "0x02 0x01\n",
            "sys/block/mmcblk0/device/pre_eol_info": "0x01\n",
            "sys/block/mmcblk0/device/type": "MMC\n",
        },
    )


class Host:
    """A host sensor and its facts."""

    def __init__(self, root: Path) -> None:
        self.facts: list[Event | Reading] = []
        settings = HostSettings(state_path=str(root), root=str(root))
        self.sensor = HostSensor(settings, self.facts.append, FakeClock())

    @property
    def events(self) -> list[Event]:
        return [fact for fact in self.facts if isinstance(fact, Event)]

    def look(self) -> dict[str, tuple[str, object]]:
        """Look once; channel -> (unit, value)."""
        self.facts.clear()
        self.sensor.look()
        return {
            fact.name: (fact.unit, fact.value) for fact in self.facts if isinstance(fact, Reading)
        }


def test_a_board_that_gives_everything(tmp_path: Path) -> None:
    host = Host(pi(tmp_path))
    seen = host.look()
    assert seen["temperature.cpu-thermal"] == ("Cel", 48.312)
    assert seen["undervoltage"] == seen["throttled"] == ("", False)
    assert seen["wear.mmcblk0.a"] == ("/", 0.2)
    assert seen["wear.mmcblk0.b"] == ("/", 0.1)
    assert seen["wear.mmcblk0.reserve"] == ("", "normal")
    assert seen["card-worn"] == ("", False)
    assert host.sensor.snapshot().unavailable == {}
    assert [event.detail["not_available"] for event in host.events] == [{}]


def test_load_memory_disk_and_cpu_are_real(tmp_path: Path) -> None:
    seen = Host(tmp_path).look()
    assert {"load-1m", "load-5m", "cpu-used", "memory-used", "disk-used"} <= seen.keys()
    for name in ("memory-available", "disk-free"):
        unit, value = seen[name]
        assert unit == "B"
        assert isinstance(value, int)
        assert value > 0
    for name in ("cpu-used", "memory-used", "disk-used"):
        unit, value = seen[name]
        assert unit == "/"
        assert isinstance(value, float)
        assert 0 <= value <= 1


def test_a_bare_machine_says_why_and_says_it_once(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.look()
    why = {
        "temperature": "no thermal zone and no hwmon input below /sys/class",
        "undervoltage": "no Raspberry Pi firmware word and no supply alarm in sysfs",
        "throttling": "no Raspberry Pi firmware driver in sysfs",
        "card-wear": "no mmcblk disk below /sys/block",
    }
    assert host.sensor.snapshot().unavailable == why
    assert [event.detail["not_available"] for event in host.events] == [why]
    assert host.events[0].class_uid is OCSF.HEALTH
    host.look()
    assert host.events == []
    pi(tmp_path)
    host.look()
    assert [event.detail["not_available"] for event in host.events] == [{}]


@pytest.mark.parametrize(
    ("word", "under", "capped", "throttled", "soft", "since"),
    [
        ("0", False, False, False, False, False),
        ("0x0", False, False, False, False, False),
        ("50005", True, False, True, False, True),
        ("0x50000", False, False, False, False, True),
        ("a", False, True, False, True, False),
        ("f000f", True, True, True, True, True),
    ],
)
def test_the_firmware_word(
    tmp_path: Path, word: str, under: bool, capped: bool, throttled: bool, soft: bool, since: bool
) -> None:
    root = write(tmp_path, {FIRMWARE: word + "\n"})
    assert read_supply(root) == {
        "undervoltage": ("", under),
        "undervoltage-since-boot": ("", since),
    }
    assert read_throttling(root) == {
        "frequency-capped": ("", capped),
        "throttled": ("", throttled),
        "soft-temperature-limit": ("", soft),
    }


@pytest.mark.parametrize(("alarm", "holds"), [("0\n", False), ("1\n", True)])
def test_the_supply_alarm_where_there_is_no_word(tmp_path: Path, alarm: str, holds: bool) -> None:
    chip = "sys/class/hwmon/hwmon1"
    root = write(tmp_path, {f"{chip}/name": "rpi_volt\n", f"{chip}/in0_lcrit_alarm": alarm})
    assert read_supply(root) == {"undervoltage": ("", holds)}
    with pytest.raises(NotAvailable, match="firmware"):
        read_throttling(root)


def test_another_chips_alarm_is_not_the_supply(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon0"
    root = write(tmp_path, {f"{chip}/name": "nct6775\n", f"{chip}/in0_lcrit_alarm": "1\n"})
    with pytest.raises(NotAvailable):
        read_supply(root)


def test_conditions_are_told_when_they_begin_and_when_they_end(tmp_path: Path) -> None:
    host = Host(pi(tmp_path))
    told = []
    for word in ("0", "1", "1", "5", "0", "0"):
        pi(tmp_path, word)
        host.look()
        told.append(
            [
                (e.detail["finding_info"]["title"], e.activity_id, e.code, e.severity_id)  # type: ignore[index,call-overload]
                for e in host.events
                if e.class_uid is OCSF.DETECTION_FINDING
            ]
        )
    under, throttled = "undervoltage", "throttled"
    code, high, low = "EW-HOST-005", Severity.HIGH, Severity.INFORMATIONAL
    assert told == [
        [],
        [(under, 1, code, high)],
        [],
        [(throttled, 1, code, high)],
        [(throttled, 3, code, low), (under, 3, code, low)],
        [],
    ]


@pytest.mark.parametrize(
    ("life", "end", "worn"),
    [
        ("0x01 0x01", "0x01", False),
        ("0x09 0x09", "0x02", False),
        ("0x0a 0x01", "0x01", True),
        ("0x01 0x0b", "0x01", True),
        ("0x01 0x01", "0x03", True),
    ],
)
def test_card_wear(tmp_path: Path, life: str, end: str, worn: bool) -> None:
    disk = "sys/block/mmcblk0/device"
    root = write(tmp_path, {f"{disk}/life_time": life + "\n", f"{disk}/pre_eol_info": end + "\n"})
    assert read_wear(root)["card-worn"] == ("", worn)


def test_an_sd_card_reports_no_wear(tmp_path: Path) -> None:
    root = write(tmp_path, {"sys/block/mmcblk0/device/type": "SD\n"})
    with pytest.raises(NotAvailable, match="mmcblk0: SD cards do not report wear"):
        read_wear(root)


@pytest.mark.parametrize("life", ["0x00 0x00", ""])
def test_a_card_without_a_life_time(tmp_path: Path, life: str) -> None:
    root = write(tmp_path, {"sys/block/mmcblk0/device/life_time": life + "\n"})
    with pytest.raises(NotAvailable, match="undefined"):
        read_wear(root)


@pytest.mark.parametrize("text", ["", "hot", "999999999", "-274000"])
def test_temperatures_that_are_none(tmp_path: Path, text: str) -> None:
    zone = "sys/class/thermal/thermal_zone0"
    root = write(tmp_path, {f"{zone}/temp": text, f"{zone}/type": "cpu"})
    with pytest.raises(NotAvailable, match="thermal_zone0"):
        read_temperatures(root)


def test_zones_of_one_type_and_odd_names_stay_apart(tmp_path: Path) -> None:
    zones = "sys/class/thermal/thermal_zone"
    root = write(
        tmp_path,
        {
            f"{zones}0/temp": "1000",
            f"{zones}0/type": "x y/ü",
            f"{zones}1/temp": "2000",
            f"{zones}1/type": "x y/ü",
        },
    )
    assert read_temperatures(root) == {
        "temperature.x-y--": ("Cel", 1.0),
        "temperature.x-y--.2": ("Cel", 2.0),
    }


def test_hwmon_stands_in_where_there_is_no_zone(tmp_path: Path) -> None:
    chip = "sys/class/hwmon/hwmon0"
    root = write(tmp_path, {f"{chip}/name": "cpu_thermal\n", f"{chip}/temp1_input": "51000\n"})
    assert read_temperatures(root) == {"temperature.cpu_thermal": ("Cel", 51.0)}


def test_one_broken_file_does_not_hide_the_rest(tmp_path: Path) -> None:
    host = Host(pi(tmp_path, throttled="zz"))
    seen = host.look()
    assert "temperature.cpu-thermal" in seen
    assert set(host.sensor.snapshot().unavailable) == {"undervoltage", "throttling"}
    assert host.sensor.snapshot().unavailable["throttling"].startswith("cannot be read")


def test_this_machine_as_it_is() -> None:
    facts: list[Event | Reading] = []
    sensor = HostSensor(HostSettings(state_path="/"), facts.append, FakeClock())
    sensor.look()
    snapshot = sensor.snapshot()
    covered = {name.split(".")[0] for name in snapshot.values} | snapshot.unavailable.keys()
    assert {"load-1m", "memory-used", "disk-used", "cpu-used"} <= covered
    assert all(snapshot.unavailable.values())
    for fact in facts:
        if isinstance(fact, Reading) and isinstance(fact.value, float):
            assert math.isfinite(fact.value), fact.name


def test_readings_of_a_look_are_handed_on_at_once_where_somebody_takes_them_so(
    tmp_path: Path,
) -> None:
    events: list[Event | Reading] = []
    looks: list[list[Reading]] = []
    settings = HostSettings(state_path=str(tmp_path), root=str(pi(tmp_path)))
    sensor = HostSensor(
        settings, events.append, FakeClock(), many=lambda came: looks.append([*came])
    )
    sensor.look()
    [seen] = looks
    assert {f"{one.name}" for one in seen} == set(sensor.snapshot().values)
    assert [type(one) for one in events] == [Event] * len(events)


def test_a_disk_of_another_name_is_no_card(tmp_path: Path) -> None:
    root = write(
        tmp_path, {f"sys/block/{name}/device/type": "MMC" for name in ("mmcblk0p1", "sda")}
    )
    with pytest.raises(NotAvailable, match="no mmcblk disk"):
        read_wear(root)
