"""Takes refusals out of running code one at a time and runs pytest's own tests against each.

    python -m tests.mutation_run edgewarden.enrol.service,... tests/enrol/test_by_token.py ...

``module:function`` names one function or ``Class.method`` of a module.

For code whose tests want fixtures, servers and files; where tables of plain calls will do, see
tests/downstream/mutation.py, whose idea of a mutant this is. What is taken out, one at a time:

    an ``if`` that ends in raise or return, and each operand of its ``or``
    an ``except`` that ends in raise or return: as if it let the fault pass
    any other ``raise``
    each operand of ``return a and b``, and what else a function that says yes or no returns: as if
    it held
    a statement that is nothing but the call of ``check...`` or ``prove``

In one session of pytest:

1. each test runs once, with every one of these telling when it decides
2. for each mutant the tests run again in which it had decided, quick ones first, until one fails

What no test ever saw decide is a survivor, and so is what all of them get over. A process of its
own, so that nothing of the code that was changed is left behind. Prints one JSON object:
{"baseline": [failed], "mutants": {"function:text": "killer" or ""}}.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from tests.downstream.mutation import Mutant, _tree, decides, functions, operands

ROOT = Path(__file__).resolve().parents[1]
TRIES = 400
"""Tests that a mutant is shown to, of those in which it had decided."""
Place = tuple[FunctionType, int, int]
"""A function, and line and column of the statement in it that decides."""


def outcome(modules: Sequence[str], files: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """(tests that fail with nothing taken out, mutant -> the test that it turned red or "")."""
    line = [sys.executable, "-m", "tests.mutation_run", ",".join(modules), *files]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    return said["baseline"], said["mutants"]


# --- what can be taken out ---------------------------------------------------------------------


def checks(node: ast.AST) -> bool:
    """A statement that is nothing but the call of ``check...`` or ``prove``."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    called = node.value.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name.lstrip("_").startswith("check") or name == "prove"


def conjunction(node: ast.Return) -> list[ast.expr]:
    """What must hold for what is returned to hold."""
    both = node.value
    if isinstance(both, ast.BoolOp) and isinstance(both.op, ast.And):
        return both.values
    return [] if both is None or isinstance(both, ast.Constant) else [both]


def _answers(tree: ast.Module) -> set[ast.AST]:
    """Each ``return`` of a function that says yes or no, and each ``return a and b``."""
    found: set[ast.AST] = set()
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
        said = ast.unparse(function.returns) if function.returns else ""
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and (
                said == "bool" or said.startswith("TypeGuard") or len(conjunction(node)) > 1
            ):
                found.add(node)
    return found


def _ends(node: ast.AST) -> bool:
    return isinstance(node, ast.ExceptHandler) and isinstance(node.body[-1], ast.Raise | ast.Return)


