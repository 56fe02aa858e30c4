"""From files to ``Settings``, or every fault at once.

Rules in order:

1. Each file is read (source.py) and checked against the schema on its own, so that a fault names
   the file and line that hold it, even where a later file would have overridden the value.
2. Files are merged in the order given; a later key wins. Arrays of tables are merged by ``name``: a
   later ``[[serial]]`` of the same name replaces the whole earlier one, a new name is added.
3. Rules between keys (rules.py) run on the merged tree, if nothing was wrong so far.
4. One fault anywhere and there are no settings: the caller keeps the last good ones.

What it leaves to others: finding and opening files (files.py), keeping the last good
tree (daemon/).

    load_settings([SourceFile("edgewarden.toml", "[host]\\nperiod_s = 5\\n")]).host.period_s == 5
"""

from __future__ import annotations

from collections.abc import Sequence

from edgewarden.plain import dataclass, field
from edgewarden.settings.faults import (
    MAX_SHOWN,
    UNREADABLE,
    Fault,
    SettingsFaults,
)
from edgewarden.settings.fields import Kind, declared
from edgewarden.settings.rules import TABLE_RULES, settings_rules
from edgewarden.settings.schema import Settings
from edgewarden.settings.source import SourceFile, read
from edgewarden.settings.tree import Broken, Origin, TreeReader, instance

MAX_FILES = 32
"""edgewarden.toml and conf.d together; more is a mistake of whoever generates them."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and where each value that is not a default came from.

    Attributes:
        settings: the merged tree.
        origins: ("uplink", "port") or ("serial", "gps", "baud") -> the file and line that won.
    """

    settings: Settings
    origins: dict[tuple[str, ...], Origin]


def load_settings(files: Sequence[SourceFile]) -> Settings:
    """Return the settings of all files, later ones winning.

    Raises:
        SettingsFaults: with every fault of every file.
    """
    return load(files).settings


def load(files: Sequence[SourceFile]) -> Loaded:
    """As ``load_settings``, with the origin of each value.

    Raises:
        SettingsFaults: with every fault of every file.
    """
    if len(files) > MAX_FILES:
        text = f"{len(files)} files, at most {MAX_FILES}"
        raise SettingsFaults([Fault(files[MAX_FILES].name, 0, "", text, UNREADABLE)])
    merged = _Merged()
    faults: list[Fault] = []
    for source in files:
        reader = TreeReader(read(source), Settings, TABLE_RULES)
        merged.take(reader.table(Settings, reader.file.tree, ()), reader.origins)
        faults += sorted(reader.faults, key=lambda fault: fault.line)
    if not faults:
        loaded = Loaded(merged.build(), merged.origins)
        faults = [_late_fault(broken, merged.origins) for broken in settings_rules(loaded.settings)]
        if not faults:
            return loaded
    if len(faults) > MAX_SHOWN:
        more = f"{len(faults) - MAX_SHOWN} more faults are not listed"
        faults = [*faults[:MAX_SHOWN], Fault(faults[-1].file, 0, "", more, faults[-1].code)]
    raise SettingsFaults(faults)


@dataclass(slots=True)
class _Merged:
    """Values of all files so far, section by section."""

    values: dict[str, dict[str, object]] = field(default_factory=dict)
    origins: dict[tuple[str, ...], Origin] = field(default_factory=dict)

    def take(self, found: dict[str, object], origins: dict[tuple[str, ...], Origin]) -> None:
        for name, part in found.items():
            assert isinstance(part, dict)  # table() returns dicts for sections and arrays alike
            here = self.values.setdefault(name, {})
            for key, value in part.items():
                old = here.get(key)
                # An array of tables within a section; of tables by name the whole one is replaced.
                both = isinstance(value, dict) and isinstance(old, dict)
                here[key] = {**old, **value} if both else value  # type: ignore[dict-item]
        replaced = _tables_of(found)
        kept = {
            path: origin
            for path, origin in self.origins.items()
            if not any(path[: len(table)] == table for table in replaced)
        }
        self.origins = {**kept, **origins}

    def build(self) -> Settings:
        return instance(Settings, dict(self.values))  # type: ignore[no-any-return]


def _tables_of(found: dict[str, object]) -> set[tuple[str, ...]]:
    """Paths of the named tables that a file has: (serial, gps), (processes, required, broker)."""
    out: set[tuple[str, ...]] = set()
    for name, item in declared(Settings).items():
        part = found.get(name)
        if not isinstance(part, dict):
            continue
        if item.key.kind is Kind.TABLES:
            out |= {(name, entry) for entry in part}
        elif item.key.model is not None:
            inner = declared(item.key.model)
            arrays = {n for n in part if inner[n].key.kind is Kind.TABLES}
            out |= {(name, n, entry) for n in arrays for entry in part[n]}
    return out


def _late_fault(broken: Broken, origins: dict[tuple[str, ...], Origin]) -> Fault:
    path, text, code = broken
    origin = origins.get(path, Origin("settings", 0))
    return Fault(origin.file, origin.line, ".".join(path), text, code)
