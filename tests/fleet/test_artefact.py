"""References from the artefact: equal to what a gateway measures of the same code, and only of
that."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

import edgewarden
from edgewarden.errors import OperatorFault
from edgewarden.trust.measure import Measurer
from edgewarden_fleet.verify.artefact import read_code

SOURCE = Path(edgewarden.__file__).parent


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """The agent's own package folder, as installed: with compiled files in it."""
    target = tmp_path / "site" / "edgewarden"
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("*.pyc"))
    (target / "__pycache__").mkdir(exist_ok=True)
    (target / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"compiled")
    return target


def measured(package: Path) -> bytes:
    return Measurer([], [], package=package).take()[0]["code"]


def wheel_of(package: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(package.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                archive.write(file, file.relative_to(package.parent).as_posix())
        archive.writestr("edgewarden_fleet/__init__.py", "")
        archive.writestr("edgewarden-0.1.0.dist-info/METADATA", "Version: 0.1.0\n")
    return path


def ar(members: dict[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode()
        out += data + b"\n" * (len(data) % 2)
    return out


def data_tar(package: Path, mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        archive.add(package, "./usr/lib/python3/dist-packages/edgewarden")
    return buffer.getvalue()


def test_a_wheel_gives_the_gateways_own_digest(package: Path, tmp_path: Path) -> None:
    code = read_code(wheel_of(package, tmp_path / "edgewarden-0.1.0-py3-none-any.whl"))
    assert code.digest() == measured(package)
    assert code.version == edgewarden.__version__
    assert "edgewarden/wire/record.py" in code.files
    assert not [path for path in code.files if not path.startswith("edgewarden/")]


@pytest.mark.parametrize("packing", ["xz", "gz"])
def test_a_debian_package_gives_the_same(package: Path, tmp_path: Path, packing: str) -> None:
    path = tmp_path / "edgewarden_0.1.0_all.deb"
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd",
               f"data.tar.{packing}": data_tar(package, f"w:{packing}")}  # fmt: skip
    path.write_bytes(ar(members))
    assert read_code(path).digest() == measured(package)


def test_a_package_by_dpkg_gives_the_same(package: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(package, tree / "usr/lib/python3/dist-packages/edgewarden")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: edgewarden\nVersion: 0.1.0\nArchitecture: all\n"
        "Maintainer: a <a@example.org>\nDescription: x\n"
    )
    path = tmp_path / "edgewarden.deb"
    subprocess.run(
        ["dpkg-deb", "-Zxz", "--root-owner-group", "-b", tree, path],
        check=True,
        capture_output=True,
    )
    assert read_code(path).digest() == measured(package)


@pytest.mark.parametrize("what", ["flip", "add", "remove", "rename"])
def test_any_change_of_the_code_is_another_digest(package: Path, tmp_path: Path, what: str) -> None:
    reference = read_code(wheel_of(package, tmp_path / "a.whl")).digest()
    victim = package / "wire" / "record.py"
    if what == "flip":
        data = bytearray(victim.read_bytes())
        data[100] ^= 1
        victim.write_bytes(bytes(data))
    elif what == "add":
        (package / "wire" / "extra.py").write_text("")
    elif what == "remove":
        victim.unlink()
    else:
        victim.rename(victim.with_name("records.py"))
    assert measured(package) != reference


def test_what_is_no_artefact_is_refused(package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with zipfile.ZipFile(tmp_path / "noversion.whl", "w") as archive:
        archive.writestr("edgewarden/__init__.py", "x = 1\n")
    with zipfile.ZipFile(tmp_path / "broken.whl", "w") as archive:
        archive.writestr("edgewarden/__init__.py", "x = (\n")
    (tmp_path / "text.whl").write_text("PK nothing")
    (tmp_path / "text.deb").write_text("nothing")
    (tmp_path / "zst.deb").write_bytes(ar({"debian-binary": b"2.0\n", "data.tar.zst": b"x"}))
    (tmp_path / "cut.deb").write_bytes(ar({"data.tar.xz": data_tar(package, "w:xz")[:500]}))
    (tmp_path / "empty.deb").write_bytes(b"!<arch>\n")
    for path in (*tmp_path.glob("*.whl"), *tmp_path.glob("*.deb"), tmp_path / "absent"):
        with pytest.raises(OperatorFault) as refused:
            read_code(path)
        assert refused.value.code == "EW-ATT-020"
