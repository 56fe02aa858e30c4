"""The reference of all settings and of policies, printed from the schema: docs/settings.md, the end
of docs/policy.md, and ``edgewarden config reference``.

Tests hold both pages to this text: `edgewarden config reference > docs/settings.md` brings the
first one up to date, `config reference --policy` prints what the second one ends with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from edgewarden.settings.check import span
from edgewarden.settings.fields import Declared, Kind, declared
from edgewarden.settings.policy import Policy
from edgewarden.settings.schema import Settings

_HEAD = """# Settings

<!-- Printed by `edgewarden config reference`; change settings/ instead. -->

`/etc/edgewarden/edgewarden.toml`, then `/etc/edgewarden/conf.d/NN-*.toml` in the order of their
names; a later file wins key by key. Arrays of tables are merged by `name`: a later `[[serial]]` of
the same name replaces the whole earlier one, a new name is added. Every key may be left out unless
it is marked required. Unknown keys, wrong types and values out of range are refused, all of them at
once, with file and line; a running gateway keeps the last good settings and says so in `status`.

`edgewarden config check FILE` tries a file, `edgewarden config show --origin` says where each value
comes from. A file holds at most 64 KiB, all of them together are at most 32 files.
"""

_KEYS = """## Keys

<!-- Printed by `edgewarden config reference --policy`; change settings/policy_*.py instead. -->
"""


def reference() -> str:
    """Return the reference as Markdown."""
    return "\n".join([_HEAD, *_tables(Settings, "")])


def policy_reference() -> str:
    """Return the last part of docs/policy.md: the keys of every section of a policy."""
    return "\n".join([_KEYS, *_tables(Policy, "")])


def toml_value(value: object) -> str:
    """A value as TOML writes it; None and "" have their own words in the caller."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.15g}"
    return json.dumps(value) if isinstance(value, str) else str(value)


def _tables(model: type[Any], above: str) -> Iterator[str]:
    for item in declared(model).values():
        key = item.key
        if key.kind not in (Kind.SECTION, Kind.TABLES) or key.model is None:
            continue
        name = above + item.name
        array = key.kind is Kind.TABLES
        yield f"## [[{name}]]\n" if array else f"## [{name}]\n"
        doc = (key.model.__doc__ or "").strip()
        yield doc + (f" At most {key.high:.0f}. {key.help}" if array else "") + "\n"
        yield "| key | type and limits | default | meaning |\n|---|---|---|---|"
        for row in declared(key.model).values():
            if row.key.kind not in (Kind.SECTION, Kind.TABLES):
                yield f"| `{row.name}` | {_limits(row)} | {_default(row)} | {row.key.help} |"
        yield ""
        yield from _tables(key.model, name + ".")


def _limits(item: Declared) -> str:
    key = item.key
    if key.kind is Kind.CHOICE:
        return ", ".join(f"`{toml_value(c)}`" for c in key.choices)
    if key.kind is Kind.TEXT:
        return f"text: {key.rule}"
    if key.kind is Kind.PATHS:
        return f"{key.kind}, at most {key.high:.0f}"
    if key.kind is Kind.TEXTS:
        return f"{key.kind}, at most {key.high:.0f}: {key.rule}"
    return f"{key.kind}, {span(key)}" if span(key) else str(key.kind)


def _default(item: Declared) -> str:
    if item.key.required:
        return "required"
    if item.key.kind is Kind.TEXTS:
        return "any"
    return item.key.absent if item.default is None else f"`{toml_value(item.default)}`"
