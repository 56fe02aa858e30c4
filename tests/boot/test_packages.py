"""The packages as files: what two builds of one tree give, and what they bring along."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.boot.site import ROOT, VERSIONS, Built

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


def files(deb: Path) -> list[str]:
    listing = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True
    ).stdout
    names = subprocess.run(["tar", "-t"], input=listing, capture_output=True, check=True).stdout
    return names.decode().splitlines()
