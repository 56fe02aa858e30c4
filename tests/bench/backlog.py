"""What a full spool costs: memory, the start, and the alarm that comes while it waits.

    data.4.2          resident set of link with a million records in its spool, less one with none
    data.4.10-start   start of link to its READY=1 on a full spool of 256 MB   against   on none
    data.4.10-alarm   records of the backlog that the broker has before the first alarm of a start
    data.4.9-alarm    alarms on a link of 64 kbit/s (tbf on a veth pair) with a million records
                      behind them: 99th percentile, less that of the same link idle

The records are real ones: made, signed and stored by the product, a thousand a commit
(tests/filled.py), and `edgewarden spool verify` accepts the spool before anything is measured.
Full means bulk and audit to their shares of the default cap; what is left is the alarms' own tenth.
The alarm of 4.10 is the one that the full spool itself raises: what had to go for the first audit
record of the start.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from edgewarden.record import reader
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import Kind, RecordClass, decode_record
from tests import filled
from tests.bench import proc
from tests.bench.linked import DEVICE, Site
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.bench.rows import Figure, Spec, middle
from tests.broker import Subscriber

RECORDS = int(os.environ.get("EW_BENCH_RECORDS", "1000000"))
CAP_BYTES = 256 << 20
CAP = "[spool]\ncap_percent = 95\n"
"""That much, however small the filesystem of the bench is."""
RUNS, STARTS = 3, 5
WARM_UP_S, LOOKS = 14.0, 5
"""Link gives back what its start needed after ten seconds; the backlog drains meanwhile."""
ALARMS = 60
SLOW_LIMIT_S = 1200

SPECS = (
    Spec("data.4.2", f"resident set of link, {RECORDS:,} records in the spool and draining, less"
         " the same with none", "MB", 4.0),
    Spec("data.4.10-start", "start of link to READY=1, spool of 256 MB full / empty", "x", 1.5),
    Spec("data.4.10-alarm", "records of a full spool that the broker has before the first alarm of"
         " this start", "records", 0),
    Spec("data.4.9-alarm", f"99th percentile of {ALARMS} alarms on a link of 64 kbit/s, {RECORDS:,}"
         " records draining, less the same without any", "s", 1.0),
)  # fmt: skip


def measure(place: Place) -> Iterator[Figure]:
    """The figures of this file."""
    site = Site(place, "backlog")
    who = site.signer, site.chain
    full = site.folder / "full-spool"
    filled.fill(full, CAP_BYTES, DEVICE, who)
    check(full)
    yield from starts(site, full)
    yield first_alarm(site, full)
    shutil.rmtree(full)
    many = site.folder / "many-spool"
    began = time.perf_counter()
    filled.write(many, RECORDS, DEVICE, who)
    made_s = time.perf_counter() - began
    check(many)
    yield memory(site, many, f"made in {made_s:.0f} s")
    yield slow_link(place, many)


def check(state: Path) -> None:
    """Refuse a spool that the product's own reader finds anything wrong with."""
    report = reader.verify(state)
    if not report.ok:
        faults = [fault for one in report.classes.values() for fault in one.faults]
        raise CannotMeasure(f"the spool made here is not whole: {faults[:3]}")


def memory(site: Site, many: Path, note: str) -> Figure:
    """Both by turns, each on a spool of its own."""
    site.listener()
    found: dict[str, list[float]] = {"many": [], "none": []}
    for run in range(RUNS):
        for name, taken in found.items():
            state = site.state(f"{name}-{run}")
            if name == "many":
                filled.borrow(many, state)
            with site.start(state, CAP) as link:
                time.sleep(WARM_UP_S)
                looks = []
                for _ in range(LOOKS):
                    time.sleep(0.5)
                    looks.append(proc.rss_mb(link.pid))
                link.check()
            taken.append(max(looks))
            shutil.rmtree(state)
    pairs = zip(found["many"], found["none"], strict=True)
    against = f"{middle(found['none']):.1f} MB with none, {middle(found['many']):.1f} MB with them"
    return Figure("data.4.2", middle(a - b for a, b in pairs), against, RUNS, note)


