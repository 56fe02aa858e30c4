"""The survey: what it takes in, what it says of it, and what it does not read twice."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from edgewarden.baseline import hashing
from edgewarden.baseline import survey as surveys
from edgewarden.baseline.hashing import Content, Moving, Stamp, dump_seen, load_seen, read_content
from edgewarden.baseline.paths import Paths
from edgewarden.baseline.survey import DEFAULT_ROOTS, Finding, Survey, survey
from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire.baseline import Entry
from edgewarden.wire.lean import seal
from tests.baseline.tree import elf, packages, put, system

LATER_NS = 1 << 62
LS = elf(tail=b"ls")


def look(
    root: Path,
    known: dict[Stamp, Content] | None = None,
    barred: frozenset[str] = frozenset(),
    roots: tuple[str, ...] = DEFAULT_ROOTS,
) -> Survey:
    paths = Paths(str(root), barred)
    return survey(paths, packages(root, barred), roots, known or {}, started_ns=LATER_NS)


def entries(found: Survey) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.baseline.entries}


def claim(root: Path, package: str, path: str, data: bytes) -> None:
    """Make the package's md5sums right about a file."""
    sums = root / f"var/lib/dpkg/info/{package}.md5sums"
    lines = [line for line in sums.read_text().splitlines() if line.partition("  ")[2] != path]
    lines.append(f"{hashlib.md5(data).hexdigest()}  {path}")
    sums.write_text("\n".join(lines) + "\n")


