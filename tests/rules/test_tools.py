"""ruff and mypy over the tree, as tests: they count, and they go red."""

from __future__ import annotations

from pathlib import Path

from tests.rules.planting import ROOT, copy_tree, plant, tool


def test_ruff_is_clean() -> None:
    done = tool(ROOT, "ruff", "check", "--no-cache", "--output-format=concise", "agent", "tests")
    assert done.returncode == 0, done.stdout


def test_mypy_strict_is_clean(tmp_path: Path) -> None:
    done = tool(ROOT, "mypy", f"--cache-dir={tmp_path}", "agent")
    assert done.returncode == 0, done.stdout


def test_ruff_sees_a_planted_naive_clock(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    line = "import datetime\n\nTODAY = datetime.datetime.now()"
    plant(tree, "agent/edgewarden/wire/planted.py", line)
    done = tool(tree, "ruff", "check", "--no-cache", "agent/edgewarden/wire/planted.py")
    assert "DTZ005" in done.stdout


def test_mypy_sees_a_planted_untyped_function(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    plant(tree, "agent/edgewarden/wire/planted.py", "def f(x): return x")
    done = tool(tree, "mypy", "--cache-dir=/dev/null", "agent/edgewarden/wire/planted.py")
    assert "no-untyped-def" in done.stdout
