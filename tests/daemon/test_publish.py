"""When a publisher of copies sends: never before alarms, never more than is taken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.daemon.mirrors import NoMirrors, mirrors_of
from edgewarden.daemon.publish import GIVE_WAY_S, MOST, STUCK_S, Publisher, Publishers, kept
from edgewarden.mirror.homeassistant import HomeAssistant
from edgewarden.mirror.latest import Latest
from edgewarden.mirror.sparkplug import EdgeNode
from edgewarden.ports import Instant
from edgewarden.settings.publish import Sparkplug
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load_settings
from edgewarden.wire.facts import Reading
from tests.fakes.mirrored import Mirrored


class Time:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.s = 1000.0

    def now(self) -> Instant:
        return Instant(round(self.s * 1e9), 1_700_000_000 * 10**9, 1.0, "ntp")

    def boot_id(self) -> bytes:
        return bytes(16)


class Wire:
    """A session that takes everything and acknowledges nothing by itself."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.why = ""

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> int | None:
        self.sent.append(topic)
        return len(self.sent)

    def abort(self, why: str) -> None:
        self.why = why


class Bench:
    """One publisher of Sparkplug B with a session in hand."""

    def __init__(self, folder: Path) -> None:
        self.owner, self.time, self.wire = Mirrored(), Time(), Wire()
        self.owner.clock = self.time  # type: ignore[assignment]
        self.latest = Latest(["boiler"])
        node = EdgeNode("plant", "gw-1", self.latest)
        self.file = folder / "link" / "sparkplug.json"
        wanted = Sparkplug(host="localhost")
        self.publisher = Publisher(
            "sparkplug", wanted, "gw-1", self.latest, node, self.file, self.owner
        )

    def say(self) -> int:
        """One look; returns how many messages it sent."""
        before = len(self.wire.sent)
        self.publisher.say(self.wire)
        return len(self.wire.sent) - before

    def ack(self) -> None:
        """The broker takes all that was sent and not taken yet."""
        while self.publisher.waiting:
            self.publisher.acked(1, 0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_alarms_go_first(bench: Bench) -> None:
    bench.owner.alarms = (5, 4)
    assert bench.say() == 0
    assert bench.publisher.held == 1
    bench.owner.alarms = (5, 5)
    assert bench.say() == 1


def test_an_alarm_that_never_goes_does_not_blind_the_site_for_ever(bench: Bench) -> None:
    bench.owner.alarms = (5, 4)
    assert bench.say() == 0
    bench.time.s += GIVE_WAY_S + 1
    assert bench.say() == 1


def test_without_an_uplink_the_site_sees_on(bench: Bench) -> None:
    bench.owner.alarms, bench.owner.connected = (5, 4), False
    assert bench.say() == 1


def test_a_broker_that_takes_nothing_is_left(bench: Bench) -> None:
    assert bench.say() == 1
    for value in range(1000):
        bench.latest.see(Reading("boiler", "t", "", float(value), 1))
        assert bench.say() == 0
    assert (bench.wire.why, len(bench.latest.values)) == ("", 1 + len(bench.latest.of("")))
    bench.time.s += STUCK_S + 1
    assert bench.say() == 0
    assert "not taken" in bench.wire.why


def test_what_was_taken_makes_room(bench: Bench) -> None:
    assert bench.say() == 1
    bench.ack()
    bench.latest.see(Reading("boiler", "t", "", 1.0, 1))
    assert bench.say() == 1
    assert bench.publisher.sent == 2 <= MOST


def test_what_the_next_start_must_know_is_written_once(bench: Bench) -> None:
    bench.say()
    assert kept(bench.file) == {"bd_seq": 0}
    stamp = bench.file.stat().st_mtime_ns
    bench.ack()
    bench.say()
    assert bench.file.stat().st_mtime_ns == stamp


def test_a_disk_that_takes_nothing_is_counted_and_ends_nothing(bench: Bench) -> None:
    bench.file.parent.parent.joinpath("link").write_text("in the way")
    assert bench.say() == 1
    assert bench.publisher.unkept == 1


@pytest.mark.parametrize("text", ["", "[", "7", "\xff", json.dumps({"bd_seq": 3})])
def test_what_was_written_is_read_or_is_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.json"
    file.write_text(text, encoding="latin-1")
    assert kept(file) in (None, 7, {"bd_seq": 3})
    assert kept(tmp_path / "none") is None


def test_readings_of_one_read_go_the_signed_way_and_to_every_copy(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    both = Publishers({"sparkplug": bench.publisher}, bench.owner)
    came = [Reading("boiler", name, "", 1.5, 1) for name in ("t", "p")]
    both.take_many(came)
    assert bench.owner.taken == came
    assert set(bench.latest.of("boiler")) == {"t", "p"}


def test_without_a_host_a_reading_goes_the_way_it_always_did() -> None:
    owner = Mirrored()
    mirrors = mirrors_of(load_settings([SourceFile("x", "")]), "gw-1", owner)
    assert isinstance(mirrors, NoMirrors)
    assert mirrors.take == owner.take
    assert mirrors.take_many == owner.take_many
    assert mirrors.snapshot() == {}


def test_what_was_announced_is_known_after_many_sensors_were_renamed(tmp_path: Path) -> None:
    """Thirty-two names, and twice others while the broker was away: the file was cut, and read as
    nothing, so that no sensor of before was ever taken back."""
    names = [f"{n:02}-{'x' * 60}" for n in range(96)]
    speaker = HomeAssistant("gw-1", "1", "homeassistant", Latest(names[:32]), names[32:])
    file = tmp_path / "homeassistant.json"
    file.write_text(json.dumps(speaker.kept(), sort_keys=True))
    assert kept(file) == {"sources": sorted(names)}
