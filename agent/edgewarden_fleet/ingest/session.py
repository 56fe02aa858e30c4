"""The fleet's broker session: MQTT over mutual TLS, durable, acknowledged by hand.

clean_start is off and the session outlives its connection, so the broker queues while the fleet is
down. paho's own thread reads and writes; each message goes to the worker, which acknowledges after
its commit (``manual_ack``): that is queued, and paho's thread is woken. One thread alone may touch
the connection: OpenSSL's read in one and write in another corrupt it, and the process. An
acknowledgement belongs to the connection that delivered the message: after a reconnect the broker
delivers again, and the old packet id may mean another message.

Reconnects for ever with paho's backoff: the broker is started by somebody else and may come later.
"""

from __future__ import annotations

import logging
import ssl
import threading
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from edgewarden.settings.brokers import MQTT_5, PROFILES
from edgewarden.wire.record import MEMORY, RecordClass, label_of
from edgewarden.wire.topics import PREFIX
from edgewarden_fleet.ca.broker import GATEWAY_WRITES
from edgewarden_fleet.ca.certificates import FLEET_CN
from edgewarden_fleet.ca.settings import Endpoint
from edgewarden_fleet.ingest.admission import RESPONSES, Admission
from edgewarden_fleet.ingest.worker import Delivery, Worker
from edgewarden_fleet.verify.attest import Outgoing
from edgewarden_fleet.verify.pipeline import Incoming

SESSION_EXPIRY_S = 7 * 86400
"""How long the broker queues for a fleet that is down; gateways keep their own spools beyond
that."""
RECEIVE_MAXIMUM = 256
"""Unacknowledged messages the broker may have on the way: two groups of the worker."""
KEEPALIVE_S = 30
RECONNECT_S = (1, 30)
STOP_S = 0.2
"""Between two requests to end: paho looks for them between its steps."""

_TO_US = (*(f"/r/{label_of(c)}" for c in (MEMORY, *RecordClass)), "/e/evidence", "/s/status")

log = logging.getLogger("edgewarden_fleet.broker")


class _Client(mqtt.Client):
    """paho's client; says when its thread has ended, and why.

    ``loop_start`` is the one way to run it in which paho writes from that thread alone: with a
    thread of our own around ``loop_forever`` it writes from whoever calls ``ack`` or ``publish``.
    """

    failed: BaseException | None = None

    def __init__(self, *words: Any, **how: Any) -> None:
        super().__init__(*words, **how)
        self.ended = threading.Event()

    def loop_forever(
        self, timeout: float = 1.0, retry_first_connection: bool = False
    ) -> MQTTErrorCode:
        """What paho's thread runs."""
        try:
            return super().loop_forever(timeout, retry_first_connection)
        except BaseException as fault:  # the composer ends the process: nothing is heard any more
            self.failed = fault
            log.exception("the broker session ended")
            return MQTTErrorCode.MQTT_ERR_UNKNOWN
        finally:
            self.ended.set()


class BrokerSession:
    """One durable subscription to every gateway of a tenant."""

    def __init__(
        self, broker: Endpoint, tls: ssl.SSLContext, tenant: str, admission: Admission,
        profile: str = "mqtt5",
    ) -> None:  # fmt: skip
        self._broker = broker
        self._admission = admission
        self._filter = f"{PREFIX}/{tenant}"
        self._worker: Worker | None = None
        self._connection = 0
        self._asked: int | None = None
        self.connected = threading.Event()
        self._mqtt_5 = PROFILES[profile].mqtt == MQTT_5
        self._client = _Client(
            CallbackAPIVersion.VERSION2, FLEET_CN, manual_ack=True,
            protocol=mqtt.MQTTv5 if self._mqtt_5 else mqtt.MQTTv311,
            clean_session=None if self._mqtt_5 else False,
        )  # fmt: skip
        if not self._mqtt_5:
            admission.absent = True  # a plugin of Mosquitto's, which speaks 5
        self._client.tls_set_context(tls)
        self._client.reconnect_delay_set(*RECONNECT_S)
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe

    def start(self, worker: Worker) -> None:
        """Begin to connect; returns at once."""
        self._worker = worker
        where = self._broker.host, self._broker.port, KEEPALIVE_S
        if self._mqtt_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.ReceiveMaximum = RECEIVE_MAXIMUM
            self._client.connect_async(*where, clean_start=False, properties=properties)
        else:
            self._client.connect_async(*where)
        self._client.loop_start()

    @property
    def failed(self) -> BaseException | None:
        """What ended paho's thread, if anything did."""
        return self._client.failed

    def stop(self) -> None:
        """Disconnect; the broker goes on queueing."""
        while not self._client.ended.is_set():
            self._client.disconnect()  # again, when it came between two attempts to connect
            self._client.ended.wait(STOP_S)
        for deaf in (
            "on_connect",
            "on_disconnect",
            "on_connect_fail",
            "on_message",
            "on_subscribe",
        ):
            setattr(
                self._client, deaf, None
            )  # no ring: paho closes what wakes its thread as it goes

    def send(self, message: Outgoing) -> None:
        """Publish; dropped when not connected: a challenge is made again, a result is in the
        store."""
        if self.connected.is_set():
            self._client.publish(message.topic, message.payload, qos=1)

    def _on_connect(
        self, client: mqtt.Client, userdata: object, flags: mqtt.ConnectFlags,
        reason: ReasonCode, properties: Properties | None,
    ) -> None:  # fmt: skip
        if reason.is_failure:
            log.error("broker refuses the fleet reason=%r code=EW-NET-020", str(reason))
            return
        self._connection += 1
        if self._mqtt_5:
            options = SubscribeOptions(qos=1)
            client.subscribe([(f"{self._filter}/+/{name}", options) for name in GATEWAY_WRITES])
            # By itself: a broker without the plugin refuses it, and that is no reason to complain.
            self._asked = client.subscribe([(RESPONSES, options)])[1]
        else:
            # One filter: NATS keeps the order within a subscription, and a status must come before
            # the records of its session.
            client.subscribe([(f"{self._filter}/#", 1)])
        self.connected.set()
        if self._mqtt_5:
            self._admission.connected()
        log.info("broker connected session_kept=%s", flags.session_present)

    def _on_subscribe(
        self, client: mqtt.Client, userdata: object, mid: int, reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:  # fmt: skip
        if mid != self._asked and any(reason.is_failure for reason in reasons):
            log.error("broker refuses a subscription code=EW-NET-021 next=%r", "check broker/acl")

    def _on_disconnect(
        self, client: mqtt.Client, userdata: object, flags: mqtt.DisconnectFlags,
        reason: ReasonCode, properties: Properties | None,
    ) -> None:  # fmt: skip
        self.connected.clear()
        self._connection += 1
        log.info("broker disconnected reason=%r", str(reason))

    def _on_connect_fail(self, client: mqtt.Client, userdata: object) -> None:
        log.warning(
            "broker does not answer address=%s:%s code=EW-NET-020 next=%r",
            self._broker.host, self._broker.port, "start mosquitto with broker/mosquitto.conf",
        )  # fmt: skip

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        assert self._worker is not None
        connection = self._connection

        def acknowledge(mid: int = message.mid, qos: int = message.qos) -> None:
            if self._connection == connection:
                client.ack(mid, qos)

        if not self._mqtt_5 and not message.topic.endswith(_TO_US):
            client.ack(message.mid, message.qos)  # our own, which the one filter brings back
            return
        incoming = Incoming(
            message.topic, bytes(message.payload), bool(message.dup), bool(message.retain)
        )
        self._worker.offer(Delivery(incoming, acknowledge))
