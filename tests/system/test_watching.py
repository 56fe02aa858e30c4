"""Every finding about processes, by a real process of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.daemon.gate_facts import repeated_event
from edgewarden.inventory.looked import Looks
from edgewarden.inventory.processes import ProcessSettings, ProcessSweep
from edgewarden.inventory.sockets import Sockets
from edgewarden.inventory.watcher import Watcher, alert_event
from edgewarden.judge.describe import describe
from edgewarden.settings.processes import Processes, RequiredProcess
from edgewarden.wire.facts import Event, Severity
from edgewarden.wire.local import ProcessAlert, Repeated
from edgewarden.wire.look import load
from tests.fakes.clock import FakeClock
from tests.system.exec_world import NOBODY, PYTHON, World, private_tmpfs, world
from tests.waiting import LONG_S, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root")]

AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
PATIENCE_S = 2.0
"""How long the thread that asks may be kept from running while the test's own runs on."""
PTRACE_ATTACH = 16  # <sys/ptrace.h>
TRACER = f"""
import ctypes, sys, time
assert ctypes.CDLL(None).ptrace({PTRACE_ATTACH}, int(sys.argv[1]), 0, 0) == 0
print("holding", flush=True)
sys.stdin.read()
"""


class Watch:
    """link's half of watching, on this machine's /proc."""

    def __init__(self, settings: Processes | None = None, looks: Looks | None = None) -> None:
        self.facts: list[Event] = []
        self.clock = FakeClock()
        self.sockets = Sockets()
        sink = self.facts.append
        self.watcher = Watcher(settings or Processes(), sink, self.clock, self.sockets, looks)  # type: ignore[arg-type]
        fresh = tuple if looks is None else looks.fresh
        settled = ProcessSettings(patience_s=PATIENCE_S)
        self.sweep = ProcessSweep(settled, sink, self.clock, self.watcher.see, fresh)  # type: ignore[arg-type]
        self.look()
        self.watcher.look_at_listeners()

    def look(self, after_s: float = 2) -> None:
        self.clock.advance(after_s)
        self.sweep.look()

    def close(self) -> None:
        self.sweep.close()
        self.sockets.close()

    def about(self, pid: int) -> list[tuple[str, Severity]]:
        """Findings about one process."""
        return [(e.code, e.severity_id) for e in self.events(pid)]

    def events(self, pid: int) -> list[Event]:
        out = []
        for fact in self.facts:
            process = fact.detail.get("process")
            if fact.code and isinstance(process, dict) and process.get("pid") == pid:
                out.append(fact)
        return out

    def coded(self, code: str) -> list[Event]:
        return [fact for fact in self.facts if fact.code == code]


@pytest.fixture
def watch() -> Iterator[Watch]:
    made = Watch()
    yield made
    made.close()


@contextlib.contextmanager
def child(program: list[str], name: str = "", **kind: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has become ``name`` (its comm)."""
    started = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kind)  # type: ignore[call-overload]
    comm = Path(f"/proc/{started.pid}/comm")
    try:
        wait_until(lambda: comm.read_text().strip() == (name or Path(program[0]).name)[:15])
        yield started
    finally:
        started.kill()
        started.communicate()


@pytest.fixture
def own() -> Iterator[Path]:
    with private_tmpfs() as where:
        where.chmod(0o755)
        yield where


@pytest.fixture
def plain() -> Iterator[Path]:
    """A folder whose name says nothing, on a tmpfs of the test's own: not below /tmp."""
    where = Path(tempfile.mkdtemp(prefix="ew-", dir="/srv"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "ew-test", where], check=True)
    try:
        assert where.stat().st_dev != os.stat("/").st_dev
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=True)
        where.rmdir()


def test_a_program_in_a_temporary_place(watch: Watch) -> None:
    program = Path("/tmp") / f"ew-test-{os.getpid()}"
    shutil.copy("/bin/sleep", program)
    try:
        with child([str(program), "600"]) as started:
            watch.sweep.hint(started.pid)
            watch.look()
            assert watch.about(started.pid) == [("EW-HOST-008", Severity.MEDIUM)]
    finally:
        program.unlink()


def test_a_program_below_a_folder_everybody_can_write(watch: Watch, plain: Path) -> None:
    """By the folder's mode; and not when it is closed again."""
    loose = plain / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    shutil.copy("/bin/sleep", loose / "tool")
    with child([str(loose / "tool"), "600"]) as started:
        watch.look()
        [found] = watch.events(started.pid)
        assert (found.code, found.detail["folder"]) == ("EW-HOST-008", str(loose))
    loose.chmod(0o755)
    with child([str(loose / "tool"), "600"]) as started:
        watch.look()
        assert watch.about(started.pid) == []


