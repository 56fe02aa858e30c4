"""A device behind a real gateway, with curl, all the way to what the fleet shows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgewarden.wire.devices import WORDS_NAME
from hw.rigs.ports import free_port
from tests.cli.json_page import printed
from tests.downstream.test_device_evidence import GOOD, eat
from tests.downstream.world import Devices
from tests.system.standing import Site, demo_gateway, standing
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto", "curl")


@dataclass
class Place:
    """A site whose gateway listens for devices, and their CA."""

    site: Site
    devices: Devices
    key: ec.EllipticCurvePrivateKey
    port: int

    def curl(
        self, own: tuple[str, str], path: str, *more: str
    ) -> subprocess.CompletedProcess[bytes]:
        cert, key = own
        url = f"https://localhost:{self.port}{path}"
        tls = ("--cacert", str(self.devices.ca_path), "--cert", cert, "--key", key)
        line = ("curl", "-sS", "-4", "--max-time", "60", *tls, *more, url)
        return subprocess.run(line, capture_output=True, check=False, timeout=120)

    def listed(self) -> dict[str, dict[str, object]]:
        done = self.site.command("devices", "--json")
        return dict(json.loads(done.stdout)["devices"]) if done.stdout else {}

    def found(self) -> set[str]:
        done = self.site.command("findings", "--json")
        return {f["code"] for f in json.loads(done.stdout)["findings"]} if done.stdout else set()

    def listening(self) -> None:
        self.site.await_status(lambda s: s["devices"]["listener"]["state"] == "listening")

    def fleet(self, name: str) -> dict[str, object]:
        return dict(self.site.shown()["attestation"]["devices"].get(name, {}))


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    with tempfile.TemporaryDirectory(prefix="ew-devices-") as folder:
        devices, port = Devices(Path(folder)), free_port()

        def settings(demo: object) -> None:
            gateway = demo.gateway  # type: ignore[attr-defined]
            cert, own = devices.server
            for path in (folder, cert, own, devices.ca_path):
                shutil.chown(path, demo_gateway._unprivileged_user())
            text = (
                f'\n[downstream]\nlisten = "127.0.0.1"\nport = {port}\nca = "{devices.ca_path}"\n'
                f'certificate = "{cert}"\nkey = "{own}"\n'
                f'[[downstream.device]]\nname = "press-1"\nattestation_key = '
                f"'''{pem.decode()}'''\n"
                f'measurements = ["{GOOD.hex()}"]\n'
            )
            with Path(gateway.settings).open("a") as file:
                file.write(text)

        with standing(settings) as site:
            yield Place(site, devices, key, port)


def test_a_device_is_seen_from_the_desk_of_the_fleet(place: Place) -> None:
    own = place.devices.device("press-1")
    place.listening()
    assert place.curl(own, "/readings", "-d", '{"temperature": 21.5}').returncode == 0
    place.site.await_fleet(lambda f: "device:press-1" in f["sensors"])
    wait_until(lambda: place.fleet("press-1").get("tier") == "none")
    nonce = bytes.fromhex(json.loads(place.curl(own, "/nonce").stdout)["nonce"])
    token = place.devices.folder / "token.cbor"
    token.write_bytes(eat({10: nonce, 2399: [{2: GOOD}]}, key=place.key))
    done = place.curl(own, "/evidence", "--data-binary", f"@{token}")
    assert json.loads(done.stdout)["tier"] == "affirming", done
    wait_until(lambda: place.fleet("press-1").get("tier") == "affirming")
    place.site.await_fleet(lambda f: f["attestation"]["facets"].get("devices") == "affirming")
    for words in ("devices", "status"):
        done = place.site.command(words, "--json")
        assert printed(done.stdout.decode()) == []
    climbed = json.loads(place.site.command("doctor", "agent", "--json").stdout)["rungs"]
    assert [r["state"] for r in climbed if r["name"] == "devices"] == ["ok"]


def test_a_pin_outlives_a_killed_link_and_ends_by_a_persons_word(place: Place) -> None:
    place.listening()
    old = place.devices.device("press-2")
    assert place.curl(old, "/nonce").returncode == 0
    place.site.kill("link")
    place.listening()
    new = place.devices.device("press-2")
    assert place.curl(new, "/nonce").returncode != 0
    wait_until(lambda: "EW-DEV-001" in place.found())
    done = place.site.command("devices", "reset", "press-2", "--why", "board replaced")
    assert done.returncode == 0, done
    wait_until(lambda: place.listed()["press-2"]["state"] == "reset")
    assert place.curl(new, "/nonce").returncode == 0
    assert place.listed()["press-2"]["lineage"] == 2
    wait_until(lambda: place.fleet("press-2").get("lineage") == 2)
    kinds = {f["kind"] for f in place.site.shown()["findings"]}
    assert "device_lineage" not in kinds


def test_link_reads_an_operators_words_and_cannot_write_them(place: Place) -> None:
    place.site.command("devices", "lift", "press-9", "--why", "nothing")
    words = place.site.gateway.state / WORDS_NAME
    assert words.stat().st_uid == os.getuid()
    assert words.stat().st_mode & 0o022 == 0
