"""The demo's attack beside the gateway that it robs of its session: the gateway comes back, and may
take it again before the broker has said what it took."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import HOST, Broker, Pki, Subscriber
from tests.system.standing import demo_attack
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("mosquitto")

DEVICE = "gw-demo"
TOPIC = f"ew/1/main/{DEVICE}/r/bulk"


class Robbed(list[tuple[str, bytes]]):
    """Messages; before the first is sent, the session is taken by another."""

    def __init__(self, broker: Broker, context: ssl.SSLContext) -> None:
        super().__init__([(TOPIC, b"forged"), (TOPIC, b"replayed")])
        self._broker, self._context = broker, context

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        rival = mqtt.Client(CallbackAPIVersion.VERSION2, DEVICE, protocol=mqtt.MQTTv5)
        rival.tls_set_context(self._context)
        rival.connect(HOST, self._broker.port, keepalive=600)
        wait_until(lambda: rival.loop(0.05) == mqtt.MQTT_ERR_SUCCESS and rival.is_connected())
        rival.disconnect()
        rival.loop(0.05)
        return super().__iter__()


def test_both_are_sent_once_however_often_the_gateway_takes_its_session_back(
    tmp_path: Path, pki: Pki
) -> None:
    cert, key = pki.issue(DEVICE)
    (tmp_path / "cert.pem").write_bytes(cert.read_bytes())
    (tmp_path / "key.pem").write_bytes(key.read_bytes())
    (tmp_path / "ca.pem").write_bytes(pki.ca.read_bytes())
    with (
        Broker(tmp_path / "broker", pki) as broker,
        Subscriber(broker.port, pki.client_context("fleet"), ["ew/1/#"]) as heard,
    ):
        robbed = Robbed(broker, pki.context(cert, key))
        outcome = demo_attack.attack(tmp_path, HOST, broker.port, DEVICE, robbed)
        assert (outcome.sent, outcome.delivered) == (2, 2)
        wait_until(lambda: len(heard.messages) >= 2)
        assert heard.payloads("/r/bulk") == [b"forged", b"replayed"]
