"""A fleet that really stands: `init`, a Mosquitto with the configuration init wrote, `serve`, real
enrolment, MQTT clients.

Everything runs as the programs a user runs, each in its own process on a free port, stopped by its
pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgewarden.enrol import by_token as enrol
from edgewarden.trust import tls
from edgewarden.trust.identity import Identity
from tests.fleet.makers import Board
from tests.waiting import wait_until

AGENT = Path(__file__).parents[2] / "agent"
START_S = 60.0
ENV = {"PYTHONPATH": str(AGENT), "PATH": os.environ.get("PATH", "")}


def fleet_command(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """One run of `edgewarden-fleet`."""
    command = [sys.executable, "-m", "edgewarden_fleet.cli.main", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, check=check, env=ENV, timeout=300
    )


class Standing:
    """A fleet folder with its broker and its server."""

    def __init__(self, folder: Path, *options: str, broker_user: str = "root") -> None:
        made = fleet_command(
            "init", folder, "--broker-port", "0", "--enroll-port", "0", "--console-port", "0",
            "--broker-user", broker_user, "--json", *options,
        )  # fmt: skip
        self.init = json.loads(made.stdout)
        self.folder = folder
        self.state = folder.with_name(f"{folder.name}-gateways")
        self.log = folder.with_name(f"{folder.name}.log").open("ab")
        self.broker: subprocess.Popen[bytes] | None = None
        self.server: subprocess.Popen[bytes] | None = None
        self.ready: dict[str, object] = {}

    @property
    def broker_port(self) -> int:
        return int(self.init["broker"]["port"])

    def start_broker(self) -> None:
        mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.broker = subprocess.Popen(
            [mosquitto, "-c", self.init["mosquitto_conf"]], stdout=self.log, stderr=self.log
        )
        wait_until(self._broker_answers, START_S)

    def _broker_answers(self) -> bool:
        assert self.broker is not None
        assert self.broker.poll() is None, "the broker did not start"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.broker_port), 1).close()
            return True
        return False

    def start_server(self) -> None:
        command = [sys.executable, "-m", "edgewarden_fleet.cli.main", "serve", str(self.folder)]
        self.server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, env=ENV)
        assert self.server.stdout is not None
        self.ready = json.loads(self.server.stdout.readline())

    def stop_server(self, number: int = signal.SIGTERM) -> int:
        assert self.server is not None
        assert self.server.stdout is not None
        self.server.send_signal(number)
        code = self.server.wait(60)
        self.server.stdout.close()
        self.server = None
        return code

    def stop_broker(self, number: int = signal.SIGTERM) -> None:
        assert self.broker is not None
        self.broker.send_signal(number)
        self.broker.wait(60)
        self.broker = None

    def close(self) -> None:
        if self.server is not None:
            self.stop_server()
        if self.broker is not None:
            self.stop_broker()
        self.log.close()

    def token(self, device: str, *options: str) -> str:
        made = fleet_command("token", "new", "--dir", self.folder, "--device", device, *options)
        return made.stdout.strip()

    def enrol(self, device: str) -> Identity:
        """Enrol as the gateway's own command does."""
        return enrol.enroll(self.state / device, str(self.init["enroll"]), self.token(device))

    def show(self, device: str) -> dict[str, object]:
        body = json.loads(fleet_command("show", device, "--dir", self.folder, "--json").stdout)
        assert isinstance(body, dict)
        return body


@contextlib.contextmanager
def standing_fleet(folder: Path, *, broker_user: str = "root") -> Iterator[Standing]:
    """A fleet with broker and server up; both are down again afterwards."""
    made = Standing(folder, broker_user=broker_user)
    try:
        made.start_broker()
        made.start_server()
        yield made
    finally:
        made.close()


class RealBoard(Board):
    """A board with the identity that real enrolment gave it."""

    def __init__(self, identity: Identity) -> None:
        self.device = identity.device
        self.tpm = None
        self.folder = identity
        self.identity = identity.signer()
        self.key = self.identity.private_key()
        self.x5chain = list(identity.x5chain())
        self.clear()


@dataclass(frozen=True)
class Got:
    """One message as a client received it."""

    topic: str
    payload: bytes


class Client:
    """An MQTT 5 client with a gateway's certificate."""

    def __init__(
        self, context: ssl.SSLContext, port: int, client_id: str, *, clean: bool = True,
        will: tuple[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        self.got: queue.Queue[Got] = queue.Queue()
        self.acks: dict[int, int] = {}
        self.connected = threading.Event()
        self.lost = threading.Event()
        self.mqtt = mqtt.Client(CallbackAPIVersion.VERSION2, client_id, protocol=mqtt.MQTTv5)
        self.mqtt.tls_set_context(context)
        self.mqtt.connect_timeout = START_S  # five seconds else: less than a machine stands still
        if will is not None:
            self.mqtt.will_set(*will, qos=1)
        self.mqtt.on_connect = lambda *a: self.connected.set() if not a[3].is_failure else None
        self.mqtt.on_disconnect = lambda *_: self.lost.set()
        self.mqtt.on_publish = self._on_publish
        self.mqtt.on_message = lambda _c, _u, m: self.got.put(Got(m.topic, bytes(m.payload)))
        self.mqtt.connect("127.0.0.1", port, clean_start=clean, properties=self._properties())
        self.mqtt.loop_start()
        assert self.connected.wait(60), "no CONNACK"

    def _properties(self) -> Properties:
        return Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]

    def _on_publish(self, _c: object, _u: object, mid: int, reason: object, _p: object) -> None:
        self.acks[mid] = int(reason.value)  # type: ignore[attr-defined]

    def publish(self, topic: str, data: bytes, *, retain: bool = False) -> int:
        """Publish at QoS 1; the broker's reason code."""
        mid = self.mqtt.publish(topic, data, qos=1, retain=retain).mid
        wait_until(lambda: mid in self.acks, 60)
        return self.acks[mid]

    def subscribe(self, *topics: str) -> None:
        done = threading.Event()
        self.mqtt.on_subscribe = lambda *_: done.set()
        self.mqtt.subscribe([(topic, 1) for topic in topics])
        assert done.wait(60)

    def close(self) -> None:
        self.mqtt.disconnect()
        self._let_go()

    def break_off(self) -> None:
        """End without a word, so that the broker publishes the last will."""
        self.mqtt.loop_stop()
        socket = self.mqtt.socket()
        assert socket is not None
        socket.close()
        self._let_go()

    def _let_go(self) -> None:
        self.mqtt.loop_stop()
        self.mqtt.on_connect = self.mqtt.on_disconnect = self.mqtt.on_publish = None
        self.mqtt.on_message = self.mqtt.on_subscribe = (
            None  # no ring: paho closes its wake-up pair
        )


def client_of(standing: Standing, board: RealBoard, client_id: str = "") -> Client:
    """A session of a board."""
    context = tls.client_context(board.folder)
    return Client(context, standing.broker_port, client_id or board.device)
