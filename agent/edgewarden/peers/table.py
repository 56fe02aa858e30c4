"""The next network table, from the policy, the settings and the table before it.

Rules in order: the generation rises when something changed, and stays when nothing did; where
nothing speaks of the network and nothing ever did there is no table at all, and gate loads no
library. An empty table takes the place of one that had rules: gate then removes ours from the
kernel.

    next_table(policy, settings.network, last=None, users=users)
"""

from __future__ import annotations

from collections.abc import Callable

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.peers.places import unit_path
from edgewarden.peers.rules import compile_network
from edgewarden.peers.users import Users
from edgewarden.settings.policy import Policy
from edgewarden.settings.schema import Network
from edgewarden.wire.network_table import MAX_TABLE_BYTES, NetworkTable


def next_table(
    policy: Policy,
    network: Network,
    *,
    last: bytes | None,
    users: Users,
    place: Callable[[str], str] = unit_path,
    used: int = 0,
) -> bytes | None:
    """The bytes of the table; None where there is nothing to say and never was.

    Args:
        last: the table in place, None without one; a damaged one is replaced.
        users, place: as ``compile_network`` has them.
        used: the highest generation that was in use; a table is never behind it.

    Raises:
        OperatorFault: a user that is not there, or more than there is room for.
    """
    before = None if last is None else _loaded(last)
    old = 0 if before is None else before.generation
    table = compile_network(policy, network, users=users, place=place, generation=old)
    if last is None and not table.body:
        return None
    if table != before or old < used:
        fresh = max(old, used) + 1
        table = compile_network(policy, network, users=users, place=place, generation=fresh)
    data = table.dump()
    if len(data) > MAX_TABLE_BYTES:
        raise OperatorFault(
            f"the network table would have {len(data)} bytes; {MAX_TABLE_BYTES} are the most",
            code="EW-NET-030",
            next_step="name networks instead of addresses",
        )
    return data


def _loaded(data: bytes) -> NetworkTable | None:
    try:
        return NetworkTable.load(data)
    except WireRefusal:
        return None
