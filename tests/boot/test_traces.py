"""The comparison after purge sees what a package could leave, and nothing that Debian writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot import traces


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("etc/systemd/system", "usr/lib", "var/lib/dpkg", "var/log"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\n")
    return tmp_path


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ("etc/systemd/system/edgewarden.target", "new: /etc/systemd/system/edgewarden.target"),
        ("usr/lib/x.pyc", "new: /usr/lib/x.pyc"),
        ("var/lib/edgewarden", "new: /var/lib/edgewarden"),
        ("var/lib/dpkg/edgewarden.list", "new: /var/lib/dpkg/edgewarden.list"),
        ("etc/passwd", "changed: /etc/passwd: "),
    ],
)
def test_what_is_left_is_named(root: Path, left: str, told: str) -> None:
    before = traces.look(root)
    (root / left).write_text("edgewarden:x:991:991::/var/lib/edgewarden:/usr/sbin/nologin\n")
    assert [line.startswith(told) for line in traces.since(before, traces.look(root))] == [True]


def test_a_changed_mode_and_a_lost_file_are_named(root: Path) -> None:
    (root / "usr/lib/kept").touch()
    before = traces.look(root)
    (root / "usr/lib/kept").unlink()
    (root / "usr").chmod(0o700)
    found = traces.since(before, traces.look(root))
    assert found[0] == "gone: /usr/lib/kept"
    assert found[1].startswith("changed: /usr: ")


def test_what_debian_itself_writes_is_not_ours(root: Path) -> None:
    before = traces.look(root)
    (root / "var/lib/dpkg/status-old").touch()
    (root / "var/log/dpkg.log").touch()
    (root / "etc/passwd-").touch()
    assert traces.since(before, traces.look(root)) == []
