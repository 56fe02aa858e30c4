"""The ratchet over any life: no bad network makes a copy of an honest gateway, no copy gets by.

Machines, each a hypothesis state machine over ratchet_world.py:

Honest    one gateway; evidence and answers lost, doubled and put out of order, power cut before and
          after anything is durable, broker and verifier started again: never an alarm
Restored  the same, and the fleet's store comes back from any of its backups: never an alarm either
Cloned    the same, and at some moment the disk is copied (the present one, or a backup of any
          moment before); from then on both go on in any order. The first report that differs from
          what the other one gave is not believed and raises the alarm; and whatever they did, two
          reports of each that get their answers are enough
Mutants   each mutation of the rule makes one of the two fail: what cannot fail proves nothing

As many lives as hypothesis makes of anything else: five for each of ``--runs``; more by more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from edgewarden.order import ratchet
from edgewarden.order.ratchet import Around, Issuer, Judgement, Outcome
from edgewarden.wire.ratchet import Held, Spent
from tests.order.ratchet_world import Answer, Disk, Gateway, Result, Rule, Store, World

INDEX = st.integers(0, 10**6)
MOST_IN_FLIGHT = 12
THOROUGH = settings(
    max_examples=100, stateful_step_count=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck), print_blob=False,
)  # fmt: skip
BROKEN = settings(THOROUGH, phases=(Phase.generate,), max_examples=2000)
"""Ends at the first counter-example; nobody needs the smallest one."""


def lives(runs: int) -> settings:
    """For so many ``--runs``; 60 of them are the 300 lives of each machine that found this rule."""
    return settings(THOROUGH, max_examples=5 * runs)


class Honest(RuleBasedStateMachine):
    """One gateway and everything that may happen to it."""

    mutant: Rule | None = None

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.mutant)
        self.alive = [Gateway("original", Disk(Held()), self.world)]
        self.nonces: list[tuple[int, str]] = []
        self.answers: list[Answer] = []
        self.results: list[tuple[str, Result]] = []

    def _who(self, index: int) -> Gateway:
        return self.alive[index % len(self.alive)]

    @rule(who=INDEX)
    def challenge(self, who: int) -> None:
        """A timer, a connect, a broker that came back."""
        self.nonces.append((self.world.challenge(), self._who(who).name))
        del self.nonces[:-MOST_IN_FLIGHT]

    @precondition(lambda self: self.nonces)
    @rule(index=INDEX, cut=st.booleans(), again=st.booleans())
    def answer(self, index: int, cut: bool, again: bool) -> None:
        """A challenge arrives, perhaps not for the last time; power may go before the answer."""
        place = index % len(self.nonces)
        nonce, name = self.nonces[place] if again else self.nonces.pop(place)
        gateway = next(g for g in self.alive if g.name == name)
        sent = gateway.answer(nonce, cut)
        if sent is not None:
            self.answers.append(sent)
            del self.answers[:-MOST_IN_FLIGHT]

    @precondition(lambda self: self.answers)
    @rule(index=INDEX, keep=st.booleans(), crash=st.booleans())
    def arrive(self, index: int, keep: bool, crash: bool) -> None:
        """Evidence arrives, in any order, perhaps once more later; the verifier may crash."""
        place = index % len(self.answers)
        sent = self.answers[place] if keep else self.answers.pop(place)
        result = self.world.receive(sent, crash)
        if result is not None:
            self.results.append((sent.who, result))
            del self.results[:-MOST_IN_FLIGHT]

    @precondition(lambda self: self.results)
    @rule(index=INDEX, keep=st.booleans(), cut=st.booleans())
    def verdict(self, index: int, keep: bool, cut: bool) -> None:
        """A result arrives; power may go before it is on the disk."""
        place = index % len(self.results)
        name, result = self.results[place] if keep else self.results.pop(place)
        next(g for g in self.alive if g.name == name).take(result, cut)

    @rule(who=INDEX, other=INDEX)
    def overtake(self, who: int, other: int) -> None:
        """Of two answers with one token, one is still on its way when the next token is spent."""
        gateway = self._who(who)
        slow = self._who(other).answer(self.world.challenge())
        fast = gateway.answer(self.world.challenge())
        assert slow is not None
        assert fast is not None
        result = self.world.receive(fast)
        if result is not None:
            gateway.take(result)
        later = gateway.answer(self.world.challenge())
        assert later is not None
        self.world.receive(later)
        self.answers.append(slow)

    @rule(who=INDEX)
    def lose_power(self, who: int) -> None:
        self._who(who).start()

    @rule()
    def verifier_restarts(self) -> None:
        self.world.restart()

    @rule(nonces=st.booleans(), answers=st.booleans(), results=st.booleans())
    def broker_forgets(self, nonces: bool, answers: bool, results: bool) -> None:
        """Loss, of one direction or of all; a broker's restart."""
        for gone, kept in ((nonces, self.nonces), (answers, self.answers), (results, self.results)):
            if gone:
                kept.clear()

    @invariant()
    def nobody_cries_clone(self) -> None:
        assert not self.world.store.alarm, self.world.store.alarm

    def teardown(self) -> None:
        """Whatever happened, an honest gateway goes on from here."""
        if self.world.store.alarm:
            return
        before, [gateway] = len(self.world.believed), self.alive
        for _ in range(3):
            sent = gateway.answer(self.world.challenge())
            assert sent is not None
            result = self.world.receive(sent)
            assert result is not None
            gateway.take(result)
        assert len(self.world.believed) == before + 3
        assert gateway.disk.held.step == (self.world.store.head or ratchet.presentation(
            gateway.disk.held)).step + 1  # fmt: skip


