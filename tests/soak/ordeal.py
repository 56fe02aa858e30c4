"""A gateway through one bad day: what disturbs it, what it must come out with, how it looks.

Real: link as a process on a small ext4 of its own, a fleet with Mosquitto and verifier, two ptys.
Chance picks what happens next and when, from a seed; what was disturbed is put right within
seconds, and at the end everything is. Two boards speak JSON lines with a counter, one of them is
never unplugged.

    with ordeal(folder, seed=7) as day:
        day.run(600)
        seen = day.account()
    seen.missing == ()            numbers that the fleet has not, of the board never unplugged
    slope_mb(day.samples)         of the resident set, over the whole time
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import edgewarden
from edgewarden.wire import cose
from edgewarden.wire.facts import Reading, readings_from_senml
from edgewarden.wire.record import Kind, Record, RecordClass, decode_record
from edgewarden_fleet.ca.folder import FleetFolder
from hw.rigs.ptys import PtyPort
from tests.fleet.standing import ENV, Standing
from tests.system import loopfs
from tests.system.cards import Card
from tests.system.stepped_clock import SteppedClock
from tests.waiting import wait_until

DEVICE = "gw-soak"
IMAGE_MB = 32
LINE_S = 0.1
SAMPLE_S = 1.0
CALM_S = (1.0, 5.0)
"""Between two disturbances."""
LASTS_S = (0.5, 6.0)
END_S = 120.0
"""For the backlog at the end: records wait for a reconnection of a second and a token bucket."""
SETTINGS = """\
[[serial]]
name = "steady"
port = "{board}/steady"
baud = 115200
format = "jsonlines"
[[serial]]
name = "loose"
port = "{board}/loose"
baud = 115200
format = "jsonlines"
"""
CLOCKS_S = (3600, -1800, 86400, -90, 20 * 365 * 86400, 0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at link."""

    at_s: float
    rss_mb: float
    descriptors: int
    threads: int
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Account:
    """What the fleet holds in the end.

    Attributes:
        sent: numbers the steady board put on its line, all of them.
        missing: those of them that no verified record holds.
        unexplained: those of the missing that no signed gap lies between.
        twice: those that two records hold.
        holes: (class, first, last) of records that are missing without a signed gap.
        gaps: records named in signed gaps.
        told: facts that signed batches say found no room, of both boards.
        findings: kinds of findings the fleet made.
    """

    sent: int
    missing: tuple[int, ...]
    unexplained: int
    twice: tuple[int, ...]
    holes: tuple[tuple[str, int, int], ...]
    gaps: int
    told: int
    findings: frozenset[str]

    def in_silence(self) -> bool:
        """Is anything missing that no signed record accounts for?"""
        return self.unexplained > self.told


class Board(threading.Thread):
    """Two ports; a line with the next number on each, every LINE_S."""

    def __init__(self, folder: Path) -> None:
        super().__init__(name="soak-board")
        self.steady, self.loose = PtyPort(folder / "steady"), PtyPort(folder / "loose")
        self.sent = 0
        self.plugs = threading.Lock()
        self._ended = threading.Event()

    def run(self) -> None:
        """Speak until ``close``."""
        while not self._ended.wait(LINE_S):
            with self.plugs:
                line = b'{"n": %d}\n' % self.sent
                before = self.steady.dropped_bytes
                self.steady.send(line)
                # The kernel's buffer takes it whole unless the reader stood still for seconds.
                assert self.steady.dropped_bytes == before, "link left its port unread"
                self.loose.send(line)
                self.sent += 1

    def close(self) -> None:
        """Say nothing more; the ports stay."""
        self._ended.set()
        self.join()


