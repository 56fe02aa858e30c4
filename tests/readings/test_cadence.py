"""Who speaks: another pace, other frames, a second voice; and what must not alarm."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from edgewarden.readings.cadence import FRAMES, LEARN, Cadence
from edgewarden.serial.pace import GATHER_S
from edgewarden.wire.facts import FramesSeen, Plain
from tests.readings.series import SECOND

LEARNED = FRAMES * LEARN + 1


def speech(
    count: int, period_s: float, size: int, seed: int = 1, start_ns: int = 0, late_s: float = 0.02
) -> Iterator[FramesSeen]:
    chance = random.Random(seed)
    for i in range(count):
        at_ns = start_ns + round((i * period_s + chance.random() * late_s) * SECOND)
        yield FramesSeen("s", at_ns, size + chance.randrange(-2, 3), 1, 0)


def hear(cadence: Cadence, said: Iterator[FramesSeen] | list[FramesSeen]) -> list[dict[str, Plain]]:
    return [found for seen in said if (found := cadence.see(seen)) is not None]


def test_an_honest_sender_is_itself_for_hours() -> None:
    assert hear(Cadence(), speech(20_000, 1.0, 60)) == []


def test_one_that_speaks_when_it_likes_has_wide_bounds() -> None:
    chance, now_ns, said = random.Random(5), 0, []
    for _ in range(20_000):
        now_ns += round(chance.expovariate(1.0) * SECOND)
        said.append(FramesSeen("s", now_ns, 40 + chance.randrange(20), 1, 0))
    assert hear(Cadence(), said) == []


def test_reads_that_bring_several_frames_change_nothing() -> None:
    """Our own process was busy: the same frames in fewer reads."""
    cadence = Cadence()
    assert hear(cadence, speech(LEARNED, 0.1, 60)) == []
    at = LEARNED * SECOND // 10
    late = [FramesSeen("s", at + i * SECOND, 600, 10, 0) for i in range(1, 200)]
    assert hear(cadence, late) == []


def test_one_stall_and_one_unplugging_alarm_nothing() -> None:
    cadence = Cadence()
    said = [*speech(2000, 1.0, 60)]
    gone = [s for s in said if not 600 <= s.seen_mono_ns / SECOND < 900]
    assert hear(cadence, gone) == []


def spoofed(cadence: Cadence, said: Iterator[FramesSeen]) -> list[dict[str, Plain]]:
    assert hear(cadence, speech(LEARNED + 64, 1.0, 60)) == []
    return hear(cadence, said)


def test_another_device_with_another_pace_is_seen_within_three_windows() -> None:
    start_ns = (LEARNED + 64) * SECOND
    found = spoofed(Cadence(), speech(3 * FRAMES, 0.5, 60, 9, start_ns))
    assert found
    assert found[0]["feature"] == "frames_per_s"


def test_a_second_voice_beside_the_first_is_seen() -> None:
    start_ns = (LEARNED + 64) * SECOND
    both = [*speech(96, 1.0, 60, 2, start_ns), *speech(96, 1.0, 60, 3, start_ns + SECOND // 2)]
    assert spoofed(Cadence(), iter(sorted(both, key=lambda s: s.seen_mono_ns)))


def test_a_second_voice_that_is_silent_every_other_window_is_seen() -> None:
    """As windows have it: one of both voices, one of the first alone, and so on."""
    now_ns, said = (LEARNED + 64) * SECOND, []
    for i in range(8):
        period_s = 1.0 if i % 2 else 0.5
        said += speech(FRAMES, period_s, 60, i, now_ns)
        now_ns += round(FRAMES * period_s * SECOND)
    assert spoofed(Cadence(), iter(said))


def test_what_began_does_not_end_between_two_strange_windows() -> None:
    cadence, start_ns = Cadence(), (LEARNED + 64) * SECOND
    spoofed(cadence, speech(4 * FRAMES, 1.0, 120, 9, start_ns))
    now_ns = start_ns + 4 * FRAMES * SECOND
    for i in range(6):
        hear(cadence, speech(FRAMES, 1.0, 60 if i % 2 else 120, i, now_ns))
        now_ns += FRAMES * SECOND
        assert cadence.strange


def events(count: int, mean_s: float, start_ns: int, seed: int) -> list[FramesSeen]:
    chance, now_ns, said = random.Random(seed), start_ns, []
    for _ in range(count):
        now_ns += round(chance.expovariate(1 / mean_s) * SECOND)
        said.append(FramesSeen("s", now_ns, 40, 1, 0))
    return said


def test_one_that_speaks_on_events_may_be_calm_and_not_in_a_hurry() -> None:
    for seed in range(20):
        cadence = Cadence()
        busy = events(LEARNED + 64, 1.0, 0, seed)
        assert hear(cadence, busy) == []
        calm = events(8 * FRAMES, 30.0, busy[-1].seen_mono_ns, seed)
        assert hear(cadence, calm) == []
        assert hear(cadence, events(8 * FRAMES, 0.1, calm[-1].seen_mono_ns, seed))


def test_one_with_a_clock_that_becomes_slow_is_seen() -> None:
    start_ns = (LEARNED + 64) * SECOND
    assert spoofed(Cadence(), speech(4 * FRAMES, 2.0, 60, 9, start_ns))


def test_other_frames_are_seen_and_the_old_ones_end_it() -> None:
    cadence, start_ns = Cadence(), (LEARNED + 64) * SECOND
    found = spoofed(cadence, speech(4 * FRAMES, 1.0, 120, 9, start_ns))
    assert found[0]["feature"] == "bytes_per_frame"
    after = [*speech(5 * FRAMES, 1.0, 60, 9, start_ns + 200 * SECOND)]
    hear(cadence, after)
    assert cadence.strange == ""


def asked(count: int, took_s: float, start_ns: int, seed: int = 1) -> Iterator[FramesSeen]:
    chance = random.Random(seed)
    for i in range(count):
        took_ns = round((took_s + chance.random() * 0.016) * SECOND)
        yield FramesSeen("s", start_ns + i * SECOND, 9, 1, 0, took_ns)


def test_of_one_that_is_asked_the_answers_are_timed_and_not_our_own_pace() -> None:
    cadence = Cadence()
    assert hear(cadence, asked(LEARNED, 0.01, 0)) == []
    faster = (FramesSeen("s", (LEARNED + i // 4) * SECOND + i, 9, 1, 0, 15 * 10**6)
              for i in range(200))  # fmt: skip
    assert hear(cadence, faster) == []
    relayed = hear(cadence, asked(4 * FRAMES, 0.3, (LEARNED + 100) * SECOND))
    assert relayed[0]["feature"] == "answer_s"


def test_our_own_stalls_do_not_make_a_device_look_slow() -> None:
    """One answer in sixteen waited a second for us to be scheduled."""
    cadence = Cadence()
    assert hear(cadence, asked(LEARNED, 0.01, 0)) == []
    said = [*asked(8 * FRAMES, 0.01, (LEARNED + 100) * SECOND)]
    late = [s if i % 16 else replace(s, took_ns=SECOND) for i, s in enumerate(said)]
    assert hear(cadence, late) == []


def test_what_speaks_while_it_learns_is_believed() -> None:
    """The stated limit of T169: who is there first is the device."""
    cadence = Cadence()
    assert hear(cadence, speech(LEARNED + 400, 0.25, 90)) == []


def gathered(
    frames_s: float, size: int, from_s: float, to_s: float, every_s: float, seed: int
) -> list[FramesSeen]:
    """A sender with a clock, read every so often and a little late: what each read completed."""
    chance, said, before = random.Random(seed), [], int(from_s * frames_s)
    at_s = from_s
    while at_s < to_s:
        at_s += every_s
        seen_s = at_s + chance.random() * 0.02
        if (count := int(seen_s * frames_s)) > before:
            new = count - before
            said.append(FramesSeen("s", round(seen_s * SECOND), new * size, new, 0))
            before = count
    return said


@pytest.mark.parametrize(("frames_s", "size"), [(12, 480), (98, 75), (153, 75), (500, 12)])
def test_a_busy_port_may_be_read_at_a_pace_and_again_at_each_wake_up(
    frames_s: float, size: int
) -> None:
    for seed in range(4):
        cadence = Cadence()
        ways = [(0, 300, 0.01), (300, 600, GATHER_S), (600, 900, 0.05), (900, 1000, GATHER_S)]
        for from_s, to_s, every_s in ways:
            assert hear(cadence, gathered(frames_s, size, from_s, to_s, every_s, seed)) == []
        assert not cadence.learning
        twice = gathered(2 * frames_s, size, 1000, 1200, GATHER_S, seed)
        assert hear(cadence, twice), "a second voice beside the first"
