"""Which tests a mutant is shown first: those in which the check that was taken out decides.

A mutant must fail one test of its table. Which one comes first changes how long that takes and
nothing else: a check that no test holds is still shown to every one of them.

    table = Table([m.function for m in MUTANTS], TESTS)     # runs each test once
    assert table.holds()
    for test in table.nearest(mutant.function, mutant.line): ...
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest

Place = tuple[CodeType, int]
"""A line of the running code; negative where an exception went through it."""
MOST_EVENTS = 20_000
"""That a test is looked at: what does more of the same is slow, and among the last anyhow."""


def holds(test: Callable[[], object]) -> bool:
    """Does it come out as it should?"""
    try:
        return test() is not False
    except (Exception, pytest.fail.Exception):
        return False


class Table:
    """Tests with what they went through and how long they took; made while nothing is taken out.

    Args:
        functions: what mutants are made of.
        tests: each raises, or returns False, when something is not as it should be.
    """

    def __init__(
        self, functions: Iterable[FunctionType], tests: Sequence[Callable[[], object]]
    ) -> None:
        self._codes = {function.__code__ for function in functions}
        self._tests = tests
        self._places: list[set[Place]] = []
        self._seconds: list[float] = []
        self._held: list[bool] = []
        for test in tests:
            self._look(test)

    def _look(self, test: Callable[[], object]) -> None:
        places: set[Place] = set()
        left = MOST_EVENTS

        def inside(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                sys.settrace(None)
                return None
            line = frame.f_lineno or 0
            places.add((frame.f_code, -line if event == "exception" else line))
            return inside

        before, began = sys.gettrace(), time.monotonic()
        sys.settrace(lambda frame, *_: inside if frame.f_code in self._codes else None)
        try:
            self._held.append(holds(test))
        finally:
            sys.settrace(before)
        self._places.append(places)
        self._seconds.append(time.monotonic() - began)

    def holds(self) -> bool:
        """Whether every test came out as it should, with nothing taken out."""
        return all(self._held)

    def nearest(self, function: FunctionType, line: int) -> list[Callable[[], object]]:
        """All tests, those in which this line's check decided first, quick ones before slow ones.

        Args:
            line: of an ``if`` or of a bare call, counted from the function's own source.
        """
        wanted = {(function.__code__, at) for at in _decision(function, line)}
        order = sorted(
            range(len(self._tests)),
            key=lambda i: (not wanted & self._places[i], self._seconds[i]),
        )
        return [self._tests[i] for i in order]


def _decision(function: FunctionType, line: int) -> Iterable[int]:
    """The lines that are passed when the statement of that line decides."""
    start = function.__code__.co_firstlineno - 1
    for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
        if isinstance(node, ast.If | ast.Expr) and node.lineno == line:
            first, last = (node, node) if isinstance(node, ast.Expr) else (
                node.body[0], node.body[-1])  # fmt: skip
            lines = range(start + first.lineno, start + (last.end_lineno or last.lineno) + 1)
            return lines if isinstance(node, ast.If) else [-at for at in lines]
    return ()
