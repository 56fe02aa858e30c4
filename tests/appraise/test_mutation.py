"""No check of the appraisal is decoration: take any one out, and a verdict of the tables changes.

Each ``if`` of appraise/ that ends in a ``raise`` or a ``return`` is taken out of the running code,
one at a time, and each operand of its ``or``; then every lie of test_quotes.py, every case of
test_appraisal.py and every window of test_references.py is judged again. One must come out
differently.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType

import pytest

from edgewarden.appraise import appraisal, quotes, references
from edgewarden.appraise.quotes import Contradiction
from tests.appraise import test_appraisal, test_late, test_quotes, test_references

MODULES = (quotes, appraisal, references)


@dataclass(frozen=True)
class Mutant:
    """One ``if`` of a function, or one operand of its ``or``."""

    function: FunctionType
    line: int
    operand: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.function.__name__}:{self.text}"


def functions() -> Iterator[FunctionType]:
    """Those that remember what they said, too: their memory is around them, not in them."""
    for module in MODULES:
        for _, found in inspect.getmembers(module, callable):
            function = inspect.unwrap(found)
            ours = isinstance(function, FunctionType) and function.__module__ == module.__name__
            if ours and "<" not in function.__qualname__:
                yield function


def decides(node: ast.AST) -> bool:
    """An ``if`` without ``else`` that ends the function."""
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and isinstance(node.body[-1], (ast.Raise, ast.Return))
    )


def operands(test: ast.expr) -> list[ast.expr]:
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else []


def mutants() -> Iterator[Mutant]:
    for function in functions():
        for node in ast.walk(ast.parse(inspect.getsource(function))):
            if isinstance(node, ast.If) and decides(node):
                text = ast.unparse(node.test)
                yield Mutant(function, node.lineno, None, text[:70])
                for i, operand in enumerate(operands(node.test)):
                    yield Mutant(function, node.lineno, i, f"or {ast.unparse(operand)}"[:70])


class Remove(ast.NodeTransformer):
    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant
        self.removed = 0

    def visit_If(self, node: ast.If) -> ast.AST:
        if node.lineno != self.mutant.line or not decides(node):
            return self.generic_visit(node)
        self.removed += 1
        if self.mutant.operand is None:
            return ast.copy_location(ast.Pass(), node)
        operands(node.test)[self.mutant.operand] = ast.Constant(False)
        return node


def without(mutant: Mutant) -> Callable[[], None]:
    """Take the check out of the running function; returns what puts it back."""
    remover = Remove(mutant)
    tree = remover.visit(ast.parse(inspect.getsource(mutant.function)))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    ast.fix_missing_locations(tree)
    assert remover.removed == 1
    space: dict[str, object] = {}
    exec(compile(tree, "<mutant>", "exec"), mutant.function.__globals__, space)
    changed = space[mutant.function.__name__]
    assert isinstance(changed, FunctionType)
    original = mutant.function.__code__
    mutant.function.__code__ = changed.__code__
    return lambda: setattr(mutant.function, "__code__", original)


PURE_TESTS: list[Callable[[], None]] = [
    *(
        test
        for module in (test_appraisal, test_late, test_references)
        for name, test in inspect.getmembers(module, inspect.isfunction)
        if name.startswith("test_") and not inspect.signature(test).parameters
    ),
    *(lambda name=name: test_appraisal.test_one_facet(name) for name in test_appraisal.CASES),  # type: ignore[misc]
    *(
        lambda name=name: test_appraisal.test_the_grade_that_is_stated(name)  # type: ignore[misc]
        for name in test_appraisal.GRADES
    ),
    *(
        lambda at=at, state=state: test_references.test_a_set_has_a_window(at, state)  # type: ignore[misc]
        for at, state in test_references.WINDOW
    ),
    *(
        lambda issued=issued, now=now, name=name: test_appraisal.test_any_other_nonce_refuses_it(  # type: ignore[misc]
            issued, now, name
        )
        for issued, now, name in test_appraisal.NONCES
    ),
    *(
        lambda tiers=tiers, worst=worst: test_appraisal.test_overall_is_the_worst(tiers, worst)  # type: ignore[misc]
        for tiers, worst in test_appraisal.OVERALL
    ),
]
SCENE_TESTS = [
    test for name, test in inspect.getmembers(test_quotes, inspect.isfunction)
    if name.startswith("test_") and list(inspect.signature(test).parameters) == ["scene"]
]  # fmt: skip


def holds() -> bool:
    """Does everything come out as it should, with nothing remembered of the last time?"""
    quotes._certified.cache_clear()
    try:
        for test in PURE_TESTS:
            test()
        for test in SCENE_TESTS:
            test(test_quotes.Scene())
        for name, attack in test_quotes.CASES:
            scene = test_quotes.Scene()
            attack(scene)
            try:
                scene.judge()
            except Contradiction as contradiction:
                if contradiction.name != name:
                    return False
            else:
                return False
    except (Exception, pytest.fail.Exception):
        return False
    return True


MUTANTS = list(mutants())


def test_nothing_is_changed_to_begin_with() -> None:
    assert holds()
    assert len(MUTANTS) >= 40
    reached = {mutant.function.__name__ for mutant in MUTANTS}
    assert "_certified" in reached, "what is remembered is taken out, too"


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_each_check_is_held(mutant: Mutant) -> None:
    put_back = without(mutant)
    try:
        assert not holds(), "this check can be removed and no verdict changes"
    finally:
        put_back()