def starts(site: Site, full: Path) -> Iterator[Figure]:
    """Both by turns; the first turn fills the page cache."""
    taken: dict[str, list[float]] = {"full": [], "empty": []}
    for run in range(STARTS + 1):
        for name, spent in taken.items():
            state = site.state(f"start-{name}-{run}")
            if name == "full":
                filled.borrow(full, state)
            with site.start(state, CAP) as link:
                if run:
                    spent.append(link.ready_s)
            shutil.rmtree(state)
    held = sum(one.bytes for one in reader.stat(full).values()) >> 20
    ratio = middle(a / b for a, b in zip(taken["full"], taken["empty"], strict=True))
    against = f"{1e3 * middle(taken['empty']):.0f} ms with an empty one"
    note = f"{1e3 * middle(taken['full']):.0f} ms with {held} MB"
    yield Figure("data.4.10-start", ratio, against, STARTS, note)


def first_alarm(site: Site, full: Path) -> Figure:
    """What the broker heard before it."""
    fleet = site.pki.context(site.pki.folder / "fleet.pem", site.pki.folder / "fleet.key")
    before = []
    for run in range(RUNS):
        state = site.state(f"alarm-{run}")
        filled.borrow(full, state)
        with (
            Subscriber(site.broker.port, fleet, ["ew/1/#"]) as heard,
            site.start(state, CAP) as link,
        ):
            await_("alarm", lambda h=heard: _alarm_at(h) is not None, 30)  # type: ignore[misc]
            place = _alarm_at(heard)
            link.check()
        assert place is not None
        topics = [topic for topic, _, _ in heard.messages[:place]]
        before.append(sum("/r/" in t and not t.endswith("/r/alarm") for t in topics))
        shutil.rmtree(state)
    return Figure("data.4.10-alarm", max(before), f"each of {RUNS} starts: {before}", RUNS)


def _alarm_at(heard: Subscriber) -> int | None:
    """Place of the first alarm that is an event: each start introduces its key there, too."""
    for at, (topic, payload, _) in enumerate(list(heard.messages)):
        if topic.endswith(f"/r/{RecordClass.ALARM.label}"):
            record = decode_record(cose.open_envelope(payload, ContentType.RECORD).payload)
            if record.kind == Kind.EVENT:
                return at
    return None


def slow_link(place: Place, many: Path) -> Figure:
    """tests/system/slow_link.py in namespaces of its own."""
    folder = place.folder / "slow"
    filled.borrow(many, folder / "full")
    line = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.system.slow_link"]
    done = subprocess.run(
        [*line, str(folder), str(RECORDS), str(ALARMS), str(RUNS)],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, timeout=SLOW_LIMIT_S, check=False,
        env={"PYTHONPATH": f"{ROOT / 'agent'}:{ROOT}", "PATH": os.environ.get("PATH", "")},
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotMeasure(
            f"slow_link ended with {done.returncode}: {done.stderr.decode()[-300:]}"
        )
    turns = [json.loads(text) for text in done.stdout.splitlines()]
    if any(turn[phase]["heard"] != ALARMS for turn in turns for phase in ("idle", "full")):
        raise CannotMeasure("not every alarm was heard")
    waiting = min(turn["full"]["waiting"] for turn in turns)
    later = middle(turn["full"]["p99_s"] - turn["idle"]["p99_s"] for turn in turns)
    idle = middle(turn["idle"]["p99_s"] for turn in turns)
    grown = max(turn["full"]["rss_most"] - turn["full"]["rss_first"] for turn in turns) / proc.MB
    median_s = middle(turn["full"]["p50_s"] for turn in turns)
    return Figure(
        "data.4.9-alarm", later, f"{idle:.2f} s idle", RUNS,
        f"half of them within {median_s:.2f} s, {waiting:,} records waited to the end, memory grew"
        f" by {grown:.1f} MB",
    )  # fmt: skip
