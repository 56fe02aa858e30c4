"""What every test is held to, wherever it lives.

* Nothing is left running: after each test the process has the children, threads, mounts, nft
  tables, fanotify groups and listening sockets that it had before (``tests/settled.py``). Wider
  fixtures count as "before", and are held to the same at the end of the session.
* A test that this machine cannot run says which feature is missing, in one form:
  ``skip_missing("proc-connector")`` or ``@pytest.mark.needs("root", "mosquitto")``.
  ``tests/ledger.py`` holds every skip against tests/allowed-skips.txt.
* Repetitions come from ``--runs N`` through the ``runs`` fixture, never from the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests import features, settled
from tests.stalls import Stalls
from tests.steps import Watching

pytest_plugins = ["tests.ledger"]

# No deadline, and no limit to the time of drawing: a loaded machine is no fault of the code. No
# database: nothing is left in the checkout; what failed is printed as a line to paste back.
hypothesis.settings.register_profile(
    "house", deadline=None, database=None, print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)  # fmt: skip
hypothesis.settings.load_profile("house")

DEFAULT_RUNS = 20
"""How often a repeated test repeats by default: what issue 2 asks of the power-cut harness."""

DEFAULT_MINUTES = 10
"""How long the soak lasts by default: what issue 6 asks for; a day is 1440."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--runs", type=int, default=DEFAULT_RUNS, help="repetitions of repeated tests")
    parser.addoption(
        "--minutes", type=int, default=DEFAULT_MINUTES, help="how long tier soak lasts"
    )


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest) -> int:
    """How often a repeated test repeats: ``--runs N``."""
    return int(request.config.getoption("--runs"))


@pytest.fixture(scope="session")
def minutes(request: pytest.FixtureRequest) -> int:
    """How long tier soak lasts: ``--minutes N``."""
    return int(request.config.getoption("--minutes"))


@pytest.fixture(scope="session")
def skip_missing() -> Callable[[str], None]:
    """A loud skip: ``skip_missing("feature")`` when a test finds out by itself."""
    return features.skip_missing


def pytest_sessionstart() -> None:
    """Before anything is probed: a probe makes a named namespace, too, and mounts their folder."""
    settled.adopt_orphans()
    settled.isolate_mounts()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for feature in marker.args:
            if not features.present(feature):
                features.skip_missing(feature)


@pytest.fixture(scope="session", autouse=True)
def session_leaves_nothing() -> Iterator[None]:
    """The whole run leaves the machine as it found it."""
    before = settled.look()
    yield
    settled.check(before)


@pytest.fixture(scope="session")
def stalls(session_leaves_nothing: None) -> Iterator[Stalls]:
    """Who looks for stalls of this machine; ``slack_s`` asks it."""
    with Stalls() as looking:
        Watching.stalls = looking
        yield looking
        Watching.stalls = None


@pytest.fixture(autouse=True)
def test_leaves_nothing(
    session_leaves_nothing: None, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Each test leaves the machine as it found it."""
    nft = request.node.nodeid.startswith("tests/system/")
    before = settled.look(nft=nft)
    yield
    settled.check(before, nft=nft)
