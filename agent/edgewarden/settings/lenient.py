"""What faulty settings still say: enough to find the agent, never enough to run it.

A misspelt key must not take away the commands that look at the agent, the lever that takes
enforcing back, or gate itself after a reboot. For those, in order:

1. settings without a fault are taken whole
2. else each key of a plain section that is sound by itself, later files winning, as ever
3. else its default, also where the file is missing

Arrays of tables (``[[serial]]``) are left out: half a port is no port. The faults come along, for
whoever reads has to say them. Last-good copies are not read: link's user can write those, and what
comes from here tells root which sockets and folders are the agent's. link itself, who runs *with*
its settings, has daemon/config.py.

    read_leniently("/etc/edgewarden/edgewarden.toml", Disk()).settings.paths.run
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from edgewarden.plain import dataclass
from edgewarden.settings.check import Refused, check
from edgewarden.settings.faults import Fault, SettingsFaults
from edgewarden.settings.fields import Kind, declared
from edgewarden.settings.files import Files, read_settings, readable_sources
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import SourceFile, read

LAST_GOOD = "link/last-good"
"""Below [paths] state: the files link last ran with without a fault (daemon/config.py)."""


@dataclass(frozen=True, slots=True)
class Lenient:
    """Settings, as far as they could be had.

    Attributes:
        settings: whole when there are no faults.
        faults: everything ``read_settings`` would have raised.
    """

    settings: Settings
    faults: tuple[Fault, ...]


def read_leniently(path: str, disk: Files) -> Lenient:
    """Return what the settings say, faults or not; raises nothing for what files hold."""
    try:
        return Lenient(read_settings(path, disk), ())
    except SettingsFaults as found:
        return Lenient(salvage(readable_sources(path, disk)), found.faults)


def salvage(sources: Iterable[SourceFile]) -> Settings:
    """The sound keys of plain sections, later files winning."""
    sections = {
        name: item.default
        for name, item in declared(Settings).items()
        if item.key.kind is Kind.SECTION
    }
    for source in sources:
        tree = read(source).tree
        for name, section in sections.items():
            sections[name] = _better(section, tree.get(name))
    return Settings(**sections)  # type: ignore[arg-type]


def _better(section: Any, said: object) -> Any:
    """The section with every sound key of one file's table put in."""
    found: dict[str, Any] = {}
    for name, item in declared(type(section)).items():
        if not isinstance(said, dict) or name not in said:
            continue
        try:
            found[name] = check(name, item.key, said[name])
        except Refused:
            continue
    return dataclasses.replace(section, **found)
