"""No check of the verifier is decoration: remove any one, and an attack gets through or changes its
name.

Each ``if CONDITION: raise ...``, each operand of its ``or``, and each bare call of a checking
function is taken out of the compiled code, one at a time, while the attack table runs. A mutant
that every attack survives unchanged is a check that no test holds.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import TypeGuard

import pytest

from edgewarden.appraise import appraisal
from edgewarden_fleet.verify import attest, chain, pipeline
from tests.fleet.attacks import CASES, prepare
from tests.fleet.makers import Desk

FUNCTIONS: list[Callable[..., object]] = [
    chain.read_chain,
    chain.check_issuing,
    chain._check_roles,
    chain._name,
    appraisal.admit,
    pipeline.Verifier.parse_topic,
    pipeline.Verifier.identity_of,
    pipeline.Verifier._record,
    pipeline.Verifier._signed_by_report_key,
    pipeline.Verifier._check_in_force,
    pipeline._introduced_key,
    attest.Appraiser._status,
    attest.Appraiser._check_newer,
    attest.Appraiser._evidence,
    attest._check_names,
]

CHECKS = {
    "read_chain", "check_issuing", "_check_under", "_check_roles", "check_signature",
    "verifier_for", "_check_in_force", "_check_names", "_check_newer", "identity_of", "admit",
    "verify_directly_issued_by",
}  # fmt: skip
"""Functions whose whole effect is to refuse."""


@dataclass(frozen=True)
class Mutant:
    function: Callable[..., object]
    line: int
    operand: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.function.__name__}:{self.text}"


def _refuses(node: ast.stmt) -> bool:
    if isinstance(node, ast.If):
        return isinstance(node.body[-1], ast.Raise) and not node.orelse
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in CHECKS
    return False


def _tree(function: Callable[..., object]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def mutants(functions: Sequence[Callable[..., object]] = FUNCTIONS) -> Iterator[Mutant]:
    for function in functions:
        for node in ast.walk(_tree(function)):
            if isinstance(node, ast.stmt) and _refuses(node):
                text = ast.unparse(node).splitlines()[0]
                yield Mutant(function, node.lineno, None, text[:90])
                if isinstance(node, ast.If) and _is_or(node.test):
                    for i, operand in enumerate(node.test.values):
                        text = f"or {ast.unparse(operand)}"[:90]
                        yield Mutant(function, node.lineno, i, text)


def _is_or(test: ast.expr) -> TypeGuard[ast.BoolOp]:
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or)


class _Remove(ast.NodeTransformer):
    def __init__(self, line: int, operand: int | None) -> None:
        self.line = line
        self.operand = operand
        self.removed = 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.stmt) and node.lineno == self.line and _refuses(node):
            self.removed += 1
            if self.operand is not None:
                assert isinstance(node, ast.If)
                assert _is_or(node.test)
                node.test.values[self.operand] = ast.Constant(False)
                return node
            return ast.copy_location(ast.Pass(), node)
        return super().generic_visit(node)


def without_check(mutant: Mutant) -> Callable[[], None]:
    """Take the check out of the running function; returns what puts it back."""
    function = mutant.function
    assert isinstance(function, FunctionType)
    remover = _Remove(mutant.line, mutant.operand)
    tree = ast.fix_missing_locations(remover.visit(_tree(function)))
    assert remover.removed == 1
    space: dict[str, object] = {}
    exec(compile(tree, "<mutant>", "exec"), function.__globals__, space)
    changed = space[function.__name__]
    assert isinstance(changed, FunctionType)
    original = function.__code__
    function.__code__ = changed.__code__
    return lambda: setattr(function, "__code__", original)


def survives(folder: Path) -> bool:
    """Does every attack still end as it should?"""
    for i, (name, attack) in enumerate(CASES):
        where = folder / str(i)
        where.mkdir()
        desk = Desk(where, durable=False)
        try:
            verdict = attack(desk, prepare(desk))
            if verdict.accepted or verdict.outcome != name:
                return False
        except Exception:
            return False
        finally:
            desk.close()
    return True


MUTANTS = list(mutants())


def test_there_are_checks_to_remove() -> None:
    assert len(MUTANTS) >= 30


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_check_is_held_by_an_attack(mutant: Mutant, tmp_path: Path) -> None:
    put_back = without_check(mutant)
    try:
        assert not survives(tmp_path), "this check can be removed and no attack notices"
    finally:
        put_back()
