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
from functools import partial
from itertools import count
from pathlib import Path
from types import FunctionType
from typing import TypeGuard

import pytest

from edgewarden.appraise import appraisal
from edgewarden_fleet.verify import attest, chain, pipeline
from tests.deciding import Table, holds
from tests.fleet.attacks import CASES, Attack, prepare
from tests.fleet.makers import Desk

FUNCTIONS: list[Callable[..., object]] = [
    chain.read_chain,
    chain.check_issuing,
    chain._check_roles,
    chain._name,
    inspect.unwrap(chain._issuing),
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
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []  # what it remembers is around it, not in it
    space: dict[str, object] = {}
    exec(compile(tree, "<mutant>", "exec"), function.__globals__, space)
    changed = space[function.__name__]
    assert isinstance(changed, FunctionType)
    original = function.__code__
    function.__code__ = changed.__code__
    return lambda: setattr(function, "__code__", original)


def attempt(name: str, attack: Attack, folders: Iterator[Path]) -> bool:
    """Does this attack end as it should?"""
    where = next(folders)
    where.mkdir()
    chain._issuing.cache_clear()
    desk = Desk(where, durable=False)
    try:
        verdict = attack(desk, prepare(desk))
        return not verdict.accepted and verdict.outcome == name
    finally:
        desk.close()


MUTANTS = list(mutants())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Table:
    """Every attack of the table, made once with nothing taken out."""
    place = tmp_path_factory.mktemp("attacks")
    folders = (place / str(i) for i in count())
    functions = [m.function for m in MUTANTS if isinstance(m.function, FunctionType)]
    return Table(functions, [partial(attempt, name, attack, folders) for name, attack in CASES])


def test_there_are_checks_to_remove(table: Table) -> None:
    assert table.holds()
    assert len(MUTANTS) >= 30


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_check_is_held_by_an_attack(mutant: Mutant, table: Table) -> None:
    assert isinstance(mutant.function, FunctionType)
    attacks = table.nearest(mutant.function, mutant.line)
    put_back = without_check(mutant)
    try:
        survives = all(holds(attack) for attack in attacks)
        assert not survives, "this check can be removed and no attack notices"
    finally:
        put_back()
