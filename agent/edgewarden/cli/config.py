"""`edgewarden config show|check|reference`: the settings as they are, as they would be, as they may
be."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from edgewarden.cli.console import Console, Exit
from edgewarden.cli.services import settings_option
from edgewarden.probe.disk import Disk
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.fields import Kind, declared
from edgewarden.settings.files import read_loaded, settings_files
from edgewarden.settings.reference import policy_reference, reference, toml_value
from edgewarden.settings.tree import Origin
from edgewarden.settings.validate import Loaded


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """show, check and reference."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="the settings in force after merging, as TOML")
    show.add_argument("--origin", action="store_true", help="say which file and line set each key")
    show.add_argument("--json", action="store_true", help="print JSON (edgewarden.config/1)")
    settings_option(show)
    show.set_defaults(run=_show)
    check = verbs.add_parser("check", help="try a settings file and the conf.d beside it")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--json", action="store_true", help="print JSON (edgewarden.check/1)")
    check.set_defaults(run=_check)
    pages = verbs.add_parser("reference", help="every key with its limits, as Markdown")
    pages.add_argument("--policy", action="store_true", help="the keys of policies instead")
    pages.set_defaults(run=_reference)


def _reference(args: argparse.Namespace, console: Console) -> int:
    page = policy_reference() if args.policy else reference()
    for line in page.split("\n")[:-1]:
        console.line(line)
    return Exit.OK


def _check(args: argparse.Namespace, console: Console) -> int:
    disk = Disk()
    try:
        loaded = read_loaded(args.file, disk)
    except SettingsFaults as faults:
        if not args.json:
            raise
        console.json("edgewarden.check/1", check_json(faults))
        return Exit.BAD_INPUT
    if args.json:
        console.json("edgewarden.check/1", check_json(None))
    else:
        files = len(settings_files(args.file, disk))
        ports = len(loaded.settings.serial)
        console.line(f"ok: {files} file(s), {len(loaded.origins)} value(s) set, {ports} port(s)")
    return Exit.OK


def _show(args: argparse.Namespace, console: Console) -> int:
    loaded = read_loaded(args.settings, Disk())
    if args.json:
        origins = {
            ".".join(path): f"{origin.file}:{origin.line}"
            for path, origin in sorted(loaded.origins.items())
        }
        tree = dataclasses.asdict(loaded.settings)
        console.json("edgewarden.config/1", {"settings": tree, "origins": origins})
        return Exit.OK
    for row in _toml(loaded, args.origin):
        console.line(row)
    return Exit.OK


def _toml(loaded: Loaded, origins: bool) -> list[str]:
    rows: list[str] = []
    for item in declared(type(loaded.settings)).values():
        value = getattr(loaded.settings, item.name)
        for part in value if item.key.kind is Kind.TABLES else [value]:
            named = (item.name, part.name) if item.key.kind is Kind.TABLES else (item.name,)
            head = f"[[{item.name}]]" if item.key.kind is Kind.TABLES else f"[{item.name}]"
            rows += [head, *_table(part, named, loaded, origins), ""]
    return rows[:-1]


def _table(part: Any, at: tuple[str, ...], loaded: Loaded, origins: bool) -> list[str]:
    """The rows of one table; what has no value and no default is shown as a comment."""
    rows, inner = [], []
    for item in declared(type(part)).values():
        value, here = getattr(part, item.name), (*at, item.name)
        if item.key.kind is Kind.TABLES:
            for entry in value:
                inner.append(f"[[{at[0]}.{item.name}]]")
                inner += _table(entry, (*here, entry.name), loaded, origins)
            continue
        row = f"{item.name} = {toml_value(value)}"
        if value is None:
            row = f"# {item.name}: {item.key.absent}"
        rows.append(row + (_origin(loaded.origins.get(here)) if origins else ""))
    return rows + inner


def _origin(origin: Origin | None) -> str:
    return f"  # {origin.file}:{origin.line}" if origin else "  # default"


def check_json(found: SettingsFaults | None) -> dict[str, object]:
    """The body of edgewarden.check/1, for settings and for policies."""
    if found is None:
        return {"ok": True, "faults": []}
    faults = [dataclasses.asdict(fault) for fault in found.faults]
    return {"ok": False, "faults": faults, "next": found.next_step}
