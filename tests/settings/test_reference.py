"""docs/settings.md is what the schema says, and the schema says enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgewarden.settings.fields import Declared, Kind, declared
from edgewarden.settings.reference import reference
from edgewarden.settings.schema import Settings

ROOT = Path(__file__).parents[2]


def every_key() -> list[tuple[str, Declared]]:
    found: list[tuple[str, Declared]] = []

    def walk(model: type[object], above: str) -> None:
        for item in declared(model).values():
            found.append((above + item.name, item))
            if item.key.model:
                walk(item.key.model, f"{above}{item.name}.")

    walk(Settings, "")
    return found


def test_the_page_is_the_schema() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == reference(), "run: edgewarden config reference > docs/settings.md"


@pytest.mark.parametrize(("name", "item"), every_key(), ids=[name for name, _ in every_key()])
def test_every_key_is_documented(name: str, item: Declared) -> None:
    assert item.key.help.endswith("."), name
    if item.key.kind in (Kind.WHOLE, Kind.NUMBER):
        assert item.key.low < item.key.high
        if isinstance(item.default, (int, float)):
            assert item.key.low <= item.default <= item.key.high
    if item.key.kind is Kind.CHOICE and not item.key.required:
        assert item.default in item.key.choices
    if item.key.kind is Kind.TEXT:
        assert item.key.form is not None
        assert item.key.rule
        if isinstance(item.default, str):
            assert item.key.form.fullmatch(item.default)
