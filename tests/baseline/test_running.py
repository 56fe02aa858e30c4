"""What runs and what units start, of a recorded /proc and recorded unit files."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from edgewarden.baseline.paths import Paths
from edgewarden.baseline.running import Contents, Starts, processes, services
from edgewarden.wire.baseline import Baseline, Entry
from edgewarden.wire.local_messages import UNKNOWN_UID
from edgewarden.wire.units import unit_of
from tests.baseline.tree import elf, put, system
from tests.waiting import wait_until

USERS = {"pi": 1000}


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def contents(root: Path, *known: Entry, barred: frozenset[str] = frozenset()) -> Contents:
    return Contents(Paths(str(root), barred), {}, Baseline(known, {}))


def process(proc: Path, pid: int, exe: Path, *, uid: int, parent: int, cgroup: str) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "exe").symlink_to(exe)
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\n")
    (folder / "cgroup").write_text(f"3:cpu:/old\n0::{cgroup}\n")


def test_a_process_is_told_with_who_started_it(tmp_path: Path) -> None:
    """The images stand in for /proc/PID/exe of this machine, which is asked through its link."""
    proc = tmp_path / "proc"
    root = system(tmp_path / "root")
    cron, tool = put(root, "/usr/sbin/cron", elf(tail=b"cron")), put(root, "/opt/t", elf(tail=b"t"))
    process(proc, 5, cron, uid=0, parent=1, cgroup="/system.slice/cron.service")
    process(proc, 7, tool, uid=1000, parent=5, cgroup="/system.slice/cron.service")
    (proc / "9").mkdir()  # a kernel thread, or gone: it has no image
    (proc / "self").symlink_to("7")
    told = list(processes(contents(root), str(proc)))
    assert [(one.name, one.path, one.uid) for one in told] == [
        ("pid 5", str(cron), 0), ("pid 7", str(tool), 1000),
    ]  # fmt: skip
    assert told[1].sha256 == sha(elf(tail=b"t"))
    assert told[1].parent == sha(elf(tail=b"cron"))
    assert told[0].parent == b""
    assert unit_of(told[1].cgroup) == ("system.slice", "cron.service")


def test_an_image_on_a_filesystem_that_may_hang_is_not_asked_for(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    process(proc, 5, Path("/mnt/server/tool"), uid=0, parent=0, cgroup="/")
    barred = frozenset({"/mnt/server"})
    (told,) = processes(contents(tmp_path, barred=barred), str(proc))
    assert told.sha256 == b""


UNIT = """\
[Service]
User={user}
ExecStartPre=-/usr/bin/prepare --all
ExecStart=!!/usr/sbin/daemon $OPTIONS
ExecStart=/usr/sbin/daemon again
ExecReload=/bin/sh -c true
ExecStop=/usr/bin/%i
"""


def test_every_program_of_a_unit_is_told_once(tmp_path: Path) -> None:
    root = system(tmp_path)
    programs = {"/usr/sbin/daemon": b"d", "/usr/bin/prepare": b"p", "/usr/bin/dash": b"s"}
    for path, tail in programs.items():
        put(root, path, elf(tail=tail))
    (root / "usr/bin/sh").symlink_to("dash")
    put(root, "/usr/lib/systemd/system/one.service", UNIT.format(user="pi").encode(), 0o644)
    put(
        root, "/usr/lib/systemd/system/two.service", UNIT.format(user="nobody-here").encode(), 0o644
    )
    put(root, "/usr/lib/systemd/system/masked.service", UNIT.format(user="pi").encode(), 0o644)
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system/masked.service").symlink_to("/dev/null")
    put(
        root, "/usr/lib/systemd/system/gone.service", b"[Service]\nExecStart=/usr/bin/gone\n", 0o644
    )
    known = Entry("/usr/sbin/daemon", b"k" * 32, 1, "program")
    paths = Paths(str(root))
    told = list(services(Contents(paths, {}, Baseline((known,), {})), paths, USERS.get))
    assert [(one.name, one.path, one.uid) for one in told] == [
        ("one.service", "/usr/bin/prepare", 1000),
        ("one.service", "/usr/sbin/daemon", 1000),
        ("one.service", "/bin/sh", 1000),
        ("two.service", "/usr/bin/prepare", UNKNOWN_UID),
        ("two.service", "/usr/sbin/daemon", UNKNOWN_UID),
        ("two.service", "/bin/sh", UNKNOWN_UID),
    ]
    assert told[1] == Starts(
        "one.service", "/usr/sbin/daemon", b"k" * 32, 1000, b"", "/system.slice/one.service",
        root.stat().st_dev,
    )  # fmt: skip
    assert told[2].sha256 == sha(elf(tail=b"s"))


def test_the_interpreters_of_a_units_script_are_asked_about_too(tmp_path: Path) -> None:
    """The kernel starts them for it, and gate is asked about each."""
    root = system(tmp_path)
    put(root, "/usr/bin/dash", elf(tail=b"s"))
    (root / "usr/bin/sh").symlink_to("dash")
    put(root, "/opt/tool", b"#! \t/bin/sh -e\n")
    put(root, "/opt/job", b"#!/opt/tool\nstart\n")
    put(root, "/opt/loop", b"#!/opt/loop\n")
    put(root, "/opt/odd", b"#!relative\n")
    unit = b"[Service]\nUser=pi\nExecStart=/opt/job\nExecStop=/opt/loop\nExecReload=/opt/odd\n"
    put(root, "/usr/lib/systemd/system/job.service", unit, 0o644)
    told = list(services(contents(root), Paths(str(root)), USERS.get))
    assert [one.path for one in told] == [
        "/opt/job", "/opt/tool", "/bin/sh", "/opt/loop", "/opt/odd",
    ]  # fmt: skip
    assert {(one.name, one.uid, one.cgroup) for one in told} == {
        ("job.service", 1000, "/system.slice/job.service")
    }
    assert told[2].sha256 == sha(elf(tail=b"s"))


def test_a_deleted_image_is_read_through_its_process(tmp_path: Path) -> None:
    """By this machine's own /proc: the link leads to the file after its name is gone."""
    root = system(tmp_path)
    sleeper = put(root, "/opt/sleeper", Path("/bin/sleep").read_bytes())
    child = subprocess.Popen([sleeper, "30"])
    try:
        wait_until(lambda: os.readlink(f"/proc/{child.pid}/exe") == str(sleeper))
        sleeper.unlink()
        (told,) = [one for one in processes(contents(root)) if one.name == f"pid {child.pid}"]
        assert (told.path, told.sha256) == (str(sleeper), sha(Path("/bin/sleep").read_bytes()))
    finally:
        child.kill()
        child.wait(30)
