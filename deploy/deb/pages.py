"""What the packages say to a reader, printed from the program itself, so that no page can be older
than the command it describes.

    pages.py man edgewarden         manual page from the command's argparse tree, verb by verb
    pages.py man edgewarden-fleet
    pages.py man edgewarden.toml    manual page from settings/schema.py
    pages.py settings               edgewarden.toml: every key at its default, commented out
    pages.py policy                 policy.toml: the empty allowlist

In the settings file prose begins with "# " and a key with "#": taking away the "#" of a key is all
a person does. tests/rules/test_debian.py does it to all of them at once and has the validator read
the result. The date of a page is SOURCE_DATE_EPOCH: two builds of one source are one file.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

from edgewarden import __version__
from edgewarden.settings.fields import Declared, Kind, declared
from edgewarden.settings.reference import toml_value
from edgewarden.settings.schema import Settings

Model = type[Any]
WIDTH = 78
_FILES = {
    "/etc/edgewarden/edgewarden.toml": "settings, with conf.d/*.toml beside it: edgewarden.toml(5)",
    "/etc/edgewarden/policy.toml": "the policy: what is allowed",
    "/var/lib/edgewarden": "identity, spool, compiled policy",
    "/run/edgewarden": "sockets; emptied at boot",
}
_POLICY = """\
# The policy of edgewarden: what may run, be plugged in and be spoken to. docs/policy.md has the
# language. "edgewarden policy learn" (root) takes down what this system has and writes a policy to
# start from in place of this file, as long as it holds no rule; "edgewarden policy check FILE"
# tries one, "edgewarden policy compile" makes it count. An empty policy allows nothing once a
# person arms it with "edgewarden policy enforce"; until then edgewarden only watches.
#
#[[program]]
#name = "my-tool"
#sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
"""


# --- manual pages --------------------------------------------------------------------------------


def man_command(name: str) -> Iterator[str]:
    """Section 1: the page of a command."""
    main = importlib.import_module(f"{name.replace('-', '_')}.cli.main")
    top: argparse.ArgumentParser = main.parser(None)
    yield _head(name, 1, "User Commands")
    yield f".SH NAME\n{_roff(name)} \\- {_roff(_lower(str(top.description)).rstrip('.'))}"
    yield f".SH SYNOPSIS\n.B {_roff(name)}\n.I COMMAND\n[\\fIVERB\\fR] [\\fIOPTION\\fR...]"
    yield ".SH COMMANDS"
    for noun, (_, text) in main.NOUNS.items():
        command = _children(main.parser(noun))[noun]
        yield f".SS {_roff(f'{name} {noun}')}\n{_roff(_sentence(text))}"
        yield from _usage(command)
        for verb, child in _children(command).items():
            yield f".TP\n.B {_roff(f'{noun} {verb}')}\n{_roff(_help_of(command, verb))}"
            yield from _options(child, indented=True)
    yield f".SH EXIT STATUS\n{_roff(' '.join(str(top.epilog).partition(':')[2].split()))}."
    if name == "edgewarden":
        yield ".SH FILES"
        for path, text in _FILES.items():
            yield f".TP\n.I {_roff(path)}\n{_roff(text)}"
    others = {"edgewarden": "edgewarden.toml (5)", "edgewarden-fleet": "edgewarden (1)"}
    yield f".SH SEE ALSO\n.BR {_roff(others[name])}"


def _usage(command: argparse.ArgumentParser) -> Iterator[str]:
    if not _children(command):
        yield from _options(command, indented=False)


def _options(command: argparse.ArgumentParser, *, indented: bool) -> Iterator[str]:
    rows = [a for a in command._actions if not isinstance(a, _HIDDEN) and a.help != _SUPPRESSED]
    if not rows:
        return
    yield ".RS" if indented else ""
    for action in rows:
        metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
        named = ", ".join(action.option_strings) or metavar
        takes = action.option_strings and action.nargs != 0
        yield f".TP\n\\fB{_roff(named)}\\fR" + (f" \\fI{_roff(metavar)}\\fR" if takes else "")
        text = (action.help or "") % {"default": action.default, "prog": command.prog}
        yield _roff(_sentence(text)) if text else "\\&"
    yield ".RE" if indented else ""


_HIDDEN = (argparse._HelpAction, argparse._SubParsersAction)
_SUPPRESSED = argparse.SUPPRESS


def _children(command: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _help_of(command: argparse.ArgumentParser, verb: str) -> str:
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for entry in action._choices_actions:
                if entry.dest == verb:
                    return _sentence(str(entry.help))
    raise SystemExit(f"pages.py: {command.prog} {verb} has no help")


def man_settings() -> Iterator[str]:
    """Section 5: the page of the settings."""
    yield _head("edgewarden.toml", 5, "File Formats")
    yield ".SH NAME\nedgewarden.toml \\- settings of edgewarden"
    yield ".SH SYNOPSIS\n.I /etc/edgewarden/edgewarden.toml"
    yield ".br\n.I /etc/edgewarden/conf.d/NN\\-*.toml"
    yield ".SH DESCRIPTION\nTOML. Files of conf.d are read after edgewarden.toml in the order of"
    yield "their names; a later file wins key by key, arrays of tables are merged by name. Every"
    yield "key may be left out unless it is required. Unknown keys, wrong types and values out of"
    yield "range are refused, all at once, with file and line."
    for title, model, _ in _tables(Settings, ""):
        yield f".SH {_roff(title)}\n{_roff((model.__doc__ or '').strip())}"
        for item in _keys(model):
            yield f".TP\n.B {_roff(item.name)}\n{_roff(item.key.help)} ({_roff(_default(item))})"
    yield ".SH SEE ALSO\n.BR edgewarden (1)"


def _head(name: str, section: int, manual: str) -> str:
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    day = datetime.datetime.fromtimestamp(epoch, datetime.UTC).strftime("%Y-%m-%d")
    return f'.TH "{name.upper()}" {section} "{day}" "edgewarden {__version__}" "{manual}"'


def _roff(text: str) -> str:
    """Text as roff takes it: no escape, no line that begins like a request."""
    safe = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + safe if safe[:1] in (".", "'") else safe


def _sentence(text: str) -> str:
    first = text if "://" in text[:10] else text[0].upper() + text[1:]
    return first.rstrip(".") + "."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


# --- files of /etc -------------------------------------------------------------------------------


def settings_file() -> Iterator[str]:
    """edgewarden.toml with every key commented out."""
    yield "# Settings of edgewarden. Every key stands here at its default, commented out: take"
    yield '# away the "#" before a key to change it. `edgewarden config check FILE` tries a file,'
    yield "# `edgewarden config show --origin` says where a value comes from; edgewarden.toml(5)."
    for title, model, array in _tables(Settings, ""):
        yield ""
        yield from _prose((model.__doc__ or "").strip())
        yield f"#{title}" if array else title
        for item in _keys(model):
            yield from _prose(f"{item.key.help} ({_default(item)})")
            yield f"#{item.name} = {_shown(item)}"


def _shown(item: Declared) -> str:
    if item.key.required or item.default in (None, ()):
        return item.key.example or toml_value(_least(item))
    return toml_value(item.default)


def _least(item: Declared) -> object:
    """A value that fits where the schema gives neither default nor example."""
    if item.key.kind is Kind.CHOICE:
        return item.key.choices[-1]
    return {Kind.WHOLE: int(item.key.low), Kind.NUMBER: item.key.low, Kind.PATHS: ()}[item.key.kind]


def _prose(text: str) -> Iterator[str]:
    for line in textwrap.wrap(text, WIDTH):
        yield f"# {line}"


# --- the schema ----------------------------------------------------------------------------------


def _tables(model: Model, above: str) -> Iterator[tuple[str, Model, bool]]:
    """(header, dataclass, is it an array) of every table, outer before inner."""
    for item in declared(model).values():
        if item.key.kind in (Kind.SECTION, Kind.TABLES) and item.key.model is not None:
            name, array = above + item.name, item.key.kind is Kind.TABLES
            yield f"[[{name}]]" if array else f"[{name}]", item.key.model, array
            yield from _tables(item.key.model, f"{name}.")


def _keys(model: Model) -> list[Declared]:
    rows = declared(model).values()
    return [r for r in rows if r.key.kind not in (Kind.SECTION, Kind.TABLES)]


def _default(item: Declared) -> str:
    if item.key.required:
        return "required"
    return f"default: {item.key.absent if item.default is None else toml_value(item.default)}"


def main(words: list[str]) -> int:
    """Print one page."""
    if words == ["settings"]:
        rows = settings_file()
    elif words == ["policy"]:
        rows = iter([_POLICY.rstrip("\n")])
    elif words == ["man", "edgewarden.toml"]:
        rows = man_settings()
    elif words in (["man", "edgewarden"], ["man", "edgewarden-fleet"]):
        rows = man_command(words[1])
    else:
        sys.stderr.write(f"{__doc__}\n")
        return 64
    for row in rows:
        if row:
            print(row)
        elif words == ["settings"]:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
