"""The images that gate must know without having seen them start: what rules name as ``parent``,
what hands on code, and what runs already (strict mode takes the unknown for an interpreter).

What this decides, for each file:

1. Of the baseline: only what has the baseline's content now, read again where the last survey knows
   it under another stamp (device numbers change from boot to boot).
2. Of a running process: the file that /proc/PID/exe leads to, which nobody can write to meanwhile;
   nothing is asked of a filesystem that may hang.
3. A file that was changed within the last two seconds is left out: where times have whole seconds
   it could change once more under the same stamp. gate learns of it when it starts.

What it leaves to others: the bytes (wire/images.py).

    images(paths, baseline, known, wanted={sha256 of sshd}, now_ns=time.time_ns())
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Set

from edgewarden.baseline.hashing import Content, Moving, Stamp, read_content, settled
from edgewarden.baseline.paths import Paths
from edgewarden.baseline.survey import MAX_PROGRAM_BYTES
from edgewarden.wire.baseline import Baseline

HANDS_ON = frozenset(("interpreter", "shell", "loader"))
"""As judge/exec_rules.py has it; a test holds them together."""


def images(
    paths: Paths,
    baseline: Baseline,
    known: Mapping[Stamp, Content],
    wanted: Set[bytes],
    *,
    now_ns: int,
) -> Iterator[tuple[Stamp, bytes]]:
    """Stamp and SHA-256 of each; a file that is gone, moving or another one is left out.

    Args:
        known: what the last survey read.
        wanted: contents that a rule names as parent.
        now_ns: the wall clock.
    """
    for entry in baseline.entries:
        if entry.sha256 not in wanted and entry.kind not in HANDS_ON:
            continue
        real = paths.real(entry.path)
        try:
            stamp, content = _seen(real, entry.path, known, now_ns, follow=False)
        except (OSError, Moving):
            continue
        if content.sha256 == entry.sha256:
            yield stamp, entry.sha256


def running(
    known: Mapping[Stamp, Content],
    is_near: Callable[[str], bool],
    *,
    now_ns: int,
    proc: str = "/proc",
) -> Iterator[tuple[Stamp, bytes]]:
    """Stamp and SHA-256 of what processes run now, each file once; arguments as of ``images``.

    Args:
        is_near: whether the file that a link of /proc leads to lies on a filesystem that answers.
    """
    told: set[tuple[int, int]] = set()
    for pid in sorted(int(name) for name in os.listdir(proc) if name.isdecimal()):
        link = f"{proc}/{pid}/exe"
        try:
            path = os.readlink(link)
            if not is_near(link):
                continue
            status = os.stat(link)
            if (status.st_dev, status.st_ino) in told:
                continue
            told.add((status.st_dev, status.st_ino))
            stamp, content = _seen(link, path, known, now_ns, follow=True)
        except (OSError, Moving):
            continue  # it ended, or is a thread of the kernel
        if content.sha256:
            yield stamp, content.sha256


def _seen(
    real: str, path: str, known: Mapping[Stamp, Content], now_ns: int, *, follow: bool
) -> tuple[Stamp, Content]:
    status = os.stat(real, follow_symlinks=follow)
    content = known.get(Stamp.of(status))
    if content is None or not content.kind:
        status, content = read_content(
            real, path, wants_md5=False, most=MAX_PROGRAM_BYTES, follow=follow
        )
    if not settled(status, now_ns):
        raise Moving
    return Stamp.of(status), content
