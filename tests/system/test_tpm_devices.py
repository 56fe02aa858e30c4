"""Beside a TPM key the listener for devices runs, or says by name that it cannot (ADR 35).

With a key that OpenSSL asks for signatures it runs. With tpm2-openssl it depends on that one's
version; what is held then is that the proof at the start
and a real client see the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hw.rigs.tpm import Bus, SoftTpm
from tests.downstream.world import Devices
from tests.system.tpm_tls import ROOT

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss", "tpm2-openssl", "openssl")


def tried(
    devices: Devices, tcti: str, environment: dict[str, str], *way: str
) -> tuple[str, str, bool]:
    """(code of the proof, recipe, whether `openssl s_client` gets through)."""
    own = devices.device("press-1")
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("tpm_listener.py"), tcti, devices.folder, *way],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "agent")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        where = ("-connect", f"127.0.0.1:{said['port']}", "-CAfile", str(devices.ca_path))
        line = ("openssl", "s_client", "-quiet", *where, "-cert", own[0], "-key", own[1])
        done = subprocess.run(line, input=b"", capture_output=True, timeout=60, check=False)
        process.wait(60)
    finally:
        process.kill()
        process.communicate()
    return said["code"], said["recipe"], b"device welcome" in done.stdout


def test_without_a_tpm_it_runs(tmp_path: Path) -> None:
    assert tried(Devices(tmp_path), "", {}) == ("", "", True)


def test_beside_a_tpm_key_the_proof_says_what_a_client_sees(tmp_path: Path, tpm_bus: Bus) -> None:
    with SoftTpm(tmp_path / "tpm", tpm_bus) as soft:
        code, recipe, through = tried(Devices(tmp_path), soft.tcti, tpm_bus.environment)
    assert recipe.startswith("tpm2-openssl ")
    assert code == ("" if through else "EW-DEV-006")
    if "tpm2.signature" in recipe:
        assert not through


def test_beside_a_tpm_key_that_is_asked_it_runs(tmp_path: Path, tpm_bus: Bus) -> None:
    with SoftTpm(tmp_path / "tpm", tpm_bus) as soft:
        said = tried(Devices(tmp_path), soft.tcti, tpm_bus.environment, "asked")
    assert (said[0], said[2]) == ("", True)
    assert said[1].startswith("OpenSSL 3")
