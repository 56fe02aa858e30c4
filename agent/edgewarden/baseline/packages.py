"""dpkg's database, read as files: which package lists a path, and what it brought under it.

What this decides: the owner of a path and the MD5 that its package gave. What it leaves to others:
hashing (survey.py), what a difference means.

Rules in order:

1. A package counts when its files are on the disk: unpacked, configured, or on the way between.
   Of a removed one only conffiles are left, and nobody keeps those up to date.
2. ``status``, with what a running dpkg has written to ``updates/`` and not yet merged, names the
   packages; ``info/format`` 1 says how their lists are called (``libc6:amd64.list`` for those that
   can be installed for several architectures).
3. A path that another package diverted stands where the diversion says (dpkg-divert(1)).
4. A path is compared with every symbolic link in its folder followed: on bookworm coreutils lists
   ``/bin/ls`` and the file is ``/usr/bin/ls``.
5. Two packages that list one path: the first in the order of ``status`` has it.
6. Maintainer scripts in ``info/`` belong to their package.

One damaged list costs the package its files, which then count as nobody's; it is named in
``faults``. No database at all is a fault of the whole. Everything is bounded.

    found = read_packages(Paths("/"), "/var/lib/dpkg")
    found.owner_of["/usr/bin/ls"] == "coreutils"; found.md5_of["/usr/bin/ls"]
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

from edgewarden.baseline.paths import Paths
from edgewarden.errors import OperatorFault
from edgewarden.plain import dataclass, field

MAX_STATUS_BYTES = 64 << 20
"""Debian 12 with a desktop: 3 MB."""
MAX_PACKAGES = 20_000
MAX_LIST_BYTES = 16 << 20
"""linux-headers and texlive lists are 2 MB."""
MAX_FILES = 2_000_000
"""Debian 12 with a desktop: 250,000."""
MAX_PATH_BYTES = 4095

# deb-control(5): package names and architectures.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_UPDATE = re.compile(r"[0-9]{1,9}")
_MD5 = re.compile(r"[0-9a-f]{32}")
_ON_DISK = frozenset(
    ("installed", "unpacked", "half-installed", "half-configured", "triggers-awaited",
     "triggers-pending")
)  # fmt: skip
_WANTED = ("Package", "Status", "Architecture", "Multi-Arch", "Version", "Conffiles")
_SCRIPTS = ("preinst", "postinst", "prerm", "postrm", "config")
_DATABASE = "EW-POL-001"


@dataclass(frozen=True, slots=True)
class Package:
    """One installed package.

    Attributes:
        name: as a policy names it: ``libc6``, and ``libc6:armhf`` for a foreign architecture.
        stem: of its files in info/.
        version: as dpkg compares it.
    """

    name: str
    stem: str
    version: str


@dataclass(slots=True)
class Packages:
    """See the module.

    Attributes:
        packages: in the order of ``status``.
        owner_of: path without links -> name of the package.
        md5_of: path without links -> what the package brought, 16 bytes; conffiles too.
        conffiles: paths that people may change.
        faults: what could not be read, in words.
    """

    packages: list[Package] = field(default_factory=list)
    owner_of: dict[str, str] = field(default_factory=dict)
    md5_of: dict[str, bytes] = field(default_factory=dict)
    conffiles: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


class Damaged(Exception):
    """One file of the database is not as it should be."""


def read_packages(paths: Paths, folder: str) -> Packages:
    """Read the database.

    Args:
        paths: of the system that the database describes.
        folder: of the database below that system's root.

    Raises:
        OperatorFault: EW-POL-001, there is none, or ``status`` is not one.
    """
    base = paths.real(folder)
    found = Packages()
    try:
        stanzas = _stanzas(base, found)
    except (OSError, Damaged) as fault:
        raise OperatorFault(
            f"{base}/status: {getattr(fault, 'strerror', None) or fault}",
            code=_DATABASE,
            next_step="look at the database (`dpkg --audit`)",
        ) from fault
    native = stanzas.get(("dpkg", ""), {}).get("Architecture", "")
    try:
        away = _diversions(f"{base}/diversions")
    except (OSError, Damaged) as fault:
        found.faults.append(f"diversions: {getattr(fault, 'strerror', None) or fault}")
        away = {}
    try:
        modern = _read(f"{base}/info/format", 16).strip() == b"1"
    except FileNotFoundError:
        modern = False  # before dpkg 1.16.2
    except (OSError, Damaged):
        modern = True
    for stanza in stanzas.values():
        package = _package(stanza, native, modern)
        found.packages.append(package)
        try:
            _take(found, paths, base, package, stanza, away)
        except (OSError, Damaged) as fault:
            found.faults.append(f"{package.stem}: {getattr(fault, 'strerror', None) or fault}")
    _take_scripts(found, paths, folder)
    return found


def _package(stanza: dict[str, str], native: str, modern: bool) -> Package:
    name, architecture = stanza["Package"], stanza.get("Architecture", "")
    foreign = architecture not in ("", "all", native)
    qualified = f"{name}:{architecture}"
    same = stanza.get("Multi-Arch") == "same" and modern
    return Package(
        qualified if foreign else name, qualified if same else name, stanza.get("Version", "")
    )


def _stanzas(base: str, found: Packages) -> dict[tuple[str, str], dict[str, str]]:
    """(name, architecture unless it is dpkg itself) -> fields, of what is on the disk."""
    texts = [_read(f"{base}/status", MAX_STATUS_BYTES)]
    try:
        pending = sorted(name for name in os.listdir(f"{base}/updates") if _UPDATE.fullmatch(name))
    except OSError:
        pending = []
    for name in pending:
        try:
            texts.append(_read(f"{base}/updates/{name}", MAX_LIST_BYTES))
        except (OSError, Damaged) as fault:
            found.faults.append(f"updates/{name}: {fault}")
    stanzas: dict[tuple[str, str], dict[str, str]] = {}
    for text in texts:
        for stanza in _fields(text.decode("utf-8", "replace")):
            name, architecture = stanza.get("Package", ""), stanza.get("Architecture", "")
            good = _NAME.fullmatch(name) and (
                not architecture or _ARCHITECTURE.fullmatch(architecture)
            )
            if not good:
                found.faults.append(f"status: a package called {name[:40]!r}")
                continue
            key = (name, "" if name == "dpkg" else architecture)
            if stanza.get("Status", "").rpartition(" ")[2] in _ON_DISK:
                stanzas[key] = stanza
            else:
                stanzas.pop(key, None)
            if len(stanzas) > MAX_PACKAGES:
                raise Damaged(f"more than {MAX_PACKAGES} packages")
    if not stanzas:
        raise Damaged("no installed package in it")
    return stanzas


def _fields(text: str) -> Iterator[dict[str, str]]:
    """The wanted fields of each stanza (deb822(5)); lines of a longer one joined with \\n."""
    for block in text.split("\n\n"):
        stanza: dict[str, str] = {}
        last = ""
        for line in block.split("\n"):
            if line.startswith((" ", "\t")):
                if last:
                    stanza[last] += "\n" + line.strip()
                continue
            key, colon, value = line.partition(":")
            last = key if colon and key in _WANTED else ""
            if last:
                stanza[last] = value.strip()
        if stanza:
            yield stanza


def _diversions(path: str) -> dict[str, tuple[str, str]]:
    """Diverted path -> (where to, which package's own file stays: "" for a local diversion)."""
    try:
        lines = _lines(_read(path, MAX_LIST_BYTES))
    except FileNotFoundError:
        return {}
    if len(lines) % 3:
        raise Damaged("not three lines for each diversion")
    triples = zip(lines[::3], lines[1::3], lines[2::3], strict=True)
    return {old: (new, "" if owner == ":" else owner) for old, new, owner in triples}


def _take(
    found: Packages,
    paths: Paths,
    base: str,
    package: Package,
    stanza: dict[str, str],
    away: dict[str, tuple[str, str]],
) -> None:
    bare = package.name.partition(":")[0]

    def place(listed: str) -> str | None:
        """Where the file of this package that is listed so really is."""
        if listed in away and away[listed][1] != bare:
            listed = away[listed][0]
        return paths.file(listed)

    own: set[str] = set()
    for listed in _lines(_read(f"{base}/info/{package.stem}.list", MAX_LIST_BYTES)):
        here = place(listed) if listed.startswith("/") and listed != "/." else None
        if here is not None and found.owner_of.setdefault(here, package.name) == package.name:
            own.add(here)
    if len(found.owner_of) > MAX_FILES:
        raise Damaged(f"more than {MAX_FILES} files")
    for line in stanza.get("Conffiles", "").split("\n"):
        words = line.split(" ")
        here = place(words[0]) if len(words) >= 2 and words[0].startswith("/") else None
        if here in own:
            found.conffiles.add(here)
            if _MD5.fullmatch(words[1]):
                found.md5_of[here] = bytes.fromhex(words[1])
    try:
        sums = _lines(_read(f"{base}/info/{package.stem}.md5sums", MAX_LIST_BYTES))
    except FileNotFoundError:
        return  # a package without files has none, and a few old ones never brought it
    for line in sums:
        md5, _, name = line.partition("  ")
        here = place(f"/{name}")
        if here in own:
            if not _MD5.fullmatch(md5):
                raise Damaged("md5sums holds a line that is none")
            found.md5_of[here] = bytes.fromhex(md5)


def _take_scripts(found: Packages, paths: Paths, folder: str) -> None:
    info = paths.resolve(f"{folder}/info")
    if info is None:
        return
    for package in found.packages:
        for script in _SCRIPTS:
            found.owner_of.setdefault(f"{info}/{package.stem}.{script}", package.name)


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "surrogateescape")
    if text and not text.endswith("\n"):
        raise Damaged("the last line is cut short")
    lines = text.split("\n")[:-1]
    if "\0" in text or any(len(line) > MAX_PATH_BYTES + 64 for line in lines):
        raise Damaged("a line that is no path")
    return lines


def _read(path: str, most: int) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(path, flags), "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Damaged("not a regular file")
        parts = []
        left = most + 1
        while left > 0:
            part = file.read(left)
            if not part:
                break
            parts.append(part)
            left -= len(part)
    if left <= 0:
        raise Damaged(f"more than {most} bytes")
    return b"".join(parts)