def test_a_program_that_exists_in_memory_only(watch: Watch) -> None:
    memory = os.memfd_create("hidden", 0)
    try:
        os.write(memory, Path("/bin/sleep").read_bytes())
        program = [f"/proc/self/fd/{memory}", "600"]
        with child(program, name=str(memory), pass_fds=[memory]) as started:
            watch.look()
            assert watch.about(started.pid) == [("EW-HOST-009", Severity.HIGH)]
    finally:
        os.close(memory)


def test_a_program_whose_file_is_gone(watch: Watch, plain: Path) -> None:
    program = plain / "gone"
    shutil.copy("/bin/sleep", program)
    with child([str(program), "600"]) as started:
        program.unlink()
        watch.look()
        assert watch.about(started.pid) == [("EW-HOST-009", Severity.LOW)]


@pytest.mark.parametrize("way", ["sh", "python", "loader"])
def test_a7_a_foreign_file_under_an_interpreter_or_the_loader(
    watch: Watch, plain: Path, way: str
) -> None:
    script = plain / "script"
    if way == "loader":
        shutil.copy("/bin/sleep", script)
        loader = next(Path("/lib").glob("*-linux-gnu/ld-linux*.so*"))
        command, severity = [str(loader), str(script), "600"], Severity.MEDIUM
    elif way == "sh":
        script.write_text("read line\n")
        command, severity = ["/bin/sh", str(script)], Severity.LOW
    else:
        script.write_text("input()\n")
        command, severity = ["/usr/bin/python3", str(script)], Severity.LOW
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        cmdline = Path(f"/proc/{started.pid}/cmdline")
        wait_until(lambda: str(script).encode() in cmdline.read_bytes())
        watch.look()
        assert watch.about(started.pid) == [("EW-PROC-005", severity)]
        [found] = watch.events(started.pid)
        assert found.detail["script"] == str(script)
    finally:
        started.kill()
        started.communicate()


