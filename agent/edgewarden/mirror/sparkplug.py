"""Sparkplug B: one edge node, one device for each sensor, births and deaths, data by alias.

Rules, in order:

1. The will is NDEATH with bdSeq, and NBIRTH says the same bdSeq; the next connection has the next
   (0 to 255, and 0 again). NBIRTH is number 0, every later message the next (0 to 255).
2. A new metric of the node, or a rebirth asked for, begins with NBIRTH again; a new metric of a
   device with its DBIRTH. A device is born when it is heard and has a value, and dies (DDEATH) when
   it is heard no more.
3. Data names its metrics by alias alone, and holds what changed.
4. Every value carries Quality (0 bad, 192 good, 500 stale) and ``ew-quality``, the exact word; a
   substitute carries what was measured, too.
5. Of what comes, `Node Control/Rebirth` = true is honoured, once a look. All else is counted in
   ``refused``: nothing of this gateway is commanded from here.

Source: Eclipse Sparkplug 3.0.0, §5 (operational behaviour), §6.4 (payload), Appendix A
(sparkplug_b.proto: field numbers). No primary host state is followed: data does not wait.

    node = EdgeNode("plant", "gw-1", latest, bd_seq=7)
    node.will().topic == "spBv1.0/plant/NDEATH/gw-1"
"""

from __future__ import annotations

from collections.abc import Iterable

from edgewarden.mirror.latest import GATEWAY, Channel, Kind, Latest, Shown
from edgewarden.mirror.messages import Look, Message
from edgewarden.mirror.names import label, part
from edgewarden.mirror.protobuf import field, fields
from edgewarden.wire.facts import Quality

NAMESPACE = "spBv1.0"
REBIRTH = "Node Control/Rebirth"
MAX_COMMAND_BYTES = 4096
"""A rebirth is under 100 bytes."""

# sparkplug_b.proto, Payload
_TIMESTAMP, _METRICS, _SEQ = 1, 2, 3
# Payload.Metric
_NAME, _ALIAS, _METRIC_TIME, _DATATYPE, _IS_NULL, _PROPERTIES = 1, 2, 3, 4, 7, 9
_LONG, _DOUBLE, _BOOLEAN, _STRING = 11, 13, 14, 15
# Payload.PropertySet and Payload.PropertyValue
_KEYS, _VALUES = 1, 2
_PROPERTY_TYPE, _PROPERTY_INT, _PROPERTY_DOUBLE, _PROPERTY_BOOLEAN, _PROPERTY_STRING = 1, 3, 6, 7, 8
# DataType
INT32, INT64, DOUBLE, BOOLEAN, STRING = 3, 4, 10, 11, 12

_KINDS = {
    Kind.NUMBER: (DOUBLE, _DOUBLE),
    Kind.TEXT: (STRING, _STRING),
    Kind.FLAG: (BOOLEAN, _BOOLEAN),
}
# §6.4.14: the property Quality
_GOOD, _STALE, _BAD = 192, 500, 0
_QUALITIES = {Quality.GOOD: _GOOD, Quality.STALE: _STALE}


