"""The real gate process on a recorded sysfs: bound over /sys in a mount namespace of its own, with
the kernel's own messages from a network namespace of its own. What it writes lands in the tree."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgewarden.exec.policy_files import write_policy, write_whole
from edgewarden.judge.exec_table import compile_list
from edgewarden.judge.peripherals_table import TABLE_NAME, compile_table
from edgewarden.wire import local
from edgewarden.wire.gate_files import compile_gate_config
from edgewarden.wire.local import Alarm, Answer, AreaStats, GateStats, Request, TripInfo
from edgewarden.wire.peripherals import PeripheralVerdict
from hw.rigs.usbtree import SD_CARD, UsbTree
from tests.fakes.gate import stand_in
from tests.plugs.plugged import table
from tests.system.exec_world import DAEMONS, PYTHON
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "unshare-net")

LIFE_S = 300
BIND = 'mount --bind "$1" /sys && shift && exec "$@"'
OPEN, CLOSED = {"usb1": "1", "usb2": "1"}, {"usb1": "2", "usb2": "2"}


class Site:
    """One gate, its state, and the tree it takes for this machine's."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        (folder / "tree").mkdir()
        self.tree = UsbTree(folder / "tree")
        know_what_is_mounted(self.tree)
        self.state, self.run = folder / "state", folder / "run"
        self.run.mkdir(mode=0o755)
        config = compile_gate_config([], "learn", link_uid=0)
        write_policy(str(self.state), compile_list([]), config)
        rules = table()
        data = compile_table(rules.devices, rules.ports)
        write_whole(str(self.state / "policy"), TABLE_NAME, data)
        self.wrapper: subprocess.Popen[bytes] | None = None
        self.links = 0

    def start(self) -> None:
        (self.run / "gate.sock").unlink(missing_ok=True)
        gate = [*PYTHON, str(DAEMONS / "gate.py"), str(self.state), str(self.run)]
        apart = ["unshare", "-m", "-n", "sh", "-c", BIND, "sh", str(self.tree.sys)]
        self.wrapper = subprocess.Popen(["timeout", "-s", "KILL", str(LIFE_S), *apart, *gate])
        wait_until(self._has_looked)

    def _has_looked(self) -> bool:
        try:
            return not self.ask("area").why_not
        except (FileNotFoundError, ConnectionRefusedError):  # not there, not listening yet
            return False

    @property
    def pid(self) -> int:
        """gate's: ``timeout`` has one child, which became unshare, sh and gate in turn."""
        assert self.wrapper is not None
        children = Path(f"/proc/{self.wrapper.pid}/task/{self.wrapper.pid}/children").read_text()
        return int(children.split()[0])

    def end(self, number: int) -> None:
        if self.wrapper is not None and self.wrapper.poll() is None:
            os.kill(self.pid, number)
            self.wrapper.wait(60)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """No look of gate's, which may be due at any moment."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def request(self, request: Request) -> Answer | AreaStats | GateStats:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as person:
            person.settimeout(60)
            person.connect(str(self.run / "gate.sock"))
            person.send(local.encode(request))
            return local.parse(person.recv(4096), Answer, AreaStats, GateStats)

    def ask(self, verb: str) -> AreaStats:
        found = self.request(Request(verb, "learn", 0, "peripherals"))
        assert isinstance(found, AreaStats)
        return found

    def mode(self, mode: str) -> Answer:
        answer = self.request(Request("mode", mode, 0, "peripherals"))
        assert isinstance(answer, Answer)
        return answer

    def has_guard(self) -> bool:
        status = self.request(Request("status", "learn"))
        return isinstance(status, GateStats) and status.guard

    def kernel_speaks(self) -> None:
        """A message of the kernel's that gate hears: a network device of its own namespace."""
        self.links += 1
        line = ["ip", "link", "add", f"ew-{self.links}", "type", "bridge"]
        subprocess.run(["nsenter", "-n", "-t", str(self.pid), *line], check=True)

    def looks_until(self, authorized: dict[str, str]) -> None:
        def done() -> bool:
            self.tree.settle()
            return self.tree.authorized() == authorized

        wait_until(done)


def know_what_is_mounted(tree: UsbTree) -> None:
    """Have the disks below this machine's mounts lie on the tree's card. Where it cannot be told
    what carries ``/``, enforce is refused as soon as gate has seen whom it would keep out."""
    disks = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        number, source = before.split()[2], after.split()[1]
        if not number.startswith("0:"):
            disks[number] = f"disk-{number}"
        elif source.startswith("/dev/"):  # btrfs: gate goes by the name
            disks[number] = source.removeprefix("/dev/")
    for number, name in disks.items():
        if not (tree.sys / "class/block" / name).is_symlink():
            tree.disk(name, number, SD_CARD, {})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.end(signal.SIGKILL)


