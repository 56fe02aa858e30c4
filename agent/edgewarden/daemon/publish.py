"""The publishers of copies at work: a session with a broker of the site's for each of them.

Decides when something is sent, and that it never costs the signed records anything. Leaves to
mirror/ what is said. Rules, in order:

1. While alarms wait for the uplink nothing is sent, for GIVE_WAY_S at most: a parked alarm must not
   blind the site for ever.
2. Nothing is sent while the broker has not taken the last messages; a broker that takes none for
   STUCK_S loses the session.
3. At most MOST messages a look. What does not fit waits in place, where the next value takes
   its place (mirror/latest.py): nothing grows, and what was left out is counted.
4. No fault leaves this file, not even a defect of ours; it is in the snapshot, and tried again
   (link/reconnect.py). Nothing is an alarm: these are copies.

MQTT 3.1.1, which every broker of a site speaks: its goodbye is a closed socket, so that the will is
published at an orderly end, too. The gateway's own key is not used here.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from ssl import SSLSocket
from typing import TYPE_CHECKING, Protocol

from edgewarden import __version__
from edgewarden.daemon.uplink import credentials
from edgewarden.errors import PeerFault, PeerUnavailable, TrustFault
from edgewarden.link.dial import dial, dial_plain
from edgewarden.link.reconnect import Reconnect
from edgewarden.link.session import MQTT_311, Session
from edgewarden.link.textfile import write
from edgewarden.link.websocket import WebSocket
from edgewarden.mirror.homeassistant import HomeAssistant
from edgewarden.mirror.latest import Latest
from edgewarden.mirror.messages import Look, Message, Speaker, health
from edgewarden.mirror.sparkplug import EdgeNode
from edgewarden.serial.portlife import PortState
from edgewarden.settings.publish import LocalBroker, port_of
from edgewarden.settings.schema import Settings
from edgewarden.trust.tls import pinned_context
from edgewarden.wire.facts import Event, Reading
from edgewarden.wire.record import RecordClass

if TYPE_CHECKING:
    from socket import socket

    from edgewarden.daemon.mirrors import Owner

MOST = 40
"""Messages of one look: births of 32 sensors and of the node fit."""
GIVE_WAY_S = 60.0
STUCK_S = 30.0
HEALTH_S = 30.0
"""Between two looks at status."""
KEEPALIVE_S = 30
BASE_S, CAP_S, SPREAD_S = 1.0, 120.0, 5.0
MAX_KEPT_BYTES = 64 * 1024
"""Names of 63 characters: 32 sensors, and all that were renamed while the broker was away. A file
cut short is none, and nothing in it was ever taken back."""
MAX_CA_BYTES = 64 * 1024
FOLDER = "link"
"""Of the state: what is link's own to write, under systemd, too."""


class Outlet(Protocol):
    """As much of a session as one look needs."""

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1
    ) -> int | None:
        """Send; None when the connection just went."""

    def abort(self, why: str) -> None:
        """Close the connection."""


