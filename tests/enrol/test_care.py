"""What link does for its certificate: proves, goes back, asks; each once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.enrol.care import TRIES, Care, Did
from edgewarden.enrol.folder import PREVIOUS, go_back, locked, prove, wanted
from edgewarden.trust.identity import load
from tests.trust.test_identity import put


@pytest.fixture
def renewed(tmp_path: Path) -> Path:
    """A state folder with two identities, the second current and not yet proved."""
    put(tmp_path, "1")
    put(tmp_path, "2")
    assert load(tmp_path).serial == "2"
    return tmp_path


def look(care: Care, *, connected: bool = False, refused: int = 0, unknown: int = 0) -> Did:
    return care.look(connected=connected, refused=refused, unknown_verifier=unknown)


def test_a_session_proves_the_new_one(renewed: Path) -> None:
    care = Care(renewed, "identity-2")
    assert look(care) is Did.NOTHING
    assert look(care, connected=True) is Did.PROVED
    assert look(care, connected=True) is Did.NOTHING
    assert [p.name for p in (renewed / "identity").glob("identity-*")] == ["identity-2"]
    assert look(care, refused=99) is Did.NOTHING, "what has worked is not given up"
    assert load(renewed).serial == "2"


def test_what_is_no_link_to_an_identity_is_not_forgotten(renewed: Path) -> None:
    previous = renewed / "identity" / PREVIOUS
    previous.unlink()
    previous.write_bytes(b"somebody's")
    assert not prove(renewed, "identity-2")
    assert previous.read_bytes() == b"somebody's"
    assert len(list((renewed / "identity").glob("identity-*"))) == 2


def test_a_broker_that_refuses_it_brings_the_last_one_back(renewed: Path) -> None:
    care = Care(renewed, "identity-2")
    assert look(care, refused=TRIES - 1) is Did.NOTHING
    assert look(care, refused=TRIES) is Did.WENT_BACK
    assert load(renewed).serial == "1"
    assert "refused" in wanted(renewed)
    assert look(care, refused=TRIES + 1) is Did.NOTHING, "there is nothing behind it"
    assert load(renewed).serial == "1"


def test_the_first_identity_has_nothing_behind_it(tmp_path: Path) -> None:
    put(tmp_path, "1")
    assert look(Care(tmp_path, "identity-1"), refused=99) is Did.NOTHING
    assert load(tmp_path).serial == "1"


def test_another_verifier_key_asks_for_renewal_once(renewed: Path) -> None:
    care = Care(renewed, "identity-2")
    assert look(care, unknown=1) is Did.ASKED
    assert "another key" in wanted(renewed)
    assert look(care, unknown=2) is Did.NOTHING
    put(renewed, "3")
    assert wanted(renewed) == "", "a renewal has answered it"


def test_what_was_renewed_meanwhile_is_not_proven_by_the_old_session(renewed: Path) -> None:
    care = Care(renewed, "identity-1")
    assert look(care, connected=True) is Did.NOTHING
    assert (renewed / "identity" / "previous").is_symlink()


def test_nothing_is_cleared_away_while_a_renewal_is_under_way(renewed: Path) -> None:
    with locked(renewed):
        assert (prove(renewed, "identity-2"), go_back(renewed)) == (False, False)
        assert look(Care(renewed, "identity-2"), connected=True) is Did.NOTHING
        assert look(Care(renewed, "identity-2"), refused=TRIES) is Did.NOTHING
    assert load(renewed).serial == "2"
    assert (renewed / "identity" / "previous").is_symlink()
