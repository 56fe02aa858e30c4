"""Credentials made in Python, opened by a TPM; and strangers on either side of them.

ours -> our module, both bindings      ours -> tpm2_activatecredential
keylime's makecredential -> our module
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.errors import EdgewardenError
from edgewarden.kernel.tpm import Tpm
from edgewarden.wire import tpm as forms
from edgewarden_fleet.desk.credential import make_credential, parse_ek
from hw.rigs.tpm import Bus, SoftTpm

pytestmark = pytest.mark.needs("swtpm", "tpm2-abrmd", "tpm2-pytss")
ROOT = Path(__file__).resolve().parents[2]
SECRET = bytes(range(32))
TOOLS_HEAD = struct.pack(">II", 0xBADCC0DE, 1)
"""What tpm2-tools puts in front of the two structures."""
KEYLIME = """
import sys
from keylime.tpm import tpm_util
ek, secret, name = (bytes.fromhex(word) for word in sys.argv[1:])
print(tpm_util.makecredential(ek, secret, name).hex())
"""


@pytest.fixture(scope="module")
def soft(tmp_path_factory: pytest.TempPathFactory, tpm_bus: Bus) -> Iterator[SoftTpm]:
    with SoftTpm(tmp_path_factory.mktemp("tpm"), tpm_bus) as soft:
        yield soft


@pytest.fixture
def tpm(soft: SoftTpm) -> Iterator[Tpm]:
    with Tpm(soft.tcti) as tpm:
        yield tpm


def made_for(tpm: Tpm, kind: str, name: bytes | None = None) -> tuple[bytes, bytes]:
    ak = name or forms.parse_public(tpm.ak_public()).name
    return make_credential(parse_ek(tpm.ek_public(kind)), ak, SECRET)


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_its_tpm_opens_it_twenty_times(tpm: Tpm, kind: str) -> None:
    """Twenty: leading zeros of coordinates are left out by none of the two."""
    for _ in range(20):
        assert tpm.activate(kind, *made_for(tpm, kind)) == SECRET
    assert tpm.transients() <= 2


@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_for_another_name_it_stays_shut(tpm: Tpm, kind: str) -> None:
    with pytest.raises(EdgewardenError) as caught:
        tpm.activate(kind, *made_for(tpm, kind, b"\0\x0b" + bytes(32)))
    assert caught.value.code == "EW-ID-031"


def test_another_tpm_does_not_open_it(tpm: Tpm, tmp_path: Path, tpm_bus: Bus) -> None:
    with SoftTpm(tmp_path, tpm_bus) as other, Tpm(other.tcti) as stranger:
        for kind in ("rsa", "ecc"):
            with pytest.raises(EdgewardenError):
                stranger.activate(kind, *made_for(tpm, kind))


@pytest.mark.needs("python3-tpm2-pytss")
def test_debians_binding_opens_it(tpm: Tpm, soft: SoftTpm) -> None:
    credential, secret = made_for(tpm, "rsa")
    line = ["/usr/bin/python3", str(ROOT / "tests/system/tpm_client.py"), soft.tcti, "activate"]
    done = subprocess.run(
        [*line, credential.hex(), secret.hex()],
        env={**os.environ, **soft.bus.environment, "PYTHONPATH": str(ROOT / "agent")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == {"secret": SECRET.hex()}, done.stderr


@pytest.mark.needs("tpm2-tools")
@pytest.mark.parametrize(("kind", "tools_kind"), [("rsa", "rsa"), ("ecc", "ecc")])
def test_tpm2_activatecredential_opens_it(
    soft: SoftTpm, tmp_path: Path, kind: str, tools_kind: str
) -> None:
    def tool(*line: str) -> None:
        environment = {**os.environ, **soft.bus.environment, "TPM2TOOLS_TCTI": soft.tcti}
        done = subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr

    tool("tpm2_createek", "-c", "ek.ctx", "-G", tools_kind, "-u", "ek.pub")
    tool("tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s",
         "ecdsa", "-u", "ak.pub", "-n", "ak.name")  # fmt: skip
    ek = (tmp_path / "ek.pub").read_bytes()[2:]  # a TPM2B_PUBLIC
    name = (tmp_path / "ak.name").read_bytes()
    credential, secret = make_credential(parse_ek(ek), name, SECRET)
    (tmp_path / "blob").write_bytes(TOOLS_HEAD + credential + secret)
    tool("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
    tool("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
    tool("tpm2_activatecredential", "-c", "ak.ctx", "-C", "ek.ctx", "-i", "blob", "-o", "out",
         "-P", "session:session.ctx")  # fmt: skip
    tool("tpm2_flushcontext", "session.ctx")
    assert (tmp_path / "out").read_bytes() == SECRET


@pytest.mark.needs("keylime")
@pytest.mark.parametrize("kind", ["rsa", "ecc"])
def test_a_credential_by_keylime_is_opened(tpm: Tpm, kind: str) -> None:
    ek = tpm.ek_public(kind)
    name = forms.parse_public(tpm.ak_public()).name
    sized = struct.pack(">H", len(ek)) + ek
    python = str(ROOT / ".venv-peers/bin/python")
    done = subprocess.run(
        [python, "-c", KEYLIME, sized.hex(), SECRET.hex(), name.hex()],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    blob = bytes.fromhex(done.stdout.strip().splitlines()[-1])
    assert blob.startswith(TOOLS_HEAD)
    size = 2 + int.from_bytes(blob[8:10], "big")
    assert tpm.activate(kind, blob[8 : 8 + size], blob[8 + size :]) == SECRET
    assert sys.executable != python
