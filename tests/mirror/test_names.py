"""A channel's name in a topic: whatever a sensor says, one level, and never another channel's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.mirror.names import MAX_LABEL, label, part

ANY = st.text(st.characters(exclude_categories=()), max_size=200)
"""Lone surrogates, too: JSON can spell them."""


@pytest.mark.parametrize("name", ["t", "temperature", "A_b-3", "x" * 48])
def test_a_plain_name_stays(name: str) -> None:
    assert part(name) == name


@pytest.mark.parametrize("name", ["", "+", "#", "a/b", "../x", "ä", "a--b", "x" * 49, "a b", "\0"])
def test_any_other_is_changed(name: str) -> None:
    assert part(name) != name


@given(ANY)
def test_it_is_one_level_that_every_broker_and_home_assistant_take(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,48}", part(name))


@given(ANY, ANY)
def test_two_names_are_never_one(one: str, other: str) -> None:
    assert (part(one) == part(other)) == (one == other)


@given(ANY)
def test_what_was_made_is_no_plain_name(name: str) -> None:
    """A sensor cannot speak under the name that another channel was given."""
    if part(name) != name:
        assert part(part(name)) != part(name)


@given(ANY)
def test_a_label_is_printable_and_short(name: str) -> None:
    assert label(name).isprintable()
    assert len(label(name)) <= MAX_LABEL
