"""Which recipe a provider gets, by its version alone; that it works is for a handshake to say."""

from __future__ import annotations

import pytest

from edgewarden.kernel.openssl import recipe_for


@pytest.mark.parametrize(
    ("version", "query"),
    [
        ("1.1.1", "?tpm2.signature=yes"),
        ("1.1.0", "?tpm2.signature=yes"),
        ("1.2.0", ""),
        ("1.3.0", ""),
        ("1.3.1-rc1", ""),
        ("2.0.0", ""),
        ("10.0", ""),
    ],
)
def test_the_recipe_of_a_version(version: str, query: str) -> None:
    recipe = recipe_for(version)
    assert recipe is not None
    assert recipe.query == query
    assert version in str(recipe)


@pytest.mark.parametrize("version", ["1.0.1", "0.9", "", "unknown", "one.two"])
def test_nothing_is_known_of_any_other(version: str) -> None:
    assert recipe_for(version) is None
