"""Fork storms against gate and link's half of the inventory, for real.

P5: a storm as fast as this machine forks; nothing hangs, totals are the kernel's own, the inventory
is that of /proc within one sweep. R7: gate stands still for a second of it, the kernel drops events
(ENOBUFS), and after one sweep nobody is missing and nobody is a ghost. P3: how many
of them a sweep looks at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.gate_facts import GateFacts
from edgewarden.inventory.processes import RECHECK_PER_SWEEP, ProcessSettings, ProcessSweep
from edgewarden.inventory.procfiles import parse_stat, read
from edgewarden.inventory.sockets import Sockets
from edgewarden.inventory.watcher import Watcher
from edgewarden.settings.processes import Processes
from edgewarden.wire.facts import Event
from edgewarden.wire.processes import Delta
from tests.system.exec_world import World, private_tmpfs, world
from tests.system.storm import storm
from tests.waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.needs("root", "proc-connector", "fanotify-permission")]

STORM_S = 10
PER_S = 100
"""What counts as a storm here: far below what any machine forks while it runs at all."""
SWEEP_S = 2.0
FOR_EVER_S = 300
"""A storm that ends when the kernel has dropped an event, however fast it comes."""


STORM = "EW-PROC-010"


def forks_ever() -> int:
    """Of the whole machine, threads too (proc(5), stat)."""
    lines = Path("/proc/stat").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("processes ")))


class Inventory:
    """link's half: facts of a real gate, sweeps, rules."""

    def __init__(self, gate: World) -> None:
        self.facts: list[Event] = []
        self.forks_at: list[int] = []
        self.clock = SystemClock()
        self.sockets = Sockets()
        sink = self._take
        self.watcher = Watcher(Processes(storm_per_s=PER_S), sink, self.clock, self.sockets)  # type: ignore[arg-type]
        self.sweep = ProcessSweep(ProcessSettings(), sink, self.clock, self._see)  # type: ignore[arg-type]
        self.resyncs = 0
        self.began: set[tuple[int, int]] = set()
        self.gate = GateFacts(
            str(gate.run / "gate-facts.sock"),
            sink,  # type: ignore[arg-type]
            self.clock,
            self.sweep.hint,
            self._resync,
            self.watcher.batch,
            self.watcher.alert,
        )

    def _take(self, fact: Event) -> None:
        self.facts.append(fact)
        if fact.code == STORM:
            self.forks_at.append(forks_ever())

    def _see(self, delta: Delta) -> None:
        self.began = {process.key for process in delta.began}
        self.watcher.see(delta)

    def _resync(self) -> None:
        self.resyncs += 1
        self.sweep.resync()

    def look(self) -> None:
        self.sweep.look()

    def table(self) -> set[tuple[int, int]]:
        return {process.key for process in self.sweep._known.values()}

    def totals(self) -> dict[str, int]:
        """Forks, execs and exits that were told, storms and quiet periods together."""
        self.watcher.finish()
        out = {"forks": 0, "execs": 0, "exits": 0}
        for fact in self.facts:
            holder = fact.detail.get("totals", fact.detail)
            assert isinstance(holder, dict)
            for name in out:
                value = holder.get(name, 0)
                assert isinstance(value, int)
                out[name] += value
        return out

    def close(self) -> None:
        self.sweep.close()
        self.sockets.close()


@pytest.fixture
def gate() -> Iterator[World]:
    with private_tmpfs() as where, world(where) as made:
        made.policy()
        made.start_gate()
        yield made


@pytest.fixture
def inventory(gate: World) -> Iterator[Inventory]:
    made = Inventory(gate)
    yield made
    made.close()


