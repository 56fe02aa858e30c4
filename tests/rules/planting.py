"""Copies of the tree to plant violations in, and the tools that must then go red."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("agent", "pyproject.toml", "README.md", "LICENSE", "tests/rules")


def copy_tree(to: Path) -> Path:
    """A copy of what the laws speak of, free to be spoilt."""
    for name in COPIED:
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return to


def plant(tree: Path, name: str, line: str) -> None:
    """Append a line to a file of the copy, which may be new."""
    path = tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{line}\n")


def tool(tree: Path, *command: str, timeout_s: float = 600) -> subprocess.CompletedProcess[str]:
    """Run one of this environment's tools inside the tree, which comes first on its path."""
    program = Path(sys.executable).parent / command[0]
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'agent'}:{tree}", "NO_COLOR": "1"}
    return subprocess.run(
        [str(program), *command[1:]],
        cwd=tree,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def import_contracts(tree: Path, *contracts: str) -> tuple[list[str], str]:
    """Names of the broken contracts (of those given, or of all) and the linter's whole report."""
    chosen = [f"--contract={name}" for name in contracts]
    done = tool(tree, "lint-imports", "--no-cache", *chosen)
    broken = re.findall(r"^(law .*) BROKEN", done.stdout, re.MULTILINE)
    if done.returncode != 0 and not broken:
        raise RuntimeError(f"lint-imports did not get as far as the contracts: {done.stdout}")
    return broken, done.stdout
