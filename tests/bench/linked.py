"""One real link with a broker of its own, and nobody else: no fleet, no gate, no supervisor.

The identity comes from a CA made here, the broker is a Mosquitto with mutual TLS that asks for it,
and link is `edgewarden link` as a process. What is measured is that process and nothing beside it.

    site = Site(place, "rows")
    site.start(site.state("empty"))
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from edgewarden.enrol.folder import store
from edgewarden.trust.keys import FileSigner
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.broker import HOST, Broker, Pki

DEVICE = "gw-bench"
READY_S, GRACE_S = 30.0, 20.0
SETTINGS = """\
[paths]
state = "{state}"
run = "{run}"
[uplink]
start_spread_s = 0
[host]
period_s = 10
"""


class Site:
    """A broker and the state folders that gateways may run on."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.folder = place.folder / name
        self.folder.mkdir()
        self.pki = Pki(self.folder / "pki")
        self.pki.issue(DEVICE)
        self.pki.issue("fleet")
        self.signer = FileSigner.from_pem((self.pki.folder / f"{DEVICE}.key").read_bytes())
        self.broker = Broker(
            self.folder / "broker", self.pki, log_types="error", extra=["max_queued_messages 0"]
        )
        self.broker.start()
        place.ends(self.broker.stop)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The gateway's certificates."""
        return self.pki.chain(DEVICE)

    def state(self, name: str) -> Path:
        """A state folder with the identity and nothing else."""
        state = self.folder / name
        fields: dict[str, object] = {
            "device": DEVICE, "tenant": "main", "grade": "G0", "serial": "01",
            "not_after_utc": "2099-01-01T00:00:00Z", "service": "",
            "broker": {"host": HOST, "port": self.broker.port},
            "verifier_key": FileSigner.generate().public_key().hex(),
        }  # fmt: skip
        certificates = (self.pki.folder / f"{DEVICE}.pem").read_text()
        store(state, self.signer, fields, certificates, self.pki.ca.read_text())
        return state

    def client_line(self, program: str, user: str, *words: str) -> list[str]:
        """The command of mosquitto_pub or mosquitto_sub, with that user's certificate."""
        pair = ["--cert", str(self.pki.folder / f"{user}.pem")]
        pair += ["--key", str(self.pki.folder / f"{user}.key"), "--cafile", str(self.pki.ca)]
        where = ["-h", HOST, "-p", str(self.broker.port)]
        return [program, "-V", "5", *where, "-q", "1", *pair, *words]

    def listener(self) -> subprocess.Popen[bytes]:
        """Somebody who takes what is published, and throws it away."""
        return self.place.start(
            *self.client_line("mosquitto_sub", "fleet", "-t", "#", "-F", "%m"), name="listener"
        )

    def start(self, state: Path, more: str = "") -> Linked:
        """link on a state folder."""
        return Linked(self, state, more)


class Linked:
    """A running link; a context manager.

    Attributes:
        ready_s: from the start of the process to its own word that it is ready.
    """

    def __init__(self, site: Site, state: Path, more: str) -> None:
        run = site.folder / f"{state.name}-run"
        (run / "link").mkdir(parents=True, exist_ok=True)
        settings = site.folder / f"{state.name}.toml"
        settings.write_text(SETTINGS.format(state=state, run=run) + more)
        notify = run / "notify"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            told.bind(str(notify))
            told.settimeout(READY_S)
            self.log = site.folder / f"{state.name}.log"
            with self.log.open("wb") as log:
                began = time.perf_counter()
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "edgewarden", "link", "--settings", str(settings)],
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    env={"PYTHONPATH": str(ROOT / "agent"), "PATH": os.environ.get("PATH", ""),
                         "NOTIFY_SOCKET": str(notify)},
                )  # fmt: skip
            try:
                while not told.recv(4096).startswith(b"READY=1"):
                    pass
                self.ready_s = time.perf_counter() - began
            except TimeoutError:
                self.end()
                raise CannotMeasure(f"link is not ready: {self.log.read_text()[-500:]}") from None

    @property
    def pid(self) -> int:
        """Of the process that link is: the command becomes it."""
        return self.process.pid

    def __enter__(self) -> Linked:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def check(self) -> None:
        """Refuse a link that has ended."""
        if self.process.poll() is not None:
            raise CannotMeasure(f"link ended: {self.log.read_text()[-500:]}")

    def end(self) -> None:
        """TERM, and wait for what it still commits."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def await_quiet(seconds: float, look: object) -> None:
    """Wait until what ``look`` returns has not changed for so long."""
    assert callable(look)
    seen, since = look(), time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        if (now := look()) != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since >= seconds

    await_("end of what comes", still, 120.0)
