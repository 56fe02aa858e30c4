"""The tree of one TOML file against the dataclasses that declare it (fields.py): good values, every
fault with its line, and the origin of each value.

Used for the settings (validate.py) and for policies (policy.py): one gate for everything a person
writes. What it leaves to others: TOML itself (source.py), one value (check.py), and what several
files make together (validate.py).

    reader = TreeReader(read(source), Policy, {})
    values = reader.table(Policy, reader.file.tree, ())    # reader.faults
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from edgewarden.plain import dataclass
from edgewarden.settings.check import Refused, check, nearest, show
from edgewarden.settings.faults import (
    DUPLICATE,
    ENFORCE_HERE,
    MISSING,
    OUT_OF_RANGE,
    UNKNOWN_KEY,
    WRONG_TYPE,
    Fault,
)
from edgewarden.settings.fields import Declared, Kind, declared
from edgewarden.settings.positions import Path
from edgewarden.settings.source import UNREADABLE_PREFIX, ParsedFile

Broken = tuple[tuple[str, ...], str, str]
"""(path below the table, text, code) of a rule between keys that does not hold."""
TableRules = dict[type[Any], Callable[[Any], Iterable[Broken]]]


@dataclass(frozen=True, slots=True)
class Origin:
    """The file and line that set a value."""

    file: str
    line: int


class TreeReader:
    """Checks the tree of one file against the schema; collects faults and origins.

    Args:
        file: what source.py made of it.
        root: the dataclass of the whole file, for guesses at where a key belongs.
        rules: what a table must keep between its keys, by its dataclass.
    """

    def __init__(self, file: ParsedFile, root: type[Any], rules: TableRules) -> None:
        self.file = file
        self._root = root
        self._rules = rules
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
                f"{show(value)} is not an array of tables; write [[{dots(at)}]]", WRONG_TYPE
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
            whole = self._whole(model, entry, here)
            if name in seen:
                text = f"{show(name)} is the name of an earlier table in this file"
                self._fault((*here, "name"), text, DUPLICATE)
            elif whole and len(self.faults) == before:
                built[name] = self._built(model, fields, here)
            seen.add(name)
        return built

    def _built(self, model: type[Any], fields: dict[str, object], at: Path) -> object:
        built = instance(model, fields)
        if model in self._rules:
            for path, text, code in self._rules[model](built):
                self._fault((*at, *path), text, code)
        return built

    def _whole(self, model: type[Any], entry: dict[str, object], at: Path) -> bool:
        """Whether every required key is there; a fault for each that is not."""
        absent = [d for d in declared(model).values() if d.key.required and d.name not in entry]
        if not self.file.faults:  # else it may stand on a line that could not be read
            for item in absent:
                example = f"; example: {item.name} = {item.key.example}" if item.key.example else ""
                self._fault(at, f"{item.name} is missing{example}", MISSING)
        return not absent

    def _unknown(self, name: str, known: Mapping[str, Declared], at: Path) -> None:
        close = nearest(name, known)
        if not close:
            homes = [s for s, keys in _keys_by_section(self._root).items() if name in keys]
            close = f"[{homes[0]}] {name}" if homes else ""
        kind = "section" if len(at) == 1 else "key"
        self._fault(at, f"no such {kind}", UNKNOWN_KEY, close)

    def _fault(self, at: Path, text: str, code: str, suggestion: str = "") -> None:
        line = self.file.line(at)
        self.faults.append(Fault(self.file.name, line, dots(at), text, code, suggestion))


def instance(model: type[Any], fields: dict[str, object]) -> Any:
    """Build a dataclass from checked values; tables become their own dataclasses."""
    ready: dict[str, object] = {}
    known = declared(model)
    for name, value in fields.items():
        key, field = known[name].key, known[name].field
        if key.kind is Kind.SECTION and key.model and isinstance(value, dict):
            ready[field] = instance(key.model, value)
        elif key.kind is Kind.TABLES and isinstance(value, dict):
            ready[field] = tuple(value.values())
        else:
            ready[field] = value
    return model(**ready)


def _keys_by_section(root: type[Any]) -> dict[str, Mapping[str, Declared]]:
    sections = declared(root).values()
    return {item.name: declared(item.key.model) for item in sections if item.key.model}


def dots(path: Path) -> str:
    """("serial", 0, "baud") -> serial[0].baud"""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out