def test_programs_get_their_digest_class_and_package(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", LS)
    claim(tmp_path, "coreutils", "bin/ls", LS)
    put(tmp_path, "/usr/local/bin/backup", b"#!/bin/sh\n")
    put(tmp_path, "/usr/share/doc/x/copyright", b"text", 0o644)
    found = look(tmp_path)
    digest = hashlib.sha256(LS).digest()
    assert entries(found)["/usr/bin/ls"] == Entry(
        "/usr/bin/ls", digest, len(LS), "program", "coreutils"
    )
    assert entries(found)["/usr/local/bin/backup"].package == ""
    assert entries(found)["/usr/local/bin/backup"].kind == "script"
    assert "/usr/share/doc/x/copyright" not in entries(found)
    assert found.findings == []


def test_another_content_than_the_packages_is_a_finding_and_nobodys(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", elf(tail=b"changed"))
    (entry,) = [e for e in look(tmp_path).baseline.entries if e.path == "/usr/bin/ls"]
    assert (entry.package, entry.differs) == ("coreutils", True)
    assert look(tmp_path).findings == [Finding("differs", "/usr/bin/ls", "coreutils")]


def test_a_changed_conffile_stays_its_packages(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/etc/cron.daily/dpkg", b"#!/bin/sh\n# ours\n")
    found = look(tmp_path)
    assert not entries(found)["/etc/cron.daily/dpkg"].differs
    assert found.findings == [Finding("conffile", "/etc/cron.daily/dpkg", "dpkg")]


def test_bytecode_belongs_to_the_package_of_its_module(tmp_path: Path) -> None:
    system(tmp_path)
    listed = tmp_path / "var/lib/dpkg/info/python3.11-minimal.list"
    listed.write_text(listed.read_text() + "/usr/lib/python3.11/abc.py\n")
    put(tmp_path, "/usr/lib/python3.11/abc.py", b"import x\n", 0o644)
    put(tmp_path, "/usr/lib/python3.11/__pycache__/abc.cpython-311.pyc", b"\xa7\r", 0o644)
    put(tmp_path, "/usr/lib/python3.11/__pycache__/evil.cpython-311.pyc", b"\xa7\r", 0o644)
    found = entries(look(tmp_path))
    cache = "/usr/lib/python3.11/__pycache__"
    assert found[f"{cache}/abc.cpython-311.pyc"].package == "python3.11-minimal"
    assert found[f"{cache}/evil.cpython-311.pyc"].package == ""


def test_links_to_programs_and_to_folders_of_them_are_aliases(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/python3.11", LS)
    (tmp_path / "usr/bin/python3").symlink_to("python3.11")
    (tmp_path / "usr/share").mkdir()
    (tmp_path / "usr/share/nothing").symlink_to("/etc")
    baseline = look(tmp_path).baseline
    assert baseline.aliases["/bin"] == "/usr/bin"
    assert baseline.aliases["/usr/bin/python3"] == "/usr/bin/python3.11"
    assert "/usr/share/nothing" not in baseline.aliases
    assert baseline.resolve("/bin/python3") == "/usr/bin/python3.11"


def test_a_barred_filesystem_is_not_entered(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/opt/server/bin/x", LS)
    put(tmp_path, "/opt/local/x", LS)
    found = entries(look(tmp_path, barred=frozenset({"/opt/server"})))
    assert "/opt/local/x" in found
    assert "/opt/server/bin/x" not in found


def test_nothing_waits_and_no_link_is_opened(tmp_path: Path) -> None:
    """A FIFO, a device and a link in place of a program: the survey ends, and says no word."""
    system(tmp_path)
    os.mkfifo(tmp_path / "usr/bin/fifo.py")
    (tmp_path / "usr/bin/link.py").symlink_to("/dev/zero")
    done: list[Survey] = []
    thread = threading.Thread(target=lambda: done.append(look(tmp_path)), daemon=True)
    thread.start()
    thread.join(30)
    assert done
    assert done[0].baseline.entries == ()


def test_the_last_surveys_digests_are_used_and_full_reads_everything(tmp_path: Path) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", LS)
    put(tmp_path, "/usr/bin/env", elf(tail=b"env"))
    first = look(tmp_path)
    assert first.hashed == 2
    again = look(tmp_path, first.stamps)
    assert (again.hashed, again.baseline) == (0, first.baseline)
    put(tmp_path, "/usr/bin/ls", elf(tail=b"another"))
    third = look(tmp_path, first.stamps)
    assert third.hashed == 1
    assert entries(third)["/usr/bin/ls"] != entries(first)["/usr/bin/ls"]
    assert look(tmp_path).hashed == 2


def test_a_file_that_was_just_changed_is_read_again_next_time(tmp_path: Path) -> None:
    system(tmp_path)
    file = put(tmp_path, "/usr/bin/ls", LS)
    paths = Paths(str(tmp_path))
    just_now = file.stat().st_ctime_ns + hashing.SETTLE_NS - 1
    found = survey(paths, packages(tmp_path), DEFAULT_ROOTS, {}, started_ns=just_now)
    assert found.stamps == {}
    found = survey(paths, packages(tmp_path), DEFAULT_ROOTS, {}, started_ns=just_now + 1)
    assert len(found.stamps) == 1


def test_a_digest_without_md5_does_not_spare_the_comparison(tmp_path: Path) -> None:
    """A file that a package now claims is read again: its MD5 was not wanted before."""
    system(tmp_path)
    put(tmp_path, "/usr/bin/new", LS)
    first = look(tmp_path)
    listed = tmp_path / "var/lib/dpkg/info/mawk.list"
    listed.write_text(listed.read_text() + "/usr/bin/new\n")
    sums = tmp_path / "var/lib/dpkg/info/mawk.md5sums"
    sums.write_text(f"{'0' * 32}  usr/bin/new\n")
    assert look(tmp_path, first.stamps).findings == [Finding("differs", "/usr/bin/new", "mawk")]
    claim(tmp_path, "mawk", "usr/bin/new", LS)
    assert look(tmp_path, first.stamps).findings == []


def test_too_large_and_unreadable_files_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", LS)
    put(tmp_path, "/usr/bin/huge", LS * 100)
    monkeypatch.setattr(surveys, "MAX_PROGRAM_BYTES", 1000)
    found = look(tmp_path)
    assert Finding("too_large", "/usr/bin/huge") in found.findings
    assert list(entries(found)) == ["/usr/bin/ls"]

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(surveys, "read_content", refuse)
    assert Finding("unreadable", "/usr/bin/ls", "coreutils") in look(tmp_path).findings


def test_a_file_that_changes_while_it_is_read_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path, "/x", LS)
    real = os.pread

    def changing(fd: int, size: int, at: int) -> bytes:
        file.write_bytes(LS + b"!")
        return real(fd, size, at)

    monkeypatch.setattr(hashing.os, "pread", changing)
    with pytest.raises(Moving):
        read_content(str(file), "/x", wants_md5=False, most=1 << 20)


def test_only_a_regular_file_under_its_own_name_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(put(tmp_path, "/x", LS))
    for name, refusal in (("fifo", Moving), ("link", OSError), (".", Moving)):
        with pytest.raises(refusal):
            read_content(str(tmp_path / name), "/x", wants_md5=False, most=1 << 20)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", LS)
    monkeypatch.setattr(surveys, "MAX_ENTRIES", 0)
    with pytest.raises(OperatorFault) as caught:
        look(tmp_path)
    assert caught.value.code == "EW-POL-002"


def test_a_folder_mounted_into_itself_is_walked_once(tmp_path: Path) -> None:
    """Two roots, one inside the other: nothing is taken in twice."""
    system(tmp_path)
    put(tmp_path, "/usr/bin/ls", LS)
    found = look(tmp_path, roots=("/usr", "/usr/bin", "/bin", "/nowhere"))
    assert found.looked_at == 1


def test_what_a_package_has_outside_the_roots_is_taken_in(tmp_path: Path) -> None:
    system(tmp_path)
    listed = tmp_path / "var/lib/dpkg/info/mawk.list"
    listed.write_text(listed.read_text() + "/var/lib/tool/run\n")
    put(tmp_path, "/var/lib/tool/run", b"#!/bin/sh\n")
    shutil.rmtree(tmp_path / "etc")
    assert entries(look(tmp_path))["/var/lib/tool/run"].package == "mawk"


def test_stamps_survive_their_file() -> None:
    seen = {
        Stamp(1, 2, 3, 4, 5): Content("program", b"s" * 32, b"m" * 16),
        Stamp((1 << 64) - 1, 2, -3, -4, 5): Content("shell", b"t" * 32),
        Stamp(9, 9, 9, 9, 9): Content(""),
    }
    assert load_seen(dump_seen(seen)) == seen


@pytest.mark.parametrize("body", [b"x", bytes(88) + b"\x09\x00", bytes(88) + b"\x01\x02"])
def test_a_bad_stamp_file_is_refused(body: bytes) -> None:
    with pytest.raises(WireRefusal):
        load_seen(seal(hashing.MAGIC, body))


def test_r9_a_clock_that_was_set_back_by_a_day_has_nothing_read_again(tmp_path: Path) -> None:
    """The file's ctime lies a day ahead: a change of this moment could not show as that."""
    system(tmp_path)
    file = put(tmp_path, "/usr/bin/ls", LS)
    paths, found = Paths(str(tmp_path)), packages(tmp_path)
    ctime_ns = file.stat().st_ctime_ns

    def look_at(started_ns: int, known: dict[Stamp, Content]) -> Survey:
        return survey(paths, found, DEFAULT_ROOTS, known, started_ns=started_ns)

    day_ago = look_at(ctime_ns - 86_400 * 10**9, {})
    assert day_ago.hashed > 0
    assert look_at(ctime_ns - 86_400 * 10**9, day_ago.stamps).hashed == 0
    soon = look_at(ctime_ns - 60 * 10**9, {})
    assert Stamp.of(file.stat()) not in soon.stamps, "it changed while the survey went on"
