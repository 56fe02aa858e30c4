"""Rule 2 of kernel/tpm.py by its syntax tree: nothing is read off a call's result in passing.

The binding's objects point into memory that their temporary owners free; a test that reads right
today may read freed memory tomorrow, so the shape of the code is what is held.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

KERNEL = Path(__file__).parents[2] / "agent/edgewarden/kernel"
SOURCES = (KERNEL / "tpm.py", KERNEL / "tpm_meanwhile.py")
SAFE = frozenset({"unmarshal", "setenv"})
"""Attributes of results that are plain Python functions of classes and libraries."""


def chained(module: ast.Module) -> list[str]:
    """Every attribute or item read directly off a call's result, except what is safe."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Call):
            if isinstance(node, ast.Attribute) and node.attr in SAFE:
                continue
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Subscript):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def keywords(module: ast.Module) -> list[str]:
    """Calls of the binding with keywords: their names differ between versions."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("self._esys.")
        and node.keywords
    ]


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_nothing_is_read_off_a_temporary(source: Path) -> None:
    assert chained(ast.parse(source.read_text())) == []
    assert keywords(ast.parse(source.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        "x = self._esys.get_capability(a, b)[1]",
        "x = E.get_capability(a)[1].data.handles",
        "x = found[0].value",
        "x = _out(a).b",
    ],
)
def test_a_planted_chain_is_seen(line: str) -> None:
    assert chained(ast.parse(line))


def test_a_planted_keyword_is_seen() -> None:
    assert keywords(ast.parse("self._esys.nv_increment(a, authorization=b)"))
