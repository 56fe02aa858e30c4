"""A policy to begin with: what is on this system may run, sorted by who brought it.

What this decides: the text of a policy file made from a baseline. What packages brought is one
rule; files of packages that somebody changed are one each, to be looked at; the rest is named by
folder. A person narrows it from there (docs/policy.md).

    starting_policy(baseline).startswith("# Made by")
"""

from __future__ import annotations

from collections.abc import Iterator

from edgewarden.settings.policy_programs import MAX_VALUES
from edgewarden.wire.baseline import Baseline

MAX_CHANGED = 1000
"""Files named one by one; who has more has changed packages on purpose."""
_HEAD = """\
# Made by `edgewarden policy learn` from what was on this system. The first rule that holds decides;
# what none speaks of is not allowed. Narrow it, try it with `edgewarden policy check FILE`, make it
# count with `edgewarden policy compile`, and look at `edgewarden policy would-block` before
# `edgewarden policy enforce --confirm 10m`.

# What Debian's packages brought, as they brought it.
[[program]]
name = "packages"
package = "*"
"""


def starting_policy(baseline: Baseline) -> str:
    """The text."""
    return "\n".join([_HEAD, *_changed(baseline), *_own(baseline)])


def _changed(baseline: Baseline) -> Iterator[str]:
    paths = [e.path for e in baseline.entries if e.differs and _plain(e.path)]
    if paths:
        yield "# Files of packages with another content than the package brought: who changed them?"
    yield from _rules("changed", paths[:MAX_CHANGED], "")


def _own(baseline: Baseline) -> Iterator[str]:
    folders = {e.path.rpartition("/")[0] for e in baseline.entries if not e.package}
    top = sorted(folder for folder in folders if folder and _plain(folder))
    kept: list[str] = []
    for folder in top:  # a folder stands for those below it
        if not any(folder.startswith(f"{above}/") for above in kept):
            kept.append(folder)
    if kept:
        yield "# What no package brought: installed by hand, by pip, by npm."
    yield from _rules("local", [f"{folder}/**" for folder in kept], 'package = "-"\n')


def _rules(name: str, paths: list[str], more: str) -> Iterator[str]:
    for number, at in enumerate(range(0, len(paths), MAX_VALUES)):
        rows = "".join(f'    "{path}",\n' for path in paths[at : at + MAX_VALUES])
        suffix = f"-{number + 1}" if number else ""
        yield f'[[program]]\nname = "{name}{suffix}"\n{more}path = [\n{rows}]\n'


def _plain(path: str) -> bool:
    """Whether the path can stand in a policy as it is: no pattern, quote or odd byte."""
    return path.isprintable() and not any(c in path for c in '*?"\\') and path.isascii()
