"""The network area put together: with RUN/gate-names.sock, which is link's."""

from __future__ import annotations

import os

from edgewarden.gate.sockets import listen
from edgewarden.network.area import Network
from edgewarden.network.names import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.gate.doors import Doors
    from edgewarden.gate.facts import FactsOut
    from edgewarden.gate.policy import Policy

    class Loop(Protocol):
        """What the area needs of the process it is part of (daemon/gate.py)."""

        doors: Doors
        facts: FactsOut
        policy: Policy

        def alarm(self, code: str, severity: int, text: str) -> None: ...

        def watch(self, fd: int, handler: Callable[[int], None]) -> None: ...

        def forget(self, fd: int) -> None: ...

        def unhindered(self, action: Callable[[], None]) -> None: ...


def network_area(
    run_dir: str,
    link_uid: int,
    gate: Loop,
    boot_ns: Callable[[], int],
    mono_s: Callable[[], float],
) -> Network:
    """The area of a gate.

    Raises:
        OperatorFault: as gate/sockets.py.
    """
    listener = listen(os.path.join(run_dir, "gate-names.sock"), owner_uid=link_uid)
    return Network(
        doors=gate.doors,
        forward=gate.policy.forward,
        names=Names(listener, {0, link_uid}, mono_s),
        put=gate.facts.put,
        alarm=gate.alarm,
        watch=gate.watch,
        forget=gate.forget,
        unhindered=gate.unhindered,
        boot_ns=boot_ns,
        mono_s=mono_s,
    )