def sites(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.ExceptHandler, int | None, str]]:
    """(statement, operand or None for the whole, text) of each thing that can be taken out."""
    told = {n.body[-1] for n in ast.walk(tree) if isinstance(n, ast.If) and decides(n)}
    told |= {n.body[-1] for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and _ends(n)}
    answers = _answers(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and decides(node):
            yield node, None, ast.unparse(node.test)
            for i, operand in enumerate(operands(node.test)):
                yield node, i, f"or {ast.unparse(operand)}"
        elif isinstance(node, ast.ExceptHandler) and _ends(node):
            caught = ast.unparse(node.type) if node.type else "all"
            yield node, None, f"except {caught}: {ast.unparse(node.body[-1])}"
        elif isinstance(node, ast.Return) and node in answers:
            for i, operand in enumerate(conjunction(node)):
                yield node, i, f"and {ast.unparse(operand)}"
        elif node not in told and (isinstance(node, ast.Raise) or checks(node)):
            assert isinstance(node, ast.stmt)
            yield node, None, ast.unparse(node)


def named(names: Sequence[str]) -> Iterator[FunctionType]:
    """The functions that are to be held."""
    for name in names:
        module, _, one = name.partition(":")
        of_it = [
            f
            for f in functions(importlib.import_module(module))
            if f.__qualname__ == one or not one
        ]
        assert of_it, f"there is no {name}"
        yield from of_it


def all_mutants(names: Sequence[str]) -> list[tuple[Mutant, Place]]:
    found, seen = [], set[str]()
    for function in named(names):
        if function.__code__.co_freevars:
            continue  # it closes over something: code alone does not stand for it
        for node, operand, text in sites(_tree(function)):
            mutant = Mutant(function, node.lineno, operand, " ".join(text.split())[:70])
            while str(mutant) in seen:
                mutant = Mutant(function, node.lineno, operand, mutant.text + "'")
            seen.add(str(mutant))
            found.append((mutant, (function, node.lineno, node.col_offset)))
    return found


# --- taking it out -----------------------------------------------------------------------------


class _Telling(ast.NodeTransformer):
    """Makes each of them say when it decides."""

    def __init__(self, tree: ast.Module, name: str) -> None:
        self._sites = {node for node, _, _ in sites(tree)}
        self._name = name

    def visit(self, node: ast.AST) -> Any:
        """Children first: what is put in is not visited."""
        self.generic_visit(node)
        if node not in self._sites:
            return node
        place = f"{node.lineno}, {node.col_offset}"  # type: ignore[attr-defined]
        tells = ast.copy_location(ast.parse(f"{self._name}({place})").body[0], node)
        if isinstance(node, ast.If | ast.ExceptHandler):
            node.body.insert(0, tells)
            return node
        if isinstance(node, ast.Return):
            assert node.value is not None
            call = ast.parse(f"{self._name}({place}, 0)", mode="eval").body
            assert isinstance(call, ast.Call)
            call.args[2] = node.value
            node.value = ast.copy_location(call, node)
            return node
        return [tells, node]


class _Without(ast.NodeTransformer):
    def __init__(self, mutant: Mutant, place: Place) -> None:
        self._operand, self._place = mutant.operand, place[1:]
        self.removed = 0

    def visit(self, node: ast.AST) -> Any:
        """The first statement at the place; an expression can begin there, too."""
        here = (getattr(node, "lineno", 0), getattr(node, "col_offset", 0)) == self._place
        if self.removed or not here or not isinstance(node, ast.stmt | ast.ExceptHandler):
            return self.generic_visit(node)
        self.removed += 1
        nothing = ast.copy_location(ast.Pass(), node)
        if isinstance(node, ast.ExceptHandler):
            node.body = [nothing]
        elif self._operand is None:
            return nothing
        elif isinstance(node, ast.If):
            operands(node.test)[self._operand] = ast.Constant(False)
        else:
            assert isinstance(node, ast.Return)
            if isinstance(node.value, ast.BoolOp) and isinstance(node.value.op, ast.And):
                node.value.values[self._operand] = ast.Constant(True)
            else:
                node.value = ast.Constant(True)
        return node


def telling(function: FunctionType, tell: Callable[[Place], None]) -> None:
    """Make a function tell, for good."""
    name, tree = f"__decided__{id(function)}", _tree(function)

    def decided(line: int, column: int, *value: object) -> object:
        if not value or not value[0]:
            tell((function, line, column))
        return value[0] if value else None

    function.__globals__[name] = decided
    function.__code__ = _code(function, _Telling(tree, name).visit(tree))


def taken_out(mutant: Mutant, place: Place) -> Callable[[], None]:
    """Take the mutant's check out; returns what puts it back."""
    function, remover = mutant.function, _Without(mutant, place)
    original, tree = function.__code__, remover.visit(_tree(function))
    assert remover.removed == 1, str(mutant)
    function.__code__ = _code(function, tree)
    forget()

    def put_back() -> None:
        function.__code__ = original
        forget()

    return put_back


def forget() -> None:
    """Empty what functions remember of earlier answers."""
    for name, module in list(sys.modules.items()):
        if name.startswith("edgewarden"):
            for found in list(vars(module).values()):
                if callable(found) and hasattr(found, "cache_clear"):
                    found.cache_clear()


def _code(function: FunctionType, tree: ast.AST) -> CodeType:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    space: dict[str, Any] = {}
    code = compile(ast.fix_missing_locations(tree), "<mutant>", "exec")  # type: ignore[arg-type]
    exec(code, function.__globals__, space)
    made: CodeType = space[function.__name__].__code__
    return made


# --- the session -------------------------------------------------------------------------------


class Session:
    """A plugin of pytest that runs its items as the module says."""

    def __init__(self, names: Sequence[str]) -> None:
        self.mutants = all_mutants(names)
        self.decided: dict[Place, list[pytest.Item]] = {}
        self.baseline: list[str] = []
        self.killers: dict[str, str] = {}
        self._now: pytest.Item | None = None

    def tell(self, place: Place) -> None:
        seen = self.decided.setdefault(place, [])
        if self._now is not None and self._now not in seen:
            seen.append(self._now)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        originals = {m.function: m.function.__code__ for m, _ in self.mutants}
        for function in originals:
            telling(function, self.tell)
        seconds: dict[pytest.Item, float] = {}
        for item in session.items:
            self._now, began = item, time.monotonic()
            if not passes(item):
                self.baseline.append(item.nodeid)
            seconds[item] = time.monotonic() - began
        for function, code in originals.items():
            function.__code__ = code
        for mutant, place in self.mutants:
            shown = sorted(self.decided.get(place, []), key=seconds.__getitem__)[:TRIES]
            self.killers[str(mutant)] = self._killer(mutant, place, shown)
        return True

    def _killer(self, mutant: Mutant, place: Place, shown: list[pytest.Item]) -> str:
        put_back = taken_out(mutant, place)
        try:
            for item in shown:
                if not passes(item):
                    return item.nodeid
        finally:
            put_back()
        return ""


def passes(item: pytest.Item) -> bool:
    """Run one test; what is set up for its module stays.

    What stands of another module, or of this very test, goes first, or pytest would call its set-up
    failed, and a mutant killed that nobody has seen.
    """
    item.session._setupstate.teardown_exact(item.parent)  # type: ignore[arg-type]
    item._initrequest()  # type: ignore[attr-defined]
    reports = runtestprotocol(item, log=False, nextitem=item.parent)  # type: ignore[arg-type]
    return all(report.outcome != "failed" for report in reports)


def main() -> None:
    names, files = sys.argv[1].split(","), sys.argv[2:]
    session = Session(names)
    # What a mutant leaves behind, an unclosed socket say, is no end of the session.
    plain = ("no:cacheprovider", "no:unraisableexception", "no:threadexception")
    line = [*files, "-q", f"--rootdir={ROOT}", *(word for name in plain for word in ("-p", name))]
    pytest.main(line, plugins=[session])
    print(json.dumps({"baseline": session.baseline, "mutants": session.killers}))


if __name__ == "__main__":
    main()
