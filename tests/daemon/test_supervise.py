"""How the parts are started."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from edgewarden.daemon.supervise import Plan, _parts


def test_gate_and_guard_are_loaded_and_not_compiled_anew(tmp_path: Path) -> None:
    """A script's own source is; a module comes from its cache."""
    plan = Plan("e.toml", str(tmp_path / "state"), str(tmp_path), "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        commands = {part.name: part.command for part in _parts(plan, listener)}
    for name in ("gate", "guard"):
        assert commands[name][1:4] == ["-I", "-S", "-c"]
    done = subprocess.run(commands["gate"], capture_output=True, text=True, timeout=30, cwd="/")
    assert done.returncode == 2
    assert f"{tmp_path}/state/policy" in done.stderr, "it got as far as its own files"
