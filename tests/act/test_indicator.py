"""The LED: its table, gpiozero's own mock pin, and this machine as it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from gpiozero.pins.mock import MockFactory, MockPin

from edgewarden.act.indicator import (
    DENIED_SHOWN_S,
    PATTERNS,
    Condition,
    Indicator,
    condition_of,
    open_indicator,
    steps,
)
from tests.waiting import until

PIN = 17


@pytest.mark.parametrize(
    ("connected", "denied_age_s", "shown"),
    [
        (True, None, Condition.HEALTHY),
        (False, None, Condition.OFFLINE),
        (True, 0.0, Condition.DENIED),
        (False, DENIED_SHOWN_S - 1, Condition.DENIED),
        (True, DENIED_SHOWN_S, Condition.HEALTHY),
        (False, DENIED_SHOWN_S + 1, Condition.OFFLINE),
    ],
)
def test_the_worst_condition_is_shown(
    connected: bool, denied_age_s: float | None, shown: Condition
) -> None:
    assert condition_of(connected=connected, denied_age_s=denied_age_s) is shown


def test_every_condition_has_a_pattern_of_its_own() -> None:
    rounds = {condition: tuple(steps(PATTERNS[condition])) for condition in Condition}
    assert len(set(rounds.values())) == len(Condition)
    assert rounds[Condition.HEALTHY] == ((True, None),)
    assert rounds[Condition.STOPPED] == ((False, None),)
    fast, slow = PATTERNS[Condition.DENIED], PATTERNS[Condition.OFFLINE]
    assert fast.lit_s * 5 <= slow.lit_s


def on_a_mock_pin(scenario: Callable[[MockPin, Indicator], Awaitable[None]]) -> None:
    factory = MockFactory()
    threads = threading.active_count()

    async def main() -> None:
        indicator = open_indicator(PIN, lambda: factory)
        assert indicator.unavailable == ""
        task = asyncio.create_task(indicator.run())
        try:
            await scenario(factory.pin(PIN), indicator)
            assert threading.active_count() == threads
        finally:
            task.cancel()
            await asyncio.wait([task])
        assert not factory.pin(PIN).state

    try:
        asyncio.run(main())
    finally:
        factory.reset()


def test_a_real_gpiozero_led_follows_the_condition() -> None:
    async def scenario(pin: MockPin, indicator: Indicator) -> None:
        assert not pin.state
        indicator.show(Condition.HEALTHY)
        await until(lambda: pin.state)
        indicator.show(Condition.STOPPED)
        await until(lambda: not pin.state)

    on_a_mock_pin(scenario)


def test_denied_blinks_and_healthy_ends_it() -> None:
    async def scenario(pin: MockPin, indicator: Indicator) -> None:
        pin.clear_states()
        indicator.show(Condition.DENIED)
        # The first state is the one before; four changes are two full blinks.
        await until(lambda: len(pin.states) >= 5)
        lit = [state.state for state in pin.states]
        assert all(a != b for a, b in zip(lit, lit[1:], strict=False))  # noqa: RUF007
        indicator.show(Condition.HEALTHY)
        # Taken, not lit only: it may be lit by the blinking, which ends in the dark.
        await until(lambda: not indicator._changed.is_set())
        assert pin.state
        pin.clear_states()
        await asyncio.sleep(3 * PATTERNS[Condition.DENIED].dark_s)
        assert len(pin.states) == 1

    on_a_mock_pin(scenario)


def test_without_a_pin_it_says_so_and_does_nothing() -> None:
    async def main() -> None:
        indicator = open_indicator(None)
        assert indicator.unavailable == "not available: no [indicator] pin is configured"
        indicator.show(Condition.DENIED)
        await indicator.run()

    asyncio.run(main())


def test_without_a_pin_gpiozero_is_never_imported() -> None:
    code = (
        "import sys\n"
        "from edgewarden.act.indicator import open_indicator\n"
        "open_indicator(None)\n"
        "sys.exit('gpiozero' in sys.modules)"
    )
    agent = Path(__file__).resolve().parents[2] / "agent"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(agent)}, check=False)
    assert done.returncode == 0


def test_no_gpio_is_a_reason_and_never_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if any(Path("/dev").glob("gpiochip*")):
        pytest.skip("missing: no-gpio")
    # gpiozero's own switch must not make a LED of nothing.
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    indicator = open_indicator(PIN)
    assert indicator.unavailable.startswith("not available: no GPIO on this machine (")
    asyncio.run(indicator.run())


def test_a_pin_that_does_not_exist_is_a_reason() -> None:
    factory = MockFactory()
    indicator = open_indicator(99, lambda: factory)
    assert indicator.unavailable.startswith("not available: ")
    factory.reset()


def test_whatever_a_pin_library_raises_is_a_reason() -> None:
    class Odd(Exception):  # lgpio.error is a bare Exception too
        pass

    def broken() -> object:
        raise Odd("can not open gpiochip")

    indicator = open_indicator(PIN, broken)
    assert indicator.unavailable == (
        "not available: no GPIO on this machine (can not open gpiochip)"
    )
