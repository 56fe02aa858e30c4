"""The rig hw/rigs/tpm.py: a TPM as clients of a real one meet it, asked by Debian's own tools."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from hw.rigs.tpm import Bus, SoftTpm
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-tools")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTpm]:
    folder = tmp_path_factory.mktemp("tpm")
    with Bus(folder / "bus") as bus, SoftTpm(folder / "one", bus) as tpm:
        yield tpm


def tool(tpm: SoftTpm, *line: str) -> str:
    environment = {**os.environ, **tpm.bus.environment, "TPM2TOOLS_TCTI": tpm.tcti}
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace")


def test_the_ek_certificate_leads_to_the_makers_root(tpm: SoftTpm, tmp_path: Path) -> None:
    tool(tpm, "tpm2_nvread", "0x1c00002", "-o", str(tmp_path / "ek.der"))
    leaf = x509.load_der_x509_certificate((tmp_path / "ek.der").read_bytes())
    issuer = x509.load_pem_x509_certificate(tpm.maker.issuer.read_bytes())
    root = x509.load_pem_x509_certificate(tpm.maker.root.read_bytes())
    leaf.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)


def test_two_of_one_maker_are_two_and_each_reboots(tpm: SoftTpm, tmp_path: Path) -> None:
    def resets() -> int:
        said = tool(other, "tpm2_readclock")
        (line,) = [line for line in said.splitlines() if "reset_count" in line]
        return int(line.split()[-1])

    root = tpm.maker.root.read_bytes()
    with SoftTpm(tmp_path / "two", tpm.bus, tpm.maker) as other:
        read = ("tpm2_nvread", "0x1c00002")
        assert tool(tpm, *read) != tool(other, *read)
        assert tpm.maker.root.read_bytes() == root
        before = resets()
        other.reboot()
        assert resets() == before + 1
        other.restart_manager()
        assert resets() == before + 1


def test_it_dies_with_whoever_holds_it(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
from pathlib import Path
from hw.rigs.tpm import Bus, SoftTpm
folder = Path({str(tmp_path)!r})
with Bus(folder / "bus") as bus, SoftTpm(folder / "tpm", bus) as tpm:
    print(*Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pids = done.stdout.split()
    assert len(pids) == 3, done.stderr
    wait_until(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
