"""Where root's ssh server really listens, so that no rule about what comes from outside cuts it.

What this decides, in order:

1. A TCP port is a way in for people when a listening socket of root's on it, not on loopback, is
   held by a process of root's that runs one of PROGRAMS, or was made in the control group of one of
   UNITS (systemd opens the socket of a unit with socket activation there).
2. What a socket is, is found out once: only a listener that was not there before makes us look
   through /proc (2 us a process). Sockets that were nobody's are looked at again each
   AGAIN_S: systemd hands its own to the server with the first connection.

Nothing is opened but below /proc. Root could open any port with nft as well, so this gives away
nothing; a program in a user namespace is not root here. What it leaves to others: the set in the
kernel (force.py), the port that the settings name.

    Logins(open_diag(), doors, time.monotonic).now() == {22, 2222}
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, IPPROTO_TCP

from edgewarden.errors import HardwareFault
from edgewarden.kernel.sockdiag import TCP_LISTEN
from edgewarden.network.groups import CGROUP_ROOT, prefix_of_cgroups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.kernel.sockdiag import Found

    class Listeners(Protocol):
        """kernel/sockdiag.py."""

        def dump_with_groups(
            self, family: int, protocol: int, states: int
        ) -> list[tuple[Found, int]]: ...

    class Proc(Protocol):
        """gate/doors.py."""

        def proc_list(self, name: str) -> list[str]: ...

        def proc_link(self, name: str) -> bytes: ...

        def owner_of(self, pid: int) -> int: ...


PROGRAMS = frozenset(
    (b"/usr/sbin/sshd", b"/usr/sbin/dropbear", b"/usr/bin/dropbear", b"/usr/local/sbin/sshd",
     b"/usr/local/sbin/dropbear")
)  # fmt: skip
UNITS = ("ssh.socket", "sshd.socket", "dropbear.socket", "ssh.service", "sshd.service",
         "dropbear.service")  # fmt: skip
AGAIN_S = 60.0
DELETED = b" (deleted)"
"""proc(5): what /proc/PID/exe says after an upgrade of the package."""


class Logins:
    """See the module. One thread.

    Attributes:
        why_not: why it is not known now, or "".
    """

    def __init__(
        self,
        listeners: Listeners,
        proc: Proc,
        mono_s: Callable[[], float],
        cgroup_root: str = CGROUP_ROOT,
    ) -> None:
        self.why_not = ""
        self._listeners = listeners
        self._proc = proc
        self._mono_s = mono_s
        self._root = cgroup_root
        self._known: dict[int, bool] = {}
        """Inode of a listening socket -> whether people come in by it."""
        self._again_mono = 0.0
        self._last: frozenset[int] = frozenset()

    def now(self) -> frozenset[int]:
        """The ports; what was found last where the kernel does not say (``why_not``)."""
        found: dict[int, tuple[int, int]] = {}
        try:
            for family in (AF_INET, AF_INET6):
                for (address, port, uid, inode), group in self._listeners.dump_with_groups(
                    family, IPPROTO_TCP, 1 << TCP_LISTEN
                ):
                    if uid == 0 and not (address.startswith("127.") or address == "::1"):
                        found[inode] = port, group
        except HardwareFault as fault:
            self.why_not = fault.text
            return self._last
        self.why_not = ""
        if self._mono_s() >= self._again_mono:
            self._again_mono = self._mono_s() + AGAIN_S
            self._known = {inode: True for inode, way_in in self._known.items() if way_in}
        unknown = {i: group for i, (_, group) in found.items() if i not in self._known}
        self._known = {i: way_in for i, way_in in self._known.items() if i in found}
        if unknown:
            self._known.update(self._look(unknown))
        self._last = frozenset(port for inode, (port, _) in found.items() if self._known[inode])
        return self._last

    def _look(self, sockets: dict[int, int]) -> dict[int, bool]:
        """Whether people come in by these sockets (inode -> control group it was made in)."""
        groups = self._groups()
        held = self._held() if any(group not in groups for group in sockets.values()) else set()
        return {inode: group in groups or inode in held for inode, group in sockets.items()}

    def _groups(self) -> set[int]:
        prefix = prefix_of_cgroups(self._root)
        found = set()
        for unit in UNITS if prefix is not None else ():
            try:
                found.add(os.stat(f"{self._root}/{prefix}system.slice/{unit}").st_ino)
            except OSError:
                continue
        return found

    def _held(self) -> set[int]:
        """Sockets of every process of root's that runs one of PROGRAMS."""
        found: set[int] = set()
        for name in self._proc.proc_list("."):
            if not name.isdecimal():
                continue
            if self._proc.proc_link(f"{name}/exe").removesuffix(DELETED) not in PROGRAMS:
                continue
            if self._proc.owner_of(int(name)) != 0:
                continue
            for fd in self._proc.proc_list(f"{name}/fd"):
                said = self._proc.proc_link(f"{name}/fd/{fd}")  # proc(5): "socket:[2248868]"
                if said.startswith(b"socket:[") and said[8:-1].isdigit():
                    found.add(int(said[8:-1]))
        return found
