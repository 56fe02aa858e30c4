"""A real NATS server as an MQTT 3.1.1 broker with mutual TLS, on free ports, stopped by its pid.

A client is its certificate's subject (verify_and_map); a gateway says and hears its own topics,
``fleet`` everything. JetStream lies in the folder.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hw.rigs.ports import free_port
from tests.broker import HOST, Pki
from tests.waiting import wait_until

START_S = 60.0
SAYS = ("r.alarm", "r.audit", "r.bulk", "e.evidence", "s.status")
HEARS = ("e.nonce", "e.result", "e.ack")


def _user(name: str, publish: Sequence[str], subscribe: Sequence[str]) -> str:
    def texts(subjects: Sequence[str]) -> str:
        return ", ".join(f'"{s}"' for s in subjects)

    # MQTT lives in streams below $MQTT and answers below _INBOX.
    own = '"$MQTT.>", "_INBOX.>"'
    return (
        f'{{ user: "CN={name},O=main", permissions: {{'
        f" publish: [{texts(publish)}], subscribe: [{texts(subscribe)}, {own}] }} }}"
    )


class Nats:
    """One server; a context manager. ``denied``: subjects that a gateway may not say."""

    def __init__(self, folder: Path, pki: Pki, device: str, denied: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self._log = free_port(), folder / "nats.log"
        cert, key = pki.issue(f"nats-{self.port}", server=True)
        own = f"ew.1.main.{device}"
        says = [f"{own}.{s}" for s in SAYS if s not in denied]
        users = [
            _user(device, says, [f"{own}.{s}" for s in HEARS]),
            _user("fleet", ["ew.>"], ["ew.>"]),
        ]
        self._conf = folder / "nats.conf"
        self._conf.write_text(
            f"""\
listen: "127.0.0.1:{free_port()}"
server_name: "test-{self.port}"
jetstream {{ store_dir: "{folder / "jetstream"}" }}
authorization {{ users: [ {users[0]}, {users[1]} ] }}
mqtt {{
    listen: "127.0.0.1:{self.port}"
    tls {{
        cert_file: "{cert}", key_file: "{key}", ca_file: "{pki.ca}"
        verify_and_map: true, timeout: 60
    }}
}}
"""
        )
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Nats:
        program = shutil.which("nats-server", path=f"{os.defpath}:/usr/sbin:/sbin")
        assert program is not None, "nats-server is not installed"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-c", str(self._conf)], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        wait_until(self._accepts, START_S)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(30)

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1.0):
            return True
        return False

    def said(self) -> str:
        return self._log.read_text(errors="replace")
