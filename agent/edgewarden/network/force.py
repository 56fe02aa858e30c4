"""Our nftables table in the kernel: put there whole, and kept in line with what comes and goes.

What this decides, in order:

1. A table is put in force in one transaction with the control groups that are there. One of them
   may end between our look and the kernel's: then once more, with those that are left.
2. What the kernel was told is remembered only when it was told, and only of the group that was
   looked at before and is there afterwards: a unit that started again in between is named again.
3. A unit's new control group is one more element, and the old one's stays (its name is gone, so
   nobody can delete it): after STALE of them the whole table is put in force anew.
4. A table made anew has what is left of a trial (trial.py).
5. Every port where root's ssh server listens is let in (logins.py), besides the settings' one.

What it leaves to others: when (area.py), the text (peers/modes.py), which groups (groups.py).

    force.put(table, "enforce", 600, answers); force.look(table, answers); force.again(...)
"""

from __future__ import annotations

from edgewarden.errors import HardwareFault
from edgewarden.network.trial import Trial
from edgewarden.peers.modes import (
    ADD,
    REMOVE,
    host_change,
    login_element,
    login_port,
    transaction,
    unit_element,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Protocol

    from edgewarden.network.groups import Groups
    from edgewarden.network.logins import Logins
    from edgewarden.network.names import Change
    from edgewarden.wire.network_table import NetworkTable

    Answers = Mapping[int, Sequence[tuple[int, str, int]]]

    class Kernel(Protocol):
        """kernel/nftables.py."""

        def run(self, text: str) -> str: ...

        def check(self, text: str) -> None: ...

        def give_back(self, small: str) -> None: ...


STALE = 1024
"""Elements of groups that are gone, 100 bytes of kernel memory each."""
TRIES = 3
"""For a transaction that names a group which has just ended."""


class Force:
    """See the module. One thread; a call takes as long as nftables does.

    Attributes:
        nft: None until the library is loaded.
        groups: None while no table manages units.
        logins: None where it cannot be known.
        ports: that people come in by, as the kernel was told.
        mode: that the kernel's table has, "" when it has none of ours that we know of.
        trial: of the table in the kernel.
    """

    def __init__(self, mono_s: Callable[[], float]) -> None:
        self.nft: Kernel | None = None
        self.groups: Groups | None = None
        self.logins: Logins | None = None
        self.ports: frozenset[int] = frozenset()
        self.mode = ""
        self.trial = Trial()
        self._mono_s = mono_s
        self._added = 0

    def put(self, table: NetworkTable, mode: str, trial_s: int, answers: Answers) -> None:
        """Put a table in force, or take ours away where it has no rules.

        Raises:
            HardwareFault: the kernel refuses; nothing has changed.
        """
        nft = self.nft
        if nft is None:  # no table, now or before
            return
        ports = self._login_ports(table)
        before: list[tuple[int, str, str]] | None = None
        for _ in range(TRIES):
            groups = [] if self.groups is None else self.groups.now(table.units)
            units = [group.element for group in groups]
            try:
                nft.run(self._text(table, mode, trial_s, units, answers, ports))
                break
            except HardwareFault:
                if not units or units == before:
                    raise
                before = units
        else:
            nft.run(self._text(table, mode, trial_s, [], answers, ports))
            groups = []
        if self.groups is not None:
            self.groups.told_all(groups)
        self._added = 0
        self.ports = ports
        self.mode = mode if table.body else ""
        self.trial.begin(trial_s if mode == "enforce" else 0, self._mono_s())
        if table.body:
            nft.give_back(ADD)

    @staticmethod
    def _text(
        table: NetworkTable,
        mode: str,
        trial_s: int,
        units: list[tuple[int, str, str]],
        answers: Answers,
        ports: frozenset[int],
    ) -> str:
        return transaction(
            table, mode, trial_s=trial_s, units=units, answers=answers, logins=sorted(ports)
        )

    def _login_ports(self, table: NetworkTable) -> frozenset[int]:
        if self.logins is None or not login_port(table):
            return frozenset()
        return self.logins.now()

    def again(self, table: NetworkTable, mode: str, answers: Answers) -> None:
        """As ``put``, with what is left of the trial."""
        mode, left_s = self.trial.again(mode, self._mono_s())
        self.put(table, mode, left_s, answers)

    def check(self, table: NetworkTable) -> None:
        """Try the whole table with every kind of statement, and keep nothing of it."""
        if self.nft is not None and table.body:
            groups = [] if self.groups is None else self.groups.now(table.units)
            units = [group.element for group in groups]
            self.nft.check(transaction(table, "enforce", trial_s=60, units=units, answers={}))

    def look(self, table: NetworkTable, answers: Answers) -> bool:
        """Name to the kernel the control groups and ports that came to be; True when that made a
        new table.

        Raises:
            HardwareFault: the kernel refuses; what it has stays.
        """
        if self.nft is None or not self.mode:
            return False
        for port in sorted(self._login_ports(table) - self.ports):
            self.nft.run(login_element(port))
            self.ports |= {port}
        if self.groups is None:
            return False
        for group in self.groups.fresh(table.units):
            try:
                self.nft.run(unit_element(*group.element))
            except HardwareFault:
                continue  # gone again; the next look says so
            self.groups.told(group)
            self._added += 1
        if self._added <= STALE:
            return False
        self.again(table, self.mode, answers)
        return True

    def allow(self, changes: Sequence[Change]) -> list[HardwareFault]:
        """Let addresses of names through: in one transaction, or each for itself where the kernel
        refuses that; returns what it refused then."""
        if self.nft is None or not self.mode or not changes:
            return []
        texts = [host_change(change) for change in changes]
        try:
            self.nft.run("".join(texts))
        except HardwareFault as fault:
            if len(texts) == 1:
                return [fault]
            return [refused for change in changes for refused in self.allow([change])]
        return []

    def remove(self) -> None:
        """Take our table away.

        Raises:
            HardwareFault: the kernel refuses.
        """
        if self.nft is not None:
            self.nft.run(REMOVE)
