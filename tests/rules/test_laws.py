"""Every law holds in the tree, and goes red on a violation planted in a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.rules import laws
from tests.rules.planting import ROOT, copy_tree, import_contracts, plant

TREE_LAWS = [
    laws.law_1_one_folder_deep,
    laws.law_2_no_files,
    laws.law_3_no_spawning,
    laws.law_7_clocks,
    laws.law_8_environment,
    laws.law_8_switches,
    laws.law_10_sizes,
    laws.storage_alone_has_the_database,
    laws.row_r5_gate_opens_nothing,
    laws.row_r5_gate_is_shut,
    laws.stale_doors,
]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_tree(tmp_path_factory.mktemp("pristine"))


@pytest.fixture(scope="module")
def broken_before(pristine: Path) -> Callable[[Callable[[Path], list[str]]], frozenset[str]]:
    """What a law finds in the copy while nothing is planted there, as between two tests."""
    return cache(lambda law: frozenset(law(pristine)))


@pytest.mark.parametrize("law", TREE_LAWS, ids=lambda law: law.__name__)
def test_law_holds(law: Callable[[Path], list[str]]) -> None:
    violations = law(ROOT)
    assert not violations, "\n".join(violations)


def test_import_contracts_hold() -> None:
    broken, report = import_contracts(ROOT)
    assert not broken, report


IMPORTS = [
    ("law-1", "wire/planted.py", "import edgewarden.ports"),
    ("law-1", "kernel/planted.py", "import edgewarden.wire.cbor"),
    ("law-1", "cli/planted.py", "import edgewarden.serial.nmea"),
    ("law-1", "link/planted.py", "import edgewarden.record.journal"),
    ("law-1", "trust/planted.py", "import edgewarden.kernel.fanotify"),
    ("law-1", "daemon/planted.py", "import edgewarden_fleet"),
    ("law-1", "cellar/__init__.py", ""),
    ("law-2", "wire/planted.py", "import os.path"),
    ("law-2", "settings/planted.py", "from time import monotonic"),
    ("law-2", "judge/planted.py", "import asyncio"),
    ("law-3-ctypes", "sense/planted.py", "import ctypes"),
    ("law-3-subprocess", "link/planted.py", "import subprocess"),
    ("law-4-blind", "sense/planted.py", "import edgewarden.act.indicator"),
    ("law-4-blind", "act/planted.py", "import edgewarden.serial.nmea"),
    ("law-4-blind", "serial/planted.py", "import edgewarden.sense.usb"),
    ("law-4-below", "act/planted.py", "import edgewarden.record.journal"),
    ("law-4-below", "serial/planted.py", "import edgewarden.link.uplink"),
    ("law-5", "daemon/gate.py", "import ssl"),
    ("law-5", "daemon/guard.py", "import asyncio"),
    ("law-6", "daemon/link.py", "import edgewarden.kernel.fanotify"),
    ("law-6", "daemon/link.py", "import edgewarden.exec.responder"),
    ("law-6", "daemon/link.py", "import edgewarden.network.names"),
    ("law-6", "act/indicator.py", "import edgewarden.exec.responder"),
    ("law-11", "daemon/sensors.py", "import edgewarden.serial.modbus_writes"),
    ("law-11", "serial/modbus_bus.py", "from edgewarden.serial.modbus_writes import write_coil"),
]


@pytest.mark.parametrize(("contract", "name", "line"), IMPORTS)
def test_planted_import_is_seen(tmp_path: Path, contract: str, name: str, line: str) -> None:
    tree = copy_tree(tmp_path)
    plant(tree, f"agent/edgewarden/{name}", line)
    broken, report = import_contracts(tree, contract)
    assert len(broken) == 1, report


@pytest.mark.parametrize(
    ("contract", "start", "bridge"),
    [
        ("law-5", "daemon/gate.py", "import ssl"),
        ("law-6", "daemon/link.py", "import edgewarden.kernel.fanotify"),
    ],
)
def test_planted_indirect_import_is_seen(
    tmp_path: Path, contract: str, start: str, bridge: str
) -> None:
    tree = copy_tree(tmp_path)
    plant(tree, "agent/edgewarden/kernel/bridge.py", bridge)
    plant(tree, f"agent/edgewarden/{start}", "import edgewarden.kernel.bridge")
    broken, report = import_contracts(tree, contract)
    assert len(broken) == 1, report


PLANTS = [
    (laws.law_1_one_folder_deep, "edgewarden/wire/deeper/planted.py", ""),
    (laws.law_2_no_files, "edgewarden/wire/planted.py", "x = open('/etc/hostname')"),
    (laws.law_2_no_files, "edgewarden/readings/planted.py", "x = open('/etc/hostname')"),
    (laws.law_2_no_files, "edgewarden/judge/planted.py", "from p import q\nq.read_bytes()"),
    (laws.law_3_no_spawning, "edgewarden/link/planted.py", "import os\nos.system('id')"),
    (laws.law_3_no_spawning, "edgewarden/daemon/gate.py", "import os\nos.posix_spawn('x', [], {})"),
    (laws.law_3_no_spawning, "edgewarden/sense/planted.py", "from os import fork"),
    (
        laws.law_3_no_spawning,
        "edgewarden/link/planted.py",
        "import asyncio\nasyncio.create_subprocess_exec('id')",
    ),
    (laws.law_7_clocks, "edgewarden/link/planted.py", "import time"),
    (laws.law_7_clocks, "edgewarden/record/planted.py", "from random import random"),
    (laws.law_7_clocks, "edgewarden/trust/planted.py", "import os\nx = os.environ['HOME']"),
    (laws.law_7_clocks, "edgewarden/sense/planted.py", "import datetime as d\nd.datetime.now()"),
    (laws.law_8_environment, "edgewarden/daemon/gate.py", "import os\nos.getenv('EW_TRUST_ALL')"),
    (laws.law_8_environment, "edgewarden/cli/planted.py", "import os\nos.environ[chosen]"),
    (laws.law_8_switches, "edgewarden/link/planted.py", "x.add_argument('--insecure')"),
    (laws.law_8_switches, "edgewarden/trust/planted.py", "def load(skip_verify): ..."),
    (laws.law_8_switches, "edgewarden/link/planted.py", "context.verify_mode = ssl.CERT_NONE"),
    (laws.law_8_switches, "edgewarden/link/planted.py", "context.check_hostname = False"),
    (laws.law_8_switches, "edgewarden/link/planted.py", "get(url, verify=False)"),
    (laws.law_8_switches, "edgewarden/kernel/fake_fanotify.py", ""),
    (laws.law_10_sizes, "edgewarden/wire/planted.py", "x = 1\n" * 401),
    (laws.law_10_sizes, "edgewarden/wire/planted.py", "def f():\n" + "    x = 1\n" * 80),
    (laws.law_10_sizes, "edgewarden/wire/__init__.py", "x = 1"),
    (laws.law_10_sizes, "edgewarden_fleet/verify/planted.py", "x = 1\n" * 401),
    (laws.storage_alone_has_the_database, "edgewarden/link/planted.py", "import sqlite3"),
    (
        laws.storage_alone_has_the_database,
        "edgewarden/record/segment.py",
        "sqlite3.connect('x', check_same_thread=False)",
    ),
    (laws.row_r5_gate_opens_nothing, "edgewarden/exec/planted.py", "x = open('/etc/hostname')"),
    (laws.row_r5_gate_opens_nothing, "edgewarden/lockout/planted.py", "import os\nos.open('x', 0)"),
    (laws.row_r5_gate_opens_nothing, "edgewarden/daemon/gate.py", "def f():\n    import json"),
    (laws.row_r5_gate_opens_nothing, "edgewarden/network/planted.py", "from logging import info"),
    (laws.row_r5_gate_opens_nothing, "edgewarden/gate/planted.py", "print('denied')"),
    (laws.row_r5_gate_opens_nothing, "edgewarden/plugs/planted.py", "p.read_text()"),
]


@pytest.mark.parametrize(("law", "name", "line"), PLANTS)
def test_planted_line_is_seen(
    pristine: Path,
    broken_before: Callable[[Callable[[Path], list[str]]], frozenset[str]],
    law: Callable[[Path], list[str]],
    name: str,
    line: str,
) -> None:
    before = broken_before(law)
    path = pristine / "agent" / name
    was = path.read_text() if path.exists() else None
    try:
        plant(pristine, f"agent/{name}", line)
        fresh = set(law(pristine)) - before
        assert any(f.startswith(f"agent/{name}:") for f in fresh), f"not seen; new: {fresh}"
    finally:
        if was is None:
            path.unlink()
        else:
            path.write_text(was)


def test_r5_a_gate_that_is_never_shut_is_seen(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    path = tree / "agent/edgewarden/daemon/gate.py"
    line = "    confine(gate.doors, gate.alarm)\n"
    text = path.read_text()
    assert line in text
    for without in (text.replace(line, ""), text.replace(line, "") + "\n\ndef other():\n" + line):
        path.write_text(without)
        assert laws.row_r5_gate_is_shut(tree)


def test_a_crowded_room_is_seen(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    for number in range(laws.ROOM_FILES + 1):
        plant(tree, f"agent/edgewarden/gate/planted_{number}.py", "")
    assert any(v.startswith("agent/edgewarden/gate:") for v in laws.law_10_sizes(tree))


def test_a_stale_door_is_seen(tmp_path: Path) -> None:
    tree = copy_tree(tmp_path)
    door = next(iter(laws.LOOSE_DOORS)).partition(":")[0]
    (tree / door).unlink()
    assert any(v.startswith(door) for v in laws.stale_doors(tree))
