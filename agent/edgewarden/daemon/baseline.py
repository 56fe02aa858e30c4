"""Making and keeping the baseline: `policy learn`, `policy diff`, and dpkg's hook.

Rules in order:

1. One at a time: a second learn, or dpkg's hook beside it, waits for the first.
2. ``learn`` takes the system as it is. A policy file that is absent or holds no rule gets one to
   start from (settings/starting.py); a policy that somebody wrote is never touched.
3. ``rebaseline`` takes over what packages brought and holds on to the rest (baseline/change.py). It
   does nothing where nobody has learned: a hook is no reason to begin. It looks into folders that
   changed (baseline/folders.py), and compiles where that found something: apt runs dpkg several
   times, and most of them change no program.
4. The baseline is in place before the table that was compiled from it, and both before what says
   that they are (the folders; the digest of the baseline that was compiled): a power cut in between
   leaves a table that knows less, and the next compilation repairs it.

What it leaves to others: looking (baseline/), compiling (daemon/policy.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgewarden.baseline.change import Changes, changes, vouched
from edgewarden.baseline.folders import FOLDERS_NAME, Folders, database_stamps, usable
from edgewarden.baseline.hashing import Content, Stamp, dump_seen
from edgewarden.baseline.learn import (
    BASELINE_NAME,
    SEEN_NAME,
    Learned,
    Machine,
    kept,
    kept_folders,
    kept_stamps,
    learn,
)
from edgewarden.baseline.running import Contents, Starts, processes, services
from edgewarden.baseline.survey import CONFFILE, NOTHING_BEFORE, Finding, Since
from edgewarden.daemon.clock import SystemClock
from edgewarden.daemon.policy import (
    Compiled,
    build,
    compile_policy,
    compiled_from,
    last_table,
    user_number,
)
from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.exec.policy_files import DIRECTORY_MODE, POLICY_DIRECTORY, write_whole
from edgewarden.judge.exec_table import Table
from edgewarden.plain import dataclass
from edgewarden.probe.disk import Disk
from edgewarden.settings.files import read_policy, read_settings
from edgewarden.settings.schema import Settings
from edgewarden.settings.starting import starting_policy
from edgewarden.wire.baseline import Baseline, Entry

LOCK_NAME = "baseline.lock"
STALE_TIMES, STALE_MORE = 3, 20_000
"""Stamps beside those of the baseline's files: of what is no program, and of what is gone."""
THIS = Machine()
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a learning or an upgrade came to.

    Attributes:
        baseline: as it is kept now.
        findings: what is odd about files.
        faults: what could not be read of dpkg's database.
        held: files that an upgrade did not take over.
        hashed: files whose content was read, and ``hashed_bytes`` of it.
        looked_at: files seen.
        started_policy: a policy file was written.
        compiled: what followed.
    """

    baseline: Baseline
    findings: tuple[Finding, ...]
    faults: tuple[str, ...]
    held: tuple[Entry, ...]
    hashed: int
    hashed_bytes: int
    looked_at: int
    started_policy: bool
    compiled: Compiled


@dataclass(frozen=True, slots=True)
class Difference:
    """How far the system and the files of the policy have gone since they were taken.

    Attributes:
        files: of the system, against the baseline.
        findings: as in Taken.
        table: "same", "differs" or "none": what compiling the policy with the kept baseline gives,
            against the table in place.
    """

    files: Changes
    findings: tuple[Finding, ...]
    table: str


@dataclass(frozen=True, slots=True)
class Blocked:
    """What enforcing the table in place would stop.

    Attributes:
        denied: each with the rule that denies it, "" where none allows it.
        elsewhere: of those, the ones on filesystems that the settings do not name: nothing is
            stopped there.
        unread: their content cannot be had: gone, in memory only, or not there.
        asked: how many there were.
    """

    denied: tuple[tuple[Starts, str], ...]
    elsewhere: tuple[tuple[Starts, str], ...]
    unread: tuple[Starts, ...]
    asked: int


def learn_system(
    settings_path: str,
    roots: Sequence[str],
    *,
    full: bool,
    progress: Progress,
    machine: Machine = THIS,
) -> Taken:
    """Take a baseline of the whole system, write a policy to start from, compile.

    Args:
        roots: folders beside those that every survey walks and those of the settings.
        full: read every file, also those that look unchanged.
        progress: called with files done and their number.
        machine: this one.

    Raises:
        SettingsFaults: settings or policy.
        OperatorFault: no dpkg database, too many programs, or what compiling raises.
        HardwareFault: the disk refuses.
    """
    settings = read_settings(settings_path, Disk())
    folder = _folder(settings)
    with _alone(folder):
        more = (*settings.exec.roots, *roots)
        known = {} if full else kept_stamps(str(folder))
        whole = Since(Baseline((), {}), {}, machine.steady())
        found = _look(machine, more, known, progress=progress, since=whole)
        started = _start_policy(settings, found.survey.baseline)
        compiled = _keep(settings_path, folder, found, found.survey.baseline)
        _keep_seen(machine, folder, found, known, whole)
    return _taken(found, found.survey.baseline, (), compiled, started)


def rebaseline(settings_path: str, machine: Machine = THIS) -> Taken | None:
    """After dpkg has changed packages: take over what they brought. None where nobody has learned.

    Raises:
        As ``learn_system``.
    """
    settings = read_settings(settings_path, Disk())
    folder = _folder(settings)
    with _alone(folder):
        before = kept(str(folder))
        if before is None:
            return None
        known = kept_stamps(str(folder))
        since = _since(machine, folder, before, known)
        found = _look(machine, settings.exec.roots, known, progress=_quiet, since=since)
        changed = {one.path for one in found.survey.findings if one.kind == CONFFILE}
        baseline, held = vouched(before, found.survey.baseline, changed)
        same = not found.survey.hashed and baseline == before and not found.survey.units_changed
        compiled = compiled_from(folder) if same else None
        compiled = compiled or _keep(settings_path, folder, found, baseline)
        _keep_seen(machine, folder, found, known, since)
    return _taken(found, baseline, held, compiled, started=False)


def compare(
    settings_path: str, *, full: bool, progress: Progress, machine: Machine = THIS
) -> Difference:
    """The system against the baseline, the policy against the table; writes nothing.

    Raises:
        As ``learn_system``; OperatorFault EW-POL-004 where nobody has learned.
    """
    settings = read_settings(settings_path, Disk())
    folder = _folder(settings)
    before = kept(str(folder))
    if before is None:
        raise OperatorFault(
            "there is no baseline to compare with",
            code="EW-POL-004",
            next_step="run `edgewarden policy learn`",
        )
    known = {} if full else kept_stamps(str(folder))
    found = _look(machine, settings.exec.roots, known, progress=progress)
    last = last_table(folder)
    built = build(read_policy(settings.exec.policy, Disk()), before, settings.exec.link_user)
    table = "none"
    if last is not None:
        same = built.table(Table.load(last).generation) == last
        table = "same" if same else "differs"
    findings = tuple(found.survey.findings)
    return Difference(changes(before, found.survey.baseline), findings, table)


def would_block(settings_path: str) -> Blocked:
    """Ask the table in place about what runs now and what a unit would start.

    Raises:
        SettingsFaults: the settings.
        OperatorFault: EW-EXEC-014, nothing was compiled yet.
    """
    settings = read_settings(settings_path, Disk())
    folder = _folder(settings)
    data = last_table(folder)
    if data is None:
        raise OperatorFault(
            "there is no compiled policy to ask",
            code="EW-EXEC-014",
            next_step="run `edgewarden policy compile`",
        )
    table = Table.load(data)
    paths = Machine().paths()
    baseline = kept(str(folder)) or Baseline((), {})
    contents = Contents(paths, kept_stamps(str(folder)), baseline)
    watched = _devices(settings.exec.filesystems)
    denied: list[tuple[Starts, str]] = []
    elsewhere: list[tuple[Starts, str]] = []
    unread, asked = [], 0
    for one in (*processes(contents), *services(contents, paths, user_number)):
        asked += 1
        if not one.sha256:
            unread.append(one)
            continue
        rule = table.decide(one.sha256, one)
        if rule is None or not rule.allow:
            where = denied if one.device in watched else elsewhere
            where.append((one, "" if rule is None else rule.name))
    return Blocked(tuple(denied), tuple(elsewhere), tuple(unread), asked)


def _devices(filesystems: Sequence[str]) -> set[int]:
    found = set()
    for path in filesystems:
        with contextlib.suppress(OSError):
            found.add(os.stat(path).st_dev)
    return found


def _folder(settings: Settings) -> Path:
    return Path(settings.paths.state, POLICY_DIRECTORY)


def _quiet(done: int, of: int) -> None:
    """Nobody watches."""


def _look(
    machine: Machine,
    roots: Sequence[str],
    known: Mapping[Stamp, Content],
    *,
    progress: Progress,
    since: Since = NOTHING_BEFORE,
) -> Learned:
    return learn(machine, roots, known, started_ns=_now_ns(), progress=progress, since=since)


def _now_ns() -> int:
    return SystemClock().now().wall_ns


def _since(
    machine: Machine, folder: Path, before: Baseline, known: Mapping[Stamp, Content]
) -> Since:
    """What the hook need not look at. Stamps of what is gone are dropped by a whole survey alone,
    so there must be one now and then."""
    kept = kept_folders(str(folder))
    if len(known) > STALE_TIMES * len(before.entries) + STALE_MORE:
        kept = None
    folders = usable(kept, database_stamps(machine.paths()), now_ns=_now_ns())
    return Since(before, folders, machine.steady())


def _keep(settings_path: str, folder: Path, found: Learned, baseline: Baseline) -> Compiled:
    write_whole(str(folder), BASELINE_NAME, baseline.dump())
    return compile_policy(settings_path, baseline, stamps=found.survey.stamps)


def _keep_seen(
    machine: Machine, folder: Path, found: Learned, known: Mapping[Stamp, Content], since: Since
) -> None:
    """What the next survey need not read again: last, see rule 4."""
    survey = found.survey
    last = kept_folders(str(folder))
    stamps = {**known, **survey.stamps} if since.folders else survey.stamps
    if stamps != known:
        write_whole(str(folder), SEEN_NAME, dump_seen(stamps))
    full_ns = last.full_ns if last is not None and since.folders else _now_ns()
    fresh = Folders(full_ns, database_stamps(machine.paths()), survey.folders)
    if fresh != last:
        write_whole(str(folder), FOLDERS_NAME, fresh.dump())


def _start_policy(settings: Settings, baseline: Baseline) -> bool:
    path = Path(settings.exec.policy)
    if path.exists():
        policy = read_policy(str(path), Disk())
        if any(getattr(policy, field.name) for field in dataclasses.fields(policy)):
            return False
    write_whole(str(path.parent), path.name, starting_policy(baseline).encode("utf-8"))
    return True


def _taken(
    found: Learned,
    baseline: Baseline,
    held: tuple[Entry, ...],
    compiled: Compiled,
    started: bool,
) -> Taken:
    survey = found.survey
    return Taken(
        baseline,
        tuple(survey.findings),
        tuple(found.packages.faults),
        held,
        survey.hashed,
        survey.hashed_bytes,
        survey.looked_at,
        started,
        compiled,
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock; it goes with the process, so a crash leaves none behind."""
    try:
        folder.mkdir(DIRECTORY_MODE, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(folder / LOCK_NAME, flags, 0o600)
    except OSError as fault:
        raise HardwareFault(
            f"{folder}: {fault.strerror}",
            code="EW-EXEC-013",
            next_step="free space on the disk, or check that it is not read-only",
        ) from fault
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
