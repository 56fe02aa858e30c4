"""How long a table may refuse that nobody has confirmed. Pure."""

from __future__ import annotations

import pytest

from edgewarden.network.trial import Trial


@pytest.mark.parametrize(
    ("after_s", "again"),
    [
        (0.0, ("enforce", 60)),
        (0.4, ("enforce", 60)),
        (59.2, ("enforce", 1)),  # rounded down it would be 0, which is "for good"
        (59.999, ("enforce", 1)),
        (60.0, ("observe", 0)),
        (600.0, ("observe", 0)),
    ],
)
def test_a_table_made_again_has_what_is_left_of_the_trial(
    after_s: float, again: tuple[str, int]
) -> None:
    trial = Trial()
    trial.begin(60, 100.0)
    assert trial.again("enforce", 100.0 + after_s) == again


def test_without_a_trial_a_mode_stays_as_it_is() -> None:
    trial = Trial()
    assert trial.again("enforce", 5.0) == ("enforce", 0)
    trial.begin(60, 5.0)
    trial.begin(0, 6.0)
    assert trial.again("enforce", 1000.0) == ("enforce", 0)
    assert not trial.over(1000.0)
