"""tests/steps.py counts what it says: a measure that sees nothing proves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from tests.stalls import Stalls
from tests.steps import Watching, calls, slack_s, wakes
from tests.waiting import wait_until


def test_calls_are_those_of_python_and_of_c() -> None:
    def twice() -> None:
        len("a")
        len("b")

    assert calls(twice) - calls(lambda: None) >= 2
    few, many = (calls(lambda n=n: [len(str(i)) for i in range(n)]) for n in (100, 200))
    assert 1.9 < many / few < 2.1


def test_wakes_see_a_reader_that_spins() -> None:
    async def scenario() -> tuple[int, int]:
        reader, writer = os.pipe()
        loop = asyncio.get_running_loop()
        with wakes() as woken:
            await asyncio.sleep(0.1)
            calm = woken()
        loop.add_reader(reader, lambda: None)
        os.close(writer)  # readable for ever
        with wakes() as woken:
            await asyncio.sleep(0.1)
            busy = woken()
        loop.remove_reader(reader)
        os.close(reader)
        return calm, busy

    calm, busy = asyncio.run(scenario())
    assert calm < 10 < busy


def test_slack_is_more_than_nothing() -> None:
    assert slack_s() > 0


def test_a_stall_is_seen_and_granted_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    with Stalls() as stalls:
        time.sleep(0.05)  # its threads are at it
        before_s = stalls.lately_s(60)
        os.kill(stalls.pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(stalls.pid, signal.SIGCONT)
        wait_until(lambda: stalls.lately_s(60) >= before_s + 0.4)
        monkeypatch.setattr(Watching, "stalls", stalls)
        assert slack_s() >= 0.4
        assert stalls.lately_s(0) == 0, "what is long over excuses nothing"


def test_a_thread_that_is_late_before_all_are_looking_is_heard(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On a machine that stood still just then the first line is no greeting."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho 0 $(cut -d' ' -f1 /proc/uptime) 0.5\necho looking\nread end\n")
    fake.chmod(0o755)
    monkeypatch.setattr("tests.stalls.sys.executable", str(fake))
    with Stalls() as stalls:
        assert stalls.lately_s(1 << 30) == 0.5
