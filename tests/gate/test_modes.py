"""Modes: who chose one, how long it stays, and what holds it down."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edgewarden.errors import OperatorFault
from edgewarden.gate.modes import Modes
from edgewarden.gate.sessions import Session
from edgewarden.wire.local_messages import AreaStats

SSH = Session("", "100", "", "200", "session-4.scope", "")
NEW = Session("", "300", "", "400", "session-5.scope", "")


class Fake:
    """An area that does what it is told, or refuses."""

    def __init__(self) -> None:
        self.mode = "?"
        self.trial_s = -1
        self.refuses = ""

    def apply(self, mode: str, trial_s: int) -> str:
        if self.refuses:
            raise OperatorFault("no", code="EW-EXEC-008", name=self.refuses)
        self.mode, self.trial_s = mode, trial_s
        return "done"

    def settle(self, mode: str) -> None:
        self.mode, self.trial_s = mode, 0

    def stats(self) -> AreaStats:
        return AreaStats("exec", self.mode, False, 0, 0, 0, 0, 0, 0, 0, "", "")


class Bench:
    def __init__(self, asked: str = "observe") -> None:
        self.kept: dict[str, str] = {}
        self.alarms: list[str] = []
        self.now_mono = 100.0
        self.area, self.other = Fake(), Fake()
        self._asked = asked
        self.modes = Modes(
            {"exec": self.area, "network": self.other},
            files=self,
            alarm=lambda code, severity, text: self.alarms.append(code),
            mono_s=lambda: self.now_mono,
        )

    def asked(self, area: str) -> str:
        return self._asked if area == "exec" else "learn"

    def keep(self, area: str, mode: str) -> str:
        self.kept[area] = mode
        return "kept"

    def refusal(self, *words: object) -> str:
        with pytest.raises(OperatorFault) as caught:
            self.modes.ask(*words)  # type: ignore[arg-type]
        return str(caught.value.fields["name"])


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    made.modes.start()
    return made


def test_what_was_asked_for_is_brought_about_at_the_start(bench: Bench) -> None:
    assert (bench.area.mode, bench.other.mode) == ("observe", "learn")


def test_a_persons_word_is_kept(bench: Bench) -> None:
    assert bench.modes.ask("exec", "enforce", 0, SSH) == "enforce; done; kept"
    assert bench.kept == {"exec": "enforce"}
    assert (bench.area.mode, bench.modes.trial_s("exec")) == ("enforce", 0)
    assert bench.other.mode == "learn"


def test_a_refused_mode_changes_nothing(bench: Bench) -> None:
    bench.area.refuses = "not_possible"
    assert bench.refusal("exec", "enforce", 600, SSH) == "not_possible"
    assert (bench.modes.mode("exec"), bench.kept, bench.modes.trial_s("exec")) == ("observe", {}, 0)


def test_a_trial_goes_back_by_itself(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 600, SSH)
    assert (bench.area.trial_s, bench.kept) == (600, {})
    bench.now_mono += 599
    bench.modes.look()
    assert (bench.area.mode, bench.modes.trial_s("exec")) == ("enforce", 1)
    bench.now_mono += 1
    bench.modes.look()
    assert (bench.area.mode, bench.modes.mode("exec")) == ("observe", "observe")
    assert (bench.alarms, bench.kept) == (["EW-EXEC-025"], {})


def test_a_trial_on_a_trial_goes_back_to_where_it_all_began(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 60, SSH)
    bench.modes.ask("exec", "enforce", 600, SSH)
    bench.now_mono += 600
    bench.modes.look()
    assert bench.area.mode == "observe"


def test_only_a_new_login_confirms(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 600, SSH)
    with pytest.raises(OperatorFault) as caught:
        bench.modes.confirm("exec", SSH)
    assert caught.value.fields["name"] == "same_login"
    assert bench.modes.trial_s("exec") > 0
    assert bench.modes.confirm("exec", NEW) == "enforce; done; kept"
    assert bench.kept == {"exec": "enforce"}
    bench.now_mono += 10_000
    bench.modes.look()
    assert (bench.area.mode, bench.area.trial_s) == ("enforce", 0)


def test_there_must_be_something_to_confirm(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 600, SSH)
    with pytest.raises(OperatorFault) as caught:
        bench.modes.confirm("network", NEW)
    assert caught.value.fields["name"] == "nothing_to_confirm"


def test_a_confirmation_that_the_area_refuses_leaves_the_trial(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 600, SSH)
    bench.area.refuses = "not_possible"
    with pytest.raises(OperatorFault):
        bench.modes.confirm("exec", NEW)
    bench.now_mono += 600
    bench.modes.look()
    assert (bench.area.mode, bench.kept) == ("observe", {})


def test_a_ceiling_holds_down_and_a_person_lifts_it() -> None:
    bench = Bench(asked="enforce")
    bench.modes.hold_down("exec", "killed 3 times")
    assert bench.alarms == ["EW-EXEC-004"]
    bench.modes.start()
    assert (bench.area.mode, bench.modes.ceiling("exec")) == ("observe", "killed 3 times")
    bench.modes.ask("exec", "enforce", 0, SSH)
    assert (bench.area.mode, bench.modes.ceiling("exec")) == ("enforce", "")


def test_a_trial_lifts_a_ceiling_for_its_time() -> None:
    bench = Bench(asked="enforce")
    bench.modes.hold_down("exec", "2 boots")
    bench.modes.start()
    for _ in range(2):  # the second one makes the first longer
        said = bench.modes.ask("exec", "enforce", 60, SSH)
        assert said == "enforce; done; observe again in 60 s unless confirmed from a new login"
        assert (bench.area.mode, bench.modes.ceiling("exec")) == ("enforce", "")
    bench.now_mono += 60
    bench.modes.look()
    assert (bench.area.mode, bench.modes.mode("exec")) == ("observe", "observe")
    assert (bench.modes.ceiling("exec"), bench.kept) == ("2 boots", {})


def test_a_trial_that_is_confirmed_lifts_a_ceiling_for_good() -> None:
    bench = Bench(asked="enforce")
    bench.modes.hold_down("exec", "2 boots")
    bench.modes.start()
    bench.modes.ask("exec", "enforce", 60, SSH)
    bench.modes.confirm("exec", NEW)
    bench.now_mono += 60
    bench.modes.look()
    assert (bench.area.mode, bench.modes.ceiling("exec")) == ("enforce", "")


def test_a_firm_ceiling_is_not_lifted_by_a_word() -> None:
    bench = Bench(asked="enforce")
    bench.modes.hold_down("exec", "kill switch", firm=True)
    bench.modes.start()
    assert bench.refusal("exec", "enforce", 0, SSH) == "held_down"
    assert bench.area.mode == "observe"
    bench.modes.ask("exec", "learn", 0, SSH)
    assert bench.area.mode == "learn"


def test_a_firm_ceiling_is_not_made_soft_by_another() -> None:
    """The kill switch lies there and guard ends gate three times."""
    bench = Bench(asked="enforce")
    bench.modes.hold_all_down("kill switch", firm=True)
    bench.modes.hold_down("exec", "killed 3 times")
    bench.modes.start()
    assert bench.refusal("exec", "enforce", 0, SSH) == "held_down"
    assert (bench.area.mode, bench.modes.ceiling("exec")) == ("observe", "kill switch")


def test_a_ceiling_ends_a_trial(bench: Bench) -> None:
    bench.modes.ask("exec", "enforce", 600, SSH)
    bench.modes.hold_down("exec", "killed 3 times")
    assert (bench.area.mode, bench.modes.trial_s("exec")) == ("observe", 0)


def test_an_area_that_is_not_there_is_named(bench: Bench) -> None:
    assert bench.refusal("peripherals", "observe", 0, SSH) == "no_such_area"