class Restored(Honest):
    """The fleet's own store may be an older one, too: no gateway is to blame for that."""

    def __init__(self) -> None:
        super().__init__()
        self.backups: list[Store] = []

    @rule()
    def back_up(self) -> None:
        self.backups.append(self.world.durable.copy())

    @precondition(lambda self: self.backups)
    @rule(age=INDEX)
    def restore(self, age: int) -> None:
        self.world.restore(self.backups[age % len(self.backups)])


class Cloned(Honest):
    """An honest life, then a copy of its disk at some moment, and both go on."""

    def __init__(self) -> None:
        super().__init__()
        self.disks: list[Disk] = []
        self.copied_at = 0

    @initialize(steps=st.integers(0, 5), lost=st.booleans())
    def some_life(self, steps: int, lost: bool) -> None:
        [original] = self.alive
        for _ in range(steps):
            self.disks.append(replace(original.disk))
            sent = original.answer(self.world.challenge())
            assert sent is not None
            self.disks.append(replace(original.disk))
            result = self.world.receive(sent)
            if result is not None and not lost:
                original.take(result)

    @precondition(lambda self: len(self.alive) == 1)
    @rule(age=INDEX, backup=st.booleans())
    def copy(self, age: int, backup: bool) -> None:
        """The card is copied now, or a backup of any moment before starts on another board."""
        [original] = self.alive
        disk = self.disks[age % len(self.disks)] if backup and self.disks else original.disk
        self.alive.append(self.world.clone(original, "copy", disk))
        self.copied_at = len(self.world.believed)
        if self.nonces:  # both sit on one line
            self.nonces.append((self.nonces[0][0], "copy"))

    @invariant()
    def nobody_cries_clone(self) -> None:
        """Before there is a copy: as in an honest life. After: see ``no_copy_gets_by``."""
        if len(self.alive) == 1:
            assert not self.world.store.alarm, self.world.store.alarm

    @invariant()
    def the_first_that_differs_is_not_believed(self) -> None:
        """Two histories, each with a report that the other never gave: never both believed."""
        original, copy = (
            {spent for who, spent in self.world.believed if who == name}
            for name in ("original", "copy")
        )
        since = {s for who, s in self.world.believed[self.copied_at :] if who == "original"}
        assert not (since - copy and copy - original), (since, copy)
        marks = {spent.step: spent for _, spent in self.world.believed}
        assert all(marks[spent.step] == spent for _, spent in self.world.believed)

    @invariant()
    def what_is_not_believed_raises_the_alarm(self) -> None:
        """... but for what was believed before, word for word, and came late."""
        known = {spent for _, spent in self.world.believed}
        assert all(spent in known for spent, _ in self.world.refused), self.world.refused

    def teardown(self) -> None:
        """However they took turns before: two reports of each, and the alarm stands."""
        if len(self.alive) == 1:
            return
        for gateway in [*self.alive, *self.alive]:
            gateway.start()
            sent = gateway.answer(self.world.challenge())
            assert sent is not None
            result = self.world.receive(sent)
            assert result is not None
            gateway.take(result)
        assert self.world.store.alarm


