"""Home Assistant by MQTT discovery: what is announced, what is said, what is taken back.

One device for the gateway and one for each sensor, so that a sensor that is gone is one empty
message. Rules, in order:

1. Taken back first: sensors that were announced once and are in no setting now.
2. A sensor is announced when its first value is known, and again when it has a new channel.
3. State of a channel: one retained JSON object, the same for every channel. Templates are constants
   of this file: nothing that came over a wire is ever part of one.
4. An entity is available while the gateway's session stands (the will says when not), the sensor is
   heard, and the value is good or stale. Suspect, untrusted and substituted values are in the
   attributes, with their quality; no automation takes them for a measurement.
5. device_class and unit only where the SenML unit has one of Home Assistant's.

Sources: Home Assistant, MQTT integration, "Discovery messages and availability" (device discovery);
MQTT sensor, MQTT binary sensor; Sensor entity, device classes and their units.

    HomeAssistant("gw-1", "0.1.0", "homeassistant", latest, former=("old",)).will().payload
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice

from edgewarden.mirror.latest import GATEWAY, Channel, Kind, Latest, Shown
from edgewarden.mirror.messages import Look, Message
from edgewarden.mirror.names import label, part

ROOT = "edgewarden"
ONLINE, OFFLINE = b"online", b"offline"
_GATEWAY_PART = "_gateway"
"""A sensor's name in the settings has no underscore: never one of those."""

_VALUE = "{{ value_json.value }}"
_BELIEVED = "{{ 'online' if value_json.quality in ['good', 'stale'] else 'offline' }}"

UNITS: dict[str, tuple[str | None, str]] = {
    "Cel": ("temperature", "°C"),
    "K": ("temperature", "K"),
    "%RH": ("humidity", "%"),
    "Pa": ("pressure", "Pa"),
    "hPa": ("pressure", "hPa"),
    "V": ("voltage", "V"),
    "A": ("current", "A"),
    "W": ("power", "W"),
    "kW": ("power", "kW"),
    "kWh": ("energy", "kWh"),
    "Hz": ("frequency", "Hz"),
    "lx": ("illuminance", "lx"),
    "m": ("distance", "m"),
    "mm": ("distance", "mm"),
    "m/s": ("speed", "m/s"),
    "km/h": ("speed", "km/h"),
    "kg": ("weight", "kg"),
    "g": ("weight", "g"),
    "s": ("duration", "s"),
    "min": ("duration", "min"),
    "h": ("duration", "h"),
    "%": (None, "%"),
    "deg": (None, "°"),
}
"""SenML unit (RFC 8428 §12.1, RFC 8798) -> (device class, Home Assistant's unit)."""


