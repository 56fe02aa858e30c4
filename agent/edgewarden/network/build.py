"""The network area put together: with RUN/gate-names.sock, which is link's."""

from __future__ import annotations

import os

from edgewarden.gate.sockets import listen
from edgewarden.network.area import Network
from edgewarden.network.names import Names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.gate.doors import Doors
    from edgewarden.wire.local import NetworkVerdict


def network_area(
    run_dir: str,
    link_uid: int,
    doors: Doors,
    put: Callable[[NetworkVerdict], None],
    alarm: Callable[[str, int, str], None],
    watch: Callable[[int, Callable[[int], None]], None],
    forget: Callable[[int], None],
    boot_ns: Callable[[], int],
    mono_s: Callable[[], float],
) -> Network:
    """The area; arguments as in network/area.py.

    Raises:
        OperatorFault: as gate/sockets.py.
    """
    listener = listen(os.path.join(run_dir, "gate-names.sock"), owner_uid=link_uid)
    names = Names(listener, {0, link_uid}, mono_s)
    return Network(
        doors=doors, names=names, put=put, alarm=alarm, watch=watch, forget=forget,
        boot_ns=boot_ns, mono_s=mono_s,
    )  # fmt: skip
