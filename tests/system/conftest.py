"""Fixtures that several files of this tier share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hw.rigs.tpm import Bus
from tests.broker import Broker, Pki
from tests.stalls import Stalls
from tests.system.uplinks import DEVICE


@pytest.fixture(scope="session", autouse=True)
def watched(stalls: Stalls) -> None:
    """``slack_s`` knows of stalls while this tier runs."""


@pytest.fixture(scope="session")
def tpm_bus() -> Iterator[Bus]:
    """The bus of every TPM of this run: GLib keeps one connection per process (hw/rigs/tpm.py)."""
    # Not below pytest's private folders: link's user must reach it.
    with tempfile.TemporaryDirectory(prefix="ew-bus-") as folder, Bus(Path(folder)) as bus:
        was = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
        os.environ.update(bus.environment)
        yield bus
        if was is None:
            del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        else:
            os.environ["DBUS_SESSION_BUS_ADDRESS"] = was


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """Certificates for one gateway and one fleet."""
    made = Pki(tmp_path_factory.mktemp("pki"))
    made.issue(DEVICE)
    made.issue("fleet")
    return made


@pytest.fixture
def broker(tmp_path: Path, pki: Pki) -> Iterator[Broker]:
    """A Mosquitto that takes whom ``pki`` names."""
    with Broker(tmp_path / "broker", pki) as one:
        yield one
