"""What the agent costs a gateway that does nothing in particular: memory, processor, start.

    footprint.pss            gate + guard + link, mutual TLS up, eight ports delivering, enforcing
    footprint.pss-NAME       each of them        footprint.uss   what no other process maps
    footprint.idle-cpu       processor time of all three while the ports say little
    footprint.first-report   from `edgewarden run` to the first report that the fleet has verified
    footprint.import.NAME    where link's memory comes from (imports.py)

Everything measured runs on the private interpreter (private.py); the bare interpreter beside it is
the same file, alone, in the same run. The supervisor is not counted: under systemd there is none,
and it runs on another interpreter file, so that its pages flatter nobody. First reports are
measured with the .venv's own interpreter, as a user starts it.
"""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tests.bench import imports, private, proc
from tests.bench.place import CannotMeasure, Place, await_, stop
from tests.bench.rows import Figure, Spec, middle
from tests.bench.talker import NAMES

if TYPE_CHECKING:
    from tests.bench.standing import Standing

WARM_UP_S = 20.0
"""Two commits, two host samples, one round of evidence, and link's start is over."""
SAMPLES, SAMPLE_S = 12, 1.0
IDLE_S = 32.0
"""Three host samples and three commits."""
SETTLE_S = 4.0
WINDOWS = 3
QUIET_EVENTS_S = 1.0
"""Forks, execs and exits per second of a machine that does nothing."""
STARTS = 5
BARE_RUNS = 3
FIRST_REPORT_LIMIT_S = 20.0
PARTS = ("gate", "guard", "link")

