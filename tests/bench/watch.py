"""What watching costs: a sweep of /proc, a list of listeners, a storm of forks, a flood of denials.

watch.sweep          CPU of one sweep at 500 processes; psutil's full look beside it
watch.sweep-psutil   the two as a ratio
watch.look           CPU of the privileged one-shot, from start to end
watch.listeners      CPU of a list by sock_diag; the same from /proc/net beside it
watch.storm          forks a second while gate and link's half watch; without a value where the
                     inventory is not that of /proc after one sweep
watch.denial         CPU of one repeated denial in gate's ledger
watch.flood-rss      what gate's half grows by in a flood of 20,000 denials a second
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from edgewarden.daemon.clock import SystemClock
from edgewarden.gate.ledger import Ledger
from edgewarden.inventory.processes import ProcessSettings, ProcessSweep
from edgewarden.inventory.sockets import Sockets
from edgewarden.wire.local import FACTS, parse
from tests.bench.place import ROOT, CannotMeasure, Place
from tests.bench.rows import HIGHER, Figure, Spec, middle
from tests.system.denier import RATE, denial
from tests.system.exec_world import PYTHON, private_tmpfs, world
from tests.system.storm import storm
from tests.system.test_storm import Inventory, check_equal, listed, play, sleepers

RUNS = 5
SWEEPS = 15
PROCESSES = 500
STORM_S = 10
FLOOD_S = 5

SPECS = (
    Spec("watch.sweep", "CPU of one sweep at 500 processes, median", "ms", 1.0),
    Spec("watch.sweep-psutil", "the same as a share of psutil.process_iter", "x", 0.1),
    Spec("watch.look", "CPU of the privileged one-shot, start to end", "ms", 80.0),
    Spec("watch.listeners", "CPU of one list of listeners by sock_diag", "us", 200.0),
    Spec("watch.storm", "forks a second for 10 s, watched, inventory right after one sweep", "/s",
         10_000, HIGHER),
    Spec("watch.denial", "CPU of one repeated denial in gate's ledger", "us", 10.0),
    Spec("watch.flood-rss", "growth of gate's half in 5 s of 20,000 denials a second", "kB", 1024),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures; as root."""
    if os.geteuid() != 0:
        raise CannotMeasure("needs root")
    yield from _sweep()
    yield _look()
    yield _listeners()
    yield _denial()
    yield _flood()
    yield _storm()


def _cpu_ms(work: Callable[[], object], times: int) -> float:
    """Median of the CPU that ``work`` takes, all threads of this process."""
    costs = []
    for _ in range(times):
        began_ns = time.process_time_ns()
        work()
        costs.append((time.process_time_ns() - began_ns) / 1e6)
    return middle(costs)


def _sweep() -> Iterator[Figure]:
    more = sleepers(max(0, PROCESSES - len(listed())))
    sweep = ProcessSweep(ProcessSettings(), lambda _: None, SystemClock())
    wanted = ["pid", "ppid", "name", "exe", "cmdline", "uids", "create_time"]
    try:
        sweep.look()
        own = middle(_cpu_ms(sweep.look, SWEEPS) for _ in range(RUNS))
        peer = _cpu_ms(lambda: [p.info for p in psutil.process_iter(wanted)], RUNS)
        known = sweep.snapshot().known
    finally:
        sweep.close()
        for one in more:
            one.kill()
            one.wait()
    against = f"psutil {psutil.__version__}: {peer:.1f} ms; {known} processes"
    yield Figure("watch.sweep", own, against, RUNS)
    yield Figure("watch.sweep-psutil", own / peer, against, RUNS)


def _look() -> Figure:
    script = str(ROOT / "agent/edgewarden/inventory/look.py")
    costs = []
    with private_tmpfs() as where:
        for command in ([*PYTHON, script, str(where)], [*PYTHON, "-c", ""]) * RUNS:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, check=True, timeout=30)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            costs.append(spent * 1000)
    bare = middle(costs[1::2])
    return Figure("watch.look", middle(costs[::2]), f"bare interpreter {bare:.1f} ms", RUNS)


def _listeners() -> Figure:
    fast, slow = Sockets(), Sockets(diag=False)
    try:
        if fast.source != "sock_diag":
            raise CannotMeasure("netlink is closed here")
        quick, table = (_cpu_ms(s.listeners, 50) * 1000 for s in (fast, slow))
    finally:
        fast.close()
    return Figure("watch.listeners", quick, f"/proc/net: {table:.0f} us", 50)


def _denial() -> Figure:
    ledger, one, count = Ledger(), denial(1, 1000), 20_000
    ledger.take(one)

    def flood() -> None:
        for _ in range(count):
            ledger.take(one)

    took_us = _cpu_ms(flood, RUNS) * 1000 / count
    told: list[object] = []

    def send(data: bytes) -> bool:
        told.append(parse(data, *FACTS))
        return True

    ledger.tell(send, 1e9)
    if getattr(told[-1], "count", 0) != count * RUNS:
        raise CannotMeasure("the ledger miscounted")
    return Figure("watch.denial", took_us, f"{count * RUNS} counted exactly", RUNS)


def _flood() -> Figure:
    with private_tmpfs() as where:
        path = where / "facts.sock"
        command = [sys.executable, "-m", "tests.system.denier", str(path), str(FLOOD_S)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=environment,
        ) as denier:  # fmt: skip
            said = asyncio.run(_take(path, denier))
    grown = said["rss_kb"] - said["rss_kb_early"]
    against = f"{said['rate']:.0f} denials/s of {RATE} wanted, {said['crowded']} counted as others"
    return Figure("watch.flood-rss", grown, against, 1)


async def _take(path: Path, denier: subprocess.Popen[str]) -> dict[str, float]:
    """A client that takes everything, until the denier has said what it did."""
    import socket

    loop = asyncio.get_running_loop()
    assert denier.stdout is not None
    line = loop.run_in_executor(None, denier.stdout.readline)
    while not path.exists():
        await asyncio.sleep(0.01)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, str(path))
        while not line.done():
            try:
                await asyncio.wait_for(loop.sock_recv(sock, 4096), 0.1)
            except TimeoutError:
                continue
    assert denier.stdin is not None
    denier.stdin.close()
    said: dict[str, float] = json.loads(await line)
    return said


def _storm() -> Figure:
    made = 0
    with private_tmpfs() as where, world(where) as gate:
        gate.policy()
        gate.start_gate()
        inventory = Inventory(gate)

        async def work() -> None:
            nonlocal made
            with storm(STORM_S) as running:
                loop = asyncio.get_running_loop()
                out, _ = await loop.run_in_executor(None, running.communicate)
                made = int(out)
            check_equal(inventory)

        try:
            play(inventory, work)
        finally:
            inventory.close()
        lost = gate.status().proc_lost
    against = f"kernel dropped events {lost} times; {len(inventory.facts)} facts"
    return Figure("watch.storm", made / STORM_S, against, 1)
