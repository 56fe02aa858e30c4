"""Takes refusals out of running code one at a time and runs pytest's own tests against each.

    python -m tests.mutation_run edgewarden.enrol.service,... tests/enrol/test_by_token.py ...

For code whose tests want fixtures, servers and files; where tables of plain calls will do, see
tests/downstream/mutation.py, whose idea of a mutant this is. In one session of pytest:

1. each test runs once, with every ``if`` that ends in raise or return, and every bare call of a
   checking function, telling when it decides
2. for each mutant the tests run again in which it had decided, quick ones first, until one fails

What no test ever saw decide is a survivor, and so is what all of them get over. A process of its
own, so that nothing of the code that was changed is left behind. Prints one JSON object:
{"baseline": [failed], "mutants": {"function:text": "killer" or ""}}.
"""

from __future__ import annotations

import ast
import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.downstream.mutation import Mutant, _tree, decides, functions, mutants, without

ROOT = Path(__file__).resolve().parents[1]
TRIES = 6
"""Tests that a mutant is shown to, of those in which it had decided."""


CALL = -1
"""In the place of an operand: the mutant is a call whose whole effect is to refuse."""


def checks(node: ast.AST) -> bool:
    """A statement that is nothing but the call of ``check...`` or ``prove``."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name.lstrip("_").startswith("check") or name == "prove"


def all_mutants(modules: list[ModuleType]) -> list[Mutant]:
    found = mutants(*modules)
    for module in modules:
        for function in functions(module):
            for node in ast.walk(_tree(function)):
                if isinstance(node, ast.Expr) and checks(node):
                    text = ast.unparse(node).splitlines()[0][:70]
                    found.append(Mutant(function, node.lineno, CALL, text))
    return found


class _Telling(ast.NodeTransformer):
    """Puts ``__decided__(line)`` in front of what each deciding ``if`` does, and of each check."""

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if decides(node):
            call = ast.parse(f"__decided__({node.lineno})").body[0]
            node.body.insert(0, ast.copy_location(call, node.body[0]))
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | list[ast.AST]:
        if not checks(node):
            return node
        return [ast.copy_location(ast.parse(f"__decided__({node.lineno})").body[0], node), node]


class _Uncalled(ast.NodeTransformer):
    def __init__(self, line: int) -> None:
        self.line = line

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return ast.Pass() if checks(node) and node.lineno == self.line else node


def telling(function: FunctionType, tell: Callable[[FunctionType, int], None]) -> None:
    """Make a function tell, for good."""
    tree = _Telling().visit(_tree(function))
    name = f"__decided__{id(function)}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "__decided__":
            node.id = name
    function.__globals__[name] = lambda line: tell(function, line)
    function.__code__ = _code(function, tree)


def taken_out(mutant: Mutant) -> Callable[[], None]:
    """Take the mutant's check out; returns what puts it back."""
    if mutant.operand != CALL:
        return without(mutant)
    function = mutant.function
    original = function.__code__
    function.__code__ = _code(function, _Uncalled(mutant.line).visit(_tree(function)))
    return lambda: setattr(function, "__code__", original)


def _code(function: FunctionType, tree: ast.AST) -> CodeType:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    space: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), "<mutant>", "exec")  # type: ignore[arg-type]
    exec(code, function.__globals__, space)
    made: CodeType = space[function.__name__].__code__
    return made


class Session:
    """A plugin of pytest that runs its items as the module says."""

    def __init__(self, modules: list[ModuleType]) -> None:
        self.mutants = all_mutants(modules)
        self.decided: dict[tuple[FunctionType, int], list[pytest.Item]] = {}
        self.baseline: list[str] = []
        self.killers: dict[str, str] = {}
        self._now: pytest.Item | None = None

    def tell(self, function: FunctionType, line: int) -> None:
        seen = self.decided.setdefault((function, line), [])
        if self._now is not None and self._now not in seen:
            seen.append(self._now)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        originals = {m.function: m.function.__code__ for m in self.mutants}
        for function in originals:
            telling(function, self.tell)
        seconds: dict[pytest.Item, float] = {}
        for i, item in enumerate(session.items):
            self._now, began = item, time.monotonic()
            if not passes(item, session.items[(i + 1) % len(session.items)]):
                self.baseline.append(item.nodeid)
            seconds[item] = time.monotonic() - began
        for function, code in originals.items():
            function.__code__ = code
        for mutant in self.mutants:
            shown = self.decided.get((mutant.function, mutant.line), [])[:TRIES]
            self.killers[str(mutant)] = self._killer(mutant, sorted(shown, key=seconds.__getitem__))
        return True

    def _killer(self, mutant: Mutant, shown: list[pytest.Item]) -> str:
        put_back = taken_out(mutant)
        try:
            for item in shown:
                if not passes(item, item):
                    return item.nodeid
        finally:
            put_back()
        return ""


def passes(item: pytest.Item, following: pytest.Item) -> bool:
    """Run one test; what is set up for its module stays for the following one."""
    item._initrequest()  # type: ignore[attr-defined]
    reports = runtestprotocol(item, log=False, nextitem=following)
    return all(report.outcome != "failed" for report in reports)


def main() -> None:
    names, files = sys.argv[1].split(","), sys.argv[2:]
    session = Session([importlib.import_module(name) for name in names])
    line = [*files, "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    pytest.main(line, plugins=[session])
    print(json.dumps({"baseline": session.baseline, "mutants": session.killers}))


if __name__ == "__main__":
    main()
