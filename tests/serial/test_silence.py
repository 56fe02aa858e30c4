"""Silence of a port: rung in time, and no frame, and no task, is the dearer for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from edgewarden.serial.portlife import Format, Happening, SerialSettings
from edgewarden.serial.silence import Silence
from tests.daemon.test_in_step import CountedLoop
from tests.serial.ports import Running


def rings(play: Callable[[Silence, CountedLoop], Awaitable[None]]) -> tuple[list[float], float]:
    """When it rang, in seconds since the beginning; and how long ``play`` took."""
    loop = CountedLoop()
    began_s, rung = loop.time(), list[float]()

    async def whole() -> None:
        silence = Silence(10.0, lambda: rung.append(loop.time() - began_s))
        silence.begin()
        await play(silence, loop)
        silence.end()

    try:
        loop.run_until_complete(whole())
    finally:
        loop.close()
    return [round(at, 6) for at in rung], loop.time() - began_s


async def speaks(silence: Silence, loop: CountedLoop, times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(8)
        silence.good_s = loop.time()


def test_who_speaks_is_never_rung() -> None:
    assert rings(speaks)[0] == []


def test_it_rings_once_ten_seconds_behind_the_last_good_frame() -> None:
    async def play(silence: Silence, loop: CountedLoop) -> None:
        await speaks(silence, loop)
        await asyncio.sleep(60)

    assert rings(play)[0] == [50.0]


def test_who_never_spoke_is_rung_too_and_a_new_beginning_counts_from_then() -> None:
    async def play(silence: Silence, loop: CountedLoop) -> None:
        await asyncio.sleep(30)
        assert silence.over()
        silence.begin()
        assert not silence.over()
        await asyncio.sleep(30)

    assert rings(play)[0] == [10.0, 40.0]


def test_a_frame_between_the_ring_and_the_look_is_no_silence() -> None:
    async def play(silence: Silence, loop: CountedLoop) -> None:
        await asyncio.sleep(11)
        silence.good_s = loop.time()
        assert not silence.over()
        await asyncio.sleep(11)

    assert rings(play)[0] == [10.0, 21.0]


def test_ended_it_rings_no_more() -> None:
    async def play(silence: Silence, loop: CountedLoop) -> None:
        silence.end()
        silence.end()
        await asyncio.sleep(60)

    assert rings(play)[0] == []


def supervised(play: Callable[[Running, CountedLoop], Awaitable[None]]) -> Running:
    """A port that is open, as far as its supervision knows."""
    loop = CountedLoop()
    made: list[Running] = []

    async def whole() -> None:
        made.append(Running(SerialSettings("gps", "/dev/null", Format.NMEA, silent_s=10.0)))
        made[0].sensor._happen(Happening.OPENED, "")
        task = asyncio.create_task(made[0].sensor._supervise())
        await asyncio.sleep(0)
        await play(made[0], loop)
        task.cancel()
        await asyncio.wait([task])

    try:
        loop.run_until_complete(whole())
    finally:
        loop.close()
    return made[0]


def test_a_good_frame_each_eight_seconds_is_no_silence() -> None:
    async def play(gateway: Running, loop: CountedLoop) -> None:
        for _ in range(5):
            await asyncio.sleep(8)
            gateway.sensor._on_good([], 1)

    assert supervised(play).told == ["open", "live"]


def test_who_is_woken_for_nothing_looks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = list[bool]()

    def counted(self: Silence) -> bool:
        looks.append(False)
        assert len(looks) < 5, "looks for ever, and nothing else runs"
        return False

    async def play(gateway: Running, loop: CountedLoop) -> None:
        monkeypatch.setattr(Silence, "over", counted)
        gateway.sensor._woken.set()
        await asyncio.sleep(1)

    supervised(play)
    assert len(looks) == 1
