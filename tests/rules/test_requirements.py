"""The locks: both ends agree with pyproject.toml, every line is hashed, no address anywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from tests.rules.planting import ROOT

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def lower_bounds() -> dict[str, str]:
    """Lower bound of every run-time dependency, of the gateway and of the fleet."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["fleet"]]
    return dict(line.split(">=") for line in wanted)


def parts(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version))


def test_there_are_five_locks() -> None:
    assert [path.stem for path in LOCKS] == ["ceiling", "floor", "peers", "thingsboard", "tpm"]


def test_the_tpm_layer_moves_nothing_below_it() -> None:
    ceiling = dict(PINNED.findall((ROOT / "requirements/ceiling.txt").read_text()))
    layer = dict(PINNED.findall((ROOT / "requirements/tpm.txt").read_text()))
    assert layer["tpm2-pytss"]
    assert {n: v for n, v in layer.items() if ceiling.get(n, v) != v} == {}


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_every_line_is_pinned_by_hash_and_names_no_address(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"^-", text, re.MULTILINE), "no option of pip stands in a lock"
    blocks = re.split(r"\n(?=\S)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    assert len(blocks) > 5
    for block in blocks:
        assert PINNED.match(block), block.splitlines()[0]
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_floor_is_the_lower_bound_to_the_digit() -> None:
    locked = dict(PINNED.findall((ROOT / "requirements/floor.txt").read_text()))
    for name, bound in lower_bounds().items():
        shortened = parts(locked[name])[: len(parts(bound))]
        assert shortened == parts(bound), f"{name}: floor {locked[name]}, pyproject {bound}"


def test_the_ceiling_holds_every_dependency_at_or_above_the_floor() -> None:
    ceiling = dict(PINNED.findall((ROOT / "requirements/ceiling.txt").read_text()))
    floor = dict(PINNED.findall((ROOT / "requirements/floor.txt").read_text()))
    for name in lower_bounds():
        assert parts(ceiling[name]) >= parts(floor[name]), name
    assert parts(ceiling["cbor2"]) >= (6,), "the ceiling is where cbor2's newest laxities are met"


@pytest.mark.parametrize("suffix", ["py", "toml", "sh", "md", "service", "in", "txt"])
def test_no_file_names_a_package_index(suffix: str) -> None:
    option = "index" + "-url"
    offenders = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob(f"*.{suffix}")
        if not any(part.startswith((".venv", ".cache")) for part in path.parts)
        and re.search(rf"--(extra-)?{option}[ =]", path.read_text(errors="replace"))
    ]
    assert offenders == []
