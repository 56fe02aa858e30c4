"""What is kept of a port for whoever watches it, and for how long."""

from __future__ import annotations

import pytest

from edgewarden.daemon.sensors import Port, build_sensors
from edgewarden.daemon.view import ASKED_NS, LINES, SHOWN_BYTES, SHOWN_READINGS, View
from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.readings.limits import Limits
from edgewarden.readings.worth import Worth
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
from edgewarden.wire.control import Command, Request, encode_request, parse_request
from edgewarden.wire.facts import Event, Reading
from tests.fakes.clock import FakeClock, FakeRandomness


def lines(view: View, after: int, now_ns: int = 0) -> list[dict[str, object]]:
    said = view.since(after, now_ns)["lines"]
    assert isinstance(said, list)
    return said


def test_nothing_is_kept_until_somebody_asks_and_nothing_when_nobody_asks_any_more() -> None:
    view = View()
    view.tap(b"before", 0)
    assert view.since(0, 1) == {"next": 0, "missed": 0, "lines": []}
    view.tap(b"while", 2)
    assert [line["hex"] for line in lines(view, 0, 3)] == [b"while".hex()]
    view.tap(b"after", 4 + ASKED_NS)
    view.tap(b"later", 5 + ASKED_NS)
    assert lines(view, 1, 6 + ASKED_NS) == []


def test_each_read_is_told_once_and_what_was_lost_is_counted() -> None:
    view = View()
    view.since(0, 0)
    for i in range(LINES + 6):
        view.tap(b"%d" % i, i)
    said = view.since(2, 99)
    assert (said["next"], said["missed"]) == (LINES + 6, 4)
    assert lines(view, LINES + 6) == []


def test_long_reads_and_many_values_are_cut_and_counted() -> None:
    view, worth = View(), Worth("s")
    view.since(0, 0)
    view.tap(b"x" * 4096, 1)
    for i in range(SHOWN_READINGS + 3):
        view.reading(Reading("s", f"c{i}", "", 1.0, 1), worth)
    (line,) = lines(view, 0, 2)
    assert (line["bytes"], line["more"]) == (4096, 3)
    assert len(str(line["hex"])) == 2 * SHOWN_BYTES


def test_a_value_stands_beside_its_bytes_with_why_it_is_doubted() -> None:
    view, worth = View(), Worth("s", {"t": Limits(high=10)})
    view.since(0, 0)
    view.tap(b"{}", 1)
    marked, _ = worth.reading(Reading("s", "t", "Cel", 50.0, 1))
    view.reading(marked, worth)
    (line,) = lines(view, 0, 2)
    assert line["readings"] == [
        {"name": "t", "value": 50.0, "unit": "Cel", "quality": "suspect", "raw": None,
         "why": ["range"]}
    ]  # fmt: skip


def test_a_sensor_that_is_not_there_is_refused_with_those_that_are() -> None:
    text = '[[serial]]\nname = "gps"\nport = "/dev/ttyS9"\nformat = "nmea"\n'
    settings = load_settings([SourceFile("s.toml", text)])
    taken: list[Event | Reading] = []
    sensors = build_sensors(settings.serial, taken.append, FakeClock(), FakeRandomness())
    assert sensors.watched("gps", 0)["lines"] == []
    with pytest.raises(OperatorFault, match="no sensor is called gpx; there are: gps"):
        sensors.watched("gpx", 0)


def test_who_watches_sees_why_of_each_reading_of_a_read() -> None:
    """A value that is good again later in the same read does not hide that one was not."""
    text = '[[serial]]\nname = "t"\nport = "/dev/ttyS9"\nformat = "jsonlines"\n'
    text += '[[serial.channel]]\nname = "t"\nhigh = 10\n'
    settings = load_settings([SourceFile("s.toml", text)])
    taken: list[Event | Reading] = []
    many: list[Reading] = []
    (wanted,) = settings.serial
    port = Port(wanted, taken.append, FakeClock(), FakeRandomness(), many.extend)
    came = [Reading("t", "t", "", value, 1) for value in (50.0, 5.0)]
    port.take_many(came)
    assert [(r.value, r.quality) for r in many] == [(50.0, "suspect"), (5.0, "good")]
    assert [fact.code for fact in taken if isinstance(fact, Event)] == ["EW-SER-010"]
    port.view.since(0, 1)
    port.view.tap(b"x", 1)
    port.take_many(came)
    (line,) = port.view.since(0, 1)["lines"]  # type: ignore[misc, attr-defined]
    assert [shown["why"] for shown in line["readings"]] == [["range"], []]
    assert [r.value for r in taken if isinstance(r, Reading)] == [50.0, 5.0]


def test_the_question_comes_through_as_it_was_asked() -> None:
    asked = Request(Command.WATCH, b"", "gps", 17)
    assert parse_request(encode_request(asked)) == asked


@pytest.mark.parametrize(
    "rest", ['', ',"sensor":"gps"', ',"sensor":1,"after":0', ',"sensor":"gps","after":true',
             ',"sensor":"gps","after":0,"more":1']
)  # fmt: skip
def test_a_question_with_other_fields_is_refused(rest: str) -> None:
    line = f'{{"schema":"edgewarden.control/1","command":"watch"{rest}}}\n'
    with pytest.raises(WireRefusal) as refused:
        parse_request(line.encode())
    assert refused.value.name == "bad_field"
