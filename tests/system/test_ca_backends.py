"""Certificates from CAs that nobody here wrote: `openssl cmp` as a server, and Debian's cfssl.

The fleet folder is an ordinary one that believes the CA's root; a gateway enrols and renews.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from edgewarden.enrol.by_key import renew
from edgewarden.enrol.service import device_host, signing_request
from edgewarden.errors import EdgewardenError, PeerFault, PeerUnavailable, WireRefusal
from edgewarden.trust.identity import load
from edgewarden.trust.keys import FileSigner
from edgewarden_fleet.ca import certificates, settings
from edgewarden_fleet.ca.certificates import Authority
from edgewarden_fleet.ca.external import Cfssl, Cmp
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.issuers import Wanted, checked
from edgewarden_fleet.ca.rollover import Rollover
from edgewarden_fleet.ca.settings import CaSettings
from edgewarden_fleet.verify.chain import check_chain
from hw.rigs.ports import free_port
from tests.enrol.fleet_service import made_ago, standing_service
from tests.fleet.makers import authority
from tests.waiting import wait_until

SECRET = "0123456789ABCDEF0123456789ABCDEF"
DEVICE = "gw-foreign"


@pytest.fixture
def foreign() -> tuple[Authority, Authority]:
    """Root and issuing CA of somebody else."""
    return authority(time.time())


@pytest.fixture
def fleet(tmp_path: Path, foreign: tuple[Authority, Authority]) -> FleetFolder:
    folder = made_ago(tmp_path / "fleet")
    Rollover(folder, time.time()).trust([foreign[0].certificate])
    (folder.path / "ca/secret").write_text(SECRET)
    return folder


@contextlib.contextmanager
def answering(command: list[str], port: int, log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as process:
        try:
            wait_until(lambda: listens(port) or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield
        finally:
            process.terminate()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    return False


def configure(folder: FleetFolder, ca: CaSettings) -> FleetFolder:
    wanted = replace(folder.settings(), ca=ca)
    (folder.path / "fleet.toml").write_text(settings.text(wanted))
    assert folder.settings().ca == ca
    return folder


# --- cfssl -----------------------------------------------------------------------------------


@contextlib.contextmanager
def cfssl(place: Path, issuing: Authority, usages: list[str]) -> Iterator[str]:
    """Its URL."""
    place.mkdir()
    (place / "ca.pem").write_text(certificates.pem(issuing.certificate))
    key = issuing.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (place / "key.pem").write_bytes(key)
    profile = {"usages": usages, "expiry": "720h", "auth_key": "fleet"}
    config = {
        "signing": {"default": {"expiry": "1h"}, "profiles": {"gateway": profile}},
        "auth_keys": {"fleet": {"type": "standard", "key": SECRET}},
    }
    (place / "config.json").write_text(json.dumps(config))
    port = free_port()
    command = ["cfssl", "serve", "-address", "127.0.0.1", "-port", str(port), "-ca",
               str(place / "ca.pem"), "-ca-key", str(place / "key.pem"), "-config",
               str(place / "config.json")]  # fmt: skip
    with answering(command, port, place / "log"):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.needs("cfssl")
def test_a_gateway_of_cfssl_enrols_and_renews(
    fleet: FleetFolder, foreign: tuple[Authority, Authority], tmp_path: Path
) -> None:
    with cfssl(tmp_path / "cfssl", foreign[1], ["digital signature", "client auth"]) as url:
        configure(fleet, CaSettings("cfssl", url, profile="gateway"))
        with standing_service(fleet) as service:
            first = service.enrol(tmp_path / "state", DEVICE)
            fresh = renew(tmp_path / "state", first, lambda _: b"")
    assert fresh.serial != first.serial
    assert load(tmp_path / "state") == fresh
    identity = check_chain(fresh.x5chain(), fleet.roots(), time.time())
    assert (identity.tenant, identity.device) == ("main", DEVICE)
    assert device_host("main", DEVICE).encode() in fresh.x5chain()[0], "it knows no URI names"
    assert fresh.x5chain()[1] == certificates.der(foreign[1].certificate)


@pytest.mark.needs("cfssl")
@pytest.mark.parametrize("fault", ["key", "profile", "purpose", "down"])
def test_what_cfssl_refuses_or_gets_wrong_is_named_and_costs_nothing(
    fleet: FleetFolder, foreign: tuple[Authority, Authority], tmp_path: Path, fault: str
) -> None:
    usages = ["digital signature", "client auth"]
    if fault == "purpose":
        usages.append("server auth")
    if fault == "key":
        (fleet.path / "ca/secret").write_text(SECRET[::-1])
    with cfssl(tmp_path / "cfssl", foreign[1], usages) as url:
        down = f"http://127.0.0.1:{free_port()}"
        profile = "other" if fault == "profile" else "gateway"
        configure(fleet, CaSettings("cfssl", down if fault == "down" else url, profile=profile))
        with standing_service(fleet) as service, pytest.raises(WireRefusal) as refused:
            service.enrol(tmp_path / "state", DEVICE)
        assert refused.value.name == "ca_unavailable"
        configure(fleet, CaSettings("builtin"))
        with standing_service(fleet) as service:
            assert service.enrol(tmp_path / "state", DEVICE), "the next try works, with its key"


# --- CMP -------------------------------------------------------------------------------------


@contextlib.contextmanager
def cmp_server(place: Path, issuing: Authority, leaf: str) -> Iterator[str]:
    """OpenSSL's own server, which hands out one certificate. Its host and port."""
    place.mkdir()
    (place / "leaf.pem").write_text(leaf)
    (place / "issuing.pem").write_text(certificates.pem(issuing.certificate))
    port = free_port()
    command = [shutil.which("openssl") or "openssl", "cmp", "-port", str(port), "-srv_ref", "fleet",
               "-srv_secret", f"pass:{SECRET}", "-rsp_cert", str(place / "leaf.pem"),
               "-rsp_extracerts", str(place / "issuing.pem"), "-accept_raverified"]  # fmt: skip
    with answering(command, port, place / "log"):
        yield f"127.0.0.1:{port}"


