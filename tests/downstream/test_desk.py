"""What becomes of devices: pins on the disk first, quarantine, challenges, readings, a word."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from edgewarden.appraise.devices import Submodule, judge_submodules
from edgewarden.downstream.desk import MAX_CHANNELS, NONCE_S, Desk
from edgewarden.downstream.lineage import Devices
from edgewarden.downstream.places import OVERLAP_S
from edgewarden.downstream.registry import Registry
from edgewarden.downstream.sessions import Peer
from edgewarden.downstream.shown import CHALLENGES, REQUESTS_PER_S, DeskSettings, Known
from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.wire.devices import WORDS_NAME, Verb, Word, encode_words
from edgewarden.wire.evidence import Tier
from edgewarden.wire.facts import Event, Reading
from tests.downstream.test_device_evidence import COSE, EVIL, GOOD, KEY, OTHER, PIN, eat, verify
from tests.fakes.clock import FakeClock, FakeRandomness

A, B = PIN, b"b" * 32
PRESS, THERE = Peer("press-1", A, "192.0.2.7"), Peer("press-1", A, "192.0.2.8")
KNOWN = {"press-1": Known(COSE, frozenset((GOOD,)))}


class Refusing(Registry):
    """A disk that is full when a test says so."""

    full = False

    def save(self, devices: Devices) -> None:
        if self.full:
            raise HardwareFault("full", code="EW-DEV-008")
        super().save(devices)


class World:
    """A desk on a folder of its own, its clock, and what it told."""

    def __init__(self, settings: DeskSettings, state: Path) -> None:
        self.state, self.settings = state, settings
        self.clock = FakeClock()
        self.facts: list[Event | Reading] = []
        self.ended: list[int] = []
        self.fresh()

    def fresh(self) -> None:
        """Another process on the same disk."""
        self.registry = Refusing(self.state)
        self.desk = Desk(
            self.settings, self.registry, self.facts.append, self.clock, FakeRandomness(), verify,
            self.ended.append,
        )  # fmt: skip

    def codes(self) -> list[str]:
        return [fact.code for fact in self.facts if isinstance(fact, Event) and fact.code]

    def statements(self) -> list[bytes]:
        found = [f.detail.get("device_statement") for f in self.facts if isinstance(f, Event)]
        return [data for data in found if isinstance(data, bytes)]

    def say(self, *words: Word) -> None:
        path = self.state / WORDS_NAME
        fresh = path.with_name("words.new")
        fresh.write_bytes(encode_words(list(words)))
        fresh.rename(path)

    def upstream(self) -> list[Submodule]:
        """What the fleet makes of what went up."""
        named = self.desk.submodules()
        shown = {hashlib.sha256(data).digest(): data for data in self.statements()}
        return judge_submodules(named, {n: shown[d] for n, d in named.items()}, verify)


Scene = Callable[[World], Awaitable[None]]


def play(scene: Scene, settings: DeskSettings | None = None) -> None:
    async def go() -> None:
        with tempfile.TemporaryDirectory() as folder:
            world = World(settings or DeskSettings(known=KNOWN), Path(folder))
            await world.desk.begin()
            await scene(world)
            await world.desk.finish()

    asyncio.run(go())


async def refused(name: str, work: Awaitable[object]) -> None:
    with pytest.raises(WireRefusal) as caught:
        await work
    assert caught.value.name == name


def refuses(name: str, work: Callable[[], object]) -> None:
    with pytest.raises(WireRefusal) as caught:
        work()
    assert caught.value.name == name


def test_a_first_key_is_on_the_disk_before_its_device_is_in() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert Registry(w.state).load().known["press-1"].key == A
        w.desk.leave(number)
        await refused("other_key", w.desk.enter(Peer("press-1", B, "192.0.2.7"), b""))
        assert w.codes() == ["EW-DEV-001"]
        assert Registry(w.state).load().known["press-1"].key == A
        w.fresh()
        await w.desk.begin()
        await refused("other_key", w.desk.enter(Peer("press-1", B, "192.0.2.7"), b""))

    play(scene)


def test_with_a_disk_that_refuses_nobody_new_is_let_in() -> None:
    async def scene(w: World) -> None:
        w.registry.full = True
        await refused("not_kept", w.desk.enter(PRESS, COSE))
        assert "EW-DEV-008" in w.codes()
        await refused("not_kept", w.desk.enter(PRESS, COSE))
        await w.desk.tick()
        w.registry.full = False
        await w.desk.tick()
        assert Registry(w.state).load().known["press-1"].key == A
        await w.desk.enter(PRESS, COSE)

    play(scene)


def test_first_keys_at_once_share_a_write_and_all_are_in() -> None:
    async def scene(w: World) -> None:
        others = [Peer(f"press-{i}", B, "192.0.2.9") for i in (2, 3)]
        await asyncio.gather(*(w.desk.enter(peer, b"") for peer in (PRESS, *others)))
        assert set(Registry(w.state).load().known) == {"press-1", "press-2", "press-3"}

    play(scene)


def test_two_places_end_all_sessions_and_stay_in_quarantine() -> None:
    async def scene(w: World) -> None:
        here, there = await w.desk.enter(PRESS, COSE), await w.desk.enter(THERE, COSE)
        w.desk.spoke(there)
        refuses("quarantined", lambda: w.desk.spoke(here))
        assert sorted(w.ended) == [here, there]
        assert w.codes() == ["EW-DEV-002"]
        await w.desk.finish()
        for number in (here, there):
            w.desk.leave(number)
        for peer in (PRESS, THERE):
            await refused("quarantined", w.desk.enter(peer, COSE))
        assert [one.tier for one in w.upstream()] == [Tier.CONTRAINDICATED]
        w.fresh()
        await w.desk.begin()
        await refused("quarantined", w.desk.enter(PRESS, COSE))
        assert [one.tier for one in w.upstream()] == [Tier.CONTRAINDICATED]

    play(scene)


def test_two_that_only_stand_there_are_found() -> None:
    async def scene(w: World) -> None:
        await w.desk.enter(PRESS, COSE)
        await w.desk.enter(THERE, COSE)
        await w.desk.tick()
        assert w.codes() == []
        w.clock.advance(OVERLAP_S)
        await w.desk.tick()
        assert w.codes() == ["EW-DEV-002"]
        assert sorted(w.ended) == [1, 2]

    play(scene)


def test_two_that_take_turns_are_found() -> None:
    async def scene(w: World) -> None:
        for peer in (PRESS, THERE, PRESS):
            w.desk.leave(await w.desk.enter(peer, COSE))
        await refused("quarantined", w.desk.enter(THERE, COSE))
        assert w.desk.where.sessions == {}
        assert w.codes() == ["EW-DEV-002"]

    play(scene)


def test_a_word_is_carried_out_once_and_told() -> None:
    async def scene(w: World) -> None:
        w.desk.leave(await w.desk.enter(PRESS, COSE))
        word = Word(b"1" * 16, Verb.RESET, "press-1", "board replaced", 5)
        w.say(word)
        await w.desk.tick()
        other = Peer("press-1", B, "192.0.2.7")
        w.desk.leave(await w.desk.enter(other, b""))
        assert Registry(w.state).load().known["press-1"].lineage == 2
        w.fresh()  # reads the same words again
        await w.desk.begin()
        await w.desk.tick()
        w.desk.leave(await w.desk.enter(other, b""))
        await refused("other_key", w.desk.enter(PRESS, COSE))
        told = [f.detail.get("what") for f in w.facts if isinstance(f, Event)]
        assert told.count("reset of device press-1") == 1

    play(scene)


def test_a_lifted_quarantine_lets_the_same_key_in() -> None:
    async def scene(w: World) -> None:
        for peer in (PRESS, THERE, PRESS):
            w.desk.leave(await w.desk.enter(peer, COSE))
        await refused("quarantined", w.desk.enter(THERE, COSE))
        w.say(Word(b"1" * 16, Verb.LIFT, "press-1", "the old board is off", 5))
        await w.desk.tick()
        w.desk.leave(await w.desk.enter(THERE, COSE))
        assert w.upstream()[0].tier is Tier.NONE

    play(scene)


@pytest.mark.parametrize("verb", [Verb.RESET, Verb.LIFT])
def test_a_word_ends_sessions_and_what_they_had_shown(verb: Verb) -> None:
    """Who held the name before must not speak on, nor lend its evidence to who comes now."""

    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert w.desk.evidence(number, answer(w.desk.nonce(number)))[0] is Tier.AFFIRMING
        open_nonce = w.desk.nonce(number)
        if verb is Verb.LIFT:
            w.desk._quarantine("press-1", "two of it")
        w.ended.clear()
        w.say(Word(b"1" * 16, verb, "press-1", "board replaced", 5))
        await w.desk.tick()
        assert w.ended == [number]
        w.desk.leave(number)
        new = Peer("press-1", B if verb is Verb.RESET else A, "192.0.2.7")
        number = await w.desk.enter(new, b"")
        assert w.upstream()[0].tier is Tier.NONE
        refuses("no_challenge", lambda: w.desk.evidence(number, answer(open_nonce)))
        assert w.desk.evidence(number, answer(w.desk.nonce(number)))[0] is Tier.AFFIRMING

    play(scene)


def test_a_pin_that_is_reset_while_the_disk_is_waited_for_lets_nobody_in() -> None:
    async def scene(w: World) -> None:
        w.desk.leave(await w.desk.enter(PRESS, COSE))
        w.say(Word(b"1" * 16, Verb.RESET, "press-1", "board replaced", 5))
        await w.desk.tick()
        entering = asyncio.create_task(w.desk.enter(PRESS, COSE))
        await asyncio.sleep(0)
        w.desk._obey(Word(b"2" * 16, Verb.RESET, "press-1", "again", 6))
        await refused("not_kept", entering)

    play(scene)


def test_words_that_cannot_be_read_are_told_once() -> None:
    async def scene(w: World) -> None:
        (w.state / WORDS_NAME).write_bytes(b"reset\n")
        await w.desk.tick()
        await w.desk.tick()
        assert w.codes() == ["EW-DEV-009"]

    play(scene)


def test_evidence_by_the_named_key_is_affirming_until_it_is_old() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert w.upstream()[0].tier is Tier.NONE
        nonce = w.desk.nonce(number)
        assert w.desk.evidence(number, answer(nonce)) == (Tier.AFFIRMING, "")
        assert w.upstream()[0].tier is Tier.AFFIRMING
        w.clock.advance(86399)
        await w.desk.tick()
        assert w.upstream()[0].tier is Tier.AFFIRMING
        w.clock.advance(1)
        await w.desk.tick()
        assert (w.upstream()[0].tier, w.upstream()[0].why) == (
            Tier.NONE, "its evidence is too old",
        )  # fmt: skip

    play(scene)


def answer(nonce: bytes, measured: bytes = GOOD, key: object = KEY) -> bytes:
    return eat({10: nonce, 2399: [{2: measured}]}, key=key)  # type: ignore[arg-type]


def test_evidence_by_the_tls_key_is_a_warning_at_best() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert w.desk.evidence(number, answer(w.desk.nonce(number)))[0] is Tier.WARNING
        assert w.upstream()[0].tier is Tier.WARNING

    play(scene, DeskSettings(known={"press-1": Known(b"", frozenset((GOOD,)))}))


def test_a_wrong_measurement_is_a_finding() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert (
            w.desk.evidence(number, answer(w.desk.nonce(number), EVIL))[0] is Tier.CONTRAINDICATED
        )
        assert w.codes() == ["EW-DEV-003"]
        assert w.upstream()[0].tier is Tier.CONTRAINDICATED
        assert w.desk.evidence(number, answer(w.desk.nonce(number)))[0] is Tier.AFFIRMING
        assert w.codes() == ["EW-DEV-003"]

    play(scene)


def test_without_a_reference_evidence_is_worth_nothing() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        assert w.desk.evidence(number, answer(w.desk.nonce(number)))[0] is Tier.NONE

    play(scene, DeskSettings())


def test_a_nonce_is_of_one_use_for_one_device_and_for_a_minute() -> None:
    async def scene(w: World) -> None:
        press = await w.desk.enter(PRESS, COSE)
        other = await w.desk.enter(Peer("press-2", A, "192.0.2.9"), COSE)
        refuses("no_challenge", lambda: w.desk.evidence(press, answer(b"n" * 32)))
        nonce = w.desk.nonce(press)
        refuses("no_challenge", lambda: w.desk.evidence(other, answer(nonce)))
        w.desk.nonce(other)
        refuses("stale_nonce", lambda: w.desk.evidence(other, answer(nonce)))
        w.desk.evidence(press, answer(nonce))
        refuses("no_challenge", lambda: w.desk.evidence(press, answer(nonce)))
        late = w.desk.nonce(press)
        w.clock.advance(NONCE_S)
        refuses("no_challenge", lambda: w.desk.evidence(press, answer(late)))
        spoilt = w.desk.nonce(press)
        refuses("bad_signature", lambda: w.desk.evidence(press, answer(spoilt, key=OTHER)))
        refuses("no_challenge", lambda: w.desk.evidence(press, answer(spoilt)))

    play(scene)


def test_a_key_that_is_not_p256_gives_no_evidence() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, b"")
        nonce = w.desk.nonce(number)
        refuses("no_key", lambda: w.desk.evidence(number, answer(nonce)))

    play(scene, DeskSettings())


def test_readings_bear_a_name_that_no_serial_port_has() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        w.desk.readings(number, {"temperature": 21.5})
        assert w.facts[-1] == Reading("device:press-1", "temperature", "", 21.5, w.clock.boot_ns)

    play(scene)


def test_readings_are_bounded_in_rate_and_in_names() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        for _ in range(40):
            w.desk.readings(number, {"a": 1})
        refuses("rate", lambda: w.desk.readings(number, {"a": 1}))
        w.clock.advance(1)
        for _ in range(4):
            w.desk.readings(number, {})  # an empty one costs one, too
        refuses("rate", lambda: w.desk.readings(number, {"a": 1}))
        w.clock.advance(100)
        w.desk.readings(number, {f"n{i}": 1 for i in range(MAX_CHANNELS - 1)})
        refuses("too_many_channels", lambda: w.desk.readings(number, {"b": 1}))

    play(scene, DeskSettings(values_per_s=4))


def test_a_list_is_kept_to() -> None:
    async def scene(w: World) -> None:
        await w.desk.enter(PRESS, COSE)
        await refused("not_listed", w.desk.enter(Peer("press-2", B, "192.0.2.7"), b""))
        assert w.desk.refused == {"not_listed": 1}

    play(scene, DeskSettings(frozenset(("press-1",))))


def test_what_is_said_of_a_device_goes_up_when_it_changes_and_only_then() -> None:
    async def scene(w: World) -> None:
        w.desk.leave(await w.desk.enter(PRESS, COSE))
        assert len(w.statements()) == 1
        for _ in range(3):
            w.desk.leave(await w.desk.enter(PRESS, COSE))
            w.clock.advance(5)
            await w.desk.tick()
        assert len(w.statements()) == 1
        assert w.desk.submodules() == {"press-1": hashlib.sha256(w.statements()[0]).digest()}

    play(scene)


def test_sessions_are_told_once_a_minute_with_their_count() -> None:
    async def scene(w: World) -> None:
        for _ in range(3):
            w.desk.leave(await w.desk.enter(PRESS, COSE))
        for _ in range(2):
            w.clock.advance(60)
            await w.desk.tick()
        told = [f.detail["why"] for f in w.facts if isinstance(f, Event) and f.class_uid == 4001]
        assert told == [
            "1 sessions, the last from 192.0.2.7", "2 sessions, the last from 192.0.2.7",
        ]  # fmt: skip

    play(scene)


def test_a_person_sees_what_there_is() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        w.desk.speaks(number, "mqtt")
        w.desk.refuse(number, WireRefusal("rate"))
        w.clock.advance(2)
        told = w.desk.listed()["press-1"]
        assert told == {
            "tier": "none", "why": "a certificate, and no evidence of its own", "state": "here",
            "key_sha256": A.hex(), "lineage": 1, "place": "192.0.2.7", "protocol": "mqtt",
            "seen_s": 2.0, "sessions": 1, "readings": 0, "refused": {"rate": 1},
        }  # fmt: skip
        w.desk.leave(number)
        assert w.desk.listed()["press-1"]["state"] == "away"
        w.fresh()
        await w.desk.begin()
        assert w.desk.listed()["press-1"]["seen_s"] is None

    play(scene)


def test_requests_are_bounded_whatever_becomes_of_them() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        other = await w.desk.enter(PRESS, COSE)
        for i in range(5 * REQUESTS_PER_S):
            w.desk.asks((number, other)[i % 2])
        refuses("too_many_requests", lambda: w.desk.asks(number))
        w.clock.advance(0.1)
        for _ in range(REQUESTS_PER_S // 10):
            w.desk.asks(number)
        refuses("too_many_requests", lambda: w.desk.asks(number))

    play(scene)


def test_challenges_are_bounded_and_with_them_records() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        before = len(w.statements())
        for _ in range(1000):
            try:
                nonce = w.desk.nonce(number)
            except WireRefusal:
                continue
            w.desk.evidence(number, answer(nonce))
        assert len(w.statements()) - before == CHALLENGES
        refuses("too_many_challenges", lambda: w.desk.nonce(number))
        w.clock.advance(300)
        w.desk.nonce(number)

    play(scene)


def test_who_must_answer_every_minute_may_be_asked_twice_in_it() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        for _ in range(60):
            w.desk.nonce(number)
            w.clock.advance(30)

    play(scene, DeskSettings(known=KNOWN, evidence_valid_s=60))


def test_a_retired_device_is_gone_and_its_key_stays_out_also_after_a_restart() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        w.say(Word(b"1" * 16, Verb.RETIRE, "press-1", "scrapped", 5))
        await w.desk.tick()
        assert w.ended == [number]
        w.desk.leave(number)
        await w.desk.tick()
        assert (w.desk.submodules(), w.desk.listed(), w.desk.shown) == ({}, {}, {})
        await refused("retired", w.desk.enter(PRESS, COSE))
        w.fresh()
        await w.desk.begin()
        await refused("retired", w.desk.enter(Peer("press-2", A, "192.0.2.7"), COSE))
        w.desk.leave(await w.desk.enter(Peer("press-1", B, "192.0.2.7"), COSE))
        assert w.desk.statement("press-1").lineage == 2

    play(scene)


def test_a_word_is_told_once_it_is_durable() -> None:
    async def scene(w: World) -> None:
        def told() -> int:
            whats = [f.detail.get("what") for f in w.facts if isinstance(f, Event)]
            return whats.count("reset of device press-1")

        w.desk.leave(await w.desk.enter(PRESS, COSE))
        w.registry.full = True
        w.say(Word(b"1" * 16, Verb.RESET, "press-1", "board replaced", 5))
        await w.desk.tick()
        await w.desk.tick()
        assert told() == 0
        w.registry.full = False
        await w.desk.tick()
        await w.desk.tick()
        assert told() == 1

    play(scene)


def test_after_a_restart_nothing_is_claimed_of_what_was_shown_before() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        w.desk.evidence(number, answer(w.desk.nonce(number)))
        w.fresh()
        await w.desk.begin()
        said = w.desk.statement("press-1")
        assert (said.tier, said.why) == (Tier.NONE, "no evidence since link started")

    play(scene)


def test_readings_of_a_device_that_measured_wrong_are_suspect() -> None:
    async def scene(w: World) -> None:
        number = await w.desk.enter(PRESS, COSE)
        w.desk.readings(number, {"a": 1.0})
        w.desk.evidence(number, answer(w.desk.nonce(number), EVIL))
        w.desk.readings(number, {"a": 2.0})
        assert [f.quality for f in w.facts if isinstance(f, Reading)] == ["good", "suspect"]

    play(scene)
