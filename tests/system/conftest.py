"""Fixtures that several files of this tier share."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hw.rigs.tpm import Bus


@pytest.fixture(scope="session")
def tpm_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bus]:
    """The bus of every TPM of this run: GLib keeps one connection per process (hw/rigs/tpm.py)."""
    with Bus(tmp_path_factory.mktemp("bus")) as bus:
        was = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
        os.environ.update(bus.environment)
        yield bus
        if was is None:
            del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        else:
            os.environ["DBUS_SESSION_BUS_ADDRESS"] = was
