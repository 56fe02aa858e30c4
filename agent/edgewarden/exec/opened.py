"""Strict mode: what may be opened, so that what runs other content runs listed content only.

What this decides, for each file that is opened on a marked filesystem, in order:

1. By gate itself, or not a regular file: yes.
2. The opening that belongs to a start which was allowed a moment ago: yes.
3. A content that a rule allows, in a file that only root can write to: yes.
4. Neither ELF nor opened by an interpreter, a shell (``hands_on``) or the loader: yes, it is data.
5. Opened by one of those below a data path, and not looking like code (``looks_like_code``): yes.
   Not for the loader, of any program (``loads``) or started as one: what it opens is a library,
   whatever it holds at this moment. Its cache and ld.so.preload are its data, where root alone can
   write to them.
6. No: the content is not listed (``unlisted``, ``ruled_out``), or somebody else than root can write
   to the file (``changeable``): he could exchange the content after the verdict, as nothing keeps
   the opener from reading it later.

Nobody is excepted for what he is: a library can be put into any program (LD_PRELOAD), dpkg and sudo
among them. What opens files for writing is asked like what opens them for reading, because the
kernel does not say for what it is: an interpreter writes below a data path.

Names are the last resort and never let anything through that the content forbids: below a data path
a file that is named like code is judged like code; a process whose program is named like an
interpreter is one, whatever the policy says of its class (that process: a user gives any file any
name in a namespace of his own, and what he says must not count for others).

What a process runs is known by what was judged when it started, in order: by device and inode (a
running program cannot be written to, and chmod changes nothing); by the times and the size of what
was judged (an overlay shows the file under numbers of its own); by the cache and what the one-shot
wrote down. What is in none of these is taken for an interpreter, unless it lies on a filesystem of
this host that is not watched (``elsewhere``): there nobody's start is seen, and names are all.

A data path is believed if the path of the descriptor, looked up in gate's own namespace from the
data path down without crossing a mount, leads to the same file: a user who mounts something over
his own view of it changes nothing.

What it leaves to others: the digest (exec/responder.py), the doors (gate/doors.py).

    opened = Opened(...)
    opened.judge(one, most_bytes, rule_for)     # None: there is more to be hashed
"""

from __future__ import annotations

import os
from stat import S_ISREG

from edgewarden.exec.digest import MAX_HASH_BYTES, only_root
from edgewarden.judge.exec_rules import HANDS_ON
from edgewarden.judge.exec_table import CRITICAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from edgewarden.exec.digest import Digests, Known
    from edgewarden.exec.judged import Judged
    from edgewarden.judge.exec_rules import Rule
    from edgewarden.kernel.fanotify import ExecEvent
    from edgewarden.kernel.mounts import Status

    K = TypeVar("K")
    V = TypeVar("V")

ELF = b"\x7fELF"
HEAD_BYTES = 4
LOADERS_OWN = (b"/etc/ld.so.cache", b"/etc/ld.so.preload")
"""ld.so(8); of a container's as well."""
CODE_SUFFIXES = (
    ".py", ".pyc", ".pyo", ".pyw", ".pyz", ".pth", ".so", ".pl", ".pm", ".t", ".rb", ".sh", ".bash",
    ".zsh", ".ksh", ".lua", ".js", ".mjs", ".cjs", ".node", ".php", ".phar", ".tcl", ".awk", ".r",
    ".jar", ".class", ".wasm", ".egg", ".whl", ".zip",
)  # fmt: skip
"""Of what Debian's interpreters take as code by its name; Python runs a zip file, too."""
INTERPRETER, LOADER = "interpreter", "loader"
_LOADERS = ("ld-linux", "ld-musl", "ld.so", "ld-2.")
_INTERPRETERS = (
    "python", "pypy", "perl", "ruby", "node", "lua", "php", "tclsh", "wish", "guile", "java",
    "Rscript", "ocaml", "qemu-", "wine", "octave", "gnuplot", "ksh", "zsh", "bash-static",
    "busybox", *_LOADERS,
)  # fmt: skip
"""Beginnings of names: versions follow. All that baseline/kinds.py calls shell, interpreter or
loader is here or in _EXACTLY, and more: a name is asked where no content is known."""
_EXACTLY = frozenset(
    (
        "sh", "bash", "rbash", "dash", "rzsh", "rksh", "mksh", "lksh", "pdksh", "mksh-static",
        "fish", "csh", "tcsh", "ash", "yash", "posh", "sash", "static-sh", "nu", "pwsh",
        "awk", "gawk", "mawk", "nawk", "original-awk", "R", "julia", "expect", "gdb", "gforth",
        "irb", "jshell", "deno", "bun", "micropython", "erl", "erlexec", "beam.smp", "mono",
        "mono-sgen", "dotnet", "make", "gmake", "m4", "gm4", "tcc",
    )
)  # fmt: skip
STARTED = 64
"""Starts whose opening is still to come: it follows at once."""
IMAGES = 1024
"""Programs of which gate remembers what they are, about 250 bytes each; a gateway runs some hundred
different ones. Who starts more to have one forgotten makes it an interpreter."""


