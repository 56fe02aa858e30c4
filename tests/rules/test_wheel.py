"""Laws 8 and 9 on the artefact itself: what the wheel holds, and that a gateway needs no fleet.

The wheel is built once from a copy of the tree, without a network. "Absent" is real: the package
folder is taken out of the unpacked wheel and the interpreter starts without site-packages' path
files, so that an editable install cannot lend the missing half.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.rules.laws import LOOSE_NAMES
from tests.rules.planting import ROOT, copy_tree, plant, tool

SHIPPED = {".py", ".toml", ".typed", ".html", ".css"}
"""What a wheel of ours may hold besides its own metadata."""


def build(tree: Path, into: Path) -> Path:
    """The wheel of a tree, unpacked."""
    done = tool(tree, "hatchling", "build", "-t", "wheel", "-d", str(into))
    assert done.returncode == 0, done.stderr
    (wheel,) = into.glob("*.whl")
    unpacked = into / "unpacked"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(unpacked)
    return unpacked


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copy_tree(tmp_path_factory.mktemp("tree"))
    return build(tree, tmp_path_factory.mktemp("wheel"))


def foreign_files(unpacked: Path) -> list[str]:
    """Files in a wheel that must not ship: not ours, not code, or named like a stand-in."""
    found = []
    for path in sorted(p for p in unpacked.rglob("*") if p.is_file()):
        name = path.relative_to(unpacked)
        top = name.parts[0]
        if top.endswith(".dist-info"):
            continue
        ours = top in ("edgewarden", "edgewarden_fleet") and path.suffix in SHIPPED
        if not ours or "tests" in name.parts or LOOSE_NAMES.search(str(name)):
            found.append(str(name))
    return found


def run(unpacked: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """An interpreter that sees the unpacked wheel and the dependencies, and no path file."""
    path = f"{unpacked}:{sysconfig.get_path('platlib')}:{sysconfig.get_path('purelib')}"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return subprocess.run(
        [sys.executable, "-S", *arguments],
        cwd=unpacked,
        env={**environment, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def gateway_only(unpacked: Path, to: Path) -> Path:
    return shutil.copytree(
        unpacked, to / "gateway", ignore=shutil.ignore_patterns("edgewarden_fleet")
    )


IMPORT_ALL = """
import importlib, importlib.util, pkgutil, edgewarden
assert importlib.util.find_spec("edgewarden_fleet") is None, "the fleet is still there"
names = [m.name for m in pkgutil.walk_packages(edgewarden.__path__, "edgewarden.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(edgewarden.__file__, len(names))
"""


def test_the_wheel_holds_the_two_packages_and_nothing_else(unpacked: Path) -> None:
    assert foreign_files(unpacked) == []
    assert (unpacked / "edgewarden/cli/main.py").exists()
    assert (unpacked / "edgewarden_fleet/cli/main.py").exists()
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert "edgewarden = edgewarden.cli.entry:main" in entry_points.read_text()
    assert "edgewarden-fleet = edgewarden_fleet.cli.main:main" in entry_points.read_text()


@pytest.mark.parametrize("name", ["agent/edgewarden/link/fake_broker.py", "agent/edgewarden/x.so"])
def test_a_planted_stand_in_is_seen_in_the_wheel(tmp_path: Path, name: str) -> None:
    tree = copy_tree(tmp_path / "tree")
    plant(tree, name, "")
    assert foreign_files(build(tree, tmp_path / "wheel")) == [name.removeprefix("agent/")]


def test_the_gateway_imports_whole_without_the_fleet(unpacked: Path, tmp_path: Path) -> None:
    gateway = gateway_only(unpacked, tmp_path)
    done = run(gateway, "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    where, count = done.stdout.split()
    assert where.startswith(str(gateway))
    assert int(count) == len(list((ROOT / "agent/edgewarden").rglob("*.py"))) - 1


def test_the_command_starts_without_the_fleet(unpacked: Path, tmp_path: Path) -> None:
    gateway = gateway_only(unpacked, tmp_path)
    done = run(gateway, "-m", "edgewarden", "--version")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["edgewarden", version(unpacked)]
    assert run(gateway, "-m", "edgewarden", "--help").returncode == 0


def test_a_gateway_that_leans_on_the_fleet_is_seen(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    plant(tree, "agent/edgewarden/cli/main.py", "import edgewarden_fleet")
    gateway = gateway_only(build(tree, tmp_path / "wheel"), tmp_path)
    assert "edgewarden_fleet" in run(gateway, "-c", IMPORT_ALL).stderr
    assert run(gateway, "-m", "edgewarden", "--help").returncode != 0


def version(unpacked: Path) -> str:
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    lines = metadata.read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Version:"))
