"""Two baselines: what differs, and which of it dpkg vouches for.

What this decides, for dpkg's hook (``vouched``):

1. A package's file as the package brought it replaces what was there before: that is an upgrade.
2. A file without a package, and one that differs from its package, keeps the content it had in the
   baseline: a package manager that runs is no reason to believe what somebody put beside it. So
   does a conffile that somebody changed: people may, and a person says so with `policy learn`.
3. A file that is gone is taken out, whoever it belonged to.

Pure. What it leaves to others: the survey, the policy.

    changes(before, after).added
"""

from __future__ import annotations

from collections.abc import Collection

from edgewarden.plain import dataclass
from edgewarden.wire.baseline import Baseline, Entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of the files between two baselines, each ascending by path."""

    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    changed: tuple[tuple[Entry, Entry], ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def changes(before: Baseline, after: Baseline) -> Changes:
    """What is in one and not in the other, or there with another content, class or package."""
    old = {entry.path: entry for entry in before.entries}
    new = {entry.path: entry for entry in after.entries}
    return Changes(
        tuple(entry for path, entry in new.items() if path not in old),
        tuple(entry for path, entry in old.items() if path not in new),
        tuple(
            (old[path], entry) for path, entry in new.items() if path in old and old[path] != entry
        ),
    )


def vouched(
    before: Baseline, after: Baseline, conffiles: Collection[str]
) -> tuple[Baseline, tuple[Entry, ...]]:
    """The baseline after an upgrade, and what of the system it does not take over.

    Args:
        conffiles: paths of those that are not what their packages brought.
    """
    old = {entry.path: entry for entry in before.entries}
    entries, held = [], []
    for entry in after.entries:
        last = old.get(entry.path)
        brought = entry.package and not entry.differs and entry.path not in conffiles
        if last == entry or brought:
            entries.append(entry)
            continue
        held.append(entry)
        if last is not None:
            entries.append(last)
    return Baseline(tuple(entries), after.aliases), tuple(held)