class Opened:
    """See the module.

    Args:
        digests: the cache.
        class_of: SHA-256 -> of CLASSES.
        image_status: pid -> stat of its program, None when it is gone.
        proc_link: name below /proc -> what the link says.
        is_below: (path, (st_dev, st_ino)) -> whether that file lies there, below a data path.
        loads: pid -> whether it may be that process's loader which waits.

    Attributes:
        elsewhere: st_dev of this host's filesystems whose starts are not seen.
    """

    __slots__ = (
        "_class_of",
        "_digests",
        "_image_status",
        "_images",
        "_is_below",
        "_loads",
        "_looks",
        "_proc_link",
        "_roles",
        "_self",
        "_started",
        "elsewhere",
    )  # fmt: skip

    def __init__(
        self,
        digests: Digests,
        class_of: Callable[[bytes], str],
        image_status: Callable[[int], os.stat_result | Status | None],
        proc_link: Callable[[str], bytes],
        is_below: Callable[[bytes, tuple[int, int]], bool],
        loads: Callable[[int], bool],
    ) -> None:
        self._digests = digests
        self._class_of = class_of
        self._image_status = image_status
        self._proc_link = proc_link
        self._is_below = is_below
        self._loads = loads
        self._self = os.getpid()
        self._started: dict[int, tuple[int, int]] = {}
        self._images: dict[tuple[int, int], bytes] = {}
        self._looks: dict[tuple[int, int, int], bytes] = {}
        self._roles: dict[bytes, str] = {}
        self.elsewhere: frozenset[int] = frozenset()

    def forget(self) -> None:
        """The policy is another: contents are what they were, their classes need not be."""
        self._roles.clear()

    def runs(self, digest: bytes, status: os.stat_result) -> None:
        """A content was judged that is about to run, or does."""
        _remember(self._images, (status.st_dev, status.st_ino), digest)
        look = _look_of(status)
        same = self._looks.get(look, digest) == digest  # times have ticks: two may look alike
        _remember(self._looks, look, digest if same else b"")

    def started(self, one: Judged, status: os.stat_result) -> None:
        """A start was allowed: the kernel asks about the same opening once more."""
        if len(self._started) >= STARTED:
            del self._started[next(iter(self._started))]
        self._started[one.event.pid] = status.st_dev, status.st_ino

    def judge(
        self,
        one: Judged,
        most_bytes: int,
        rule_for: Callable[[Known | None, bytes, ExecEvent], Rule | None],
    ) -> bool | None:
        """Whether it may be opened; None: it is still to be hashed, by more than ``most_bytes``.

        A lease is held while it is hashed, not longer: writers that wait for it could be the very
        ones that open the file.
        """
        fd, event = one.event.fd, one.event
        status = os.fstat(fd)
        if one.hashing is None:
            if self._before(one, status):
                return True
            known = self._digests.known(status, fd)
            if known is not None:
                return self._after(one, rule_for(known, known.digest, event), status)
            if status.st_size > MAX_HASH_BYTES:
                return self._after(one, None, status)
            one.size_bytes = status.st_size
            if not most_bytes:
                return None
            one.lease.take()
            one.hashing = self._digests.begin(os.fstat(fd))
        if not one.hashing.step(fd, most_bytes):
            return None
        _, kept = self._digests.finish(one.hashing, fd, one.lease)
        one.lease.release()
        one.digest = one.hashing.digest
        return self._after(one, rule_for(kept, one.digest, event), os.fstat(fd))

    def _before(self, one: Judged, status: os.stat_result) -> bool | None:
        """True: it may be opened; None: that depends on its digest."""
        pid = one.event.pid
        if pid == self._self or not S_ISREG(status.st_mode):
            return True
        if self._started.get(pid) == (status.st_dev, status.st_ino):
            del self._started[pid]
            return True
        known = self._digests.known(status, one.event.fd)
        if known is not None and known.rule is not None and only_root(status):
            return None  # most are of this kind: the rule says yes, if it still counts
        return self._is_data(one, status)

    def _is_data(self, one: Judged, status: os.stat_result) -> bool | None:
        head, pid = os.pread(one.event.fd, HEAD_BYTES, 0), one.event.pid
        if head == ELF:
            return None
        role = self._role(pid)
        path = self._proc_link(f"self/fd/{one.event.fd}")
        if role:
            name = os.path.basename(path).decode("utf-8", "replace")
            inode = status.st_dev, status.st_ino
            if looks_like_code(head, name) or not self._is_below(path, inode):
                return None
        if role == LOADER or self._loads(pid):
            return True if path.endswith(LOADERS_OWN) and only_root(status) else None
        return True

    def _after(self, one: Judged, rule: Rule | None, status: os.stat_result) -> bool:
        """Whether it may be opened, its content being known."""
        if rule is not None and rule.allow and only_root(status):
            one.reason = "critical" if rule is CRITICAL else "listed"
            return True
        if self._is_data(one, status):
            return True
        if rule is None:
            one.reason = "unlisted"
        else:
            one.reason = "changeable" if rule.allow else "ruled_out"
        return False

    def hands_on(self, pid: int) -> bool:
        """Whether a process runs what it opens; one that is gone might have."""
        return bool(self._role(pid))

    def _role(self, pid: int) -> str:
        """Of HANDS_ON; "" for a program that takes what it opens for data."""
        status = self._image_status(pid)
        if status is None:
            return INTERPRETER
        name = os.path.basename(self._proc_link(f"{pid}/exe")).decode("utf-8", "replace")
        if name.startswith(_LOADERS):
            return LOADER
        digest = (
            self._images.get((status.st_dev, status.st_ino))
            or self._looks.get(_look_of(status))
            or self._digests.digest_of(status)
        )
        role = self._roles.get(digest) if digest else None
        if digest and role is None:
            kind = self._class_of(digest)
            role = kind if kind in HANDS_ON else ""
            _remember(self._roles, digest, role)
        if role is None:
            role = "" if status.st_dev in self.elsewhere else INTERPRETER
        return role or (INTERPRETER if named_like_interpreter(name) else "")


def _look_of(status: os.stat_result | Status) -> tuple[int, int, int]:
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size


def _remember(known: dict[K, V], key: K, value: V) -> None:
    """What was said last is forgotten last."""
    if known.pop(key, None) is None and len(known) >= IMAGES:
        del known[next(iter(known))]
    known[key] = value


def looks_like_code(head: bytes, name: str) -> bool:
    """Whether a file is judged as code below a data path, too."""
    return is_kernel_code(head) or name.lower().endswith(CODE_SUFFIXES) or ".so." in name


def is_kernel_code(head: bytes) -> bool:
    """Whether the kernel or the loader would run it."""
    return head.startswith((b"#!", ELF))


def named_like_interpreter(name: str) -> bool:
    """Whether a program of this name hands on what it opens."""
    name = name.removesuffix(" (deleted)")
    return name in _EXACTLY or name.startswith(_INTERPRETERS)
