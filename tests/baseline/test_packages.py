"""dpkg's database read as files: owners through every alias, diversions, and what damage costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgewarden.baseline import packages as dpkg
from edgewarden.baseline.paths import Paths, barred_mounts
from edgewarden.errors import OperatorFault
from tests.baseline.tree import DATABASE, packages, system


def test_a9_the_usrmerge_alias_leads_to_the_same_package(tmp_path: Path) -> None:
    """coreutils lists /bin/ls and /usr/bin/env; both files are in /usr/bin."""
    system(tmp_path)
    paths = Paths(str(tmp_path))
    found = dpkg.read_packages(paths, DATABASE)
    assert found.owner_of["/usr/bin/ls"] == found.owner_of["/usr/bin/env"] == "coreutils"
    assert "/bin/ls" not in found.owner_of
    assert paths.file("/bin/ls") == paths.file("/usr/bin/ls") == "/usr/bin/ls"
    assert found.md5_of["/usr/bin/ls"].hex() == "7987cf330ff5bb94015dfbb9eae5a99f"
    assert found.faults == []


def test_without_merged_usr_a_path_stays_where_it_is(tmp_path: Path) -> None:
    system(tmp_path)
    for name in ("bin", "sbin", "lib", "lib64"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    found = packages(tmp_path)
    assert found.owner_of["/bin/ls"] == "coreutils"
    assert found.owner_of["/usr/bin/env"] == "coreutils"


def test_diversions_move_the_other_packages_file(tmp_path: Path) -> None:
    found = packages(system(tmp_path))
    # dash's /bin/sh is diverted locally; mawk's file by a package called fast-awk
    assert found.owner_of["/usr/bin/sh.distrib"] == "dash"
    assert "/usr/bin/sh" not in found.owner_of
    assert found.owner_of["/usr/bin/mawk.real"] == "mawk"
    assert "/usr/bin/mawk.real" in found.md5_of


def test_a_foreign_architecture_is_named_with_it(tmp_path: Path) -> None:
    found = packages(system(tmp_path))
    (tmp_path / "usr/lib/arm-linux-gnueabihf").mkdir()
    found = packages(tmp_path)
    assert found.owner_of["/usr/lib/arm-linux-gnueabihf/libc.so.6"] == "libc6:armhf"
    names = [p.name for p in found.packages]
    assert "libc6" in names
    assert "libc6:armhf" in names


def test_a_removed_package_owns_nothing(tmp_path: Path) -> None:
    found = packages(system(tmp_path))
    assert "gone" not in [p.name for p in found.packages]
    assert "/etc/cron.daily/gone" not in found.owner_of


def test_conffiles_are_known_as_such(tmp_path: Path) -> None:
    (system(tmp_path) / "etc/cron.daily").mkdir()
    found = packages(tmp_path)
    assert found.conffiles == {"/etc/cron.daily/dpkg"}
    assert found.md5_of["/etc/cron.daily/dpkg"].hex() == "94bb6c1363245e46256908a5d52ba4fb"


def test_maintainer_scripts_belong_to_their_package(tmp_path: Path) -> None:
    found = packages(system(tmp_path))
    assert found.owner_of["/var/lib/dpkg/info/dash.postinst"] == "dash"
    assert found.owner_of["/var/lib/dpkg/info/libc6:amd64.postinst"] == "libc6"


def test_what_a_running_dpkg_has_not_yet_merged_counts(tmp_path: Path) -> None:
    base = system(tmp_path) / "var/lib/dpkg"
    (base / "updates").mkdir()
    (base / "updates/0001").write_text("Package: new\nStatus: install ok unpacked\n\n")
    (base / "updates/0002").write_text(
        "Package: mawk\nStatus: deinstall ok config-files\nArchitecture: amd64\n\n"
    )
    (base / "updates/tmp.i").write_text("garbage")
    (base / "info/new.list").write_text("/usr/bin/new\n")
    found = packages(tmp_path)
    assert found.owner_of["/usr/bin/new"] == "new"
    assert "/usr/bin/mawk.real" not in found.owner_of


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("info/coreutils.list", b"/bin/ls\n/bin/c", "cut short"),
        ("info/coreutils.list", b"/bin/l\0s\n", "no path"),
        ("info/coreutils.list", b"/" + b"x" * 5000 + b"\n", "no path"),
        ("info/coreutils.list", None, "No such file"),
        ("info/coreutils.md5sums", b"zz  bin/ls\n", "none"),
        ("diversions", b"one\ntwo\n", "three lines"),
    ],
)
def test_a_damaged_list_costs_its_package_alone(
    tmp_path: Path, name: str, data: bytes | None, word: str
) -> None:
    base = system(tmp_path) / "var/lib/dpkg"
    if data is None:
        (base / name).unlink()
    else:
        (base / name).write_bytes(data)
    found = packages(tmp_path)
    assert len(found.faults) == 1
    assert word in found.faults[0]
    assert found.owner_of["/usr/bin/dpkg"] == "dpkg"


@pytest.mark.parametrize("data", [None, b"", b"Package: x\nStatus: deinstall ok config-files\n"])
def test_no_database_is_a_fault_of_the_whole(tmp_path: Path, data: bytes | None) -> None:
    status = system(tmp_path) / "var/lib/dpkg/status"
    if data is None:
        status.unlink()
    else:
        status.write_bytes(data)
    with pytest.raises(OperatorFault) as caught:
        packages(tmp_path)
    assert caught.value.code == "EW-POL-001"


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    status = system(tmp_path) / "var/lib/dpkg/status"
    status.write_text(status.read_text() + "\nPackage: ../../x\nStatus: install ok installed\n")
    found = packages(tmp_path)
    assert "'../../x'" in found.faults[0]


def test_lists_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path)
    monkeypatch.setattr(dpkg, "MAX_LIST_BYTES", 40)
    found = packages(tmp_path)
    assert any("more than 40 bytes" in fault for fault in found.faults)
    monkeypatch.setattr(dpkg, "MAX_PACKAGES", 3)
    with pytest.raises(OperatorFault, match="more than 3 packages"):
        packages(tmp_path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.binary(max_size=200), st.binary(max_size=200))
def test_garbage_is_named_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, status: bytes, listed: bytes, sums: bytes
) -> None:
    base = system(tmp_path_factory.mktemp("dpkg")) / "var/lib/dpkg"
    (base / "status").write_bytes((base / "status").read_bytes() + b"\n" + status)
    (base / "info/mawk.list").write_bytes(listed)
    (base / "info/mawk.md5sums").write_bytes(sums)
    try:
        found = packages(base.parents[2])
    except OperatorFault:
        return
    assert found.owner_of["/usr/bin/ls"] == "coreutils"


# --- paths ---------------------------------------------------------------------------------------


def test_links_are_followed_part_by_part_and_remembered(tmp_path: Path) -> None:
    system(tmp_path)
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "usr/bin/python3.11").touch()
    (tmp_path / "etc/alternatives").mkdir()
    (tmp_path / "etc/alternatives/vi").symlink_to("/usr/bin/python3")
    (tmp_path / "usr/bin/vi").symlink_to("../../etc/alternatives/vi")
    (tmp_path / "usr/up").symlink_to("..")
    paths = Paths(str(tmp_path))
    assert paths.resolve("/bin/vi") == "/usr/bin/python3.11"
    assert paths.resolve("/usr/up/bin/python3") == "/usr/bin/python3.11"
    assert paths.links["/usr/bin/vi"] == "/usr/bin/python3.11"
    assert paths.links["/bin"] == "/usr/bin"


def test_links_without_end_and_paths_without_sense_lead_nowhere(tmp_path: Path) -> None:
    system(tmp_path)
    (tmp_path / "usr/a").symlink_to("b")
    (tmp_path / "usr/b").symlink_to("a")
    (tmp_path / "usr/c").symlink_to("c/d")
    paths = Paths(str(tmp_path))
    for path in ("/usr/a", "/usr/c/x", "/nowhere/x", "/usr/../etc", "/x" * 2000, "/usr//bin/x"):
        assert paths.resolve(path) is None


def test_a_barred_mount_is_never_asked(tmp_path: Path) -> None:
    """The hung server: whatever leads into it is nowhere, and nothing below it is looked at."""
    system(tmp_path)
    (tmp_path / "mnt/server/bin").mkdir(parents=True)
    (tmp_path / "usr/tools").symlink_to("/mnt/server/bin")
    asked: list[str] = []

    class Watched(Paths):
        def real(self, path: str) -> str:
            asked.append(path)
            return super().real(path)

    paths = Watched(str(tmp_path), frozenset({"/mnt/server"}))
    assert paths.resolve("/usr/tools/x") is None
    assert paths.resolve("/mnt/server/bin/x") is None
    assert paths.file("/mnt/server/x") is None
    assert not [path for path in asked if path.startswith("/mnt/server")]


MOUNTINFO = r"""22 1 8:1 / / rw shared:1 - ext4 /dev/root rw
23 22 0:5 / /proc rw - proc proc rw
24 22 0:40 / /mnt/with\040space rw - nfs4 server:/x rw
25 22 0:41 / /mnt/ssh rw - fuse.sshfs x rw
26 22 0:42 / /mnt/usb rw - vfat /dev/sda1 rw
27 22 0:43 / /mnt/new rw - madeupfs x rw
28 22 0:44 / /mnt/twice rw - nfs x rw
29 28 0:45 / /mnt/twice rw - ext4 x rw
"""


def test_network_fuse_and_pseudo_filesystems_are_barred_and_so_is_what_nobody_knows() -> None:
    barred = barred_mounts(MOUNTINFO)
    assert barred == {"/proc", "/mnt/with space", "/mnt/ssh", "/mnt/new"}
