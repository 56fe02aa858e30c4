"""The packages and the Debian tree, made once for the whole tier."""

from __future__ import annotations

import pytest

from tests.boot.site import Built, prepare
from tests.stalls import Stalls


@pytest.fixture(scope="session", autouse=True)
def watched(stalls: Stalls) -> None:
    """``slack_s`` knows of stalls while this tier runs."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both packages in two versions, and a tree to boot."""
    return prepare(tmp_path_factory.mktemp("packages"))