def wanted_of(signer: FileSigner, device: str = DEVICE) -> Wanted:
    csr = signing_request(signer, device)
    return Wanted("main", device, certificates.read_request(csr), csr)


def test_a_certificate_by_cmp(
    fleet: FleetFolder, foreign: tuple[Authority, Authority], tmp_path: Path
) -> None:
    wanted = wanted_of(FileSigner.generate())
    leaf = certificates.make_gateway(foreign[1], wanted.key, "main", DEVICE, time.time())
    with cmp_server(tmp_path / "cmp", foreign[1], certificates.pem(leaf)) as server:
        ca = Cmp(CaSettings("cmp", server, ref="fleet"), fleet.path)
        chain = checked(ca.issue(wanted, time.time()), wanted, fleet.roots(), time.time())
        assert chain.leaf == leaf
        assert chain.issuing == foreign[1].certificate
        other = wanted_of(FileSigner.generate())
        with pytest.raises(PeerFault) as refused:
            ca.issue(other, time.time())  # OpenSSL's client sees it first
        assert "gave no certificate" in refused.value.text
        assert len(refused.value.text) > 60, "and what it said stands there"
        assert refused.value.code == "EW-ID-040"


@pytest.mark.parametrize("fault", ["secret", "down"])
def test_what_cmp_refuses_is_named(
    fleet: FleetFolder, foreign: tuple[Authority, Authority], tmp_path: Path, fault: str
) -> None:
    wanted = wanted_of(FileSigner.generate())
    leaf = certificates.make_gateway(foreign[1], wanted.key, "main", DEVICE, time.time())
    if fault == "secret":
        (fleet.path / "ca/secret").write_text("another")
    with cmp_server(tmp_path / "cmp", foreign[1], certificates.pem(leaf)) as server:
        server = f"127.0.0.1:{free_port()}" if fault == "down" else server
        with pytest.raises((PeerFault, PeerUnavailable)) as refused:
            Cmp(CaSettings("cmp", server, ref="fleet"), fleet.path).issue(wanted, time.time())
        assert refused.value.code == "EW-ID-040"
        assert refused.value.next_step


def test_a_ca_that_is_not_believed_is_found_out_at_the_desk(
    tmp_path: Path, foreign: tuple[Authority, Authority]
) -> None:
    folder = made_ago(tmp_path / "fleet")
    wanted = wanted_of(FileSigner.generate())
    leaf = certificates.make_gateway(foreign[1], wanted.key, "main", DEVICE, time.time())
    (folder.path / "ca/secret").write_text(SECRET)
    with cmp_server(tmp_path / "cmp", foreign[1], certificates.pem(leaf)) as server:
        ca = Cmp(CaSettings("cmp", server, ref="fleet"), folder.path)
        with pytest.raises(EdgewardenError) as refused:
            checked(ca.issue(wanted, time.time()), wanted, folder.roots(), time.time())
        assert refused.value.code == "EW-ID-040"


def test_a_key_for_cfssl_that_is_none_is_named(fleet: FleetFolder) -> None:
    (fleet.path / "ca/secret").write_text("no hex")
    wanted = wanted_of(FileSigner.generate())
    with pytest.raises(PeerUnavailable, match="key for cfssl"):
        Cfssl(CaSettings("cfssl", "http://127.0.0.1:1"), fleet.path).issue(wanted, time.time())
