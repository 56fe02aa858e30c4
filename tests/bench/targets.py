"""The targets of the data plane that speak of the whole process, beside the peers they name.

    data.4.1               resident set of link, eight ports   against   bare interpreter
    data.4.1-node          the same   against   prometheus-node-exporter, scraped each 10 s
    data.4.1-thingsboard   the same   against   ThingsBoard gateway, its service module imported
    data.4.1-monit         the same   against   monit, four checks each 10 s
    data.4.5-version       `edgewarden --version`   against   a bare interpreter's start
    data.4.5-import        importing all that link imports   against   the same
    data.4.5-puback        start of link to its first acknowledged record   against   the same
    data.4.6               link's processor time while ports say little   against   collectd, 10 s
    data.4.6-monit         the same   against   monit, four checks each 10 s
    data.4.6-switches      link's context switches meanwhile, less one for each burst of a port
    data.idle-written      bytes given to a disk by gate, guard and link between two commits

collectd runs six plugins (cpu, memory, swap, disk, interface, load) and writes CSV, each 10 s, in
the bench's own folder. monit looks at the system, a filesystem, a process and a file's checksum.
The ThingsBoard gateway is imported in a venv of its own (requirements/thingsboard.in), in a network
namespace without an address: it asks its maker's host for updates. The processes measured run on
the private interpreter (private.py).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hw.rigs.ports import free_port
from tests.bench import private, proc
from tests.bench.place import ROOT, CannotMeasure, Place, await_, stop
from tests.bench.rows import Figure, Spec, middle
from tests.bench.talker import NAMES, SLOW_S

WARM_UP_S = 25.0
IDLE_S = 40.0
COMMIT_S, SETTLE_S = 60, 3.0
RUNS = 5
PERIOD_S = 10
COLLECTD = """\
Hostname "bench"
BaseDir "{folder}"
PIDFile "{folder}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
Interval {period}
LoadPlugin cpu
LoadPlugin memory
LoadPlugin swap
LoadPlugin disk
LoadPlugin interface
LoadPlugin load
LoadPlugin csv
<Plugin csv>
  DataDir "{folder}/csv"
</Plugin>
"""

MONIT = """\
set daemon {period}
set pidfile {folder}/monit.pid
set idfile {folder}/monit.id
set statefile {folder}/monit.state
check system bench if memory usage > 99% then alert
check filesystem root with path / if space usage > 99% then alert
check process link with pidfile {folder}/link.pid if cpu > 99% for 60 cycles then alert
check file checked with path {folder}/checked if failed checksum then alert
"""
THINGSBOARD = ROOT / ".venv-thingsboard" / "bin" / "python"

SPECS = (
    Spec("data.4.1", "resident set of link, mutual TLS up, 8 ports delivering, / bare interpreter",
         "x", 4.5),
    Spec("data.4.1-node", "the same / prometheus-node-exporter, scraped each 10 s", "x", 2.0),
    Spec("data.4.1-thingsboard", "the same / ThingsBoard gateway 3.8.5, its service module"
         " imported", "x", 0.65),
    Spec("data.4.1-monit", "the same / monit, four checks each 10 s (in C)", "x", 6.0),
    Spec("data.4.5-version", "`edgewarden --version` / start of a bare interpreter", "x", 2.5),
    Spec("data.4.5-import", "importing what link imports / start of a bare interpreter", "x", 4.0),
    Spec("data.4.5-puback", "start of the gateway to its first acknowledged record / bare start",
         "x", 12.0),
    Spec("data.4.6", "processor time of link, host sample each 10 s / collectd, six plugins, 10 s",
         "x", 2.0),
    Spec("data.4.6-monit", "the same / monit, four checks each 10 s", "x", 50.0),
    Spec("data.4.6-switches", "context switches of link, less one for each burst of a port", "1/s",
         2.0),
    Spec("data.idle-written", "bytes written by gate, guard and link in an idle minute between two"
         " commits", "B", 0.0),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    from tests.bench.standing import Standing  # puts the demo's folder on the path

    interpreter = place.interpreter
    yield from starts(interpreter)
    with Standing(place) as standing:
        bare = bare_rss_mb(interpreter)
        supervisor = standing.start(interpreter)
        standing.await_connected()
        link = standing.parts(supervisor)["link"]
        node = start_node_exporter(place)
        collectd, monit = start_collectd(place), start_monit(place, link)
        end_mono = time.monotonic() + WARM_UP_S
        while time.monotonic() < end_mono:
            scrape(node)
            time.sleep(5)
        rss = middle(proc.rss_mb(link) for _ in range(3))
        node_rss = proc.rss_mb(node.pid)
        yield Figure("data.4.1", rss / bare, f"{rss:.1f} MB; bare interpreter {bare:.1f} MB", 3)
        yield Figure(
            "data.4.1-node", rss / node_rss, f"prometheus-node-exporter {node_rss:.1f} MB", 3
        )
        monit_rss, board_rss = proc.rss_mb(monit.pid), thingsboard_rss_mb(place)
        yield Figure("data.4.1-thingsboard", rss / board_rss, f"its imports {board_rss:.1f} MB", 3)
        yield Figure("data.4.1-monit", rss / monit_rss, f"monit {monit_rss:.1f} MB", 3)
        standing.talker.send_signal(signal.SIGUSR1)
        time.sleep(SLOW_S)
        yield from idle(standing.process_events, link, collectd.pid, monit.pid)
        standing.stop()
        yield first_puback(standing, interpreter)
        yield written(standing, interpreter)


def idle(  # type: ignore[no-untyped-def]
    events, link: int, collectd: int, monit: int
) -> Iterator[Figure]:
    """Processor time of all over the same window; link's context switches."""
    pids = link, collectd, monit
    began, heard = time.monotonic(), events()
    before, switched = [proc.cpu_s(pid) for pid in pids], proc.switches(link)
    time.sleep(IDLE_S)
    lasted_s = time.monotonic() - began
    ours, theirs, small = (proc.cpu_s(p) - b for p, b in zip(pids, before, strict=True))
    switches = (proc.switches(link) - switched) / lasted_s
    crowd = f"{(events() - heard) / lasted_s:.1f} process events/s on this machine meanwhile"
    yield Figure(
        "data.4.6", ours / theirs, f"collectd {100 * theirs / lasted_s:.3f} % of a core", 1,
        f"link {100 * ours / lasted_s:.3f} %; {crowd}",
    )  # fmt: skip
    if small > 0:  # else it took less than the kernel's clock tick tells: no ratio
        yield Figure(
            "data.4.6-monit", ours / small, f"monit {100 * small / lasted_s:.3f} % of a core", 1
        )
    bursts = len(NAMES) / SLOW_S
    yield Figure(
        "data.4.6-switches", switches - bursts, f"{bursts:.1f} bursts/s taken off", 1, crowd
    )


