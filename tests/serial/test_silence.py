"""Silence of a port: rung in time, and no frame, and no task, is the dearer for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgewarden.serial.silence import Silence
from tests.daemon.test_in_step import CountedLoop


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
