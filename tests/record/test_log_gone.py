"""A log that is gone, name and all, takes no number back and loses nothing in silence; and nobody
who comes to a stop, in whatever moment, is told that one is gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from edgewarden.record.heads import Heads
from edgewarden.record.rows import SPAN
from edgewarden.record.segment import Segment, side_files
from edgewarden.record.spool import DiskSpool
from edgewarden.wire.record import RecordClass
from tests.record.records import fill

AUDIT, BULK = int(RecordClass.AUDIT), int(RecordClass.BULK)
CAP = 4 << 20


def crashed(spool: DiskSpool, folder: Path, to: Path) -> Path:
    """The card as it is in this moment."""
    assert spool.heads()
    return Path(shutil.copytree(folder, to))


@pytest.mark.parametrize("gone", ["the log", "the log and its segment", "the folder"])
def test_its_class_goes_on_behind_all_it_can_have_held(tmp_path: Path, gone: str) -> None:
    spool = DiskSpool(tmp_path / "spool", CAP)
    fill(spool, AUDIT, 2)
    fill(spool, BULK, 9)
    copy = crashed(spool, tmp_path / "spool", tmp_path / "copy")
    spool.close()
    [segment] = (copy / "bulk").glob("*.seg")
    side_files(segment)[0].unlink()
    if gone != "the log":
        segment.unlink()
    if gone == "the folder":
        shutil.rmtree(copy / "bulk")
    for _ in range(2):  # a start that ends before it commits anything says the same again
        again = DiskSpool(copy, CAP)
        assert again.heads()[BULK][0] == SPAN
        assert again.heads()[AUDIT] == spool.heads()[AUDIT]
        assert [(one.record_class, one.last) for one in again.losses()] == [(BULK, SPAN)]
        again.close()


def test_a_log_that_a_segment_came_after_is_no_loss(tmp_path: Path) -> None:
    spool = DiskSpool(tmp_path / "spool", CAP)
    fill(spool, BULK, 3)
    folder = crashed(spool, tmp_path / "spool", tmp_path / "copy")
    Heads(folder).read()
    before = (folder / "heads").read_bytes()
    again = DiskSpool(folder, CAP)
    fill(again, BULK, 1)
    open_then = (folder / "heads").read_bytes()
    assert open_then != before
    again._lanes[BULK].rotate()
    again.close()
    (folder / "heads").write_bytes(open_then)  # as if its last write had not reached the disk
    assert [loss.last for loss in DiskSpool(folder, CAP).losses()] == []


def test_no_moment_of_a_stop_or_of_a_new_segment_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The card is taken out before and after each step that makes or takes away a file."""
    folder, cards = tmp_path / "spool", list[tuple[Path, int]]()
    spool: DiskSpool | None = None

    def snapped(step: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **more: object) -> object:
            snap()
            try:
                return step(*args, **more)
            finally:
                snap()

        return run

    def snap() -> None:
        if spool is not None:
            card = tmp_path / f"card-{len(cards)}"
            cards.append((crashed(spool, folder, card), spool.heads()[BULK][0]))

    for name in ("seal", "close", "commit"):
        monkeypatch.setattr(Segment, name, snapped(getattr(Segment, name)))
    for name in ("create", "open", "open_sealed"):
        monkeypatch.setattr(Segment, name, snapped(getattr(Segment, name)))
    for name in ("write", "closing"):
        monkeypatch.setattr(Heads, name, snapped(getattr(Heads, name)))
    for _ in range(2):
        spool = DiskSpool(folder, CAP)
        fill(spool, AUDIT, 1)
        for _ in range(2):
            fill(spool, BULK, 2)
            spool._lanes[BULK].rotate()
        spool.close()
    spool = None
    monkeypatch.undo()
    assert len(cards) > 60
    for card, durable in cards:
        again = DiskSpool(card, CAP)
        assert again.losses() == [], card
        assert durable <= again.heads()[BULK][0] <= durable + 2
        again.close()
