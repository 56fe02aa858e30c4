"""The privileged look on a made-up /proc, and who believes what it leaves."""

from __future__ import annotations

import os
import threading
import tracemalloc
from pathlib import Path

import pytest

from edgewarden.inventory import look
from edgewarden.inventory.looked import Looks
from edgewarden.inventory.patient import Patient
from edgewarden.inventory.procfiles import read, user_of
from edgewarden.inventory.sockets import Sockets
from edgewarden.inventory.watcher import Watcher
from edgewarden.settings.processes import Processes
from edgewarden.wire.facts import Event
from edgewarden.wire.look import Look, Looked, dump, load
from tests.fakes.clock import FakeClock
from tests.waiting import LONG_S


def process(
    root: Path, pid: int, exe: str = "/usr/sbin/d", environ: bytes = b"", uid: int = 0
) -> Path:
    folder = root / str(pid)
    (folder / "fd").mkdir(parents=True)
    fields = ["S", "1", *["0"] * 17, "100", *["0"] * 30]
    (folder / "stat").write_text(f"{pid} (d) {' '.join(fields)}\n")
    (folder / "status").write_text(f"Name:\td\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    (folder / "environ").write_bytes(environ)
    if exe:
        os.symlink(exe, folder / "exe")
    return folder


def looked(root: Path, patience_s: float = 10.0) -> Look:
    patient = Patient(
        lambda name: look.preload_of(read(f"{root}/{name}", "environ", look.ENVIRON)), patience_s
    )
    try:
        return look.look(str(root), patient, most_s=LONG_S)
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
    found = looked(tmp_path, patience_s=1.0)  # who does answer may be kept waiting for a moment
    os.close(os.open(silent / "environ", os.O_WRONLY))
    assert found.silent == (7,)
    assert (found.left_out, found.unread) == (0, 1)
    assert {p.pid: p.preload for p in found.processes} == {7: (), 8: ("LD_AUDIT=a.so",)}


# --- what a user may prepare ----------------------------------------------------------------------


def test_many_long_environments_are_not_kept(tmp_path: Path) -> None:
    """128 KiB each is what the kernel shows; the unit's processes have a memory limit."""
    for pid in range(100, 400):
        os.truncate(process(tmp_path, pid, uid=1000) / "environ", look.ENVIRON)
    tracemalloc.start()
    try:
        found = looked(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(found.processes), found.unread) == (300, 0)
    assert most < 4 << 20, "in all they are 39 MB"


def test_a_folder_that_does_not_answer_holds_nobody(tmp_path: Path) -> None:
    process(tmp_path, 7, "/mnt/hangs/d")
    process(tmp_path, 8, "/srv/loose/d")
    comes_back = threading.Event()

    def work(path: str) -> str:
        if path == "/mnt/hangs":
            comes_back.wait(LONG_S)
        return path

    places = Patient(work, 1.0)
    try:
        found = look.look(str(tmp_path), places=places)
    finally:
        comes_back.set()
        places.close()
    assert {one.pid: one.loose_folder for one in found.processes} == {7: "", 8: "/srv/loose"}


def test_nothing_of_a_folder_is_looked_at_by_the_looks_own_thread(tmp_path: Path) -> None:
    process(tmp_path, 7)
    threads = []

    def work(path: str) -> str:
        threads.append(threading.current_thread())
        return ""

    places = Patient(work)
    look.look(str(tmp_path), places=places)
    places.close()
    assert threads
    assert threading.main_thread() not in threads


def test_time_that_is_over_leaves_out_and_counts(tmp_path: Path) -> None:
    for pid in (7, 8, 9):
        process(tmp_path, pid)
    found = look.look(str(tmp_path), most_s=0)
    assert (found.processes, found.left_out) == ((), 3)


def test_a_user_with_many_processes_does_not_push_others_out(tmp_path: Path) -> None:
    for pid in range(1000, 1200):
        process(tmp_path, pid, uid=1000)
    process(tmp_path, 2000, uid=1001)
    process(tmp_path, 2001, uid=0)
    order = [one.pid for one in look.look(str(tmp_path), most_s=LONG_S).processes]
    assert len(order) == 202
    assert max(order.index(2000), order.index(2001)) < 60, "the file is cut from behind"


def test_who_costs_most_waits_longest() -> None:
    """10 s for one of a user's, and a thousand of them: a service and root come first all the same,
    and the users of a container are one."""
    users = {str(pid): user_of(100_000 + pid, str(pid)) for pid in range(1000, 2000)}
    users |= {str(pid): user_of(33, str(pid)) for pid in range(50)}
    users |= {str(pid): user_of(0, str(pid)) for pid in range(50, 100)}
    turns, taken, spent_s = look.Turns(users), [], 0.0
    while (name := turns.take()) and spent_s < 15:
        cost_s = 10.0 if int(name) >= 1000 else 0.001
        turns.charge(cost_s)
        spent_s += cost_s
        taken.append(int(name))
    assert {pid for pid in taken if pid < 1000} == set(range(100))


def test_of_a_variable_that_is_there_twice_the_last_counts() -> None:
    assert look.preload_of(b"LD_PRELOAD=\0LD_PRELOAD=b.so\0") == ("LD_PRELOAD=b.so",)
    assert look.preload_of(b"LD_PRELOAD=a.so\0LD_PRELOAD=\0") == ()
    assert look.preload_of(b"XLD_PRELOAD=a.so\0") == ()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "look"
    look.keep(str(tmp_path), dump(Look(5, (Looked(7, 1, "/x", "", 1, 1, (), (991,)),), (), 0, 0)))
    return path


def test_it_is_read_once_and_known_by_its_sockets(file: Path) -> None:
    looks = Looks(str(file), os.getuid())
    assert looks.age_s(10**9) is None
    assert [one.pid for one in looks.fresh()] == [7]
    assert looks.fresh() == ()
    assert (looks.owner_of(991), looks.owner_of(5)) == (7, None)
    assert looks.age_s(5 + 10**9) == 1.0
    look.keep(str(file.parent), dump(Look(6, (), (), 0, 0)))
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


def test_status_says_what_the_look_left_out(file: Path) -> None:
    look.keep(str(file.parent), dump(Look(5, (), (), 40, 3)))
    looks = Looks(str(file), os.getuid())
    facts: list[Event] = []
    sockets = Sockets(str(file.parent), diag=False)
    watcher = Watcher(Processes(), facts.append, FakeClock(), sockets, looks)  # type: ignore[arg-type]
    looks.fresh()
    said = watcher.state()["not_visible"]
    assert isinstance(said, list)
    assert any(gap.startswith("40 processes that the last privileged look") for gap in said)
    assert any(gap.startswith("environment of 3 processes") for gap in said)
