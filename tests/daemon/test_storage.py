"""What the spool of a start may hold: asked of a real filesystem."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.daemon.storage import cap_for
from edgewarden.probe.disk import filesystem_bytes
from edgewarden.record.quota import Cap, cap_of
from edgewarden.settings.schema import Settings

MOST = 64 << 30


def settings(state: Path, **spool: int) -> Settings:
    made = Settings()
    paths = replace(made.paths, state=str(state))
    return replace(made, paths=paths, spool=replace(made.spool, **spool))  # type: ignore[arg-type]


@pytest.mark.parametrize("there", [True, False])
def test_it_goes_by_the_filesystem_that_the_spool_lies_on_or_will(
    tmp_path: Path, there: bool
) -> None:
    if there:
        (tmp_path / "spool").mkdir()
    size = filesystem_bytes(str(tmp_path))
    assert size is not None
    assert cap_for(settings(tmp_path, cap_bytes=MOST, cap_percent=1)) == cap_of(MOST, 1, size)
    assert cap_for(settings(tmp_path, cap_bytes=5 << 20)) == Cap(5 << 20, "cap_bytes")


def test_where_nobody_says_how_large_the_filesystem_is_cap_bytes_holds(tmp_path: Path) -> None:
    absent = tmp_path / "no" / "state"
    assert cap_for(settings(absent, cap_bytes=MOST, cap_percent=1)) == Cap(MOST, "cap_bytes")


def test_the_default_is_a_tenth() -> None:
    kept = Settings().spool
    assert (kept.cap_bytes, kept.cap_percent) == (256 << 20, 10)
