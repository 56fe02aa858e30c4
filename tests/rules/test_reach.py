"""Law 5 on the process itself: what gate and guard have loaded, and what they could not load.

The import graph ends at the standard library: asyncio would bring ssl and subprocess unseen. So the
real interpreter imports what the service entry point imports, and is asked what it holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rules.planting import ROOT, copy_tree, plant

NEVER = (
    "ssl", "_ssl", "paho", "cryptography", "serial", "asyncio", "sqlite3", "subprocess", "http",
    "urllib.request", "multiprocessing", "cbor2", "edgewarden.trust", "edgewarden.link",
    "edgewarden.record",
)  # fmt: skip
"""What would give gate or guard a network parser, a key library or a way to start a program."""


def loaded(tree: Path, module: str) -> set[str]:
    """Modules in a fresh interpreter after importing one, without site-packages as in service."""
    script = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(tree / "agent"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return set(json.loads(done.stdout))


def forbidden(modules: set[str]) -> list[str]:
    return sorted(m for m in modules if any(m == n or m.startswith(f"{n}.") for n in NEVER))


@pytest.mark.parametrize("daemon", ["gate", "guard"])
def test_no_network_or_key_library_is_loaded(daemon: str) -> None:
    assert forbidden(loaded(ROOT, f"edgewarden.daemon.{daemon}")) == []


@pytest.mark.parametrize("daemon", ["gate", "guard"])
def test_a_library_behind_the_standard_library_is_seen(tmp_path: Path, daemon: str) -> None:
    tree = copy_tree(tmp_path)
    plant(tree, f"agent/edgewarden/daemon/{daemon}.py", "import ftplib")
    assert "_ssl" in forbidden(loaded(tree, f"edgewarden.daemon.{daemon}"))


ENFORCING = (
    "edgewarden.kernel.fanotify", "edgewarden.exec", "edgewarden.stop", "edgewarden.plugs",
    "edgewarden.lockout", "edgewarden.gate", "edgewarden.network", "edgewarden.act.usb",
    "edgewarden.daemon.gate", "edgewarden.daemon.guard",
)  # fmt: skip
"""What denies, stops, takes away or lets in."""


def enforcing(modules: set[str]) -> list[str]:
    return sorted(m for m in modules if any(m == n or m.startswith(f"{n}.") for n in ENFORCING))


def loaded_by_link(tree: Path) -> set[str]:
    """As ``loaded``, with site-packages: link has libraries."""
    script = "import sys, edgewarden.daemon.link; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(tree / "agent"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return set(done.stdout.split())


def test_link_never_loads_the_enforcing_modules() -> None:
    modules = loaded_by_link(ROOT)
    assert "edgewarden.daemon.link" in modules
    assert enforcing(modules) == []


@pytest.mark.parametrize("name", ["act.usb", "network.names", "exec.marks"])
def test_an_enforcing_module_behind_link_is_seen(tmp_path: Path, name: str) -> None:
    tree = copy_tree(tmp_path)
    plant(tree, "agent/edgewarden/link/pace.py", f"import edgewarden.{name}")
    assert f"edgewarden.{name}" in enforcing(loaded_by_link(tree))
