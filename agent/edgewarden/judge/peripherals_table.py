"""The rules about peripherals as gate holds them: state/policy/peripherals.table.

What this decides: their bytes, and that gate takes nothing that is not exactly what the policy
one-shot writes. Sealed (wire/lean.py) lines of text, fields separated by tabs, in the order of the
policy file:

    generation  N
    device      NAME  ACTION  ID  SERIAL  INTERFACES  PORT  DESCRIPTORS
    port        NAME  ACTION  PATH  DRIVER  DEVICE

What is not given is empty. A table that breaks one rule is refused whole and the last good one
stays in use. What it leaves to others: what rules mean (peripherals.py), writing and owning the
file (daemon/policy.py).

    load_table(compile_table(devices, ports, generation=1)).devices == devices
"""

from __future__ import annotations

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire.lean import DIGEST_BYTES, Frozen, seal, unseal
from edgewarden.wire.peripherals import (
    ACTIONS,
    ANY,
    DeviceRule,
    PortRule,
    id_text,
    interface_text,
    is_port_path,
    parse_id,
    parse_interface,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

TABLE_NAME = "peripherals.table"
MAGIC = b"EWPERI_1"
MAX_RULES = 2048
"""Both sections of the policy file, full (settings/policy_devices.py)."""
MAX_TABLE_BYTES = 2 << 20
MAX_GENERATION = (1 << 64) - 1
MAX_FIELD_CHARS = 1024


class PeripheralTable(Frozen):
    """The rules, each section in the order it was written."""

    __slots__ = ("devices", "generation", "ports")
    devices: tuple[DeviceRule, ...]
    ports: tuple[PortRule, ...]
    generation: int


EMPTY = PeripheralTable((), (), 0)
"""Allows nothing that is not pinned: what gate judges by before it has read a good table."""


def compile_table(
    devices: Sequence[DeviceRule], ports: Sequence[PortRule], *, generation: int = 1
) -> bytes:
    """The bytes of a table.

    Raises:
        OperatorFault: a rule gate would refuse; the text names it.
    """
    lines = [f"generation\t{generation}"]
    for d in devices:
        interfaces = ",".join(interface_text(t) for t in d.interfaces)
        identity = id_text(d.vid, d.pid)
        fields = (d.name, d.action, identity, d.serial, interfaces, d.port, d.descriptors.hex())
        lines.append("\t".join(("device", *fields)))
    for p in ports:
        lines.append("\t".join(("port", p.name, p.action, p.path, p.driver, p.device)))
    try:
        data = seal(MAGIC, "".join(f"{line}\n" for line in lines).encode("utf-8"))
        if load_table(data) == PeripheralTable(tuple(devices), tuple(ports), generation):
            return data
        why = "a value changes on the way"
    except (WireRefusal, UnicodeEncodeError) as refusal:
        why = str(refusal)
    raise OperatorFault(
        f"gate would refuse these rules: {why}",
        code="EW-USB-001",
        next_step="correct [[device]] and [[port]] in the policy file and compile it again",
    )


def renewed(
    devices: Sequence[DeviceRule],
    ports: Sequence[PortRule],
    last: bytes | None,
    *,
    used: int = 0,
) -> bytes | None:
    """The table to put in place of the last one: its generation rises when the rules changed.

    Args:
        last: the file in place; None, or damaged, when there is none to go by.
        used: the highest generation that was in use; a table is never behind it.

    Returns:
        The bytes; None where there are no rules and never were.

    Raises:
        OperatorFault: as ``compile_table``.
    """
    try:
        old = None if last is None else load_table(last)
    except WireRefusal:
        old = None
    if old is None and not devices and not ports and last is None:
        return None
    before = EMPTY if old is None else old
    same = old is not None and (before.devices, before.ports) == (tuple(devices), tuple(ports))
    if same and before.generation >= used:
        return compile_table(devices, ports, generation=before.generation)
    return compile_table(devices, ports, generation=max(before.generation, used) + 1)


def load_table(data: bytes) -> PeripheralTable:
    """Read what ``compile_table`` wrote.

    Raises:
        WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value, too_many, bad_rule.
    """
    body = unseal(MAGIC, data, most=MAX_TABLE_BYTES)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_value", "not UTF-8") from None
    lines = text.split("\n")
    if lines.pop() or not lines:
        raise WireRefusal("bad_value", "the last line is cut short")
    head = lines[0].split("\t")
    if len(head) != 2 or head[0] != "generation" or not _is_generation(head[1]):
        raise WireRefusal("bad_value", "the first line is no generation")
    if len(lines) - 1 > MAX_RULES:
        raise WireRefusal("too_many", f"{len(lines) - 1} rules")
    devices: list[DeviceRule] = []
    ports: list[PortRule] = []
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        rule = _rule(fields)
        if rule is None or max(len(f) for f in fields) > MAX_FIELD_CHARS:
            raise WireRefusal("bad_rule", f"line {number}")
        if isinstance(rule, PortRule):
            ports.append(rule)
        elif ports:
            raise WireRefusal("bad_rule", f"line {number}: a device behind a port")
        else:
            devices.append(rule)
    for names in ([d.name for d in devices], [p.name for p in ports], [p.path for p in ports]):
        if len(set(names)) != len(names):
            raise WireRefusal("bad_rule", "a name or path twice")
    return PeripheralTable(tuple(devices), tuple(ports), int(head[1]))


def _is_generation(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20 and int(text) <= MAX_GENERATION


def _rule(fields: list[str]) -> DeviceRule | PortRule | None:
    """The rule of one line, or None."""
    if len(fields) < 3 or not fields[1] or fields[2] not in ACTIONS:
        return None
    if fields[0] == "port" and len(fields) == 6 and fields[3]:
        return PortRule(*fields[1:])
    if fields[0] != "device" or len(fields) != 8:
        return None
    identity = parse_id(fields[3]) if fields[3] else (ANY, ANY)
    patterns = [parse_interface(part) for part in fields[5].split(",")] if fields[5] else []
    triples = tuple(t for t in patterns if t is not None)
    digest = _digest(fields[7])
    if identity is None or len(triples) != len(patterns) or digest is None:
        return None
    if fields[6] and not is_port_path(fields[6]):
        return None
    return DeviceRule(fields[1], fields[2], *identity, fields[4], triples, fields[6], digest)


def _digest(text: str) -> bytes | None:
    """The digest, b"" where none is given, None where it is none."""
    if len(text) not in (0, 2 * DIGEST_BYTES) or any(c not in "0123456789abcdef" for c in text):
        return None
    return bytes.fromhex(text)
