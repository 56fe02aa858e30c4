"""`edgewarden-fleet reference`: windows, successors, and what cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.errors import OperatorFault
from edgewarden_fleet.cli.moments import moment
from edgewarden_fleet.store.schema import open_store
from tests.fleet.test_cli import fleet, run

__all__ = ["fleet"]


def listed(capsys: pytest.CaptureFixture[str], folder: Path) -> list[dict[str, str | None]]:
    _, out, _ = run(capsys, "reference", "list", "--dir", folder, "--json")
    rows = json.loads(out)["references"]
    assert isinstance(rows, list)
    return rows


def added(capsys: pytest.CaptureFixture[str], folder: Path, *more: str) -> str:
    policy = folder.parent / "policy.toml"
    policy.write_text("x = 1\n")
    code, out, err = run(
        capsys, "reference", "add", "--policy", policy, "--dir", folder, "--json", *more
    )
    assert code == 0, err
    return str(json.loads(out)["references"][0]["set"])


@pytest.mark.parametrize(
    ("more", "state"),
    [
        ([], "in force"),
        (["--not-before", "+2d"], "announced"),
        (["--not-after=-1h"], "late"),
        (["--not-after=-3d", "--retire=-1d"], "retired"),
        (["--not-after", "2020-01-01"], "retired"),
    ],
)
def test_windows(
    capsys: pytest.CaptureFixture[str], fleet: Path, more: list[str], state: str
) -> None:
    added(capsys, fleet, *more)
    assert [row["state"] for row in listed(capsys, fleet)] == [state]


def test_a_set_is_ended_by_a_successor(capsys: pytest.CaptureFixture[str], fleet: Path) -> None:
    name = added(capsys, fleet)
    code, _, err = run(
        capsys, "reference", "end", name[:12], "--at=-1m", "--retire", "+1d", "--dir", fleet
    )
    assert code == 0, err
    rows = listed(capsys, fleet)
    assert [row["state"] for row in rows] == ["replaced", "late"]
    assert rows[0]["digest"] == rows[1]["digest"]
    code, _, err = run(capsys, "reference", "end", name[:12], "--dir", fleet)
    assert code == 65
    assert "0 sets" in err


def test_what_was_announced_can_be_called_off(
    capsys: pytest.CaptureFixture[str], fleet: Path
) -> None:
    """It was shown as announced, and on its day began as late, with its least version."""
    name = added(capsys, fleet, "--not-before", "+2d", "--least-version", "9.0.0")
    code, out, err = run(capsys, "reference", "end", name[:12], "--dir", fleet)
    assert code == 0, err
    assert out.endswith("  withdrawn\n")
    assert [row["state"] for row in listed(capsys, fleet)] == ["replaced", "withdrawn"]


def test_a_foreign_set_is_shown_as_one(capsys: pytest.CaptureFixture[str], fleet: Path) -> None:
    added(capsys, fleet)
    with open_store(fleet / "store" / "fleet.db") as db:
        (data,) = db.execute("SELECT data FROM reference_set").fetchone()
        db.execute("UPDATE reference_set SET data = ?", (data[:-1] + bytes([data[-1] ^ 1]),))
    db.close()
    code, out, err = run(capsys, "reference", "list", "--dir", fleet)
    assert code == 1
    assert "does not count: bad_signature" in err
    assert "in force" not in out


@pytest.mark.parametrize(
    "more",
    [
        ["--retire", "+1d"],
        ["--not-after", "+2d", "--retire", "+1d"],
        ["--not-before", "+2d", "--not-after", "+1d"],
        ["--not-before", "soon"],
        ["--root-of-trust", "UEFI"],
        ["--root-of-trust", "UEFI", "--device", "gw-demo"],
        ["--pcrs", "{policy}"],
        ["--programs", "xyz"],
        ["--programs", "abcd"],
    ],
)
def test_what_cannot_be_meant(
    capsys: pytest.CaptureFixture[str], fleet: Path, more: list[str]
) -> None:
    policy = fleet.parent / "policy.toml"
    policy.write_text("x = 1\n")
    words = [w.format(policy=policy) for w in more]
    code, out, err = run(capsys, "reference", "add", "--policy", policy, "--dir", fleet, *words)
    assert (code, out) == (65, "")
    assert "next:" in err
    assert listed(capsys, fleet) == []


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("now", 1_000_000), ("+1d", 1_086_400), ("-2h", 992_800), ("-9w", 0), ("+5m", 1_000_300),
        ("1970-01-02", 86_400), ("1970-01-01T01:00Z", 3600), ("1970-01-01T01:00+01:00", 0),
    ],
)  # fmt: skip
def test_moments(text: str, at: int) -> None:
    assert moment(text, 1_000_000.7) == at


@pytest.mark.parametrize("text", ["", "+", "+d", "d", "+1y", "tomorrow", "+-1d", "2026-13-01"])
def test_no_moments(text: str) -> None:
    with pytest.raises(OperatorFault, match="not a moment"):
        moment(text, 0.0)
