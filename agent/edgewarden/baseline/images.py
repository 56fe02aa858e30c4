"""The images that gate must know without having seen them start: what rules name as ``parent``, and
what hands on code.

What this decides: which files of the baseline, and that only those are told whose content is the
baseline's now, read again where the last survey knows them under another stamp (device numbers
change from boot to boot). What it leaves to others: the bytes (wire/images.py).

    images(paths, baseline, known, wanted={sha256 of sshd})
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set

from edgewarden.baseline.hashing import Content, Moving, Stamp, read_content
from edgewarden.baseline.paths import Paths
from edgewarden.baseline.survey import MAX_PROGRAM_BYTES
from edgewarden.wire.baseline import Baseline

HANDS_ON = frozenset(("interpreter", "shell", "loader"))
"""As judge/exec_rules.py has it; a test holds them together."""


def images(
    paths: Paths, baseline: Baseline, known: Mapping[Stamp, Content], wanted: Set[bytes]
) -> Iterator[tuple[Stamp, bytes]]:
    """Stamp and SHA-256 of each; a file that is gone, moving or another one is left out.

    Args:
        known: what the last survey read.
        wanted: contents that a rule names as parent.
    """
    for entry in baseline.entries:
        if entry.sha256 not in wanted and entry.kind not in HANDS_ON:
            continue
        real = paths.real(entry.path)
        try:
            stamp = Stamp.of(os.stat(real, follow_symlinks=False))
            content = known.get(stamp)
            if content is None or not content.kind:
                most = MAX_PROGRAM_BYTES
                status, content = read_content(real, entry.path, wants_md5=False, most=most)
                stamp = Stamp.of(status)
        except (OSError, Moving):
            continue
        if content.sha256 == entry.sha256:
            yield stamp, entry.sha256