class HomeAssistant:
    """See the module's docstring; a Speaker.

    Args:
        former: sensors that were announced and are no more.
    """

    topics: tuple[str, ...] = ()
    refused = 0

    def __init__(
        self, device: str, version: str, prefix: str, latest: Latest, former: Iterable[str] = ()
    ) -> None:
        self._device, self._version, self._prefix = device, version, prefix
        self._latest = latest
        self._former = set(former)
        self._online = False
        self._take_back: list[str] = []
        self._announced: dict[str, int] = {}
        self._heard: dict[str, bool] = {}
        self._gone: set[str] = set()

    def will(self) -> Message:
        """The gateway is not there."""
        self._gone = set()
        return Message(self._topic("status"), OFFLINE)

    def born(self, look: Look) -> None:
        """Everything is said again."""
        self._online = False
        self._take_back = sorted(self._former)
        self._announced, self._heard = {}, {}
        self._latest.changed.update(dict.fromkeys(self._latest.values))

    def due(self, look: Look, most: int) -> list[Message]:
        """See the rules; what does not fit waits for the next look."""
        out: list[Message] = []
        while self._take_back and len(out) < most:
            source = self._take_back.pop()
            self._gone.add(source)
            out.append(Message(self.config_topic(source), b""))
        if not self._online and len(out) < most:
            self._online = True
            out.append(Message(self._topic("status"), ONLINE))
        out += islice(self._about_sources(look), most - len(out))
        for channel in list(self._latest.changed)[: most - len(out)]:
            del self._latest.changed[channel]
            out.append(Message(self._state_topic(channel), self.state(channel, look)))
        return out

    def heard(self, topic: str, payload: bytes) -> None:
        """Nothing is subscribed to."""

    def kept(self) -> dict[str, object]:
        """Sensors that are announced, or were and are not taken back yet."""
        self._former -= self._gone
        return {"sources": sorted({*self._latest.sources, *self._former})}

    def _about_sources(self, look: Look) -> Iterator[Message]:
        for source in (GATEWAY, *self._latest.sources):
            channels = self._latest.of(source)
            if channels and self._announced.get(source) != len(channels):
                self._announced[source] = len(channels)
                yield Message(self.config_topic(source), self.config(source))
            if source == GATEWAY:
                continue
            alive = look.alive.get(source, False)
            if channels and self._heard.get(source) is not alive:
                self._heard[source] = alive
                yield Message(self._topic(part(source), "status"), ONLINE if alive else OFFLINE)

    def config_topic(self, source: str) -> str:
        """Where a sensor is announced; an id of [a-zA-Z0-9_-]."""
        owner = f"{ROOT}_{self._device}" + (f"_{part(source)}" if source else "")
        return f"{self._prefix}/device/{owner}/config"

    def config(self, source: str) -> bytes:
        """The announcement of one device with all its channels."""
        gateway_id = f"{ROOT}_{self._device}"
        device: dict[str, object] = {
            "identifiers": [gateway_id],
            "name": self._device,
            "manufacturer": "edgewarden",
            "sw_version": self._version,
        }
        if source:
            device = {
                "identifiers": [f"{gateway_id}_{part(source)}"],
                "name": f"{self._device} {label(source)}",
                "via_device": gateway_id,
            }
        components = {
            part(name): self._component((source, name), shown)
            for name, shown in self._latest.of(source).items()
        }
        return _json(
            {
                "device": device,
                "origin": {"name": "edgewarden", "sw_version": self._version},
                "components": components,
            }
        )

    def _component(self, channel: Channel, shown: Shown) -> dict[str, object]:
        source, name = channel
        state = self._state_topic(channel)
        available = [{"topic": self._topic("status")}]
        if source:
            available.append({"topic": self._topic(part(source), "status")})
        available.append({"topic": state, "value_template": _BELIEVED})
        out: dict[str, object] = {
            "platform": "binary_sensor" if shown.kind is Kind.FLAG else "sensor",
            "unique_id": f"{ROOT}_{self._device}_{_owner(source)}_{part(name)}",
            "name": label(name),
            "state_topic": state,
            "value_template": _VALUE,
            "json_attributes_topic": state,
            "availability": available,
            "availability_mode": "all",
        }
        if source == GATEWAY:
            out["entity_category"] = "diagnostic"
        if shown.kind is Kind.FLAG:
            out |= {"payload_on": "True", "payload_off": "False"}
        elif shown.kind is Kind.NUMBER:
            out["state_class"] = "measurement"
            known = UNITS.get(shown.unit)
            if known is not None:
                device_class, unit = known
                out["unit_of_measurement"] = unit
                out |= {"device_class": device_class} if device_class else {}
                if device_class == "energy":
                    del out[
                        "state_class"
                    ]  # a measurement it is not, and whether it grows is unknown
        return out

    def state(self, channel: Channel, look: Look) -> bytes:
        """One channel's value, and what it is worth."""
        shown = self._latest.values[channel]
        seen = datetime.fromtimestamp(look.wall_ms(shown.seen_mono_ns) / 1000, UTC)
        body: dict[str, object] = {
            "value": shown.value,
            "quality": str(shown.quality),
            "unit": shown.unit,
            "seen_utc": f"{seen:%Y-%m-%dT%H:%M:%S}Z",
        }
        if shown.raw is not None:
            body["measured"] = shown.raw
        return _json(body)

    def _state_topic(self, channel: Channel) -> str:
        return self._topic(_owner(channel[0]), "state", part(channel[1]))

    def _topic(self, *parts: str) -> str:
        return "/".join((ROOT, self._device, *parts))


def _owner(source: str) -> str:
    return part(source) if source else _GATEWAY_PART


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), allow_nan=False).encode()
