"""A Mosquitto with any certificate that takes whoever comes, without asking for theirs.

Only what a client itself refuses keeps it from publishing here.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import HOST, Broker
from tests.waiting import wait_until


class Impostor(Broker):
    """In the place of a broker that is down.

    Args:
        cert, key: what it shows.
    """

    def __init__(self, folder: Path, port: int, cert: Path, key: Path) -> None:
        folder.mkdir(parents=True)
        self.port, self.log = port, folder / "mosquitto.log"
        self._address, self._process, self._conf = "127.0.0.1", None, folder / "mosquitto.conf"
        lines = [
            f"listener {port} 127.0.0.1", f"certfile {cert}", f"keyfile {key}",
            "allow_anonymous true", "log_type all", "user root",
        ]  # fmt: skip
        self._conf.write_text("\n".join([*lines, ""]))

    def refused(self) -> int:
        """How many handshakes a client ended with an alert."""
        return self.log.read_text(errors="replace").count("alert")

    def got(self) -> list[str]:
        """What of MQTT came in: sessions and messages."""
        words = ("New client connected", "Received PUBLISH")
        return [x for x in self.log.read_text().splitlines() if any(w in x for w in words)]

    def take_from_anybody(self) -> None:
        """The control: a client that verifies nothing leaves its message here."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client = mqtt.Client(CallbackAPIVersion.VERSION2, "careless", protocol=mqtt.MQTTv5)
        client.tls_set_context(context)
        client.connect(HOST, self.port)
        client.loop_start()
        try:
            client.publish("ew/1/main/careless/r/alarm", b"secret", qos=1).wait_for_publish(60)
            wait_until(lambda: len(self.got()) >= 2)
        finally:
            client.disconnect()
            client.loop_stop()