@dataclass
class Day:
    """One ordeal; see the module."""

    fleet: Standing
    card: Card
    disk: loopfs.LoopFs
    board: Board
    clock: SteppedClock
    chance: random.Random
    samples: list[Sample] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    _began: float = 0.0

    # --- disturbances -----------------------------------------------------------------------------

    def stalled_broker(self) -> None:
        """It takes nothing and says nothing; the connection stays."""
        assert self.fleet.broker is not None
        self.fleet.broker.send_signal(signal.SIGSTOP)
        try:
            self._wait(self.chance.uniform(*LASTS_S))
        finally:
            self.fleet.broker.send_signal(signal.SIGCONT)

    def broker_away(self) -> None:
        """It ends, and comes again."""
        self.fleet.stop_broker()
        try:
            self._wait(self.chance.uniform(*LASTS_S))
        finally:
            self.fleet.start_broker()

    def unplugged(self) -> None:
        """The loose board's adapter is pulled and put back."""
        with self.board.plugs:
            self.board.loose.unplug()
        try:
            self._wait(self.chance.uniform(*LASTS_S))
        finally:
            with self.board.plugs:
                self.board.loose.plug()

    def full_disk(self) -> None:
        """Somebody else takes every block, and gives them back."""
        hog = self.disk.root / "hog"
        try:
            with hog.open("ab") as file, contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(1 << 16))
            self._wait(self.chance.uniform(*LASTS_S))
        finally:
            hog.unlink(missing_ok=True)

    def stepped_clock(self) -> None:
        """Link's wall clock is somewhere else; a later step brings it back."""
        step_s = self.chance.choice(CLOCKS_S)
        self.told.append(f"by {step_s} s")
        self.clock.ahead(step_s)

    def start_link(self) -> None:
        """Start it under the clock that is set; the machine's own at first."""
        # It ends with the test, however that ends: a port's number is soon somebody else's.
        alone = ["setpriv", "--pdeathsig", "KILL"]
        line = [*alone, sys.executable, "-m", "edgewarden", "link", "--settings"]
        env = {**ENV, **self.clock.environment}
        with self.card.log.open("ab") as log:
            self.card.link = subprocess.Popen(
                [*line, str(self.card.settings)], env=env, stdout=log, stderr=log
            )

    def kill_link(self) -> dict[str, int]:
        """SIGKILL; returns what it had promised a moment before: class -> durable."""
        status = self.card.status().get("spool")
        self.card.end(signal.SIGKILL)
        return {c: s["durable"] for c, s in status.items()} if isinstance(status, dict) else {}

    def heads(self) -> dict[str, int]:
        """Class -> the highest sequence of which the verifier has it and all before."""
        chain = self.fleet.show(DEVICE)["chain"]
        assert isinstance(chain, dict)
        return {str(c): int(one["head"]) for c, one in chain.items()}

    # --- the day ----------------------------------------------------------------------------------

    def run(self, lasts_s: float) -> None:
        """Disturb for so many seconds, then put everything right and wait for the backlog."""
        self._began = time.monotonic()
        disturb: tuple[Callable[[], None], ...] = (
            self.stalled_broker, self.broker_away, self.unplugged, self.full_disk,
            self.stepped_clock,
        )  # fmt: skip
        turn: list[Callable[[], None]] = []
        while time.monotonic() - self._began < lasts_s:
            self._wait(self.chance.uniform(*CALM_S))
            if not turn:  # each once before any comes again
                turn = self.chance.sample(disturb, len(disturb))
            what = turn.pop()
            self.told.append(f"{time.monotonic() - self._began:.0f} s: {what.__name__}")
            what()
        self.clock.ahead(0)
        self.board.close()
        wait_until(self._all_there, END_S)

    def _wait(self, lasts_s: float) -> None:
        until = time.monotonic() + lasts_s
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(left_s, SAMPLE_S))
            self._sample()

    def _sample(self) -> None:
        assert self.card.link is not None
        assert self.card.link.poll() is None, (
            f"link ended ({self.card.link.returncode}): " + self.card.log.read_text()[-2000:]
        )
        at = Path(f"/proc/{self.card.link.pid}")
        fields = (at / "stat").read_text().rpartition(")")[2].split()
        pages = int((at / "statm").read_text().split()[1])
        self.samples.append(
            Sample(
                time.monotonic() - self._began,
                pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
                len(list((at / "fd").iterdir())),
                int(fields[17]),
                (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            )
        )

    # --- the account ------------------------------------------------------------------------------

    def _all_there(self) -> bool:
        """Has the fleet all that link calls durable, with nothing more to come?"""
        spool = self.card.status().get("spool")
        if not isinstance(spool, dict):
            return False
        chain = self.fleet.show(DEVICE)["chain"]
        assert isinstance(chain, dict)
        waits = any(s["acked"] < s["durable"] for s in spool.values())
        last = self.board.sent - 1
        return not waits and last in self._numbers() and bool(chain)

    def _numbers(self) -> list[int]:
        """Each number of the steady board, as often as a verified record holds it."""
        return [number for number, _ in self._placed()]

    def _placed(self) -> Iterator[tuple[int, int]]:
        """(number, sequence of the record that holds it)."""
        for record in self._batches():
            readings = readings_from_senml(record.body["readings"], record.time.boot_ns)
            for r in readings:
                if r.source == "steady" and r.name == "n":
                    yield from ((number, record.seq) for number in numbers_in(r))

    def _batches(self) -> Iterator[Record]:
        for data in self._records(RecordClass.BULK):
            record = decode_record(cose.open_envelope(data, cose.ContentType.RECORD).payload)
            if record.kind == Kind.BATCH:
                yield record

    def _records(self, record_class: RecordClass) -> list[bytes]:
        with self._store() as db:
            query = "SELECT data FROM record WHERE device = ? AND class = ? ORDER BY seq"
            return [row[0] for row in db.execute(query, (DEVICE, int(record_class)))]

    @contextmanager
    def _store(self) -> Iterator[sqlite3.Connection]:
        path = FleetFolder(self.fleet.folder).database
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)
        try:
            yield db
        finally:
            db.close()

    def forget_one_batch(self) -> None:
        """For the control: a fleet that lost what it had."""
        with contextlib.closing(
            sqlite3.connect(FleetFolder(self.fleet.folder).database, timeout=60)
        ) as db:
            seqs = [
                seq
                for seq, data in db.execute(
                    "SELECT seq, data FROM record WHERE class = ?", (int(RecordClass.BULK),)
                )
                if b"steady" in data
            ]
            db.execute(
                "DELETE FROM record WHERE class = ? AND seq = ?",
                (int(RecordClass.BULK), seqs[len(seqs) // 2]),
            )
            db.commit()

    def account(self) -> Account:
        """What came of it."""
        placed = list(self._placed())
        numbers, there = [number for number, _ in placed], dict(placed)
        with self._store() as db:
            gaps = list(
                db.execute(
                    "SELECT class, first, last, explained FROM gap WHERE device = ?", (DEVICE,)
                )
            )
            query = "SELECT first, last, class FROM gap_note WHERE device = ?"
            notes = list(db.execute(query, (DEVICE,)))
            kinds = {
                row[0] for row in db.execute("SELECT kind FROM finding WHERE device = ?", (DEVICE,))
            }
        return Account(
            self.board.sent,
            tuple(sorted(set(range(self.board.sent)) - there.keys())),
            unexplained(there, self.board.sent, [n[:2] for n in notes if n[2] == RecordClass.BULK]),
            tuple(sorted(n for n in there if numbers.count(n) > 1)),
            tuple((RecordClass(c).name, a, b) for c, a, b, explained in gaps if explained is None),
            sum(last - first + 1 for first, last, _ in notes),
            sum(int(b.body["counts"].get("bulk_no_room", 0)) for b in self._batches()),
            frozenset(kinds),
        )


def unexplained(places: Mapping[int, int], sent: int, gaps: Sequence[tuple[int, int]]) -> int:
    """How many of the first ``sent`` numbers are missing where no signed gap lies between.

    Args:
        places: number -> sequence of the record that holds it.
        gaps: first and last sequence of each.
    """
    found = run = before = 0
    for number in range(sent + 1):
        seq = places.get(number) if number < sent else sys.maxsize
        if seq is None:
            run += 1
            continue
        if run and not any(first < seq and last > before for first, last in gaps):
            found += run
        run, before = 0, seq
    return found


def numbers_in(reading: Reading) -> list[int]:
    """The numbers that one reading stands for: under overload (daemon/overload.py) several in a
    row, whose count says whether all between the least and the greatest are meant."""
    of = reading.spread
    if of is None:
        return [int(reading.value)]
    assert of.low is not None, reading
    assert of.high is not None, reading
    least, greatest = int(of.low), int(of.high)
    assert of.count == greatest - least + 1, reading
    return list(range(least, greatest + 1))


def slope_mb(samples: list[Sample], since_s: float = 60.0) -> float:
    """By how much the resident set grew from ``since_s`` on, by the line of least squares."""
    taken = [s for s in samples if s.at_s >= since_s]
    if len(taken) < 2:
        return 0.0
    mean_s = sum(s.at_s for s in taken) / len(taken)
    mean_mb = sum(s.rss_mb for s in taken) / len(taken)
    over = sum((s.at_s - mean_s) ** 2 for s in taken)
    slope = sum((s.at_s - mean_s) * (s.rss_mb - mean_mb) for s in taken) / over
    return slope * (taken[-1].at_s - taken[0].at_s)


@contextmanager
def ordeal(folder: Path, seed: int) -> Iterator[Day]:
    """Everything stands; afterwards nothing does."""
    as_installed()
    fleet = Standing(folder / "fleet", "--attestation-period", "5")
    boards = folder / "board"
    boards.mkdir()
    board = Board(boards)
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.close)
        disk = stack.enter_context(loopfs.made(folder / "disk", IMAGE_MB))
        fleet.state = disk.root
        fleet.start_broker()
        fleet.start_server()
        fleet.enrol(DEVICE)
        card = Card(disk.root / DEVICE)
        text = card.settings.read_text().replace("[spool]\n", "[spool]\ncap_percent = 95\n")
        card.settings.write_text(text + SETTINGS.format(board=boards))
        stack.enter_context(board.steady)
        stack.enter_context(board.loose)
        stack.callback(card.end, signal.SIGKILL)
        clock = SteppedClock(folder / "clock")
        day = Day(fleet, card, disk, board, clock, random.Random(seed))
        day.start_link()
        await_live(card)
        board.start()
        stack.callback(board.close)
        yield day


def as_installed() -> None:
    """Compile the whole package, as an installer does.

    Link's first evidence compares each compiled file with its source. Where that is half of them,
    the interpreter's table of names is half filled by it and doubles (0.5 MB) some minutes later;
    and each module that another command then compiles is a change that evidence looks into.
    """
    line = [sys.executable, "-m", "compileall", "-q", str(Path(edgewarden.__file__).parent)]
    subprocess.run(line, check=True, timeout=300)


def await_live(card: Card, limit_s: float = 90.0) -> None:
    """Until link is connected and has both ports; says what is missing where it does not come."""
    try:
        wait_until(lambda: _live(card), limit_s)
    except TimeoutError as late:
        ended = None if card.link is None else card.link.poll()
        status = card.status()
        said = {name: status.get(name) for name in ("sensors", "uplink", "reasons", "clock")}
        log = card.log.read_text()[-2000:]
        raise AssertionError(f"link is not live (exit {ended}): {said}\n{log}") from late


def _live(card: Card) -> bool:
    """Connected, and both ports open."""
    status = card.status()
    sensors, uplink = status.get("sensors"), status.get("uplink")
    if not isinstance(sensors, dict) or not isinstance(uplink, dict):
        return False
    opened = all(one["state"] not in ("closed", "reopen") for one in sensors.values())
    return bool(uplink["connected"]) and len(sensors) == 2 and opened
