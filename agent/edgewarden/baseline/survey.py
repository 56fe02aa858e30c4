"""The survey: every program of a system, hashed, with the package that brought it.

What this decides: which files belong to the baseline and what is odd about them. What it leaves to
others: the file format (wire/baseline.py), what a policy makes of it (judge/programs.py), where the
result is kept (daemon/).

Rules in order:

1. Looked at is what lies below the roots, and what a package lists elsewhere. No link is followed
   to get there, and no network, fuse or pseudo filesystem is entered (paths.py).
2. Opened is what may be code (kinds.py), kept what is. Opening takes no link and waits for nothing.
3. Content is hashed by SHA-256, several files at once. A file whose identity (device, inode, ctime,
   mtime, size) is that of the last survey keeps its digest, unless everything is to be read
   (``full``): a store through a mapping may leave them all as they were.
4. A package's file is compared with the MD5 that dpkg has. Another content is a finding and counts
   as nobody's (``differs``), unless it is a conffile, which people may change. (One that was
   unpacked and not yet configured has no MD5: it is not yet what the package brought.) MD5 says
   nothing about an attacker who chose both; it shows what was changed since the installation.
5. Bytecode that Python made of a package's module belongs to that package.
6. What cannot be read, changes meanwhile or is too long for gate to hash is left out and named.
7. With ``since``, a folder that is as it was (folders.py) is not looked into: of its files stands
   what the last baseline says. Folders below it are looked at all the same.

    found = survey(Paths("/", barred), packages, DEFAULT_ROOTS, {}, started_ns=now)
    found.baseline.entries; found.findings
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from edgewarden.baseline.folders import Folder, stamp_of
from edgewarden.baseline.hashing import Content, Moving, Stamp, read_content, settled
from edgewarden.baseline.kinds import may_be_code
from edgewarden.baseline.packages import Packages
from edgewarden.baseline.paths import Paths
from edgewarden.errors import OperatorFault
from edgewarden.plain import dataclass, field
from edgewarden.wire.baseline import MAX_ALIASES, MAX_ENTRIES, Baseline, Entry

DEFAULT_ROOTS = (
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/srv",
    "/var/lib/dpkg/info",
)  # fmt: skip
"""Where Debian and its administrators put programs; homes are for `--roots`."""

MAX_PROGRAM_BYTES = 128 << 20
"""What gate hashes at most (exec/digest.py): a longer file cannot be allowed."""
WORKERS = 4
"""More do not help an SD card; hashlib and read(2) let the interpreter go."""
CHUNK_FILES = 32

_BYTECODE = re.compile(r"(.*)/__pycache__/([^/]+?)\.cpython-[0-9]+(?:\.opt-[12])?\.pyc")

DIFFERS, CONFFILE, UNREADABLE, MOVING, TOO_LARGE = (
    "differs", "conffile", "unreadable", "moving", "too_large",
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something odd about one file."""

    kind: str
    path: str
    package: str = ""


@dataclass(slots=True)
class Survey:
    """What was found.

    Attributes:
        baseline: files and aliases.
        findings: ascending.
        stamps: for the next survey.
        hashed: files whose content was read, and ``hashed_bytes`` of it.
        looked_at: files seen.
        folders: for the next survey.
        passed_over: folders that were as they had been.
        units_changed: of the others, one holds unit files, which say where a unit runs.
    """

    baseline: Baseline
    findings: list[Finding]
    stamps: dict[Stamp, Content]
    hashed: int = 0
    hashed_bytes: int = 0
    looked_at: int = 0
    folders: dict[str, Folder] = field(default_factory=dict)
    passed_over: int = 0
    units_changed: bool = False


@dataclass(frozen=True, slots=True)
class Since:
    """What the last survey left, for one that looks at changes alone.

    Attributes:
        before: the baseline that was made of it.
        folders: that may be passed over where they are as they were.
        steady: devices whose folders' times can be relied on; None: all of them.
    """

    before: Baseline
    folders: Mapping[str, Folder]
    steady: frozenset[int] | None

    def same(self, path: str, status: os.stat_result) -> Folder | None:
        """What is known of a folder that is as it was."""
        known = self.folders.get(path)
        return known if known is not None and known.stamp == stamp_of(status) else None


NOTHING_BEFORE = Since(Baseline((), {}), {}, frozenset())