@contextlib.contextmanager
def risen(own: Path) -> Iterator[int]:
    """A set-uid root program of this test's own, started by nobody."""
    program = own / "rise"
    shutil.copy("/bin/sleep", program)
    program.chmod(0o4755)
    # nobody's shell starts it, so that its parent is nobody's, too
    script = f"{program} 600 & echo $!; wait"
    started = subprocess.Popen(
        [*AS_NOBODY, "/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert started.stdout is not None
        pid = int(started.stdout.readline())
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "rise")
        yield pid
    finally:
        os.killpg(started.pid, 9)
        started.communicate()


def test_a_set_uid_program_by_the_sweep(watch: Watch, own: Path) -> None:
    with risen(own) as pid:
        watch.look()
        found = [e for e in watch.events(pid) if e.code == "EW-PROC-001"]
        assert [e.severity_id for e in found] == [Severity.HIGH]
        assert found[0].detail["from_uid"] == NOBODY
        assert "rise" in describe(found[0])


def test_a_program_whose_file_gives_it_capabilities(watch: Watch, own: Path) -> None:
    program = own / "capable"
    shutil.copy("/bin/sleep", program)
    # capabilities(7), struct vfs_cap_data of <linux/capability.h>: revision 2, effective
    cap_net_raw = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)
    os.setxattr(program, "security.capability", cap_net_raw)
    script = f"{program} 600 & echo $!; wait"
    with subprocess.Popen(
        [*AS_NOBODY, "/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    ) as started:
        try:
            assert started.stdout is not None
            pid = int(started.stdout.readline())
            wait_until(lambda: Path(f"/proc/{pid}/comm").read_text().strip() == "capable")
            watch.look()
            [found] = [e for e in watch.events(pid) if e.code == "EW-PROC-001"]
            assert (found.severity_id, found.detail["gained"]) == (Severity.MEDIUM, "0x2000")
        finally:
            os.killpg(started.pid, 9)


def test_a_traced_process_by_the_sweep(watch: Watch) -> None:
    with child(["/bin/sleep", "600"]) as held:
        watch.look()
        assert watch.about(held.pid) == []
        tracer = subprocess.Popen(
            [sys.executable, "-c", TRACER, str(held.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"holding\n"
            watch.sweep.resync()
            watch.look()
            [found] = watch.events(held.pid)
            assert (found.code, found.detail["tracer_pid"]) == ("EW-PROC-002", tracer.pid)
        finally:
            tracer.communicate()


def port_of(event: Event) -> object:
    endpoint = event.detail["endpoint"]
    assert isinstance(endpoint, dict)
    return endpoint["port"]


def test_a_new_listener(watch: Watch) -> None:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        made.listen()
        watch.look()
        watch.watcher.look_at_listeners()
        port = made.getsockname()[1]  # somebody else on this machine may begin just now
        [found] = [e for e in watch.coded("EW-PROC-007") if port_of(e) == port]
        process = found.detail["process"]
        assert isinstance(process, dict)
        assert process["pid"] == os.getpid()


def test_too_many_sockets() -> None:
    code = "import socket; s=[socket.socket() for _ in range(60)]; input()"
    watch = Watch(Processes(most_sockets=50))
    try:
        with child(["/usr/bin/python3", "-c", code], name="python3") as started:
            fds = Path(f"/proc/{started.pid}/fd")
            wait_until(lambda: len(list(fds.iterdir())) > 60)
            watch.look()
            [found] = watch.events(started.pid)
            assert found.code == "EW-PROC-006"
    finally:
        watch.close()


def test_a_required_process_goes_missing_and_comes_back(own: Path) -> None:
    program = own / "needed"
    shutil.copy("/bin/sleep", program)
    one = RequiredProcess(name="needed", exe=str(program), grace_s=10)
    watch = Watch(Processes(required=(one,)))
    try:
        with child([str(program), "600"]):
            watch.look()
            watch.look(60)
            assert watch.coded("EW-PROC-008") == []
        watch.look()
        watch.look(10)
        assert [e.activity_id for e in watch.coded("EW-PROC-008")] == [1]
        with child([str(program), "600"]):
            watch.look()
            assert [e.activity_id for e in watch.coded("EW-PROC-008")] == [1, 3]
    finally:
        watch.close()


def test_a_library_for_every_program(watch: Watch, own: Path) -> None:
    file = own / "ld.so.preload"
    file.write_text("/usr/lib/evil.so\n")
    watch.watcher.look_at_preload(str(file))
    watch.watcher.look_at_preload(str(file))
    [found] = watch.coded("EW-PROC-004")
    assert found.detail["libraries"] == ["/usr/lib/evil.so"]


# --- by the privileged look -----------------------------------------------------------------------

LOOK = Path(__file__).parents[2] / "agent/edgewarden/inventory/look.py"


def look(run: Path) -> float:
    """Run the one-shot as its unit does; returns how long it took."""
    began = time.monotonic()
    subprocess.run([*PYTHON, str(LOOK), str(run)], check=True, timeout=300)
    return time.monotonic() - began


def test_a_preload_is_told_by_the_look(own: Path) -> None:
    """Of another user's process; and the secret beside it stays where it is."""
    library = next(Path("/usr/lib").glob("*-linux-gnu/libm.so.6"))
    evil = own / "evil.so"
    shutil.copy(library, evil)
    looks = Looks(str(own / "look"))
    watch = Watch(looks=looks)
    environment = {"LD_PRELOAD": str(evil), "SECRET": "hunter2"}
    try:
        with child([*AS_NOBODY, "/bin/sleep", "600"], name="sleep", env=environment) as started:
            watch.look()
            assert watch.about(started.pid) == []
            look(own)
            watch.look()
            [found] = watch.events(started.pid)
            assert (found.code, found.severity_id) == ("EW-PROC-003", Severity.HIGH)
            assert found.detail["environment"] == [f"LD_PRELOAD={evil}"]
        assert b"hunter2" not in (own / "look").read_bytes()
    finally:
        watch.close()


def test_memory_that_nobody_fills_in_holds_neither_link_nor_the_look(own: Path) -> None:
    """What waited for ever before Linux 4.17 (with FUSE, CVE-2018-1120) must not wait here either:
    this kernel answers with nothing; a kernel that waits is the pipe of
    tests/inventory/test_processes.py."""
    silent = Path(__file__).with_name("silent.py")
    held = subprocess.Popen([sys.executable, silent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    watch = Watch()
    try:
        assert held.stdout is not None
        assert held.stdout.readline() == b"silent\n"
        began = time.monotonic()
        watch.sweep.hint(held.pid)
        watch.look()
        assert time.monotonic() - began < LONG_S, "it would wait for ever"
        assert watch.sweep._known[held.pid].command == ""
        assert look(own) < LONG_S
        seen = [p.pid for p in load((own / "look").read_bytes()).processes]
        assert held.pid in seen
    finally:
        held.kill()
        held.communicate()
        watch.close()


# --- by the kernel's own events, through gate -----------------------------------------------------


@pytest.fixture
def gate() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        made.policy()
        made.start_gate()
        yield made


def alerts(gate: World, link: socket.socket, pid: int) -> list[ProcessAlert]:
    found = []
    for fact in gate.facts(link):
        one = fact.message if isinstance(fact, Repeated) else fact
        if isinstance(one, ProcessAlert) and one.pid == pid:
            found.append(one)
    return found


def the_alert(gate: World, link: socket.socket, pid: int) -> ProcessAlert:
    """The one about a process, however long gate gathers."""
    told: list[ProcessAlert] = []
    wait_until(lambda: bool(told.extend(alerts(gate, link, pid)) or told))
    [alert] = told
    return alert


@pytest.mark.needs("root", "proc-connector", "fanotify-permission")
def test_a_set_uid_program_by_the_kernels_event(gate: World) -> None:
    link = gate.connect("gate-facts.sock")
    with risen(gate.filesystem) as pid:
        alert = the_alert(gate, link, pid)
    assert (alert.kind, alert.uid) == ("root", NOBODY)
    assert alert.program == os.fsencode(gate.filesystem / "rise")
    event = alert_event(alert)
    assert (event.code, event.severity_id) == ("EW-PROC-001", Severity.HIGH)
    expected = alert_event(alert, may_elevate=frozenset({str(gate.filesystem / "rise")}))
    assert expected.severity_id == Severity.LOW


@pytest.mark.needs("root", "proc-connector", "fanotify-permission")
def test_who_became_root_and_then_an_expected_program_is_not_told_as_that(gate: World) -> None:
    """A back door that has its work done by a child and goes on as sudo is no sudo."""
    rise = gate.program("rise", allow=False, image="/bin/bash")
    expected = gate.program("expected", allow=False, image="/bin/sleep")
    rise.chmod(0o4755)
    link = gate.connect("gate-facts.sock")
    command = [*AS_NOBODY, str(rise), "-p", "-c", f"exec {expected} 600"]
    with child(command, name="expected") as held:
        alert = the_alert(gate, link, held.pid)
    assert (alert.kind, alert.uid) == ("root", NOBODY)
    # Where it stood still before it went on as the other, gate may have seen what it was.
    assert alert.program in (b"", os.fsencode(rise))
    event = alert_event(alert, may_elevate=frozenset({str(expected)}))
    assert event.severity_id == Severity.HIGH


@pytest.mark.needs("root", "proc-connector", "fanotify-permission")
def test_a_tracer_by_the_kernels_event(gate: World) -> None:
    link = gate.connect("gate-facts.sock")
    with child(["/bin/sleep", "600"]) as held:
        tracer = subprocess.Popen(
            [sys.executable, "-c", TRACER, str(held.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"holding\n"
            alert = the_alert(gate, link, held.pid)
        finally:
            tracer.communicate()
    assert (alert.kind, alert.by_pid, alert.program) == ("traced", tracer.pid, b"/usr/bin/sleep")
    assert b"python" in alert.by_program
    assert alert_event(alert).code == "EW-PROC-002"


@pytest.mark.needs("root", "proc-connector", "fanotify-permission")
def test_a_hundred_rises_are_one_alert_and_a_count(gate: World) -> None:
    """Short ones, too: whoever is gone before it can be looked at is counted all the same."""
    program = gate.filesystem / "blink"
    shutil.copy("/bin/true", program)
    program.chmod(0o4755)
    link = gate.connect("gate-facts.sock")
    loop = f"i=0; while [ $i -lt 100 ]; do {program}; i=$((i+1)); done"
    subprocess.run([*AS_NOBODY, "/bin/sh", "-c", loop], check=True, timeout=60)
    total = 0

    def hundred() -> bool:
        nonlocal total
        for fact in gate.facts(link):
            inner = fact.message if isinstance(fact, Repeated) else fact
            if isinstance(inner, ProcessAlert) and inner.uid == NOBODY and inner.kind == "root":
                total += fact.count if isinstance(fact, Repeated) else 1
                if isinstance(fact, Repeated):
                    assert repeated_event(fact).code == "EW-PROC-001"
        return total >= 100

    wait_until(hundred, 60)
    assert total == 100
