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
from dataclasses import dataclass, field
from typing import Any

from edgewarden.settings.check import Refused, check, nearest, show
from edgewarden.settings.faults import (
    DUPLICATE,
    ENFORCE_HERE,
    MAX_SHOWN,
    MISSING,
    OUT_OF_RANGE,
    UNKNOWN_KEY,
    UNREADABLE,
    WRONG_TYPE,
    Fault,
    SettingsFaults,
)
from edgewarden.settings.fields import Declared, Kind, declared
from edgewarden.settings.positions import Path
from edgewarden.settings.rules import Broken, register_rules, serial_rules, settings_rules
from edgewarden.settings.schema import ModbusRegister, Serial, Settings
from edgewarden.settings.source import UNREADABLE_PREFIX, ParsedFile, SourceFile, read

MAX_FILES = 32
"""edgewarden.toml and conf.d together; more is a mistake of whoever generates them."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The file and line that set a value."""

    file: str
    line: int


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
        reader = _FileReader(read(source))
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


class _FileReader:
    """Checks the tree of one file against the schema; collects faults and origins."""

    def __init__(self, file: ParsedFile) -> None:
        self.file = file
        self.faults = list(file.faults)
        self.origins: dict[tuple[str, ...], Origin] = {}

    def table(
        self, model: type[Any], tree: dict[str, object], at: Path, owner: tuple[str, ...] = ()
    ) -> dict[str, object]:
        """Return the good values of one table; ``owner`` is its path by names, for origins."""
        known = declared(model)
        values: dict[str, object] = {}
        for name, value in tree.items():
            here = (*at, name)
            if name.startswith(UNREADABLE_PREFIX):
                continue
            if name not in known:
                self._unknown(name, known, here)
                continue
            try:
                values[name] = self._value(known[name], value, here, (*owner, name))
                if known[name].key.model is None:  # tables have no origin of their own
                    line = self.file.line(here)
                    self.origins[(*owner, name)] = Origin(self.file.name, line)
            except Refused as refused:
                self._fault(here, refused.text, refused.code, refused.suggestion)
        return values

    def _value(self, item: Declared, value: object, at: Path, owner: tuple[str, ...]) -> object:
        key = item.key
        if key.kind is Kind.SECTION and key.model:
            if not isinstance(value, dict):
                raise Refused(f"{show(value)} is not a table; write [{item.name}]", WRONG_TYPE)
            return self.table(key.model, value, at, owner)
        if key.kind is Kind.TABLES and key.model:
            return self._tables(item, key.model, value, at, owner)
        if owner == ("exec", "mode") and value == "enforce":
            text = "enforcing is armed by a person on the host: `edgewarden policy enforce`"
            raise Refused(text, ENFORCE_HERE)
        return check(item.name, key, value)

    def _tables(
        self, item: Declared, model: type[Any], value: object, at: Path, owner: tuple[str, ...]
    ) -> dict[str, object]:
        """Return name -> built table; faulty ones are left out and named."""
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise Refused(
                f"{show(value)} is not an array of tables; write [[{_dots(at)}]]", WRONG_TYPE
            )
        if len(value) > item.key.high:
            raise Refused(f"{len(value)} tables, at most {item.key.high:.0f}", OUT_OF_RANGE)
        built: dict[str, object] = {}
        seen: set[str] = set()
        for index, entry in enumerate(value):
            here = (*at, index)
            name = str(entry.get("name", index))
            before = len(self.faults)
            fields = self.table(model, entry, here, (*owner, name))
            self._missing(model, entry, here)
            if name in seen:
                text = f"{show(name)} is the name of an earlier table in this file"
                self._fault((*here, "name"), text, DUPLICATE)
            elif len(self.faults) == before:
                built[name] = self._built(model, fields, here)
            seen.add(name)
        return built

    def _built(self, model: type[Any], fields: dict[str, object], at: Path) -> object:
        instance = _instance(model, fields)
        broken: list[Broken] = []
        if isinstance(instance, ModbusRegister):
            broken = list(register_rules(instance))
        if isinstance(instance, Serial):
            broken = list(serial_rules(instance))
        for path, text, code in broken:
            self._fault((*at, *path), text, code)
        return instance

    def _missing(self, model: type[Any], entry: dict[str, object], at: Path) -> None:
        if self.file.faults:  # the key may stand on a line that could not be read
            return
        for item in declared(model).values():
            if item.key.required and item.name not in entry:
                example = f"; example: {item.name} = {item.key.example}" if item.key.example else ""
                self._fault(at, f"{item.name} is missing{example}", MISSING)

    def _unknown(self, name: str, known: dict[str, Declared], at: Path) -> None:
        close = nearest(name, known)
        if not close:
            homes = [s for s, keys in _keys_by_section().items() if name in keys]
            close = f"[{homes[0]}] {name}" if homes else ""
        kind = "section" if len(at) == 1 else "key"
        self._fault(at, f"no such {kind}", UNKNOWN_KEY, close)

    def _fault(self, at: Path, text: str, code: str, suggestion: str = "") -> None:
        line = self.file.line(at)
        self.faults.append(Fault(self.file.name, line, _dots(at), text, code, suggestion))


@dataclass(slots=True)
class _Merged:
    """Values of all files so far, section by section."""

    values: dict[str, dict[str, object]] = field(default_factory=dict)
    origins: dict[tuple[str, ...], Origin] = field(default_factory=dict)

    def take(self, found: dict[str, object], origins: dict[tuple[str, ...], Origin]) -> None:
        arrays = {n for n, d in declared(Settings).items() if d.key.kind is Kind.TABLES}
        for name, part in found.items():
            assert isinstance(part, dict)  # table() returns dicts for sections and arrays alike
            self.values.setdefault(name, {}).update(part)
        replaced = {(a, n) for a in arrays for n in found.get(a, {})}  # type: ignore[attr-defined]
        kept = {p: o for p, o in self.origins.items() if p[:2] not in replaced}
        self.origins = {**kept, **origins}

    def build(self) -> Settings:
        return _instance(Settings, dict(self.values))  # type: ignore[no-any-return]


def _instance(model: type[Any], fields: dict[str, object]) -> Any:
    """Build a dataclass from checked values; tables become their own dataclasses."""
    ready: dict[str, object] = {}
    for name, value in fields.items():
        key = declared(model)[name].key
        if key.kind is Kind.SECTION and key.model and isinstance(value, dict):
            ready[name] = _instance(key.model, value)
        elif key.kind is Kind.TABLES and isinstance(value, dict):
            ready[name] = tuple(value.values())
        else:
            ready[name] = value
    return model(**ready)


def _keys_by_section() -> dict[str, dict[str, Declared]]:
    sections = declared(Settings).values()
    return {item.name: declared(item.key.model) for item in sections if item.key.model}


def _late_fault(broken: Broken, origins: dict[tuple[str, ...], Origin]) -> Fault:
    path, text, code = broken
    origin = origins.get(path, Origin("settings", 0))
    return Fault(origin.file, origin.line, ".".join(path), text, code)


def _dots(path: Path) -> str:
    """("serial", 0, "baud") -> serial[0].baud"""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out
