"""A small world for exec control: a filesystem of its own, gate and guard as real processes.

Rules that keep the machine alive: only filesystems mounted here are ever named, each asserted to be
another than the one that holds ``/``; gate and guard run below ``timeout -s KILL``, so that a
responder that hangs is gone within LIFE_S even when this process hangs with it; whatever happens,
``close`` kills before it unmounts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgewarden.exec.policy_files import write_policy
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Content, RuleSpec, compile_table
from edgewarden.wire import local
from edgewarden.wire.gate_files import ExecTier, StopConfig, compile_gate_config
from edgewarden.wire.local import Answer, GateStats, ProcBatch, Request
from tests.system.came_in import ask_from_a_new_login
from tests.waiting import wait_until

LIFE_S = 300
QUIET_S = 0.4
WAIT_S = 60.0
TURN_S = 0.12
"""Longer than gate keeps a routine fact (FLUSH_S of gate/facts.py)."""
AGENT = Path(__file__).parents[2] / "agent"
DAEMONS = AGENT / "edgewarden" / "daemon"
MASKER = Path(__file__).with_name("masked.py")
STEPPED = Path(__file__).with_name("stepped.py")
PYTHON = [sys.executable, "-I", "-S"]
NOBODY = 65534
SOURCES = {"T3": "fanotify-permission", "T2": "bpf-stop"}
Subjects = tuple[tuple[tuple[int, int], ...], tuple[bytes, ...], tuple[str, ...]]
"""uids, parents, units of a rule."""


@contextlib.contextmanager
def private_tmpfs() -> Iterator[Path]:
    """A tmpfs of the test's own."""
    with _mounted(["-t", "tmpfs", "-o", "size=256m,mode=0755", "ew-test"]) as where:
        yield where


@contextlib.contextmanager
def loop_ext4(*options: str) -> Iterator[Path]:
    """An ext4 filesystem in a file, made with ``options`` of mkfs.ext4(8)."""
    with tempfile.NamedTemporaryFile(prefix="ew-image-") as image:
        image.truncate(32 << 20)
        make = ["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", *options, image.name]
        subprocess.run(make, check=True, capture_output=True)
        with _mounted(["-o", "loop", image.name]) as where:
            yield where


@contextlib.contextmanager
def overlay_of(folder: Path) -> Iterator[Path]:
    """An overlay whose layers are folders made below ``folder``."""
    for name in ("lower", "upper", "work"):
        (folder / name).mkdir()
    layers = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    with _mounted(["-t", "overlay", "-o", layers, "ew-overlay"]) as where:
        yield where


@contextlib.contextmanager
def _mounted(arguments: list[str]) -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="ew-fs-"))
    subprocess.run(["mount", *arguments, where], check=True, capture_output=True)
    try:
        assert where.stat().st_dev != os.stat("/").st_dev
        yield where
    finally:
        subprocess.run(["umount", "-l", where], check=False, capture_output=True)
        where.rmdir()