# --- starts --------------------------------------------------------------------------------


def starts(interpreter: private.Interpreter) -> Iterator[Figure]:
    """Wall time of cold processes, in turns."""
    python = str(interpreter.python)
    lines = {
        "bare": [python, "-c", "pass"],
        "version": [python, "-m", "edgewarden", "--version"],
        "import": [
            python, "-c",
            "from edgewarden.daemon.lean import LAZY, lazily; lazily(*LAZY);"
            "import edgewarden.daemon.link",
        ],
    }  # fmt: skip
    taken: dict[str, list[float]] = {name: [] for name in lines}
    for turn in range(RUNS + 1):
        for name, line in lines.items():
            began = time.perf_counter()
            subprocess.run(
                line, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=private.environment(interpreter), cwd=ROOT / "agent",
            )  # fmt: skip
            if turn:  # the first round fills the page cache
                taken[name].append(time.perf_counter() - began)
    bare = middle(taken["bare"])
    for name in ("version", "import"):
        yield Figure(
            f"data.4.5-{name}", middle(taken[name]) / bare, f"bare interpreter {1e3 * bare:.1f} ms",
            RUNS, f"{1e3 * middle(taken[name]):.1f} ms",
        )  # fmt: skip


def first_puback(standing, interpreter: private.Interpreter) -> Figure:  # type: ignore[no-untyped-def]
    """From the supervisor's start of all parts to a record in the verifier's store."""
    from tests.bench.footprint import FIRST_REPORT_LIMIT_S, _bare_start_s, _reported

    taken = []
    with standing.store() as db:
        for _ in range(RUNS):
            since_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            standing.start(interpreter)
            await_("record", partial(_reported, db, since_ns), FIRST_REPORT_LIMIT_S, 0.01)
            taken.append((time.clock_gettime_ns(time.CLOCK_BOOTTIME) - since_ns) / 1e9)
            standing.stop()
    bare = middle(_bare_start_s() for _ in range(RUNS))
    return Figure(
        "data.4.5-puback", middle(taken) / bare, f"bare interpreter {1e3 * bare:.1f} ms", RUNS,
        f"{1e3 * middle(taken):.0f} ms from `edgewarden run`, all parts, to the verifier's store",
    )  # fmt: skip