SPECS = (
    Spec("footprint.pss", "PSS of gate + guard + link, mutual TLS up, 8 serial ports (ptys)"
         " delivering, enforcing on one filesystem, TPM extra not loaded", "MB", 40.0),
    Spec("footprint.pss-gate", "PSS of gate in it", "MB", 9.0),
    Spec("footprint.pss-guard", "PSS of guard in it", "MB", 8.0),
    Spec("footprint.pss-link", "PSS of link in it", "MB", 31.0),
    Spec("footprint.uss", "private pages of all three", "MB", 39.0),
    Spec("footprint.idle-cpu", "processor time of gate + guard + link, host sample each 10 s, ports"
         " speak each 8 s", "%", 0.5),
    Spec("footprint.idle-switches", "context switches of all three, as above", "1/s", 3.0),
    Spec("footprint.first-report", "from the start of `edgewarden run` to the first event or batch"
         " of that start that the fleet has verified and stored, start_spread_s = 0", "s", 3.0),
    *imports.SPECS,
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    from tests.bench.standing import Standing  # puts the demo's folder on the path

    interpreter = place.interpreter
    bare_mb = bare_pss_mb(interpreter)
    yield from imports.measure(interpreter)
    with Standing(place) as standing:
        supervisor = standing.start(interpreter)
        standing.await_connected()
        standing.enforce()
        parts = standing.parts(supervisor)
        check_private(parts, interpreter)
        time.sleep(WARM_UP_S)
        yield from memory(standing, parts, bare_mb)
        standing.talker.send_signal(signal.SIGUSR1)
        time.sleep(SETTLE_S)
        yield from idle(standing, parts)
        standing.stop()
        yield first_report(standing)


def bare_pss_mb(interpreter: private.Interpreter) -> float:
    """An interpreter that imports time and sleeps, alone on its file."""
    found = []
    for _ in range(BARE_RUNS):
        bare = subprocess.Popen(
            [interpreter.python, "-c", "import time; print(flush=True); time.sleep(60)"],
            env=private.environment(interpreter), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert bare.stdout is not None
            bare.stdout.read(1)
            found.append(proc.pss_mb(bare.pid))
        finally:
            stop(bare)
    return middle(found)


def check_private(parts: dict[str, int], interpreter: private.Interpreter) -> None:
    """Each part must run on the private interpreter, or the figure is somebody else's too."""
    for name, pid in parts.items():
        with open(f"/proc/{pid}/maps") as maps:
            if str(interpreter.python.resolve()) not in maps.read():
                raise CannotMeasure(f"{name} does not run on the private interpreter")


def memory(standing: Standing, parts: dict[str, int], bare_mb: float) -> Iterator[Figure]:
    """Medians of SAMPLES looks, while both ports deliver."""
    before = standing.readings()
    pss: dict[str, list[float]] = {name: [] for name in PARTS}
    uss: list[float] = []
    for _ in range(SAMPLES):
        time.sleep(SAMPLE_S)
        for name in PARTS:
            pss[name].append(proc.pss_mb(parts[name]))
        uss.append(sum(proc.uss_mb(pid) for pid in parts.values()))
    after = standing.readings()
    silent = [name for name in before if after[name] <= before[name]]
    if silent or len(before) != len(NAMES):
        raise CannotMeasure(f"these ports delivered nothing: {silent or before}")
    against = f"bare interpreter {bare_mb:.1f} MB"
    whole = [sum(each) for each in zip(*pss.values(), strict=True)]
    spread = f"{min(whole):.1f} to {max(whole):.1f}, {middle(whole) / bare_mb:.1f} x bare"
    yield Figure("footprint.pss", middle(whole), against, SAMPLES, spread)
    for name in PARTS:
        yield Figure(f"footprint.pss-{name}", middle(pss[name]), against, SAMPLES)
    yield Figure("footprint.uss", middle(uss), against, SAMPLES)


def idle(standing: Standing, parts: dict[str, int]) -> Iterator[Figure]:
    """Processor time and context switches over IDLE_S, in the quietest of up to WINDOWS.

    Gate hears of every process that starts or ends on this machine. Where others work on it, an
    idle gateway is not idle: a window with more than QUIET_EVENTS_S of such events is tried again,
    and what the figure was taken under stands in the row.
    """
    best = None
    for _ in range(WINDOWS):
        found = _idle_window(standing, parts)
        if best is None or found.events_s < best.events_s:
            best = found
        if best.events_s <= QUIET_EVENTS_S:
            break
    assert best is not None
    standing.readings()
    crowd = f"{best.events_s:.1f} process events/s on this machine meanwhile"
    if best.events_s > QUIET_EVENTS_S:
        crowd += ": NOT an idle machine"
    against = f"one core over {IDLE_S:.0f} s"
    for name, one in (("cpu", best.cpu), ("switches", best.switches)):
        each = ", ".join(f"{n} {v:.3g}" for n, v in one.items())
        yield Figure(f"footprint.idle-{name}", sum(one.values()), against, 1, f"{each}; {crowd}")


@dataclass(frozen=True, slots=True)
class _Window:
    """Per part: % of a core, switches per second; and process events of the machine."""

    cpu: dict[str, float]
    switches: dict[str, float]
    events_s: float


def _idle_window(standing: Standing, parts: dict[str, int]) -> _Window:
    events = standing.process_events()
    began = time.monotonic()
    before = {name: (proc.cpu_s(pid), proc.switches(pid)) for name, pid in parts.items()}
    time.sleep(IDLE_S)
    after = {name: (proc.cpu_s(pid), proc.switches(pid)) for name, pid in parts.items()}
    lasted_s = time.monotonic() - began
    return _Window(
        {n: 100 * (after[n][0] - before[n][0]) / lasted_s for n in PARTS},
        {n: (after[n][1] - before[n][1]) / lasted_s for n in PARTS},
        (standing.process_events() - events) / lasted_s,
    )


def first_report(standing: Standing) -> Figure:
    """Median of STARTS starts."""
    taken = []
    with standing.store() as db:
        for _ in range(STARTS):
            boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            standing.start()
            await_("verified report", partial(_reported, db, boot_ns), FIRST_REPORT_LIMIT_S, 0.01)
            taken.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - boot_ns) / 1e9)
            standing.stop()
    bare_s = middle(_bare_start_s() for _ in range(STARTS))
    return Figure(
        "footprint.first-report", middle(taken), f"bare interpreter's start {bare_s:.3f} s", STARTS,
        f"{min(taken):.2f} to {max(taken):.2f} s, {middle(taken) / bare_s:.0f} x bare",
    )  # fmt: skip


def _reported(db: sqlite3.Connection, since_ns: int) -> bool:
    """Is there a verified record made after since_ns that is not an introduction of a key?"""
    query = "SELECT 1 FROM record WHERE boot_ns > ? AND kind <> 'report-key' LIMIT 1"
    return db.execute(query, (since_ns,)).fetchone() is not None


def _bare_start_s() -> float:
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - began
