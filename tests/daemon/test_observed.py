"""What gate saw and would not have allowed: exact counts, bounded, nothing dropped in silence."""

from __future__ import annotations

import pytest

from edgewarden.daemon import observed
from edgewarden.daemon.observed import Observed
from edgewarden.wire.control import SHAPES, Command, check_shape, encode_answer
from edgewarden.wire.local import ExecVerdict


def verdict(path: str, decision: str = "would_deny", uid: int = 0) -> ExecVerdict:
    return ExecVerdict(
        decision, "unlisted", "observe", "T3", b"d" * 32, "", path.encode(), 7, uid, 1
    )


def test_the_same_is_one_line_with_an_exact_count() -> None:
    seen = Observed()
    seen.see(verdict("/a"))
    seen.see(verdict("/a"), 40)
    seen.see(verdict("/a", uid=1000))
    seen.see(verdict("/b", "allow"))
    assert [(one["path"], one["uid"], one["count"]) for one in seen.listed()] == [
        ("/a", 0, 41), ("/a", 1000, 1),
    ]  # fmt: skip


def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "MAX_LINES", 2)
    seen = Observed()
    for name in ("/a", "/b", "/c", "/c"):
        seen.see(verdict(name), 3)
    seen.see(verdict("/a"), 100, others=True)
    assert len(seen.listed()) == 2
    assert seen.others == 106


def test_a_full_list_is_an_answer_that_fits() -> None:
    seen = Observed()
    for i in range(observed.MAX_LINES):
        seen.see(verdict(f"/{i}/" + "x" * 500))
    body = {
        "schema": Command.OBSERVED.schema,
        "device": "d",
        "observed": seen.listed(),
        "others": 0,
    }
    check_shape(body, SHAPES[Command.OBSERVED])
    encode_answer(body)