@dataclass(slots=True)
class _Candidates:
    since: Since
    started_ns: int
    folders: dict[str, Folder] = field(default_factory=dict)
    same: set[str] = field(default_factory=set)
    units_changed: bool = False
    files: list[tuple[str, os.stat_result]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    looked_at: int = 0


def survey(
    paths: Paths,
    packages: Packages,
    roots: Sequence[str],
    known: Mapping[Stamp, Content],
    *,
    started_ns: int,
    progress: Callable[[int, int], None] = lambda done, of: None,
    since: Since = NOTHING_BEFORE,
) -> Survey:
    """Look at the system once; takes seconds.

    Args:
        roots: folders, as people name them; those that are not there are passed over.
        known: ``stamps`` of the last survey; {} reads everything.
        started_ns: the wall clock now.
        progress: called from this thread now and then with files done and their number.
        since: what need not be looked at again; everything is where nothing is given.

    Raises:
        OperatorFault: EW-POL-002, more programs than a baseline takes.
    """
    seen = _candidates(paths, packages, roots, _Candidates(since, started_ns))
    if len(seen.files) > MAX_ENTRIES:
        raise _too_many(len(seen.files), "files that may be programs")
    result = Survey(Baseline((), {}), seen.findings, {}, looked_at=seen.looked_at)
    result.folders, result.passed_over = seen.folders, len(seen.same)
    result.units_changed = seen.units_changed
    entries = [e for e in since.before.entries if e.path.rpartition("/")[0] in seen.same]
    for path, status, content in _contents(paths, packages, seen.files, known, result, progress):
        if settled(status, started_ns):
            result.stamps[Stamp.of(status)] = content
        if content.kind:
            entry = _entry(path, content, status, packages, result.findings)
            entries.append(entry)
            if not entry.package or entry.differs:
                result.folders.pop(path.rpartition("/")[0], None)  # see folders.py, rule 1
    entries.sort(key=lambda entry: entry.path)
    aliases = _aliases(paths, seen.links, [entry.path for entry in entries])
    result.baseline = Baseline(tuple(entries), aliases)
    result.findings.sort()
    for finding in result.findings:
        if finding.kind in (UNREADABLE, MOVING, CONFFILE):
            result.folders.pop(finding.path.rpartition("/")[0], None)
    return result


def _candidates(
    paths: Paths, packages: Packages, roots: Sequence[str], found: _Candidates
) -> _Candidates:
    """Every regular file that may be code, and every link."""
    walked: list[str] = []
    for root in dict.fromkeys(paths.resolve(root) for root in roots):
        if root is not None and not any(_below(root, other) for other in walked):
            walked.append(root)
            _walk(paths, root, found)
    inside = tuple(f"{root}/" for root in walked)
    for path in packages.owner_of:  # what packages put elsewhere
        if not path.startswith(inside):
            _look(paths, path, found)
    for entry in found.since.before.entries:  # of folders that somebody named once
        if not entry.path.startswith(inside) and entry.path not in packages.owner_of:
            _look(paths, entry.path, found)
    return found


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _walk(paths: Paths, root: str, found: _Candidates) -> None:
    waiting = [root]
    visited: set[tuple[int, int]] = set()
    while waiting:
        folder = waiting.pop()
        if paths.barred(folder):
            continue
        try:
            status = os.lstat(paths.real(folder))
            if (status.st_dev, status.st_ino) in visited:
                continue  # a bind mount of a folder into itself
            visited.add((status.st_dev, status.st_ino))
            known = found.since.same(folder, status)
            if known is None:
                known = _read_folder(paths, folder, status, found)
            else:
                found.same.add(folder)
                found.folders[folder] = known
        except OSError:
            found.findings.append(Finding(UNREADABLE, folder))
            continue
        waiting += [f"{folder}/{name}" for name in known.below]
        found.links += [f"{folder}/{name}" for name in known.links]


def _read_folder(paths: Paths, folder: str, status: os.stat_result, found: _Candidates) -> Folder:
    """Look into a folder; ``status`` is older than its list of names."""
    found.units_changed |= "/systemd" in folder
    below, links = [], []
    for item in sorted(os.scandir(paths.real(folder)), key=lambda item: item.name):
        path = f"{folder}/{item.name}"
        if item.is_dir(follow_symlinks=False):
            below.append(item.name)
        elif item.is_symlink():
            links.append(item.name)
        elif not paths.barred(path):
            _look(paths, path, found)
    made = Folder(stamp_of(status), tuple(below), tuple(links))
    steady = found.since.steady
    if (steady is None or status.st_dev in steady) and settled(status, found.started_ns):
        found.folders[folder] = made
    return made


def _look(paths: Paths, path: str, found: _Candidates) -> None:
    if paths.barred(path):
        return
    try:
        status = os.lstat(paths.real(path))
    except OSError:
        return  # listed and removed: dpkg --verify says so
    if stat.S_ISLNK(status.st_mode):
        found.links.append(path)
        return
    if not stat.S_ISREG(status.st_mode):
        return
    found.looked_at += 1
    if may_be_code(path, bool(status.st_mode & 0o111)):
        if status.st_size > MAX_PROGRAM_BYTES:
            found.findings.append(Finding(TOO_LARGE, path))
        else:
            found.files.append((path, status))


def _contents(
    paths: Paths,
    packages: Packages,
    files: Sequence[tuple[str, os.stat_result]],
    known: Mapping[Stamp, Content],
    result: Survey,
    progress: Callable[[int, int], None],
) -> Iterator[tuple[str, os.stat_result, Content]]:
    """Path, state and content of each file; what cannot be had becomes a finding."""
    fresh: list[tuple[str, bool]] = []
    done = 0
    for path, status in files:
        content = known.get(Stamp.of(status))
        wants_md5 = path in packages.md5_of
        if content is None or (wants_md5 and content.kind and not content.md5):
            fresh.append((path, wants_md5))
            continue
        done += 1
        yield path, status, content
    chunks = [fresh[i : i + CHUNK_FILES] for i in range(0, len(fresh), CHUNK_FILES)]

    def read(chunk: Iterable[tuple[str, bool]]) -> list[tuple[os.stat_result, Content] | str]:
        return [_read(paths.real(path), path, wants_md5) for path, wants_md5 in chunk]

    with ThreadPoolExecutor(min(WORKERS, len(os.sched_getaffinity(0)))) as workers:
        for chunk, answers in zip(chunks, workers.map(read, chunks), strict=True):
            for (path, _), answer in zip(chunk, answers, strict=True):
                if isinstance(answer, str):
                    package = packages.owner_of.get(path, "")
                    result.findings.append(Finding(answer, path, package))
                    continue
                result.hashed += 1
                result.hashed_bytes += answer[0].st_size if answer[1].kind else 0
                yield path, *answer
            done += len(chunk)
            progress(done, len(files))


def _read(real: str, path: str, wants_md5: bool) -> tuple[os.stat_result, Content] | str:
    """What one file holds, or which finding it is."""
    for _ in range(2):
        try:
            return read_content(real, path, wants_md5=wants_md5, most=MAX_PROGRAM_BYTES)
        except Moving:
            continue
        except OSError:
            return UNREADABLE
    return MOVING


def _entry(
    path: str,
    content: Content,
    status: os.stat_result,
    packages: Packages,
    findings: list[Finding],
) -> Entry:
    package = packages.owner_of.get(path, "")
    differs = False
    wanted = packages.md5_of.get(path)
    conffile = path in packages.conffiles
    if package and (conffile or wanted is not None) and wanted != content.md5:
        findings.append(Finding(CONFFILE if conffile else DIFFERS, path, package))
        differs = not conffile
    if not package:
        made = _BYTECODE.fullmatch(path)
        package = packages.owner_of.get(f"{made[1]}/{made[2]}.py", "") if made else ""
    return Entry(path, content.sha256, status.st_size, content.kind, package, differs)


def _aliases(paths: Paths, links: Iterable[str], files: Sequence[str]) -> dict[str, str]:
    """The links that lead to a file of the baseline, or to a folder above one."""
    found: dict[str, str] = {}
    for link in links:
        paths.resolve(link)  # paths.links remembers
    for link, target in paths.links.items():
        at = bisect_left(files, target)
        if at < len(files) and (files[at] == target or files[at].startswith(f"{target}/")):
            found[link] = target
            continue
        at = bisect_left(files, f"{target}/")
        if target and at < len(files) and files[at].startswith(f"{target}/"):
            found[link] = target
    if len(found) > MAX_ALIASES:
        raise _too_many(len(found), "links to programs")
    return found


def _too_many(count: int, what: str) -> OperatorFault:
    return OperatorFault(
        f"{count} {what}; {MAX_ENTRIES} files and {MAX_ALIASES} links are the most",
        code="EW-POL-002",
        next_step="name fewer folders with --roots",
    )
