"""The service entry points: gate and guard leave everything behind that read their settings."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from edgewarden.cli.main import main
from edgewarden.daemon import supervise
from tests.fakes.gate import stand_in
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "agent"), "PATH": "/usr/bin:/bin"}


def test_guard_runs_in_a_lean_interpreter_on_the_socket_it_was_handed(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "guard.sock"))
        listener.listen(4)
        handed = (
            f"import os, sys; os.dup2({listener.fileno()}, 3); "
            "os.execv(sys.executable, [sys.executable, '-m', 'edgewarden', 'guard'])"
        )
        guard = subprocess.Popen(
            [sys.executable, "-c", handed], env=ENVIRONMENT, pass_fds=(listener.fileno(),)
        )
        try:
            cmdline = Path("/proc", str(guard.pid), "cmdline")
            wait_until(lambda: b"\0-I\0-S\0" in cmdline.read_bytes())
            maps = Path("/proc", str(guard.pid), "maps")
            if os.geteuid() == 0:  # guard sends others away
                with stand_in(tmp_path / "guard.sock") as gate:
                    assert gate.heard, "guard's first word: its trips"
                    assert "ssl" not in maps.read_text()
        finally:
            guard.send_signal(signal.SIGTERM)
            assert guard.wait(60) == 0


def test_gate_without_a_compiled_policy_says_what_is_missing(tmp_path: Path) -> None:
    settings = tmp_path / "e.toml"
    settings.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')
    done = subprocess.run(
        [sys.executable, "-m", "edgewarden", "gate", "--settings", str(settings)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"{tmp_path}/state/policy" in done.stderr
    assert "edgewarden-policy.service" in done.stderr


def test_gate_starts_from_paths_when_the_settings_are_broken(tmp_path: Path) -> None:
    """It gets as far as its own files: what comes after a reboot does not hang on a typo."""
    settings = tmp_path / "e.toml"
    settings.write_text(f'[paths]\nstate = "{tmp_path}/s"\nrun = "{tmp_path}/r"\n[hosst]\n')
    done = subprocess.run(
        [sys.executable, "-m", "edgewarden", "gate", "--settings", str(settings)],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "no such section" in done.stderr
    assert f"{tmp_path}/s/policy" in done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize("there", [False, True], ids=["nothing", "no socket"])
def test_guard_without_a_socket_says_so_in_one_line(tmp_path: Path, there: bool) -> None:
    (tmp_path / "file").write_text("")
    opened = f"os.dup2(os.open('{tmp_path}/file', os.O_RDONLY), 3)" if there else ""
    handed = (
        f"import os, sys\ntry: os.close(3)\nexcept OSError: pass\n{opened}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'edgewarden', 'guard'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", handed],
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 64
    (line,) = done.stderr.splitlines()
    assert "descriptor 3" in line
    assert "edgewarden-guard.socket" in line


def test_run_names_its_settings_so_that_parts_started_in_the_root_find_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e.toml").write_text(f'[paths]\nstate = "{tmp_path}/s"\nrun = "{tmp_path}/r"\n')
    monkeypatch.chdir(tmp_path)
    plans = list[supervise.Plan]()
    monkeypatch.setattr(supervise, "supervise", lambda plan: plans.append(plan) or 0)
    assert main(["run", "--settings", "e.toml"]) == 0
    assert [plan.settings for plan in plans] == [str(tmp_path / "e.toml")]
