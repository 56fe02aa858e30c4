"""The privileged look on a made-up /proc, and who believes what it leaves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgewarden.inventory import look
from edgewarden.inventory.looked import Looks
from edgewarden.inventory.patient import Patient
from edgewarden.inventory.procfiles import read
from edgewarden.wire.look import Look, Looked, dump, load


def process(root: Path, pid: int, exe: str = "/usr/sbin/d", environ: bytes = b"") -> Path:
    folder = root / str(pid)
    (folder / "fd").mkdir(parents=True)
    fields = ["S", "1", *["0"] * 17, "100", *["0"] * 30]
    (folder / "stat").write_text(f"{pid} (d) {' '.join(fields)}\n")
    (folder / "environ").write_bytes(environ)
    if exe:
        os.symlink(exe, folder / "exe")
    return folder


def looked(root: Path, patience_s: float = 0.25) -> Look:
    patient = Patient(lambda name: read(f"{root}/{name}", "environ", 1 << 17), patience_s)
    try:
        return look.look(str(root), patient)
    finally:
        patient.close()


def test_program_sockets_and_preloads_are_seen_and_nothing_else(tmp_path: Path) -> None:
    secret = b"PASSWORD=x\0LD_PRELOAD=/tmp/evil.so\0LD_LIBRARY_PATH=\0LD_DEBUG=all\0"
    folder = process(tmp_path, 7, environ=secret)
    os.symlink("socket:[991]", folder / "fd/3")
    os.symlink("/dev/null", folder / "fd/0")
    [one] = looked(tmp_path).processes
    assert one == Looked(7, 100, "/usr/sbin/d", "", 2, 1, ("LD_PRELOAD=/tmp/evil.so",), (991,))


def test_kernel_threads_are_left_out(tmp_path: Path) -> None:
    process(tmp_path, 7, exe="")
    assert looked(tmp_path).processes == ()


def test_who_does_not_answer_is_named_and_holds_nobody(tmp_path: Path) -> None:
    silent = process(tmp_path, 7)
    process(tmp_path, 8, environ=b"LD_AUDIT=a.so\0")
    (silent / "environ").unlink()
    os.mkfifo(silent / "environ")
    found = looked(tmp_path, patience_s=0.05)
    os.close(os.open(silent / "environ", os.O_WRONLY))
    assert found.silent == (7,)
    assert {p.pid: p.preload for p in found.processes} == {7: (), 8: ("LD_AUDIT=a.so",)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "look"
    look.keep(str(tmp_path), dump(Look(5, (Looked(7, 1, "/x", "", 1, 1, (), (991,)),), ())))
    return path


def test_it_is_read_once_and_known_by_its_sockets(file: Path) -> None:
    looks = Looks(str(file), os.getuid())
    assert looks.age_s(10**9) is None
    assert [one.pid for one in looks.fresh()] == [7]
    assert looks.fresh() == ()
    assert (looks.owner_of(991), looks.owner_of(5)) == (7, None)
    assert looks.age_s(5 + 10**9) == 1.0
    look.keep(str(file.parent), dump(Look(6, (), ())))
    assert looks.fresh() == ()
    assert looks.last is not None
    assert looks.last.boot_ns == 6


def test_what_others_could_have_written_is_not_believed(file: Path) -> None:
    file.chmod(0o664)
    looks = Looks(str(file), os.getuid())
    assert looks.fresh() == ()
    assert "alone" in looks.fault
    file.chmod(0o644)
    looks = Looks(str(file), os.getuid() + 1)
    assert looks.fresh() == ()
    assert "of uid" in looks.fault


def test_links_pipes_and_garbage_are_not_believed(file: Path, tmp_path: Path) -> None:
    good = load(file.read_bytes())
    link = tmp_path / "link"
    link.symlink_to(file)
    assert Looks(str(link), os.getuid()).fresh() == ()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o644)
    assert Looks(str(pipe), os.getuid()).fresh() == ()
    file.write_bytes(dump(good)[:-1])
    looks = Looks(str(file), os.getuid())
    assert looks.fresh() == ()
    assert looks.fault
    assert Looks(str(tmp_path / "absent"), os.getuid()).fresh() == ()