def test_u1_u2_u4_the_real_gate_keeps_out_and_puts_back(site: Site) -> None:
    site.tree.plug("keyboard", "1-1.4")
    facts = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    facts.connect(str(site.run / "gate-facts.sock"))
    facts.settimeout(60)
    site.kernel_speaks()
    wait_until(lambda: site.ask("area").allowed >= 1)
    answer = site.mode("enforce")
    assert answer.ok, answer.text
    site.looks_until({"1-1": "1", "1-1.4": "0"})
    assert site.tree.defaults() == CLOSED
    with site.standing_still():
        site.tree.plug("badusb", "1-1.2")
        site.tree.plug("ublox", "1-1.3")
        assert (site.tree.authorized()["1-1.2"], site.tree.authorized()["1-1.3"]) == ("0", "0")
    site.kernel_speaks()
    site.looks_until({"1-1": "1", "1-1.4": "0", "1-1.2": "0", "1-1.3": "1"})
    denied = set()
    while len(denied) < 2:
        fact = local.parse(facts.recv(4096), *local.FACTS)
        assert not isinstance(fact, Alarm) or fact.code == "EW-EXEC-020", fact
        if isinstance(fact, PeripheralVerdict) and fact.decision == "deny":
            denied.add((fact.place, fact.reason, fact.effective))
    assert denied == {("1-1.4", "unlisted", True), ("1-1.2", "other_interfaces", True)}
    facts.close()
    status = site.request(Request("status", "learn"))
    assert isinstance(status, GateStats)
    assert status.gate_pss_bytes < 16 << 20
    site.end(signal.SIGTERM)
    site.tree.settle()
    assert site.tree.defaults() == OPEN
    assert set(site.tree.authorized().values()) == {"1"}


def test_u4_a_killed_gate_leaves_what_the_next_one_puts_back(site: Site) -> None:
    site.tree.plug("keyboard", "1-1.4")
    site.kernel_speaks()
    wait_until(lambda: site.ask("area").allowed >= 1)
    assert site.mode("enforce").ok
    site.looks_until({"1-1": "1", "1-1.4": "0"})
    site.end(signal.SIGKILL)
    assert site.tree.defaults() == CLOSED, "USB keeps its last state when gate dies"
    site.start()
    assert site.ask("area").mode == "enforce"
    assert site.mode("observe").ok
    site.looks_until({"1-1": "1", "1-1.4": "1"})
    assert site.tree.defaults() == OPEN


def test_u4_guard_leaves_a_gate_alone_that_waits_for_a_device_at_its_end(site: Site) -> None:
    """A driver may hold a device for longer than guard's patience: gate waits STOP_S for it."""
    site.tree.plug("keyboard", "1-1.4")
    site.kernel_speaks()
    wait_until(lambda: site.ask("area").allowed >= 1)
    with guard_at(site.run / "guard.sock"):
        wait_until(site.has_guard)
        assert site.mode("enforce").ok
        site.looks_until({"1-1": "1", "1-1.4": "0"})
        held = site.tree.sys / "bus/usb/devices/1-1.4/authorized"
        held.unlink()
        os.mkfifo(held)  # who opens it waits
        site.end(signal.SIGTERM)
        assert site.wrapper is not None
        assert site.wrapper.returncode == 0
        with stand_in(site.run / "guard.sock") as successor:
            assert local.parse(successor.heard, TripInfo).trips == 0


@contextmanager
def guard_at(path: Path) -> Iterator[None]:
    """A guard that listens there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(4)
        fd = listener.fileno()
        guard = [*PYTHON, str(DAEMONS / "guard.py"), str(fd)]
        line = ["timeout", "-s", "KILL", str(LIFE_S), *guard]
        with subprocess.Popen(line, pass_fds=(fd,)) as wrapper:
            try:
                yield
            finally:
                wrapper.terminate()  # timeout passes it on


def test_what_is_learned_on_a_machine_is_a_policy_for_it(tmp_path: Path) -> None:
    """The command itself, on the recorded tree."""
    site = Site(tmp_path)
    site.tree.plug("ftdi", "1-1.2")
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{site.state}"\nrun = "{site.run}"\n')
    command = [sys.executable, "-m", "edgewarden", "policy", "learn", "peripherals"]
    apart = ["unshare", "-m", "sh", "-c", BIND, "sh", str(site.tree.sys)]
    done = subprocess.run(
        [*apart, *command, "--settings", str(settings)],
        env={**os.environ, "PYTHONPATH": str(DAEMONS.parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rules = table(done.stdout)
    assert [rule.name for rule in rules.devices] == ["usb2-0-hub-1-1", "ft232r-usb-uart-1-1.2"]
    assert [rule.device for rule in rules.ports] == ["ft232r-usb-uart-1-1.2"]
    assert "edgewarden policy compile" in done.stderr
