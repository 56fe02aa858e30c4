"""What link watches, put together: who tells of what while gate is there, and when it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.inventory.sockets import Sockets
from edgewarden.inventory.watcher import DEAF_NS, Watcher
from edgewarden.settings.processes import Processes
from edgewarden.wire.facts import Event, Severity
from edgewarden.wire.local import ProcBatch
from edgewarden.wire.processes import Delta, Process
from tests.fakes.clock import FakeClock

SHELL = Process(pid=3, start_ticks=1, comm="bash", ppid=1, uid=1000, euid=1000)
RISEN = Process(pid=7, start_ticks=2, comm="x", ppid=3, uid=1000, euid=0, exe="/usr/local/bin/x")


class World:
    def __init__(self, proc: Path) -> None:
        self.facts: list[Event] = []
        self.clock = FakeClock()
        sockets = Sockets(str(proc), diag=False)
        self.watcher = Watcher(Processes(), self.facts.append, self.clock, sockets)  # type: ignore[arg-type]

    def sweep(self, *began: Process) -> list[str]:
        """The codes that a look tells."""
        self.facts.clear()
        present = {p.pid: p for p in (SHELL, *began)}
        now_ns = self.clock.now().boot_ns
        self.watcher.see(Delta(now_ns, False, began, (), (), present))
        return [fact.code for fact in self.facts]

    def gate_says(self) -> None:
        self.watcher.batch(ProcBatch(1, 1, 0, False, ()))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_while_gate_tells_the_sweep_does_not_and_without_gate_it_does(world: World) -> None:
    assert world.sweep(RISEN) == ["EW-PROC-001"]
    world.gate_says()
    assert world.sweep(RISEN) == []
    world.clock.advance(DEAF_NS / 1e9 + 1)
    assert world.sweep(RISEN) == ["EW-PROC-001"], "gate, or its connector, is gone since"
    world.gate_says()
    assert world.sweep(RISEN) == []


def test_status_says_when_gate_is_not_heard(world: World) -> None:
    def gap() -> bool:
        said = world.watcher.state()["not_visible"]
        assert isinstance(said, list)
        return any("nothing heard from gate" in one for one in said)

    assert gap()
    world.gate_says()
    assert not gap()
    world.clock.advance(DEAF_NS / 1e9 + 1)
    assert gap()


ARMMEM = "/usr/lib/arm-linux-gnueabihf/libarmmem-${PLATFORM}.so"


@pytest.mark.parametrize(
    ("lines", "severities"),
    [
        ([ARMMEM], [Severity.LOW]),
        (["/usr/lib/evil.so"], [Severity.HIGH]),
        ([f"{ARMMEM} /tmp/evil.so"], [Severity.HIGH]),
        (["", ARMMEM], [Severity.HIGH]),
        ([ARMMEM, f"{ARMMEM}\n/tmp/e.so"], [Severity.LOW, Severity.HIGH]),
    ],
    ids=["an image's own", "foreign", "beside it", "that came later", "added later"],
)
def test_a_library_that_an_image_brings_is_low_and_any_other_high(
    world: World, tmp_path: Path, lines: list[str], severities: list[Severity]
) -> None:
    file = tmp_path / "ld.so.preload"
    for line in lines:
        file.write_text(line)
        world.watcher.look_at_preload(str(file))
        world.watcher.look_at_preload(str(file))
    assert [fact.severity_id for fact in world.facts] == severities
