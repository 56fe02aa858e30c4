"""The packages as files: what two builds of one tree give, what they bring along, and that Debian's
own tool finds nothing left of them. The operator's package lives here; the gateway's in test_life.
"""

from __future__ import annotations

import hashlib
import subprocess
import urllib.request
from pathlib import Path

import pytest

from hw.rigs.booted import Booted
from tests.boot import traces
from tests.boot.site import ROOT, VERSIONS, Built, apt, ports
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "debian-tree")

NAMES = ("edgewarden", "edgewarden-fleet")


def digests(folder: Path, version: str) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / f"{name}_{version}_all.deb").read_bytes()).hexdigest()
        for name in NAMES
    }


def test_two_builds_are_the_same_bytes(built: Built, tmp_path: Path) -> None:
    build = ["bash", str(ROOT / "deploy/deb/build.sh"), str(tmp_path)]
    subprocess.run(build, stdin=subprocess.DEVNULL, check=True, capture_output=True)
    assert digests(tmp_path, VERSIONS[0]) == digests(built.packages, VERSIONS[0])


def test_the_gateways_package_brings_nothing_of_the_fleet(built: Built) -> None:
    held = {name: files(built.deb(name, VERSIONS[0])) for name in NAMES}
    assert not [f for f in held["edgewarden"] if "edgewarden_fleet" in f or "edgewarden-fleet" in f]
    assert [f for f in held["edgewarden-fleet"] if f.startswith("./usr/lib/systemd")] == []
    for page in ("man1/edgewarden.1.gz", "man5/edgewarden.toml.5.gz"):
        assert f"./usr/share/man/{page}" in held["edgewarden"]
    assert "./usr/share/man/man1/edgewarden-fleet.1.gz" in held["edgewarden-fleet"]


@pytest.mark.needs("piuparts")
def test_piuparts_finds_nothing_left(built: Built) -> None:
    debs = [str(built.deb(name, VERSIONS[0])) for name in NAMES]
    tree = [f"--existing-chroot={built.tree}", "--keep-sources-list", "--distribution=trixie"]
    # A folder that debconf makes in a tree which never had one.
    known = ["--ignore-regex=/var/cache/debconf/tmp[.]ci.*", "--no-eatmydata"]
    done = subprocess.run(
        ["piuparts", *tree, *known, *debs],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PASS: Installation and purging test." in done.stdout, done.stdout[-3000:]
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.needs("loop-mount", "nspawn")
def test_the_fleets_package_serves_and_goes(built: Built) -> None:
    broker, enrol, console = ports(3)
    with Booted(built.tree) as operator:
        before = traces.look(operator.root)
        for name in NAMES:
            operator.copy(built.deb(name, VERSIONS[0]), f"/root/{name}.deb")
        apt(operator, "install", *(f"/root/{name}.deb" for name in NAMES))
        named = {"broker": broker, "enroll": enrol, "console": console}
        flags = [word for name, port in named.items() for word in (f"--{name}-port", str(port))]
        operator.run("edgewarden-fleet", "init", "/root/fleet", *flags)
        serve = ("edgewarden-fleet", "serve", "/root/fleet")
        operator.run("systemd-run", "--unit=fleet", *serve)
        wait_until(lambda: page(console) != "", 120)
        assert "edgewarden" in page(console)
        operator.run("systemctl", "stop", "fleet")
        apt(operator, "purge", *NAMES)
        assert traces.since(before, traces.look(operator.root)) == []


def page(port: int) -> str:
    """The console's first page; "" while nobody serves it."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def files(deb: Path) -> list[str]:
    listing = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True
    ).stdout
    names = subprocess.run(["tar", "-t"], input=listing, capture_output=True, check=True).stdout
    return names.decode().splitlines()