def listed() -> set[tuple[int, int]]:
    """Every process of this machine, by an own look at /proc."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            seen = parse_stat(read(f"/proc/{name}", "stat", 1024))
            if seen is not None:
                found.add((int(name), seen[2]))
    return found


def check_equal(inventory: Inventory) -> None:
    """One sweep, then the same as /proc; what came or went in this moment counts for neither."""
    before = listed()
    inventory.look()
    after = listed()
    missing = (before & after) - inventory.table()
    ghosts = inventory.table() - (before | after) - inventory.began
    assert (missing, ghosts) == (set(), set())


def play(inventory: Inventory, work: Callable[[], Coroutine[None, None, None]]) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(inventory.gate.run()), asyncio.create_task(sweeps())]
        try:
            await until(lambda: inventory.gate.connected)
            await work()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def sweeps() -> None:
        while True:
            inventory.look()
            await asyncio.sleep(SWEEP_S)

    asyncio.run(main())


def sleepers(count: int) -> list[subprocess.Popen[bytes]]:
    return [subprocess.Popen(["/bin/sleep", "600"]) for _ in range(count)]


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def test_p5_a_fork_storm_leaves_the_inventory_right(gate: World, inventory: Inventory) -> None:
    made, before = 0, forks_ever()
    stays: list[subprocess.Popen[bytes]] = []

    async def work() -> None:
        nonlocal made
        with storm(STORM_S) as running:
            for _ in range(STORM_S - 2):
                await asyncio.sleep(1)
                stays.extend(sleepers(1))
            loop = asyncio.get_running_loop()
            out, _ = await loop.run_in_executor(None, running.communicate)
            made = int(out)
        check_equal(inventory)
        await loop.run_in_executor(None, gate.turn)
        await asyncio.sleep(0.5)  # and what it has told is read

    try:
        play(inventory, work)
        started = {p.pid for p in stays}
        assert started <= {pid for pid, _ in inventory.table()}
    finally:
        end(stays)
    status = gate.status()
    totals = inventory.totals()
    told = [f for f in inventory.facts if f.code == STORM]
    print(f"{made / STORM_S:.0f} forks/s, lost {status.proc_lost}, {len(inventory.facts)} facts")
    assert [f.activity_id for f in told] == [1, 3]
    by_kernel = told[1].detail["by_kernel"]
    assert isinstance(by_kernel, int)
    # What came before it was seen to be one is not in it.
    assert by_kernel >= made - (inventory.forks_at[0] - before)
    assert made >= PER_S * STORM_S
    if status.proc_lost == 0:
        assert totals["forks"] >= made  # others fork, too
    assert len(inventory.facts) < 500  # a storm is not a flood of facts


def dropped() -> int:
    """What the kernel could tell nobody, of all netlink sockets."""
    lines = Path("/proc/net/netlink").read_text().splitlines()
    at = lines[0].split().index("Drops")
    return sum(int(line.split()[at]) for line in lines[1:])


def test_r7_a_stall_loses_events_and_one_sweep_puts_it_right(
    gate: World, inventory: Inventory
) -> None:
    gone, stays, before = sleepers(20), [], dropped()
    pids_gone = {p.pid for p in gone}
    # With their starts: the storm goes round the numbers, and others have these soon.
    ghosts = {key for key in listed() if key[0] in pids_gone}
    assert len(ghosts) == len(gone)

    async def work() -> None:
        inventory.look()
        with storm(FOR_EVER_S) as running:
            await asyncio.sleep(0.5)
            os.kill(gate.gate_pid, signal.SIGSTOP)
            await asyncio.sleep(0.3)
            end(gone)
            stays.extend(sleepers(20))
            await until(lambda: dropped() > before)
            os.killpg(running.pid, signal.SIGTERM)
            os.kill(gate.gate_pid, signal.SIGCONT)
            await until(lambda: inventory.resyncs > 0)
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, running.communicate)
        check_equal(inventory)

    try:
        play(inventory, work)
        pids = {pid for pid, _ in inventory.table()}
        assert {p.pid for p in stays} <= pids
        assert not ghosts & inventory.table()
        assert gate.status().proc_lost > 0
    finally:
        end(stays)


def test_p3_a_sweep_over_five_hundred_processes_looks_at_a_thirtieth_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Real processes. What that costs is the bench's row watch.sweep (limit: a millisecond)."""
    more = sleepers(500)  # whoever else there is may end
    looked: list[str] = []

    def counted(folder: str, file: str, count: int) -> bytes:
        looked.append(folder)
        return read(folder, file, count)

    monkeypatch.setattr("edgewarden.inventory.processes.read", counted)
    sweep = ProcessSweep(ProcessSettings(), lambda _: None, SystemClock())
    try:
        sweep.look()
        assert {f"/proc/{p.pid}" for p in more} <= set(looked)  # a new one is never put off
        shares = []
        for _ in range(15):
            looked.clear()
            sweep.look()
            shares.append(len(set(looked)))
        assert sweep.snapshot().known >= 500
        share = max(RECHECK_PER_SWEEP, round(sweep.snapshot().known * SWEEP_S / 60.0))
        assert 1 <= statistics.median(shares) <= share + 2  # a stranger may begin meanwhile
    finally:
        sweep.close()
        end(more)
