"""The policy as a person writes it: strict TOML, every fault at once, a frozen ``Policy`` out.

    [[program]]
    name = "demo-tool"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

Rules in order: the file is TOML and holds nothing but the sections below, each an array of tables;
each table is one rule with a ``name`` of its own in its section; each section's own file says what
a rule may hold (policy_programs.py, policy_devices.py, policy_peers.py). An empty policy is a
policy: it allows no program, and manages nobody's connections.

Inside a section the first rule that matches decides. The order of the file is kept.

A new section is a dataclass with a file of its own in this folder, one line in ``Policy``, and one
in ``_RULES`` if its keys depend on each other.

What it leaves to others: who may say so (the operator's signature, later), and what the rules
select on this gateway (judge/programs.py).
"""

from __future__ import annotations

from collections.abc import Iterator

from edgewarden.plain import dataclass
from edgewarden.settings.faults import MAX_SHOWN, Fault, SettingsFaults
from edgewarden.settings.fields import tables
from edgewarden.settings.policy_devices import (
    MAX_DEVICE_RULES,
    Device,
    Port,
    device_rules,
    port_faults,
)
from edgewarden.settings.policy_peers import (
    MAX_PEER_RULES,
    Egress,
    Ingress,
    egress_rules,
    peer_rules,
)
from edgewarden.settings.policy_programs import Program, program_rules
from edgewarden.settings.source import SourceFile, read
from edgewarden.settings.tree import TableRules, TreeReader, instance

MAX_POLICY_BYTES = 1024 * 1024
"""About 8000 entries; the one-shot that compiles it peaks near 20 times the text."""

MAX_PROGRAM_RULES = 8000
"""Programs of a Debian install with a desktop: about 3000 (find /usr/bin /usr/sbin). With those of
the critical set it stays below what a table takes (judge/exec_table.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is allowed; each section in the order it was written, no name twice in one."""

    program: tuple[Program, ...] = tables(
        Program,
        most=MAX_PROGRAM_RULES,
        help="The first one that holds decides; what none speaks of is not allowed.",
    )
    device: tuple[Device, ...] = tables(
        Device,
        most=MAX_DEVICE_RULES,
        help="The first one that matches decides; what none matches is not allowed.",
    )
    port: tuple[Port, ...] = tables(
        Port,
        most=MAX_DEVICE_RULES,
        help="What is expected of a serial port; one that none speaks of follows its device.",
    )
    egress: tuple[Egress, ...] = tables(
        Egress,
        most=MAX_PEER_RULES,
        help="The first one that holds decides; a unit or user that a rule names is denied what "
        "none allows, and nobody else is touched.",
    )
    ingress: tuple[Ingress, ...] = tables(
        Ingress,
        most=MAX_PEER_RULES,
        help="The first one that holds decides; where a rule allows something, what none allows "
        "is denied, but for ssh.",
    )


_RULES: TableRules = {
    Program: program_rules,
    Device: device_rules,
    Egress: egress_rules,
    Ingress: peer_rules,
}


def load_policy(source: SourceFile) -> Policy:
    """Return the policy of one file.

    Raises:
        SettingsFaults: with every fault of the file.
    """
    reader = TreeReader(read(source, max_bytes=MAX_POLICY_BYTES), Policy, _RULES)
    values = reader.table(Policy, reader.file.tree, ())
    if not reader.faults:
        policy: Policy = instance(Policy, values)
        reader.faults += _between_sections(reader, policy)
    if reader.faults:
        faults = sorted(reader.faults, key=lambda fault: fault.line)
        raise SettingsFaults(faults[:MAX_SHOWN], "policy")
    return policy


def _between_sections(reader: TreeReader, policy: Policy) -> Iterator[Fault]:
    """What rules must keep with those of another section."""
    for index, key, said, code, guess in port_faults(policy.device, policy.port):
        line = reader.file.line(("port", index, key))
        yield Fault(reader.file.name, line, f"port[{index}].{key}", said, code, guess)
