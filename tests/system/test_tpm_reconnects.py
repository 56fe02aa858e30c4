"""Row A9 of attestation: who reconnects for a year with a key in a TPM leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgewarden.kernel.tpm import Tpm
from edgewarden.trust.tpmkey import TpmKey
from hw.rigs.tpm import Bus, SoftTpm
from tests.broker import Pki
from tests.system.tpm_tls import ROOT, server

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss")
PER_RUN = 25
"""10,000 connections by ``--runs 400``."""
GROWS_KB = 512


def test_reconnects_leave_no_key_in_the_tpm_and_no_memory(
    tmp_path: Path, tpm_bus: Bus, runs: int
) -> None:
    with SoftTpm(tmp_path / "tpm", tpm_bus) as soft:
        pki = Pki(tmp_path / "pki")
        with Tpm(soft.tcti) as tpm:
            made = TpmKey.generate(tpm)
            cert, path = pki.issue("gw-tpm", key=made.private_key().public_key())
            path.write_bytes(made.to_pem())
        with server(*pki.issue("server", server=True), pki.ca) as port:
            asked = {"tcti": soft.tcti, "cert": str(cert), "key": str(path), "ca": str(pki.ca),
                     "port": port, "count": PER_RUN * runs}  # fmt: skip
            told = reconnect(asked, soft)
    print(f"reconnects: {told[-1]}, resident {[t['resident_kb'] for t in told]} kB")
    assert told[-1]["made"] == PER_RUN * runs
    assert told[4]["failed"] == 0, "with a resource manager that stands none fails"
    assert {t["keys"] for t in told} == {1}, "the one that signs; not its parent"
    assert told[-1]["descriptors"] <= told[1]["descriptors"]
    assert told[-1]["resident_kb"] - told[1]["resident_kb"] <= GROWS_KB


def reconnect(asked: dict[str, Any], soft: SoftTpm) -> list[dict[str, Any]]:
    """What tpm_reconnects.py says after each tenth; half-way the resource manager is killed."""
    worker = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("tpm_reconnects.py")), json.dumps(asked)],
        env={**os.environ, **soft.bus.environment, "PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    told: list[dict[str, Any]] = []
    try:
        assert worker.stdout is not None
        for line in worker.stdout:
            told.append(json.loads(line))
            if len(told) == 5:
                soft.restart_manager()
        assert worker.wait(60) == 0, worker.stderr.read() if worker.stderr else ""
    finally:
        worker.kill()
        worker.communicate()
    return told
