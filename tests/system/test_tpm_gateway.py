"""A whole gateway whose key is in a TPM: enrolment, broker session, quotes, a clone, a downgrade.

The TPM is swtpm behind tpm2-abrmd, with an EK certificate of its own maker whose root the fleet has
pinned; broker, fleet and agent are the real ones (tests/system/standing.py).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.rigs.tpm import Bus, SoftTpm
from tests.system.standing import FLEET, Demo, Json, Site, demo_gateway, read_json, standing

pytestmark = pytest.mark.needs(
    "root", "mosquitto", "swtpm", "tpm2-abrmd", "tpm2-pytss", "tpm2-openssl"
)
NOWHERE = "swtpm:host=127.0.0.1,port=1"


@pytest.fixture(scope="module")
def tpm(tmp_path_factory: pytest.TempPathFactory, tpm_bus: Bus) -> Iterator[SoftTpm]:
    with SoftTpm(tmp_path_factory.mktemp("tpm"), tpm_bus) as tpm:
        yield tpm


def with_tpm(demo: Demo, tpm: SoftTpm) -> None:
    """The operator pins the maker; the gateway's settings name the TPM and ask for nothing less."""
    for certificate in (tpm.maker.root, tpm.maker.issuer):
        shutil.copy(certificate, demo.fleet / "tpm" / "roots" / f"{certificate.stem}.pem")
    with demo.gateway.settings.open("a") as settings:
        settings.write(f'\n[identity]\ngrade = "G2"\ntcti = "{tpm.tcti}"\n')


@pytest.fixture(scope="module")
def site(tpm: SoftTpm) -> Iterator[Site]:
    with standing(lambda demo: with_tpm(demo, tpm)) as site:
        yield site


def test_it_is_enrolled_attested_and_shown_as_G2(site: Site) -> None:
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
    shown = site.shown()
    assert shown["attestation"]["grade"] == "G2"
    site.await_status(lambda s: s["attestation"]["result"] == "affirming")
    assert site.status()["identity"]["grade"] == "G2"
    assert shown["reports_rejected"] == {}
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]


def test_the_key_file_is_wrapped_and_shown_with_its_recipe(site: Site) -> None:
    key = (site.gateway.identity / "key.pem").read_text()
    assert key.startswith("-----BEGIN TSS2 PRIVATE KEY-----")
    shown = json.loads(site.command("identity", "show", "--json").stdout)
    assert shown["grade"] == "G2"
    assert "asks it for each signature" in shown["key"]
    tested = site.command("identity", "selftest").stdout.decode()
    assert "TLS 1.3 and 1.2" in tested, tested
    assert "asks it for each signature" in tested


def test_its_certificate_is_renewed_by_the_key_in_the_tpm(site: Site) -> None:
    before = site.status()["identity"]["certificate"]["serial"]
    key = (site.gateway.identity / "key.pem").read_bytes()
    done = site.command("identity", "renew")
    assert done.returncode == 0, done.stderr
    site.await_status(
        lambda s: (
            s["uplink"]["connected"] and s["identity"]["certificate"]["serial"] not in (before, "")
        )
    )
    assert (site.gateway.identity / "key.pem").read_bytes() == key
    assert site.status()["identity"]["grade"] == "G2"
    site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")


def test_a_copied_card_is_refused_by_another_tpm(
    site: Site, tpm: SoftTpm, tpm_bus: Bus, tmp_path: Path
) -> None:
    """Everything is copied, the other board has a TPM of the same maker: no key."""
    state, run = tmp_path / "state", tmp_path / "run"
    shutil.copytree(site.gateway.state, state, symlinks=True)
    with SoftTpm(tmp_path / "tpm", tpm_bus, tpm.maker) as other:
        text = site.gateway.settings.read_text()
        text = text.replace(str(site.gateway.state), str(state)).replace(tpm.tcti, other.tcti)
        text = text.replace(str(site.gateway.folder / "run"), str(run))
        settings = tmp_path / "edgewarden.toml"
        settings.write_text(text)
        asked = ("--settings", str(settings))
        tested = site.plain("identity", "selftest", *asked)
        assert tested.returncode != 0
        assert "EW-ID-031" in tested.stderr.decode()
        link = site.plain("link", *asked)
        assert link.returncode == 78, "a trust failure: the supervisor does not start it again"
        assert "another TPM" in link.stderr.decode()
    assert site.status()["uplink"]["connected"], "the honest one goes on"


