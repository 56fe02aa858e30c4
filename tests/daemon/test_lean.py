"""What link loads, and when the rest comes (dataplane acceptance 13: the guard of imports)."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgewarden.daemon.lean import LAZY

FORBIDDEN = {
    "rich", "pydantic", "http.server", "gpiozero", "pymodbus", "cryptography", "psutil",
    "ast", "dis", "argparse", "ctypes", "difflib", "email", "http.client", "bz2", "tempfile",
    "edgewarden.cli.main", "edgewarden.kernel.tpm", "edgewarden.wire.tpm",
    "edgewarden.settings.policy", "edgewarden.trust.tpmkey", "tpm2_pytss",
    "edgewarden.downstream.listener", "edgewarden.daemon.publish", "edgewarden.mirror.latest",
}  # fmt: skip
"""Not in link while no setting asks for it: each costs memory for as long as link lives."""


def run(script: str, *words: str) -> list[str]:
    """Lines that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *words],
        cwd=Path(__file__).resolve().parents[2] / "agent",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def test_a13_what_link_has_no_use_for_is_not_loaded() -> None:
    lines = run(
        """
        import sys
        from edgewarden.daemon.lean import LAZY, Later, lazily
        lazily(*LAZY)
        import edgewarden.daemon.link
        print(*(name for name in sys.modules if type(sys.modules[name]) is not Later))
        """
    )
    loaded = set(lines[0].split())
    assert "edgewarden.daemon.link" in loaded
    assert not loaded & FORBIDDEN
    assert not loaded & set(LAZY)


def test_hearing_signals_loads_nothing_either() -> None:
    """asyncio has put a handler for INT in place by then, whose words would want inspect."""
    lines = run(
        """
        import signal, sys
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from edgewarden.daemon.lean import LAZY, Later, hear_signals, lazily
        lazily(*LAZY)
        import asyncio
        from edgewarden.daemon.steps import SteppedLoop

        async def work():
            heard = asyncio.Event()
            hear_signals(asyncio.get_running_loop(), heard.set, print)
            signal.raise_signal(signal.SIGINT)
            await asyncio.wait_for(heard.wait(), 60)

        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            runner.run(work())
        print(*(name for name in sys.modules if type(sys.modules[name]) is not Later))
        """
    )
    loaded = set(lines[0].split())
    assert "edgewarden.kernel.signals" in loaded
    assert not loaded & {"inspect", "ast", "dis"}


HEAVY = {
    "typing", "enum", "re", "dataclasses", "collections", "contextlib", "functools", "hashlib",
    "logging", "threading", "asyncio", "ssl", "subprocess", "pathlib", "edgewarden.plain",
}  # fmt: skip
"""What wire/lean.py is there to spare gate and guard: megabytes of a process that never rests."""


@pytest.mark.parametrize("part", ["gate", "guard"])
def test_gate_and_guard_stay_lean(part: str) -> None:
    """Started as the service starts them, without site."""
    lines = run(
        """
        import subprocess, sys
        load = f"import sys; sys.path.insert(0, '.'); import edgewarden.daemon.{sys.argv[1]}"
        line = [sys.executable, "-I", "-S", "-c", f"{load}; print(*sys.modules)"]
        subprocess.run(line, check=True)
        """,
        part,
    )
    loaded = set(lines[0].split())
    assert f"edgewarden.daemon.{part}" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("name", LAZY)
def test_a_late_module_is_whole_when_it_is_asked(name: str) -> None:
    lines = run(
        """
        import importlib, sys
        from edgewarden.daemon.lean import Later, lazily
        name = sys.argv[1]
        lazily(name)
        late = importlib.import_module(name)
        print(type(late) is Later, late.__name__ == name)
        late.__doc__, late.not_there if hasattr(late, "not_there") else None
        print(type(late) is Later, importlib.import_module(name) is late, len(vars(late)) > 10)
        """,
        name,
    )
    assert lines[:2] == ["True True", "False True True"]


def test_two_threads_that_ask_at_once_get_the_same_whole_module(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nfirst = 1\ntime.sleep(0.2)\nlast = 2\nloads = globals().get('loads', 0) + 1\n"
    )
    lines = run(
        """
        import sys, threading
        sys.path.insert(0, sys.argv[1])
        from edgewarden.daemon.lean import lazily
        lazily("slow")
        import slow
        found = []
        ask = [threading.Thread(target=lambda: found.append(slow.last)) for _ in range(8)]
        [one.start() for one in ask]
        [one.join() for one in ask]
        print(found, slow.loads)
        """,
        str(tmp_path),
    )
    assert lines[0] == f"{[2] * 8} 1"


def test_a_name_that_is_not_there_or_is_loaded_already_stays_as_it_is() -> None:
    lines = run(
        """
        import json, sys
        from edgewarden.daemon.lean import lazily
        lazily("json", "no_such_module_anywhere")
        print(sys.modules["json"] is json, "no_such_module_anywhere" in sys.modules)
        """
    )
    assert lines[0] == "True False"
