"""The judge of sessions: each rule, and the order of them."""

from __future__ import annotations

import pytest

from edgewarden.downstream.lineage import MAX_DEVICES, Devices
from edgewarden.downstream.sessions import (
    MAX_HERE,
    Peer,
    Verdict,
    judge,
)
from edgewarden.wire.devices import Verb, Word

A, B = b"a" * 32, b"b" * 32
PRESS = Peer("press-1", A, "192.0.2.7")
NOBODY, ONE = Devices(), Devices().pinned("press-1", A, 1)
HELD = ONE.quarantined("press-1", "two places")
GONE = ONE.obeyed(Word(b"1" * 16, Verb.RETIRE, "press-1", "scrapped", 5))
RESET = Devices(2, {"press-1": type(ONE.known["press-1"])(b"", 1)})
FULL = Devices(64, {f"d{i}": ONE.known["press-1"] for i in range(MAX_DEVICES)})
ALMOST = Devices(63, {f"d{i}": ONE.known["press-1"] for i in range(MAX_DEVICES - 1)})

TABLE: dict[str, tuple[Peer, Devices, set[str] | None, int, str, bool]] = {
    "first": (PRESS, NOBODY, None, 0, "", True),
    "again": (PRESS, ONE, None, 0, "", False),
    "listed": (PRESS, ONE, {"press-1"}, 0, "", False),
    "not listed": (PRESS, ONE, {"press-2"}, 0, "not_listed", False),
    "nobody is listed": (PRESS, NOBODY, set(), 0, "not_listed", False),
    "quarantined": (PRESS, HELD, None, 0, "quarantined", False),
    "quarantined and another key": (Peer("press-1", B, "x"), HELD, None, 0, "quarantined", False),
    "another key": (Peer("press-1", B, "x"), ONE, None, 0, "other_key", False),
    "another device with that key": (Peer("press-2", A, "x"), ONE, None, 0, "", True),
    "after a reset": (Peer("press-1", B, "x"), RESET, None, 0, "", True),
    "the last place": (PRESS, ALMOST, None, 0, "", True),
    "retired": (PRESS, GONE, None, 0, "retired", False),
    "retired, another name": (Peer("p", A, "x"), GONE, None, 0, "retired", False),
    "retired, a new key": (Peer("press-1", B, "x"), GONE, None, 0, "", True),
    "no place": (PRESS, FULL, None, 0, "too_many_devices", False),
    "no place and known": (Peer("d1", A, "x"), FULL, None, 0, "", False),
    "enough here": (PRESS, ONE, None, MAX_HERE - 1, "", False),
    "too many here": (PRESS, ONE, None, MAX_HERE, "too_many_here", False),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_new_session(name: str) -> None:
    peer, devices, listed, here, refusal, pin = TABLE[name]
    verdict = judge(peer, devices, listed, here)
    assert (verdict.refusal, verdict.pin) == (refusal, pin)
    assert bool(verdict.why) == bool(refusal)


def test_a_refusal_is_none_by_itself() -> None:
    assert Verdict() == Verdict("", "", False)
