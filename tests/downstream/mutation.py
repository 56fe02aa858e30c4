"""Takes each refusal out of modules' running code, one at a time, and runs tables of tests again.

As tests/appraise/test_mutation.py does it, for methods too, and for tests with one parametrize.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from types import FunctionType, ModuleType

import pytest


@dataclass(frozen=True)
class Mutant:
    """One ``if`` of a function that ends in raise or return, or one operand of its ``or``."""

    function: FunctionType
    line: int
    operand: int | None
    text: str

    def __str__(self) -> str:
        return f"{self.function.__qualname__}:{self.text}"


def functions(module: ModuleType) -> Iterator[FunctionType]:
    """Every function and method of a module's own, what is around it (a memory) taken off."""
    seen = set[FunctionType]()
    for found in vars(module).values():
        for function in _plain(vars(found).values() if inspect.isclass(found) else [found]):
            ours = function.__module__ == module.__name__
            if ours and function.__code__.co_filename == module.__file__ and function not in seen:
                seen.add(function)
                yield function


def _plain(found: Iterable[object]) -> Iterator[FunctionType]:
    for one in found:
        inner = one.fget if isinstance(one, property) else getattr(one, "__func__", one)
        function = inspect.unwrap(inner) if callable(inner) else None
        if isinstance(function, FunctionType):
            yield function


def decides(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and not node.orelse
        and isinstance(node.body[-1], (ast.Raise, ast.Return))
    )


def operands(test: ast.expr) -> list[ast.expr]:
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.Or) else []


def _tree(function: FunctionType) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def mutants(*modules: ModuleType) -> list[Mutant]:
    found: list[Mutant] = []
    for module in modules:
        for function in functions(module):
            for node in ast.walk(_tree(function)):
                if isinstance(node, ast.If) and decides(node):
                    text = ast.unparse(node.test)
                    found.append(Mutant(function, node.lineno, None, text[:70]))
                    for i, operand in enumerate(operands(node.test)):
                        text = f"or {ast.unparse(operand)}"[:70]
                        found.append(Mutant(function, node.lineno, i, text))
    return found


class _Remove(ast.NodeTransformer):
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
    remover = _Remove(mutant)
    tree = remover.visit(_tree(mutant.function))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    assert remover.removed == 1
    space: dict[str, object] = {}
    code = compile(ast.fix_missing_locations(tree), "<mutant>", "exec")
    exec(code, mutant.function.__globals__, space)
    changed = space[mutant.function.__name__]
    assert isinstance(changed, FunctionType)
    original = mutant.function.__code__
    mutant.function.__code__ = changed.__code__
    return lambda: setattr(mutant.function, "__code__", original)


def cases_of(*modules: ModuleType) -> list[Callable[[], None]]:
    """Every test of these modules, with each of its parameters."""
    found: list[Callable[[], None]] = []
    for module in modules:
        for name, test in inspect.getmembers(module, inspect.isfunction):
            if not name.startswith("test_"):
                continue
            marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
            if not marks:
                assert not inspect.signature(test).parameters, f"{name} wants a fixture"
                found.append(test)
                continue
            names = marks[0].args[0]
            names = (names,) if isinstance(names, str) else names
            for given in marks[0].args[1]:
                values = given if len(names) > 1 else (given,)
                found.append(partial(test, **dict(zip(names, values, strict=True))))
    return found


def holds(tests: list[Callable[[], None]]) -> bool:
    """Does everything come out as it should?"""
    try:
        for test in tests:
            test()
    except (Exception, pytest.fail.Exception):
        return False
    return True