class Publisher:
    """One way to say it, to one broker. On the loop's thread.

    Attributes:
        waiting: messages of the last look that were not taken yet.
        sent: messages handed to the broker.
        held: looks at which nothing was sent, because alarms waited or the broker was slow.
        sessions, fault: connections that stood; why the last ended, or why there was none.
        unkept: times that what the next start must know could not be written.
    """

    def __init__(
        self,
        name: str,
        wanted: LocalBroker,
        device: str,
        latest: Latest,
        speaker: Speaker,
        file: Path,
        owner: Owner,
    ) -> None:
        assert wanted.host is not None  # build() asks for no other
        self._host, self._wanted = wanted.host, wanted
        self._client_id = f"edgewarden-{name}-{device}"
        self.latest, self._speaker, self._file, self._owner = latest, speaker, file, owner
        self._kept = ""
        self.waiting = 0
        self._moved_ns = self._health_ns = 0
        self._waiting_ns: int | None = None
        self._accepted = self.connected = False
        self.sent = self.held = self.sessions = self.unkept = 0
        self.fault = "not tried yet"

    async def run(self) -> None:
        """Until cancelled."""
        reconnect = Reconnect(BASE_S, CAP_S, SPREAD_S, self._owner.random.uniform)
        await asyncio.sleep(reconnect.first())
        while True:
            began_ns = self._owner.clock.now().boot_ns
            self._accepted = False
            try:
                self.fault = await self._session()
            except TrustFault as fault:
                self.fault = str(fault.to_keep())  # by now it and its frames hold each other
                await asyncio.sleep(reconnect.distrusted())
                continue
            except PeerFault as fault:
                self.fault = str(fault.to_keep())
            except OSError as fault:
                self.fault = str(fault)
            except (
                Exception
            ) as fault:  # not the broker's: a defect of ours: copies do not end what signs
                self.fault = f"a defect: {fault!r}"[:200]
                await asyncio.sleep(reconnect.distrusted())
                continue
            lasted_s = (self._owner.clock.now().boot_ns - began_ns) / 1e9
            await asyncio.sleep(reconnect.ended(lasted_s, self._accepted))

    def snapshot(self) -> dict[str, object]:
        """For status."""
        return {
            "connected": self.connected,
            "sessions": self.sessions,
            "sent": self.sent,
            "superseded": self.latest.superseded,
            "refused": self.latest.refused,
            "held": self.held,
            "unkept": self.unkept,
            "commands_refused": self._speaker.refused,
            "fault": "" if self.connected else self.fault,
        }

    async def _session(self) -> str:
        """One session, to its end; returns why it ended."""
        loop = asyncio.get_running_loop()
        asked = credentials(Path(self._wanted.credentials))
        connection = await loop.run_in_executor(None, self._dial)
        will = self._speaker.will()
        self._keep()
        session = Session(
            connection,
            self._client_id,
            keepalive_s=KEEPALIVE_S,
            window=MOST,
            will=(will.topic, will.payload),
            will_retained=will.retain,
            on_acked=self.acked,
            on_message=self._speaker.heard,
            protocol=MQTT_311,
            credentials=asked,
        )
        try:
            await session.connect(self._host, port_of(self._wanted))
            if self._speaker.topics:
                await session.subscribe(self._speaker.topics)
            self.connected, self.sessions = True, self.sessions + 1
            self.waiting, self._moved_ns = 0, self._owner.clock.now().boot_ns
            self._speaker.born(self._look())
            while not session.ended.done():
                self.say(session)
                period_s = self._wanted.period_s
                await asyncio.wait([session.ended], timeout=period_s - loop.time() % period_s)
            return session.ended.result().text
        finally:
            self.connected = False
            session.abort("over")

    def _dial(self) -> SSLSocket | WebSocket | socket:
        """Blocks."""
        port, clock = port_of(self._wanted), self._owner.clock
        if self._wanted.ca is None:
            return dial_plain(self._host, port, clock)
        try:
            with Path(self._wanted.ca).open(encoding="ascii") as file:
                root = file.read(MAX_CA_BYTES)
        except (OSError, UnicodeDecodeError) as fault:
            raise PeerUnavailable(
                f"{self._wanted.ca} cannot be read: {fault}",
                code="EW-NET-005",
                next_step="name the PEM file of the root of this broker's certificate in ca",
            ) from fault
        return dial(self._host, port, pinned_context(root), clock)

    def say(self, session: Outlet) -> None:
        """One look; see the module's rules."""
        look = self._look()
        if self.waiting:
            self.held += 1
            if look.boot_ns - self._moved_ns > STUCK_S * 1e9:
                session.abort(f"{self.waiting} messages not taken for {STUCK_S:g} s")
            return
        self._keep()
        if self._gives_way(look.boot_ns):
            self.held += 1
            return
        if look.boot_ns - self._health_ns > HEALTH_S * 1e9 or not self._health_ns:
            self._health_ns = look.boot_ns
            self.latest.report(health(self._owner.status()), look.boot_ns)
        for message in self._speaker.due(look, MOST):
            self._publish(session, message)
        self._moved_ns = look.boot_ns

    def _publish(self, session: Outlet, message: Message) -> None:
        self.waiting += 1
        told = session.publish(
            message.topic, message.payload, retain=message.retain, qos=message.qos
        )
        if told is not None:
            self.sent += 1

    def acked(self, identifier: int, reason: int) -> None:
        """A message was taken (QoS 1), or written out (QoS 0)."""
        self.waiting -= 1
        self._accepted = True
        self._moved_ns = self._owner.clock.now().boot_ns

    def _gives_way(self, now_ns: int) -> bool:
        """Whether alarms wait for an uplink that stands."""
        alarms = self._owner.storage.state().get(RecordClass.ALARM)
        up = self._owner.uplink.snapshot().connected
        if alarms is None or not up or alarms.durable <= alarms.acked:
            self._waiting_ns = None
            return False
        if self._waiting_ns is None:
            self._waiting_ns = now_ns
        return now_ns - self._waiting_ns < GIVE_WAY_S * 1e9

    def _look(self) -> Look:
        now = self._owner.clock.now()
        ports = [sensor.snapshot() for sensor in self._owner.sensors]
        alive = {port.name: port.state is PortState.LIVE for port in ports}
        return Look(now.boot_ns, now.wall_ns, alive)

    def _keep(self) -> None:
        """Write down what the next start must know, if it is not what is written."""
        text = json.dumps(self._speaker.kept(), sort_keys=True)
        if text == self._kept:
            return
        try:
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            write(self._file, text)
            self._kept = text
        except OSError:
            self.unkept += 1  # a full or read-only disk; tried again at the next look


