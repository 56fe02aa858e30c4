"""The network area's messages: one refused packet (gate to link), one answer about a name (link to
gate). wire/local.py frames and registers them.

    NetworkVerdict   run/gate-facts.sock
    NameAnswer       run/gate-names.sock, the only thing link ever says to gate
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen
from edgewarden.wire.local_messages import DECISIONS, MODES

DIRECTIONS = ("egress", "ingress", "limit")
MAX_LABEL_BYTES = 80
""""unlisted:" and a unit's name; a longer one is cut."""
MAX_ADDRESSES = 16
"""Of one answer; a name with more is served by those of the next look-up."""
MAX_HOST_INDEX = 63

_VERDICT = struct.Struct("<BBBBBBIHQQB")  # ... length of label, of address
_ANSWER = struct.Struct("<HQBIB")


class NetworkVerdict(Frozen):
    """One packet that a rule or a limit refused, or would have.

    Attributes:
        decision: of DECISIONS; would_deny = observe mode, learned = learn mode.
        direction: of DIRECTIONS.
        mode: of MODES.
        rule: name of the rule, ``unlisted:UNIT`` where none allowed it, or the limit.
        by_name: the rule names its peer by DNS: whoever answers DNS took part in the decision.
        protocol: IANA number.
        address: the other side, 4 or 16 bytes.
        uid: whose socket, UNKNOWN_UID for what came from outside.
        port: that was spoken to, 0 for none.
        total: packets this rule has refused since gate's start, as last counted.
        boot_ns: CLOCK_BOOTTIME.
    """

    __slots__ = (
        "address", "boot_ns", "by_name", "decision", "direction", "mode", "port", "protocol",
        "rule", "total", "uid",
    )  # fmt: skip
    decision: str
    direction: str
    mode: str
    rule: str
    by_name: bool
    protocol: int
    address: bytes
    uid: int
    port: int
    total: int
    boot_ns: int


class NameAnswer(Frozen):
    """What DNS said about one name of the policy.

    Attributes:
        host: number of the name in the network table.
        generation: of the table that link read; another's is refused.
        version: 4 or 6.
        keep_s: how long, as the answer says; gate bounds it.
        addresses: at most MAX_ADDRESSES, each of 4 or 16 bytes.
    """

    __slots__ = ("addresses", "generation", "host", "keep_s", "version")
    host: int
    generation: int
    version: int
    keep_s: int
    addresses: tuple[bytes, ...]


def verdict_body(m: NetworkVerdict) -> bytes:
    label = m.rule.encode("utf-8", "backslashreplace")[:MAX_LABEL_BYTES]
    label = label.decode("utf-8", "ignore").encode()  # never half a character
    head = _VERDICT.pack(
        DECISIONS.index(m.decision), DIRECTIONS.index(m.direction), MODES.index(m.mode), m.by_name,
        m.protocol, len(m.address), m.uid, m.port, m.total, m.boot_ns, len(label),
    )  # fmt: skip
    return head + m.address + label


def verdict_parse(body: bytes) -> NetworkVerdict:
    if len(body) < _VERDICT.size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    decision, direction, mode, by_name, protocol, n_address, uid, port, total, boot_ns, n_label = (
        _VERDICT.unpack_from(body)
    )
    if len(body) != _VERDICT.size + n_address + n_label:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    if (
        max(decision - len(DECISIONS), direction - len(DIRECTIONS), mode - len(MODES)) >= 0
        or by_name > 1
        or n_address not in (4, 16)
        or n_label > MAX_LABEL_BYTES
    ):
        raise WireRefusal("bad_value", f"{decision}, {direction}, {mode}, {by_name}, {n_address}")
    rest = body[_VERDICT.size :]
    return NetworkVerdict(
        DECISIONS[decision], DIRECTIONS[direction], MODES[mode],
        rest[n_address:].decode("utf-8", "replace"), by_name == 1, protocol, rest[:n_address],
        uid, port, total, boot_ns,
    )  # fmt: skip


def answer_body(m: NameAnswer) -> bytes:
    head = _ANSWER.pack(m.host, m.generation, m.version, m.keep_s, len(m.addresses))
    return head + b"".join(m.addresses)


def answer_parse(body: bytes) -> NameAnswer:
    if len(body) < _ANSWER.size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    host, generation, version, keep_s, count = _ANSWER.unpack_from(body)
    if version not in (4, 6) or count > MAX_ADDRESSES or host > MAX_HOST_INDEX:
        raise WireRefusal("bad_value", f"name {host}, version {version}, {count} addresses")
    size = 4 if version == 4 else 16
    if len(body) != _ANSWER.size + count * size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    rest = body[_ANSWER.size :]
    addresses = tuple(rest[i * size : (i + 1) * size] for i in range(count))
    return NameAnswer(host, generation, version, keep_s, addresses)
