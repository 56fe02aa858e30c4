"""One desk and one enrolled board per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.makers import Board, Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, durable=False)
    yield made
    made.close()


@pytest.fixture
def board(desk: Desk) -> Board:
    return Board(desk)