class World:
    """gate, guard, a policy, and what a person and link do to them."""

    def __init__(self, filesystem: Path) -> None:
        self.filesystem = filesystem
        self.state = Path(tempfile.mkdtemp(prefix="ew-w-"))
        self.state.chmod(0o755)
        self.run = self.state / "run"
        self.run.mkdir(mode=0o755)
        self.rules: list[tuple[str, bytes]] = []
        self.subjects: dict[str, Subjects] = {}
        self.kinds: dict[str, str] = {}
        self.masked = ""
        self.strict = False
        self.step_file: Path | None = None
        self.life_s = LIFE_S
        self.data: list[str] = []
        self.besides: list[str] = []
        self.gate_program = DAEMONS / "gate.py"
        self.markers = self.state / "markers"
        self.markers.mkdir(mode=0o777)
        self.markers.chmod(0o777)
        self._wrappers: list[subprocess.Popen[bytes]] = []
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.gate_pid = 0
        self.guard_pid = 0
        self.stop: StopConfig | None = None
        self.kill_after_start = False
        self.control: socket.socket | None = None
        self.tier("T3")

    # --- what gate goes by ---------------------------------------------------------------------

    def tier(self, tier: str, reason: str = "") -> None:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        source = SOURCES.get(tier, "fanotify-notify")
        (self.run / "exec-tier").write_bytes(ExecTier(tier, source, reason, boot_id).dump())

    def program(self, name: str, *, allow: bool, image: str = "/bin/touch") -> Path:
        """A program of its own content; ``/bin/touch`` leaves a marker where it is told to."""
        path = self.filesystem / name
        path.write_bytes(Path(image).read_bytes() + f"\0{name}\0".encode())
        path.chmod(0o755)
        if allow:
            self.rules.append((name, hashlib.sha256(path.read_bytes()).digest()))
        return path

    def listed(self, name: str, path: Path) -> None:
        """Put what is at ``path`` now on the list."""
        self.rules.append((name, hashlib.sha256(path.read_bytes()).digest()))

    def policy(self, mode: str = "learn", link_uid: int = 0) -> None:
        config = compile_gate_config(
            [str(self.filesystem), *self.besides],
            mode,
            link_uid=link_uid,
            stop=self.stop,
            kill_after_start=self.kill_after_start,
            strict=self.strict,
            data=self.data,
        )
        write_policy(str(self.state), self.table(), config)

    def table(self) -> bytes:
        """The rules as gate reads them."""
        names = list(dict.fromkeys(name for name, _ in self.rules))
        anybody = ((), (), ())
        specs = [
            RuleSpec(Rule(name, True, *self.subjects.get(name, anybody)), False) for name in names
        ]
        contents = {
            digest: Content((names.index(name),), self.kinds.get(name, "program"), False)
            for name, digest in self.rules
        }
        return compile_table(specs, contents)

    def only_for(
        self,
        name: str,
        *,
        uid: int | None = None,
        parents: tuple[bytes, ...] = (),
        units: tuple[str, ...] = (),
    ) -> None:
        """Who may execute the program of this name."""
        self.subjects[name] = (() if uid is None else ((uid, uid),), parents, units)

    # --- processes -----------------------------------------------------------------------------

    def start_guard(self, *, notify: str = "") -> None:
        path = self.run / "guard.sock"
        if self._listener is None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._listener.bind(str(path))
            self._listener.listen(4)
        fd = self._listener.fileno()
        command = [*PYTHON, str(DAEMONS / "guard.py"), str(fd)]
        if notify:
            command = ["env", f"NOTIFY_SOCKET={notify}", *command]
        self.guard_pid = self._start(command, pass_fds=(fd,))

    def start_gate(self, *, masked: str = "") -> None:
        clock = [str(STEPPED), str(self.step_file)] if self.step_file else []
        command = [*PYTHON, *clock, str(self.gate_program), str(self.state), str(self.run)]
        if masked:
            command = [sys.executable, str(MASKER), masked, *command]
        (self.run / "gate.sock").unlink(missing_ok=True)
        self.gate_pid = self._start(command)
        self.control = self.connect("gate.sock")
        self.status()  # gate.sock is the first of its sockets: who answers has made them all

    def _start(self, command: Sequence[str], pass_fds: tuple[int, ...] = ()) -> int:
        wrapper = subprocess.Popen(
            ["timeout", "-s", "KILL", str(self.life_s), *command], pass_fds=pass_fds, cwd="/"
        )
        self._wrappers.append(wrapper)
        children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")
        wait_until(lambda: wrapper.poll() is not None or children.read_text().strip())
        return int(children.read_text())

    def connect(self, name: str) -> socket.socket:
        """A client of one of gate's sockets, as root."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        made.settimeout(WAIT_S)
        self._sockets.append(made)

        def connected() -> bool:
            with contextlib.suppress(OSError):
                made.connect(str(self.run / name))
                return True
            return False

        wait_until(connected)
        return made

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Gate stands still, and guard with it: however long this takes, nobody ends gate for it.

        Afterwards guard sees that it was late itself, and gives gate time to say something.
        """
        pids = [pid for pid in (self.guard_pid, self.gate_pid) if pid]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: all(_stands_still(pid) for pid in pids))
            yield
        finally:
            for pid in reversed(pids):
                os.kill(pid, signal.SIGCONT)

    def gate_is_gone(self) -> bool:
        return not Path(f"/proc/{self.gate_pid}").exists()

    def close(self) -> None:
        """Kill first: whoever waits for a verdict goes on."""
        for pid in (self.gate_pid, self.guard_pid):
            if pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for wrapper in self._wrappers:
            wrapper.wait(30)
        for client in self._sockets:
            client.close()
        if self._listener is not None:
            self._listener.close()
        shutil.rmtree(self.state)

    # --- a person, and programs ----------------------------------------------------------------

    def ask(self, verb: str, mode: str = "learn", confirm_s: int = 0) -> Answer | GateStats:
        assert self.control is not None
        self.control.send(local.encode(Request(verb, mode, confirm_s)))
        return local.parse(self.control.recv(4096), Answer, GateStats)

    def confirm(self) -> Answer:
        """Confirm as somebody who has just logged in."""
        request = local.encode(Request("confirm", "learn"))
        return local.parse(ask_from_a_new_login(self.run / "gate.sock", request), Answer)

    def status(self) -> GateStats:
        answer = self.ask("status")
        assert isinstance(answer, GateStats)
        return answer

    def set_mode(self, mode: str) -> Answer:
        answer = self.ask("mode", mode)
        assert isinstance(answer, Answer)
        return answer

    def enforcing(self, *, masked: str = "") -> None:
        """Guard and gate up, and permission marks really armed."""
        self.policy("observe")
        self.start_guard()
        self.start_gate(masked=masked or self.masked)
        wait_until(lambda: self.status().guard)
        answer = self.set_mode("enforce")
        assert answer.ok, answer
        assert self.status().armed

    def outcome(self, command: Sequence[str | Path], timeout_s: float = 30) -> str:
        """Run a program that touches a marker: ``ran``, ``denied``, or what else came of it.

        Denied means both: execve failed with EPERM, and the payload left nothing behind.
        """
        marker = self.markers / "marker"
        marker.unlink(missing_ok=True)
        try:
            done = subprocess.run([*command, marker], capture_output=True, timeout=timeout_s)
        except PermissionError:
            return "ran after EPERM" if marker.exists() else "denied"
        except OSError as fault:
            return f"{type(fault).__name__} {fault.errno}"
        if done.returncode == 0:
            return "ran" if marker.exists() else "no marker"
        text = done.stderr.decode(errors="replace")
        if "Operation not permitted" in text and not marker.exists():
            return "denied"
        return f"exit {done.returncode}: {text}"

    def facts(
        self, client: socket.socket, until: type[local.AnyMessage] | None = None
    ) -> list[local.AnyMessage]:
        """What gate says until it has nothing but process batches to say for QUIET_S, or a message
        of type ``until``. Silence counts when gate ran meanwhile, and not only the clock."""
        found: list[local.AnyMessage] = []
        quiet_mono, turned = time.monotonic() + QUIET_S, False
        while True:
            left_s = quiet_mono - time.monotonic()
            if left_s <= 0 and not turned:
                self.turn()
                turned = True
            client.settimeout(0 if turned else left_s)
            try:
                data = client.recv(4096)
            except (TimeoutError, BlockingIOError):
                if turned:
                    break
                continue
            if not data:
                break
            found.append(local.parse(data, *local.FACTS))
            if until is not None and isinstance(found[-1], until):
                break
            if not isinstance(found[-1], ProcBatch):
                quiet_mono, turned = time.monotonic() + QUIET_S, False
        client.settimeout(WAIT_S)
        return found

    def turn(self) -> None:
        """Have gate go round its loop, twice: what it had to say until now, it has said after it.

        Where there is no gate to ask, nothing more can come.
        """
        if self.control is None or self.gate_is_gone():
            return
        for _ in range(2):
            self.control.send(local.encode(Request("status", "learn")))
            assert self.control.recv(4096), "gate hung up"
            time.sleep(TURN_S)


def _stands_still(pid: int) -> bool:
    """Whether every thread of a process is stopped."""
    states = [
        stat.read_text().rpartition(")")[2].split()[0]
        for stat in Path(f"/proc/{pid}/task").glob("*/stat")
    ]
    return set(states) == {"T"}


@contextlib.contextmanager
def world(filesystem: Path) -> Iterator[World]:
    made = World(filesystem)
    try:
        yield made
    finally:
        made.close()