class Publishers:
    """All that the settings ask for; see mirrors.Mirrors."""

    def __init__(self, publishers: Mapping[str, Publisher], owner: Owner) -> None:
        self._publishers = publishers
        self._owner = owner

    def take(self, fact: Event | Reading) -> None:
        """The signed way first, then the copies."""
        self._owner.take(fact)
        if isinstance(fact, Reading):
            for publisher in self._publishers.values():
                publisher.latest.see(fact)

    def take_many(self, readings: Sequence[Reading]) -> None:
        """The same for the readings of one read."""
        self._owner.take_many(readings)
        for publisher in self._publishers.values():
            for reading in readings:
                publisher.latest.see(reading)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for name, publisher in self._publishers.items():
                group.create_task(publisher.run(), name=name)

    def snapshot(self) -> dict[str, object]:
        """Name -> what it did."""
        return {name: p.snapshot() for name, p in self._publishers.items()}


def build(settings: Settings, device: str, owner: Owner) -> Publishers:
    """Whoever has a host; nothing connects before ``run``."""
    folder, sources = Path(settings.paths.state, FOLDER), [s.name for s in settings.serial]
    made: dict[str, Publisher] = {}

    def add(name: str, wanted: LocalBroker, speaker: Callable[[Latest, object], Speaker]) -> None:
        if wanted.host is not None:
            latest, file = Latest(sources), folder / f"{name}.json"
            made[name] = Publisher(
                name, wanted, device, latest, speaker(latest, kept(file)), file, owner
            )

    add("homeassistant", settings.homeassistant, partial(_home_assistant, settings, device))
    add("sparkplug", settings.sparkplug, partial(_edge_node, settings, device))
    return Publishers(made, owner)


def _home_assistant(settings: Settings, device: str, latest: Latest, was: object) -> Speaker:
    found = was.get("sources") if isinstance(was, dict) else None
    names = [n for n in found if isinstance(n, str)] if isinstance(found, list) else []
    former = [name for name in names if name and name not in latest.sources]
    return HomeAssistant(device, __version__, settings.homeassistant.prefix, latest, former)


def _edge_node(settings: Settings, device: str, latest: Latest, was: object) -> Speaker:
    found = was.get("bd_seq") if isinstance(was, dict) else None
    first = found if isinstance(found, int) else 0
    return EdgeNode(settings.sparkplug.group, device, latest, first)


def kept(file: Path) -> object:
    """What a publisher wrote down; None for nothing that can be read."""
    try:
        with file.open("rb") as opened:
            return json.loads(opened.read(MAX_KEPT_BYTES))
    except (OSError, ValueError):
        return None
