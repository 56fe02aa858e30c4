"""How long one judgement may take, and when it is not its own fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgewarden.exec import judged
from edgewarden.exec.judged import GRACE_S, OVERDUE_S, Overdue, Patience


class Wound:
    """Patience under a clock and a timer of the test's own."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, float]] = []
        self.beats: list[float] = []
        self.patience = Patience(lambda: self.now)
        self.patience.beat = lambda: self.beats.append(self.now)

    def hears(self, *late_s: float) -> Callable[[], str]:
        """A judgement in which the signal comes so much later than it was to."""

        def act() -> str:
            for each in late_s:
                at, lasts_s = self.timers[-1]
                self.now = at + lasts_s + each
                self.patience.end()
            return "judged"

        return act


@pytest.fixture
def wound(monkeypatch: pytest.MonkeyPatch) -> Wound:
    made = Wound()
    monkeypatch.setattr(judged, "signal", lambda number, handler: None)
    timer = lambda which, seconds: made.timers.append((made.now, seconds))  # noqa: E731
    monkeypatch.setattr(judged, "setitimer", timer)
    made.patience.wind()
    return made


@pytest.mark.parametrize("age_s", [0.5, 1.19, 1.79])
def test_r3_who_is_judged_behind_an_old_heartbeat_has_the_time_of_a_new_one(
    wound: Wound, age_s: float
) -> None:
    """A gate that was kept from running for half a second let through what it would have denied,
    where its last heartbeat was as old as an idle gate's is."""
    wound.now += age_s
    assert wound.patience.within(lambda: "judged") == "judged"
    assert wound.beats == [100.0 + age_s], "so that guard waits as long"
    assert wound.timers[-1] == (100.0 + age_s, OVERDUE_S)
    wound.patience.within(lambda: "judged")
    assert len(wound.beats) == 1, "one for all who come at once"


def test_r3_a_judgement_that_lasts_is_ended_when_the_signal_comes(wound: Wound) -> None:
    with pytest.raises(Overdue):
        wound.patience.within(wound.hears(0.01))


def test_r3_what_the_machine_kept_from_running_is_judged_to_its_end(wound: Wound) -> None:
    """The signal is late because gate did not run. Once: what hangs is late each time."""
    assert wound.patience.within(wound.hears(2.0)) == "judged"
    assert wound.timers[-1] == (100.0 + OVERDUE_S + 2.0, GRACE_S)


def test_r3_each_heartbeat_excuses_once(wound: Wound) -> None:
    with pytest.raises(Overdue):
        wound.patience.within(wound.hears(2.0, 2.0))
    wound.patience.wind()
    assert wound.patience.within(wound.hears(2.0)) == "judged"