def test_an_honest_gateway_is_never_called_a_clone(runs: int) -> None:
    run_state_machine_as_test(Honest, settings=lives(runs))


def test_nor_when_the_fleets_store_comes_from_a_backup(runs: int) -> None:
    run_state_machine_as_test(Restored, settings=lives(runs))


def test_no_copy_and_no_backup_survives_two_reports(runs: int) -> None:
    run_state_machine_as_test(Cloned, settings=lives(runs))


# --- what cannot fail proves nothing --------------------------------------------------------------


def changed(**outcomes: Callable[[Judgement, Spent | None, Spent, Issuer], Judgement]) -> Rule:
    """The rule with other judgements in place of some outcomes."""

    def judge(head: Spent | None, offer: Spent, around: Around, issuer: Issuer) -> Judgement:
        judged = ratchet.judge(head, offer, around, issuer)
        other = outcomes.get(judged.outcome.name)
        return judged if other is None else other(judged, head, offer, issuer)

    return Rule(judge=judge)


def mark_not_compared() -> Rule:
    return changed(TWICE=lambda j, head, offer, issuer: (
        Judgement(Outcome.AGAIN, head, issuer.after(offer)) if head and offer.step == head.step
        else j))  # fmt: skip


def current_and_previous() -> Rule:
    """What the first design note had: the previous token is taken while the ack may be lost."""

    def judge(head: Spent | None, offer: Spent, around: Around, issuer: Issuer) -> Judgement:
        judged = ratchet.judge(head, offer, around, issuer)
        if judged.alarm and head is not None and offer.step in (head.step, head.step - 1):
            return Judgement(Outcome.AGAIN, head, issuer.after(head))
        return judged

    return Rule(judge=judge)


def single_use() -> Rule:
    return changed(AGAIN=lambda j, *_: Judgement(Outcome.TWICE, j.head, why="used before"))


def another_token_for_a_repeated_answer() -> Rule:
    return changed(AGAIN=lambda j, head, offer, issuer: Judgement(
        Outcome.AGAIN, j.head, issuer.after(replace(offer, mark=b"x" * 16))))  # fmt: skip


def no_floor() -> Rule:
    return Rule(keeps_floors=False)


def floor_at_the_head() -> Rule:
    return changed(LATE=lambda j, *_: Judgement(Outcome.STALE, j.head, why="below the head"))


def no_memory_of_older_steps() -> Rule:
    def judge(head: Spent | None, offer: Spent, around: Around, issuer: Issuer) -> Judgement:
        same = head if head is not None and offer.step == head.step else None
        return ratchet.judge(head, offer, replace(around, same=same), issuer)

    return Rule(judge=judge)


def mark_in_memory_only() -> Rule:
    return Rule(durable_mark=False)


def mark_anew_each_time() -> Rule:
    return Rule(spend=lambda held, mark: replace(held, mark=mark))


def answered_before_it_is_committed() -> Rule:
    return Rule(durable_head=False)


def an_old_answer_is_taken() -> Rule:
    return Rule(adopt=lambda held, issued: Held(issued.step, issued.token))


def no_alarm_for_an_older_state() -> Rule:
    return changed(STALE=lambda j, *_: Judgement(Outcome.LATE, j.head, why="late"))


MUTANTS: dict[Callable[[], Rule], type[Honest]] = {
    mark_not_compared: Cloned,
    current_and_previous: Cloned,
    no_floor: Cloned,
    no_memory_of_older_steps: Cloned,
    no_alarm_for_an_older_state: Cloned,
    answered_before_it_is_committed: Cloned,
    single_use: Honest,
    another_token_for_a_repeated_answer: Honest,
    floor_at_the_head: Honest,
    mark_in_memory_only: Honest,
    mark_anew_each_time: Honest,
    an_old_answer_is_taken: Honest,
}


@pytest.mark.parametrize("make", MUTANTS, ids=lambda make: make.__name__)
def test_each_part_of_the_rule_is_needed(make: Callable[[], Rule]) -> None:
    machine = type("Mutant", (MUTANTS[make],), {"mutant": make()})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=BROKEN)
