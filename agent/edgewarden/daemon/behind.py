"""Whether there are devices behind this gateway at all: without [downstream] listen nothing of the
listener is loaded, which would cost link a megabyte and a half for nothing.

    behind = behind_of(settings.downstream, state, load_key, sink, clock, random)
    behind.snapshot()["listener"]["state"] == "off"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edgewarden.ports import FactSink, Randomness

if TYPE_CHECKING:
    from edgewarden.daemon.devices import Times
    from edgewarden.settings.downstream import Downstream


class Behind(Protocol):
    """The devices behind this gateway, as link's other parts see them. On the loop's thread."""

    def submodules(self) -> Mapping[str, bytes] | None:
        """Device -> SHA-256 of what is said of it; None while there is no listener."""

    async def run(self) -> None:
        """Listen, for as long as link runs."""

    def snapshot(self) -> dict[str, object]:
        """The listener and its devices, for status and `edgewarden devices`."""


class Nobody:
    """No listener."""

    def submodules(self) -> None:
        """None: evidence does not speak of devices."""

    async def run(self) -> None:
        """Nothing, and at once."""

    def snapshot(self) -> dict[str, object]:
        """A listener that is off."""
        off: dict[str, object] = {"state": "off", "address": "", "sessions": 0, "refused": {}}
        return {"listener": off | {"failed": {}, "code": "", "why": "", "next": ""}, "devices": {}}


def behind_of(
    wanted: Downstream,
    state: Path,
    load_key: Callable[[], object],
    sink: FactSink,
    clock: Times,
    random: Randomness,
) -> Behind:
    """The listener that the settings ask for, or nobody."""
    if wanted.listen is None:
        return Nobody()
    from edgewarden.daemon import devices

    return devices.Behind(wanted, state, load_key, sink, clock, random)
