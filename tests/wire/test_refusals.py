"""Every check of wire/ has a vector that it alone refuses, by exactly its name.

``test_removed`` weakens one check at a time: it compiles the module with that ``raise`` replaced by
``pass``, or with one operand of its ``or`` (or negated ``and``) left out, gives the live function
that code, and asks that a vector of the table ends differently.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import types
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from edgewarden.errors import WireRefusal
from tests.wire.refusals import REFUSED, Refused

MODULES = (
    "cbor",
    "cose",
    "record",
    "evidence",
    "facts",
    "enrol",
    "timing",
    "enrol_tpm",
    "topics",
    "tpm",
    "fields",
    "quoted",
    "references",
)
Site = tuple[str, int]
"""Module and line of a ``raise`` of a refusal."""
Weakening = tuple[str, int, int | None]
"""A site and the operand of its condition to leave out, or None for the whole check."""


@pytest.mark.parametrize("case", REFUSED, ids=lambda c: c.id)
def test_refused_by_name(case: Refused) -> None:
    with pytest.raises(WireRefusal) as caught:
        case.call()
    assert caught.value.name == case.name
    assert case.says in str(caught.value)


def test_ids_are_unique() -> None:
    assert len({c.id for c in REFUSED}) == len(REFUSED)


@cache
def tree_of(module: str) -> ast.Module:
    path = importlib.import_module(f"edgewarden.wire.{module}").__file__
    assert path is not None
    return ast.parse(Path(path).read_text())


def is_refusal(node: ast.AST) -> bool:
    """``raise WireRefusal(...)``, or ``raise fields.no(...)`` of the typed gate."""
    if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
        return False
    made_by = node.exc.func
    if isinstance(made_by, ast.Name):
        return made_by.id == "WireRefusal"
    return isinstance(made_by, ast.Attribute) and made_by.attr == "no"


def sites() -> list[Site]:
    return [
        (module, node.lineno)
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Raise) and is_refusal(node)
    ]


def operands(guard: ast.expr) -> list[ast.expr]:
    """The conditions each of which alone refuses: ``a or b``, ``not (a and b)``, nested."""
    if isinstance(guard, ast.BoolOp) and isinstance(guard.op, ast.Or):
        return [o for value in guard.values for o in operands(value)]
    if isinstance(guard, ast.UnaryOp) and isinstance(guard.op, ast.Not):
        inner = guard.operand
        if isinstance(inner, ast.BoolOp) and isinstance(inner.op, ast.And):
            return [o for value in inner.values for o in operands(value)]
    return [guard]


def guards(module: ast.Module) -> Iterator[tuple[ast.If, int]]:
    """Every ``if ...: raise refusal`` and the line of its raise."""
    for node in ast.walk(module):
        if isinstance(node, ast.If) and is_refusal(node.body[-1]):
            yield node, node.body[-1].lineno


def weakenings() -> list[Weakening]:
    found: list[Weakening] = [(*site, None) for site in sites()]
    for module in MODULES:
        for guard, line in guards(tree_of(module)):
            count = len(operands(guard.test))
            found += [(module, line, number) for number in range(count) if count > 1]
    return found


def outcome(case: Refused) -> tuple[str, str]:
    """How a vector ends: which error with which text, or none."""
    try:
        case.call()
    except Exception as fault:  # weakened code may fail in any way
        return type(fault).__name__, str(fault)
    return "", ""


@cache
def vectors() -> dict[Site, list[Refused]]:
    """The vectors of the table by the check that refuses them."""
    found: dict[Site, list[Refused]] = defaultdict(list)
    spans = {
        (module, line): (module, node.lineno)
        for module in MODULES
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Raise) and is_refusal(node)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for case in REFUSED:
        try:
            case.call()
        except WireRefusal as refusal:
            trace = refusal.__traceback__
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            assert trace is not None
            where = (Path(trace.tb_frame.f_code.co_filename).stem, trace.tb_lineno)
            if where in spans:
                found[spans[where]].append(case)
    return found


class Without(ast.NodeTransformer):
    """The module without one node of it: a raise becomes pass, an operand its neutral value."""

    def __init__(self, node: ast.AST) -> None:
        self.node = node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        return ast.Pass() if node is self.node else node

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        neutral = ast.Constant(isinstance(node.op, ast.And))
        node.values = [neutral if value is self.node else value for value in node.values]
        return node


def weakened(source: str, line: int, operand: int | None) -> ast.Module:
    module = ast.parse(source)
    if operand is not None:
        guard = next(guard for guard, at in guards(module) if at == line)
        gone: ast.AST = operands(guard.test)[operand]
    else:
        gone = next(n for n in ast.walk(module) if is_refusal(n) and n.lineno == line)  # type: ignore[attr-defined]
    whole = Without(gone).visit(module)
    assert isinstance(whole, ast.Module)
    return ast.fix_missing_locations(whole)


def functions(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from functions(constant)


@contextlib.contextmanager
def removed(weakening: Weakening) -> Iterator[None]:
    """The check, or the operand of it, is gone inside this block."""
    name, line, operand = weakening
    module = importlib.import_module(f"edgewarden.wire.{name}")
    source = Path(str(module.__file__)).read_text()
    weak = weakened(source, line, operand)
    whole = compile(weak, str(module.__file__), "exec", dont_inherit=True)
    owner = max(
        (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)
         and n.lineno <= line <= (n.end_lineno or 0)),
        key=lambda n: n.lineno,
    )  # fmt: skip
    code = next(c for c in functions(whole) if (c.co_name, c.co_firstlineno) == (
        owner.name, owner.lineno))  # fmt: skip
    live: object = module
    for part in code.co_qualname.split("."):
        live = getattr(live, part)
    assert isinstance(live, types.FunctionType)
    before = live.__code__
    live.__code__ = code
    try:
        yield
    finally:
        live.__code__ = before


def test_every_check_has_a_vector() -> None:
    missing = [f"{module}.py:{line}" for module, line in sites() if not vectors()[module, line]]
    assert not missing


def name_of(weakening: Weakening) -> str:
    module, line, operand = weakening
    return f"{module}.py:{line}" + (f" operand {operand}" if operand is not None else "")


@pytest.mark.parametrize("weakening", weakenings(), ids=name_of)
def test_removed(weakening: Weakening) -> None:
    cases = vectors()[weakening[:2]]
    before = [outcome(case) for case in cases]
    with removed(weakening):
        after = [outcome(case) for case in cases]
    assert before != after
    assert [outcome(case) for case in cases] == before
