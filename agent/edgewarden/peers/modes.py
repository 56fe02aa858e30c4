"""One nftables transaction that puts the network table in force, for each mode.

What this decides: what a refusal does, and that everything happens at once. The transaction makes
the table if it is not there, deletes it whole and makes it anew: the kernel takes all of it or
nothing, and no packet meets a moment without rules. No other table is named in it.

    enforce          a managed program's connection is refused with an answer it gets at once; what
                     comes from outside is dropped
    observe, learn   counted and logged in the same places, and let through

On trial the refusals hold only while the set ``trial`` has an element, and the kernel takes that
away after the time given: a gate that died, or a board that nobody reaches, opens itself again.
(That is why no process has to be there to undo it.)

What it leaves to others: the table's rules (rules.py), running it (kernel/nftables.py). Lean:
gate imports this.

    nft.run(transaction(table, "enforce", trial_s=600, units={}, answers={}))
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Protocol

    from edgewarden.wire.network_table import NetworkTable

    class Change(Protocol):
        """network/names.py."""

        @property
        def host(self) -> int: ...
        @property
        def version(self) -> int: ...
        @property
        def address(self) -> str: ...
        @property
        def keep_s(self) -> int: ...
        @property
        def fresh(self) -> bool: ...
        @property
        def dropped(self) -> str: ...


TABLE = "inet edgewarden"
ADD = f"add table {TABLE}\n"
"""Changes nothing where it is."""
REMOVE = f"{ADD}delete table {TABLE}\n"
"""Harmless where there is none."""

# admin-prohibited tells a person which kind of refusal it is. But the kernel limits ICMP errors, to
# ourselves as well (measured: denied IPv6 connects then waited 1 s each, IPv4 ones in a storm), and
# a
# denied connect must not wait: beyond a person's pace, and for IPv6, a TCP reset answers. The rest
# is
# dropped, which sendto(2) reports at once (EPERM).
_REFUSE = (
    "meta nfproto 2 limit rate 20/second burst 10 packets reject with icmp type admin-prohibited\n"
    "meta l4proto 6 reject with tcp reset\n"
    "drop\n"
)
_EFFECTS = {
    "refuse": (_REFUSE, "accept\n"),
    "shut": ("drop\n", "accept\n"),
    "over": ("drop\n", "return\n"),
    "full": ("reject with tcp reset\n", "return\n"),
}
"""Chain -> what it does in enforce, and otherwise."""


_AGAIN = {
    "out": "chain output_again { type filter hook output priority -9; policy accept; goto out; }\n",
    "in": "chain input_again { type filter hook input priority -9; policy accept; goto in; }\n",
}
"""Every packet is judged twice where something is enforced. The kernel walks the hooks of the old
table and of the new one while it goes from one to the other: a packet that has passed the new hook
before that moment and meets the old one after it would be judged by neither. With two hooks a
table, the last of the new is always behind the first of the old."""


def transaction(
    table: NetworkTable,
    mode: str,
    *,
    trial_s: int,
    units: Iterable[tuple[int, str, str]],
    answers: Mapping[int, Sequence[tuple[int, str, int]]],
    logins: Iterable[int] = (),
) -> str:
    """The text that puts a table in force, or takes it away where it has no rules.

    Args:
        table: a whole table.
        mode: of MODES.
        trial_s: not 0: refuse only for so many seconds.
        units: (level, path as nft finds it, chain) of the control groups that are there now.
        answers: host's number -> (4 or 6, address, seconds it stays).
        logins: ports where people come in, besides the one in the table.
    """
    if not table.body:
        return REMOVE
    trial = ""
    if trial_s and mode == "enforce":
        trial = (
            "set trial { typeof meta nfproto; flags timeout; "
            f"elements = {{ 2 timeout {trial_s}s, 10 timeout {trial_s}s }}; }}\n"
        )
    chains = "".join(_effect(name, mode, bool(trial)) for name in _EFFECTS)
    added = [unit_element(*unit) for unit in units]
    added += [login_element(port) for port in logins if login_port(table)]
    for host, found in answers.items():
        added += [host_element(host, *answer) for answer in found]
    if mode == "enforce":
        chains += "".join(
            again for name, again in _AGAIN.items() if f"chain {name} {{" in table.body
        )
    return f"{REMOVE}table {TABLE} {{\n{trial}{chains}{table.body}}}\n" + "".join(added)


def unit_element(level: int, path: str, chain: str) -> str:
    """The command that manages a control group that came into being."""
    return f'add element {TABLE} units{level} {{ "{path}" : goto {chain} }}\n'


def login_port(table: NetworkTable) -> int:
    """The port of the settings where people come in; 0 where the table refuses nothing that comes
    from outside."""
    _, found, rest = table.body.partition("set ssh { type inet_service; elements = { ")
    return int(rest.partition(" ")[0]) if found else 0


def login_element(port: int) -> str:
    """The command that lets people in at a port."""
    return f"add element {TABLE} ssh {{ {port} }}\n"


def host_element(host: int, version: int, address: str, keep_s: int) -> str:
    """The command that lets a name's address through for so long."""
    return f"add element {TABLE} h{host}v{version} {{ {address} timeout {keep_s}s }}\n"


def renew_host_element(host: int, version: int, address: str, keep_s: int) -> str:
    """The same for one that may be there: "add" alone leaves an element's time as it was."""
    plain = f"element {TABLE} h{host}v{version} {{ {address} }}\n"
    return f"add {plain}delete {plain}{host_element(host, version, address, keep_s)}"


def drop_host_element(host: int, version: int, address: str) -> str:
    """The commands that forget an address, also one that the kernel has just forgotten by itself:
    "delete" alone is refused then, and with it what stands behind it."""
    plain = f"element {TABLE} h{host}v{version} {{ {address} }}\n"
    return f"add {plain}delete {plain}"


def host_change(change: Change) -> str:
    """The commands of one change of a name's addresses."""
    target = change.host, change.version
    text = host_element if change.fresh else renew_host_element
    drop = drop_host_element(*target, change.dropped) if change.dropped else ""
    return drop + text(*target, change.address, change.keep_s)


def _effect(name: str, mode: str, on_trial: bool) -> str:
    enforced, otherwise = _EFFECTS[name]
    lines = otherwise
    if mode == "enforce":
        guard = f"meta nfproto != @trial {otherwise}" if on_trial else ""
        lines = guard + enforced
    return f"chain {name} {{\n{lines}}}\n"