class EdgeNode:
    """See the module's docstring; a Speaker.

    Args:
        bd_seq: what the first connection says.

    Attributes:
        bd_seq: what the next connection says.
        rebirths, refused: messages that came.
    """

    def __init__(self, group: str, node: str, latest: Latest, bd_seq: int = 0) -> None:
        self._group, self._node = part(group), part(node)
        self.topics: tuple[str, ...] = (self._topic("NCMD"),)
        self._latest = latest
        self.bd_seq = bd_seq % 256
        self._session = self.bd_seq
        self._seq = 0
        self._aliases: dict[Channel, int] = {}
        self._born: dict[str, int] = {}
        self._wanted = False
        self.rebirths = 0
        self.refused = 0

    def will(self) -> Message:
        """NDEATH of the next session."""
        self._session, self.bd_seq = self.bd_seq, (self.bd_seq + 1) % 256
        body = field(_METRICS, self._bd_seq_metric(None))
        return Message(self._topic("NDEATH"), body, qos=1, retain=False)

    def born(self, look: Look) -> None:
        """Nothing of the session before counts."""
        self._born = {}

    def due(self, look: Look, most: int) -> list[Message]:
        """Births, deaths and data; at most one message for the node and one for each device."""
        out: list[Message] = []
        if self._wanted:
            self._wanted, self._born = False, {}
        for source in (GATEWAY, *self._latest.sources):
            if len(out) >= most:
                return out
            channels = self._latest.of(source)
            alive = source == GATEWAY or look.alive.get(source, False)
            changed = [c for c in self._latest.changed if c[0] == source]
            born = self._born.get(source)
            if born is not None and not alive:
                del self._born[source]
                out.append(self._said("DDEATH", source, look, b""))
            elif alive and (channels or source == GATEWAY) and born != len(channels):
                if source == GATEWAY:
                    self._born = {}
                self._born[source] = len(channels)
                out.append(self._birth(source, channels, look))
                self._told(changed)
            elif born is not None and changed:
                body = b"".join(self._metric(c, look, birth=False) for c in changed)
                out.append(self._said("DDATA" if source else "NDATA", source, look, body))
                self._told(changed)
        return out

    def kept(self) -> dict[str, object]:
        """The next bdSeq, so that a late death is not taken for one of the session that stands."""
        return {"bd_seq": self.bd_seq}

    def heard(self, topic: str, payload: bytes) -> None:
        """Honour a rebirth, count the rest."""
        try:
            wanted = topic == self.topics[0] and asks_for_rebirth(payload)
        except ValueError:
            wanted = False
        if wanted:
            self._wanted = True
            self.rebirths += 1
        else:
            self.refused += 1

    def _told(self, channels: Iterable[Channel]) -> None:
        for channel in channels:
            del self._latest.changed[channel]

    def _birth(self, source: str, channels: dict[str, Shown], look: Look) -> Message:
        body = b""
        if source == GATEWAY:
            self._seq = 0
            now_ms = look.wall_ms(look.boot_ns)
            rebirth = field(_NAME, REBIRTH) + field(_METRIC_TIME, now_ms)
            rebirth += field(_DATATYPE, BOOLEAN) + field(_BOOLEAN, False)
            body = field(_METRICS, self._bd_seq_metric(now_ms)) + field(_METRICS, rebirth)
        body += b"".join(self._metric((source, name), look, birth=True) for name in channels)
        return self._said("DBIRTH" if source else "NBIRTH", source, look, body)

    def _said(self, kind: str, source: str, look: Look, metrics: bytes) -> Message:
        body = field(_TIMESTAMP, look.wall_ms(look.boot_ns)) + metrics + field(_SEQ, self._seq)
        self._seq = (self._seq + 1) % 256
        return Message(self._topic(kind, source), body, qos=0, retain=False)

    def _bd_seq_metric(self, now_ms: int | None) -> bytes:
        body = field(_NAME, "bdSeq") + (b"" if now_ms is None else field(_METRIC_TIME, now_ms))
        return body + field(_DATATYPE, INT64) + field(_LONG, self._session)

    def _metric(self, channel: Channel, look: Look, *, birth: bool) -> bytes:
        shown = self._latest.values[channel]
        alias = self._aliases.setdefault(channel, len(self._aliases) + 1)
        datatype, value_field = _KINDS[shown.kind]
        body = field(_NAME, metric_name(channel)) if birth else b""
        body += field(_ALIAS, alias) + field(_METRIC_TIME, look.wall_ms(shown.seen_mono_ns))
        body += field(_DATATYPE, datatype)
        if shown.value is None:
            body += field(_IS_NULL, True)
        body += field(_PROPERTIES, _properties(shown, birth))
        if shown.value is not None:
            body += field(value_field, shown.value)
        return field(_METRICS, body)

    def _topic(self, kind: str, source: str = GATEWAY) -> str:
        end = (part(source),) if source else ()
        return "/".join((NAMESPACE, self._group, kind, self._node, *end))


def metric_name(channel: Channel) -> str:
    """A metric's name: a / would make a folder, so there is none but ours."""
    source, name = channel
    odd = label(name) != name or "/" in name or "--" in name
    plain = part(name) if odd else name
    return plain if source else f"Health/{plain}"


def asks_for_rebirth(payload: bytes) -> bool:
    """Whether a command is a rebirth and nothing besides; raises ValueError."""
    if len(payload) > MAX_COMMAND_BYTES:
        raise ValueError("too long")
    metrics = [value for number, value in fields(payload) if number == _METRICS]
    if len(metrics) != 1 or not isinstance(metrics[0], bytes):
        return False
    found = dict(fields(metrics[0]))
    return found.get(_NAME) == REBIRTH.encode() and found.get(_BOOLEAN) == 1


def _properties(shown: Shown, birth: bool) -> bytes:
    rows: list[tuple[str, int, int, int | float | str]] = [
        ("Quality", INT32, _PROPERTY_INT, _QUALITIES.get(shown.quality, _BAD)),
        ("ew-quality", STRING, _PROPERTY_STRING, str(shown.quality)),
    ]
    if birth and shown.unit:
        rows.append(("engUnit", STRING, _PROPERTY_STRING, label(shown.unit)))
    if isinstance(shown.raw, bool):
        rows.append(("ew-measured", BOOLEAN, _PROPERTY_BOOLEAN, shown.raw))
    elif isinstance(shown.raw, str):
        rows.append(("ew-measured", STRING, _PROPERTY_STRING, shown.raw))
    elif shown.raw is not None:
        rows.append(("ew-measured", DOUBLE, _PROPERTY_DOUBLE, shown.raw))
    keys = b"".join(field(_KEYS, key) for key, *_ in rows)
    values = b"".join(
        field(_VALUES, field(_PROPERTY_TYPE, kind) + field(number, value))
        for _, kind, number, value in rows
    )
    return keys + values
