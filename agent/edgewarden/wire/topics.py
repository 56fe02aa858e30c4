"""Topics: ``ew/1/<tenant>/<device>/<class>/<name>`` and nothing else.

r/{alarm,audit,bulk}   records                          gateway -> fleet
r/memory               records of a chain in memory     gateway -> fleet
e/evidence             signed evidence                  gateway -> fleet
e/nonce  e/result      signed challenge and appraisal   fleet -> gateway
e/ack                  signed: verified up to here      fleet -> gateway
s/status               signed session status, retained, and the last will

parse("ew/1/main/gw-demo/r/alarm") == Topic("main", "gw-demo", "r", "alarm")

A topic names the device; a broker session is named by the board that stands in its place: the
first is called as the device, those after it ``gw-demo.2``, ``gw-demo.3`` (ADR 28). The dot is not
in a device id's alphabet, so no name is another device's.

session_name("gw-demo", 2) == "gw-demo.2";  device_of("gw-demo.2") == "gw-demo"
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal
from edgewarden.plain import dataclass
from edgewarden.wire.record import MEMORY, RecordClass, is_identifier, label_of

PREFIX = "ew/1"
MAX_SESSION_NAME = 64
"""What a certificate's CN may hold (RFC 5280, ub-common-name)."""
_NAMES = {
    "r": frozenset(label_of(c) for c in (MEMORY, *RecordClass)),
    "e": frozenset({"evidence", "nonce", "result", "ack"}),
    "s": frozenset({"status"}),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of one gateway."""

    tenant: str
    device: str
    group: str
    name: str

    def __str__(self) -> str:
        return f"{PREFIX}/{self.tenant}/{self.device}/{self.group}/{self.name}"


def parse(text: str) -> Topic:
    """Read a topic; raises WireRefusal("bad_topic")."""
    parts = text.split("/")
    if len(parts) != 6 or "/".join(parts[:2]) != PREFIX:
        raise WireRefusal("bad_topic", f"{text[:80]!r} is not {PREFIX}/tenant/device/class/name")
    tenant, device, group, name = parts[2:]
    if not (is_identifier(tenant) and is_identifier(device)):
        raise WireRefusal("bad_topic", "tenant or device is not an identifier")
    if name not in _NAMES.get(group, ()):
        raise WireRefusal("bad_topic", f"{group}/{name} is not a topic of this version"[:100])
    return Topic(tenant, device, group, name)


def record_topic(tenant: str, device: str, record_class: int) -> str:
    """Topic of a gateway's records of one class, or of its chain in memory."""
    return str(Topic(tenant, device, "r", label_of(record_class)))


def session_name(device: str, board: int = 1) -> str:
    """What a board is called at the broker: its certificate's CN, user name and client id."""
    return device if board == 1 else f"{device}.{board}"


def device_of(name: str) -> str:
    """The device whose board has this name; what is no such name is nobody's: ""."""
    device, dot, board = name.partition(".")
    later = board.isascii() and board.isdigit() and board[0] != "0" and board != "1"
    return device if is_identifier(device) and (later or not dot) else ""