def written(standing, interpreter: private.Interpreter) -> Figure:  # type: ignore[no-untyped-def]
    """From just behind a commit to just before the next one, which is COMMIT_S away."""
    with standing.gateway.settings.open("a") as settings:
        settings.write(f"[spool]\nbulk_commit_s = {COMMIT_S}\n")
    standing.talker.send_signal(signal.SIGUSR1)
    supervisor = standing.start(interpreter)
    standing.await_connected()
    parts = standing.parts(supervisor)
    time.sleep(COMMIT_S / 2)  # what a start has to say is said
    before = _written_bytes(parts)
    await_("commit", lambda: _written_bytes(parts) > before, COMMIT_S + 10, 0.2)
    time.sleep(SETTLE_S)
    began, events = _written_bytes(parts), standing.process_events()
    time.sleep(COMMIT_S - 3 * SETTLE_S)
    lasted_s = COMMIT_S - 3 * SETTLE_S
    crowd = (standing.process_events() - events) / lasted_s
    bytes_ = _written_bytes(parts) - began
    standing.stop()
    return Figure(
        "data.idle-written", bytes_, f"{lasted_s:.0f} s, commits each {COMMIT_S} s", 1,
        f"{crowd:.1f} process events/s on this machine meanwhile",
    )  # fmt: skip


def _written_bytes(parts: dict[str, int]) -> int:
    """write_bytes of /proc/PID/io: pages dirtied for a disk."""
    found = 0
    for pid in parts.values():
        for line in Path(f"/proc/{pid}/io").read_text().splitlines():
            name, _, value = line.partition(":")
            found += int(value) if name == "write_bytes" else 0
    return found


# --- peers --------------------------------------------------------------------------------


def bare_rss_mb(interpreter: private.Interpreter) -> float:
    """An interpreter that imports time and sleeps."""
    bare = subprocess.Popen(
        [interpreter.python, "-c", "import time; print(flush=True); time.sleep(60)"],
        env=private.environment(interpreter), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert bare.stdout is not None
        bare.stdout.read(1)
        return proc.rss_mb(bare.pid)
    finally:
        stop(bare)


def start_node_exporter(place: Place) -> subprocess.Popen[bytes]:
    """On a free port of loopback."""
    program = shutil.which("prometheus-node-exporter")
    if program is None:
        raise CannotMeasure("no prometheus-node-exporter")
    port = free_port()
    process = place.start(program, f"--web.listen-address=127.0.0.1:{port}", name="node-exporter")
    process.port = port  # type: ignore[attr-defined]
    await_("prometheus-node-exporter", partial(_scraped, port), 20)
    return process


def scrape(process: subprocess.Popen[bytes]) -> None:
    """Once, as Prometheus does."""
    _scraped(process.port)  # type: ignore[attr-defined]


def _scraped(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return bool(answer.read())
    except OSError:
        return False


def start_collectd(place: Place) -> subprocess.Popen[bytes]:
    """In the foreground; it counts when it has written a file."""
    program = shutil.which("collectd") or "/usr/sbin/collectd"
    if not os.path.exists(program):
        raise CannotMeasure("no collectd")
    folder = place.folder / "collectd"
    folder.mkdir()
    settings = folder / "collectd.conf"
    settings.write_text(COLLECTD.format(folder=folder, period=PERIOD_S))
    process = place.start(program, "-f", "-C", settings, name="collectd")
    await_("collectd", partial(_written, folder / "csv"), 2 * PERIOD_S + 5)
    return process


def start_monit(place: Place, link: int) -> subprocess.Popen[bytes]:
    """In the foreground; it counts when it has kept its state."""
    program = shutil.which("monit")
    if program is None:
        raise CannotMeasure("no monit")
    folder = place.folder / "monit"
    folder.mkdir()
    (folder / "link.pid").write_text(f"{link}\n")
    (folder / "checked").write_bytes(bytes(4096))
    settings = folder / "monitrc"
    settings.write_text(MONIT.format(folder=folder, period=PERIOD_S))
    settings.chmod(0o600)
    process = place.start(program, "-I", "-c", settings, name="monit")
    await_("monit", (folder / "monit.state").exists, 2 * PERIOD_S)
    return process


def thingsboard_rss_mb(place: Place) -> float:
    """Its service module, imported and nothing started."""
    if not THINGSBOARD.exists():
        raise CannotMeasure("no .venv-thingsboard: requirements/venv.sh makes it")
    told = place.folder / "imported"
    words = "import pathlib, time, thingsboard_gateway.gateway.tb_gateway_service;"
    words += f"pathlib.Path({str(told)!r}).touch(); time.sleep(60)"
    process = place.start("unshare", "--net", THINGSBOARD, "-c", words, name="thingsboard")
    await_("ThingsBoard gateway's import", told.exists, 30)
    found = proc.rss_mb(process.pid)
    stop(process)
    return found


def _written(folder: Path) -> bool:
    return folder.exists() and any(folder.rglob("*"))