def test_a_card_whose_key_was_made_a_file_lowers_no_grade(site: Site, tmp_path: Path) -> None:
    """A root that puts a key of its own into the folder: refused here, unknown to the registry."""
    state = tmp_path / "state"
    shutil.copytree(site.gateway.state, state, symlinks=True)
    line = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout"]
    made = subprocess.run(line, capture_output=True, check=True).stdout
    plain = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-nocrypt"], input=made, capture_output=True, check=True
    ).stdout
    (state / "identity" / "current" / "key.pem").write_bytes(plain)
    settings = tmp_path / "edgewarden.toml"
    text = site.gateway.settings.read_text().replace(str(site.gateway.state), str(state))
    settings.write_text(text)
    tested = site.plain("identity", "selftest", "--settings", str(settings))
    assert tested.returncode != 0
    assert "EW-ID-033" in tested.stderr.decode()


def test_a_lower_grade_is_refused_told_and_had_only_with_a_persons_word(
    site: Site, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    (state / "identity").mkdir(parents=True)
    shutil.copy(site.gateway.state / "identity" / "grade", state / "identity" / "grade")
    settings, token = tmp_path / "edgewarden.toml", tmp_path / "token"
    text = site.gateway.settings.read_text().replace(str(site.gateway.state), str(state))
    settings.write_text(text[: text.index("[identity]")] + f'[identity]\ntcti = "{NOWHERE}"\n')
    made = site.stage.run(
        FLEET, "token", "new", "--dir", site.demo.fleet, "--device", "gw-other", "--json"
    )
    said = read_json(made)
    token.write_text(said["token"])
    line = ("enroll", "--ca", said["url"], "--token-file", str(token), "--settings", str(settings))
    refused = site.plain(*line)
    assert refused.returncode != 0
    assert "EW-ID-033" in refused.stderr.decode()
    assert not (state / "identity" / "current").exists()
    other = (FLEET, "show", "gw-other", "--dir", site.demo.fleet, "--json")
    done = site.plain(*line, "--accept-lower", "G0")
    assert done.returncode == 0, done.stderr
    told = [f for f in read_json(site.stage.run(*other))["findings"] if f["kind"] == "grade"]
    assert len(told) == 2, "once for the refusal, once for the acceptance"


def test_the_same_tpm_is_not_another_gateway(site: Site, tmp_path: Path) -> None:
    state, settings, token = tmp_path / "state", tmp_path / "edgewarden.toml", tmp_path / "token"
    text = site.gateway.settings.read_text().replace(str(site.gateway.state), str(state))
    settings.write_text(text)
    made = site.stage.run(
        FLEET, "token", "new", "--dir", site.demo.fleet, "--device", "gw-second", "--json"
    )
    said = read_json(made)
    token.write_text(said["token"])
    refused = site.plain(
        "enroll", "--ca", said["url"], "--token-file", str(token), "--settings", str(settings)
    )
    assert refused.returncode != 0
    assert "lineage_conflict" in refused.stderr.decode()
    assert demo_gateway.DEVICE in refused.stderr.decode()


def test_a_resource_manager_that_died_costs_nothing(tmp_path: Path, tpm_bus: Bus) -> None:
    """link goes on with the next one: it signs, quotes and answers, without being started again."""
    with SoftTpm(tmp_path, tpm_bus) as own, standing(lambda demo: with_tpm(demo, own)) as site:
        site.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
        link = site.pids()["link"]
        own.restart_manager()
        since_mono = time.monotonic()

        def attested_since(shown: Json) -> bool:
            said = shown["attestation"]
            newer = said["age_s"] < time.monotonic() - since_mono - 1
            return bool(newer and said["result"] == "affirming" and said["grade"] == "G2")

        site.await_fleet(attested_since, 180)
        assert site.pids()["link"] == link
        assert site.status()["uplink"]["connected"]
