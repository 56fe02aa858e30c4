"""Units by any of their names, from systemd's files: a recorded tree of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.daemon.managed import Places, subordinates
from edgewarden.errors import OperatorFault
from edgewarden.probe.units import Unit, UnitFiles


def put(root: Path, path: str, text: str = "[Service]\n") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def link(root: Path, path: str, target: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path, "usr/lib/systemd/system/mariadb.service")
    link(tmp_path, "etc/systemd/system/mysql.service", "/lib/systemd/system/mariadb.service")
    link(tmp_path, "etc/systemd/system/mysqld.service", "mysql.service")
    put(tmp_path, "usr/lib/systemd/system/plant.service", "[Service]\nSlice=a.slice\n")
    put(tmp_path, "usr/lib/systemd/system/opc-ua@.service")
    link(tmp_path, "etc/systemd/system/opc@.service", "/usr/lib/systemd/system/opc-ua@.service")
    put(tmp_path, "usr/lib/systemd/system/ssh.service")
    link(tmp_path, "etc/systemd/system/remote.service", "/usr/lib/systemd/system/ssh.service")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("mariadb.service", Unit("mariadb.service", "", True)),
        ("mysql.service", Unit("mariadb.service", "", True)),
        ("mysqld.service", Unit("mariadb.service", "", True)),
        ("plant.service", Unit("plant.service", "a.slice", True)),
        ("opc@l1.service", Unit("opc-ua@l1.service", "", True)),
        ("gone.service", Unit("gone.service", "", False)),
    ],
)
def test_what_a_name_means(root: Path, name: str, unit: Unit) -> None:
    assert UnitFiles(str(root)).of(name) == unit


def test_the_drop_in_with_the_last_name_decides(root: Path) -> None:
    files = UnitFiles(str(root))
    put(root, "etc/systemd/system/plant.service.d/10-a.conf", "[Service]\nSlice=b.slice\n")
    assert files.of("plant.service").slice == "b.slice"
    put(root, "usr/lib/systemd/system/plant.service.d/20-b.conf", "[Service]\n Slice = c.slice\n")
    assert files.of("plant.service").slice == "c.slice"
    put(root, "run/systemd/system/plant.service.d/30-c.conf", "[Service]\nSlice=\n")
    assert files.of("plant.service").slice == ""
    put(root, "etc/systemd/system/plant.service.d/40-d.conf", "[Unit]\nSlice=no.slice\n")
    assert files.of("plant.service").slice == ""
    put(root, "etc/systemd/system/opc-.service.d/x.conf", "[Service]\nSlice=opc-%i.slice\n")
    assert files.of("opc@l1.service") == Unit("opc-ua@l1.service", "opc-l1.slice", True)


def test_a_file_of_the_administrators_hides_the_packages_and_a_mask_is_no_other_name(
    root: Path,
) -> None:
    put(root, "etc/systemd/system/plant.service", "[Service]\nExecStart=/bin/true\n")
    assert UnitFiles(str(root)).of("plant.service") == Unit("plant.service", "", True)
    link(root, "etc/systemd/system/masked.service", "/dev/null")
    assert UnitFiles(str(root)).of("masked.service") == Unit("masked.service", "", True)


def test_links_in_a_circle_end(root: Path) -> None:
    link(root, "etc/systemd/system/x.service", "y.service")
    link(root, "etc/systemd/system/y.service", "x.service")
    assert not UnitFiles(str(root)).of("x.service").known


def test_another_name_is_managed_as_the_units_own_and_told(root: Path) -> None:
    """Review B, H2: aliases were never managed, and nothing said so."""
    places = Places(UnitFiles(str(root)))
    assert places.place("mysql.service") == "system.slice/mariadb.service"
    assert places.place("plant.service") == "a.slice/plant.service"
    assert places.place("/own.slice/mysql.service") == "own.slice/mysql.service"
    assert places.place("gone.service") == "system.slice/gone.service"
    assert (
        places.place("opc@l1.service") == r"system.slice/system-opc\x2dua.slice/opc-ua@l1.service"
    )
    notes = places.notes()
    assert len(notes) == 3
    assert "mysql.service is another name of mariadb.service" in notes[0]
    assert "gone.service: no such unit here" in notes[1]


def test_what_is_never_managed_is_not_under_another_name_either(root: Path) -> None:
    with pytest.raises(OperatorFault, match=r"another name of ssh\.service"):
        Places(UnitFiles(str(root))).place("remote.service")


def test_subordinate_numbers(tmp_path: Path) -> None:
    path = tmp_path / "subuid"
    assert subordinates(path) == []
    path.write_text("root:100000:65536\n1000:165536:65536\nnobody-here:1:2\n#x\nroot:a:b\n::\n")
    assert subordinates(path) == [(0, 100000, 65536), (1000, 165536, 65536)]
