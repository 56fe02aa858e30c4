"""The continuity token's file: what a power cut, a full disk, damage and another gateway leave."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.daemon.clock import SystemRandomness
from edgewarden.daemon.continuity import Continuity
from edgewarden.errors import HardwareFault
from edgewarden.trust.continuity import FOLDER, NAME, SLOT_BYTES, TokenFile
from edgewarden.wire.ratchet import Held, Issued

FIRST = Held(3, b"t" * 32, None)
SECOND = Held(3, b"t" * 32, b"m" * 16)
THIRD = Held(4, b"u" * 32, None)


def opened(state: Path, device: str = "gw-demo") -> TokenFile:
    return TokenFile(state, "main", device)


def path(state: Path) -> Path:
    return state / FOLDER / NAME


def test_a_new_gateway_holds_the_first_token(tmp_path: Path) -> None:
    file = opened(tmp_path)
    assert (file.held, file.lost) == (Held(), "")
    assert path(tmp_path).stat().st_mode & 0o777 == 0o600
    assert path(tmp_path).stat().st_size == 2 * SLOT_BYTES


def test_what_was_written_last_counts(tmp_path: Path) -> None:
    file = opened(tmp_path)
    for held in (FIRST, SECOND, THIRD):
        file.write(held)
        assert opened(tmp_path).held == held


@pytest.mark.parametrize("old", [Held(), FIRST, SECOND])
def test_a_power_cut_at_any_byte_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, old: Held
) -> None:
    file = opened(tmp_path)
    if old != Held():
        file.write(FIRST)
        file.write(old)
    before = path(tmp_path).read_bytes()
    file.write(THIRD)
    after = path(tmp_path).read_bytes()
    changed = [i for i in range(len(after)) if before[i] != after[i]]
    seen = set()
    for cut in range(changed[0], changed[-1] + 2):  # sectors land from the front ...
        path(tmp_path).write_bytes(after[:cut] + before[cut:])
        seen.add(opened(tmp_path).held)
    for cut in range(changed[0], changed[-1] + 2):  # ... or from the end
        path(tmp_path).write_bytes(before[:cut] + after[cut:])
        seen.add(opened(tmp_path).held)
    assert seen == {old, THIRD}


def test_a_write_goes_to_the_other_slot_and_takes_no_room(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(FIRST)
    used = path(tmp_path).stat()
    for held in (SECOND, THIRD, FIRST):
        before = path(tmp_path).read_bytes()
        file.write(held)
        after = path(tmp_path).read_bytes()
        same = [before[i : i + SLOT_BYTES] == after[i : i + SLOT_BYTES] for i in (0, SLOT_BYTES)]
        assert sorted(same) == [False, True]
    now = path(tmp_path).stat()
    assert (now.st_blocks, now.st_size, now.st_ino) == (
        used.st_blocks, used.st_size, used.st_ino,
    )  # fmt: skip


def test_a_damaged_file_is_a_lost_token_and_says_so(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(FIRST)
    file.write(SECOND)
    path(tmp_path).write_bytes(os.urandom(2 * SLOT_BYTES))
    again = opened(tmp_path)
    assert again.held == Held()
    assert "bad_token" in again.lost
    again.write(FIRST)
    assert opened(tmp_path).lost == ""


def test_a_file_cut_short_is_made_again(tmp_path: Path) -> None:
    opened(tmp_path).write(FIRST)
    path(tmp_path).write_bytes(b"")
    assert opened(tmp_path).held == Held()


def test_the_token_of_another_gateway_is_none(tmp_path: Path) -> None:
    opened(tmp_path, "gw-other").write(FIRST)
    file = opened(tmp_path)
    assert (file.held, file.lost) == (Held(), "")
    file.write(THIRD)
    assert opened(tmp_path).held == THIRD


def test_a_disk_that_refuses_is_a_fault_and_changes_nothing(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(FIRST)
    path(tmp_path).unlink()
    path(tmp_path).symlink_to("/nowhere")
    with pytest.raises(HardwareFault) as caught:
        file.write(SECOND)
    assert caught.value.code == "EW-ATT-030"
    assert file.held == FIRST


def test_spent_before_sent_and_one_mark_until_the_answer(tmp_path: Path) -> None:
    """Over starts: what left the gateway is what the disk holds."""
    spent = Continuity(lambda: opened(tmp_path), SystemRandomness()).spend()
    assert opened(tmp_path).held.mark == spent.mark
    again = Continuity(lambda: opened(tmp_path), SystemRandomness())
    assert again.spend() == spent
    again.adopt(Issued(1, b"t" * 32))
    assert opened(tmp_path).held == Held(1, b"t" * 32)
    again.adopt(Issued(1, b"x" * 32))
    assert opened(tmp_path).held == Held(1, b"t" * 32)
    assert again.spend().mark != spent.mark


def test_a_folder_that_refuses_costs_evidence_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "link").write_text("in the way")
    continuity = Continuity(lambda: opened(tmp_path), SystemRandomness())
    assert "cannot be stored" in continuity.look()
    with pytest.raises(HardwareFault):
        continuity.spend()
    (tmp_path / "link").unlink()
    assert continuity.look() == ""
    assert continuity.spend() == continuity.spend()
