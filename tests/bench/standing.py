"""A real gateway, standing: CA, Mosquitto with mutual TLS, verifier, eight ports, agent.

The operator's side, the enrolment and the promise that all of it ends are the demo's own
(deploy/demo/stage.py, main.py, gateway.py): what is measured is what a person starts. Different are
the settings (defaults, but for start_spread_s = 0) and who talks on the ports (talker.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import sys
from pathlib import Path

from edgewarden.probe.control import ask_gate
from edgewarden.wire.local import GateStats, Request
from edgewarden_fleet.ca.folder import FleetFolder
from tests.bench import private, proc
from tests.bench.place import ROOT, CannotMeasure, Place, await_
from tests.bench.talker import NAMES

sys.path.insert(0, str(ROOT / "deploy" / "demo"))

import gateway as gw
from main import Demo
from stage import Stage

SETTINGS = """\
[paths]
state = "{state}"
run = "{run}"
[uplink]
start_spread_s = 0
[exec]
filesystems = [{filesystems}]
mode = "observe"
policy = "{policy}"
link_user = "{user}"
[host]
period_s = 10
[[serial]]
name = "gps"
port = "{board}/gps"
baud = 9600
format = "nmea"
"""
PORT = """\
[[serial]]
name = "{name}"
port = "{board}/{name}"
baud = 115200
format = "jsonlines"
"""

_SHIM = """
import os, sys
sys.executable = {python!r}
os.environ.update({environment!r})
sys.argv = ["edgewarden", "run", "--settings", {settings!r}]
from edgewarden.cli.main import main
sys.exit(main())
"""
"""`edgewarden run`, whose parts run on another interpreter than the supervisor itself."""


class Standing:
    """A context manager: everything stands until it ends."""

    def __init__(self, place: Place) -> None:
        self.stage = Stage()
        self.place = place
        self.demo = Demo(self.stage, Path())

    def __enter__(self) -> Standing:
        try:
            self.demo.operator_side(attestation_s=300)
            self._provision()
        except BaseException:
            self.stage.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stage.close()
        if left := self.stage.check_clean():
            raise CannotMeasure(f"left behind: {left}")

    def _provision(self) -> None:
        folder, board = self.stage.folder / "gateway", self.stage.folder / "board"
        folder.mkdir()
        board.mkdir()
        user = next((u for u in ("edgewarden", "nobody") if _exists(u)), "nobody")
        owner = [user] if os.geteuid() == 0 else []
        talker = ROOT / "tests" / "bench" / "talker.py"
        self.talker = self.stage.start("talker", sys.executable, talker, board, *owner)
        self.stage.await_("ports", lambda: all((board / n).exists() for n in NAMES), 10)
        apps = self.stage.folder / "apps"
        self.gateway = gw.Gateway(folder, apps, self.stage.mount_private(apps))
        shutil.copy("/bin/true", apps / "known-tool")
        digest = hashlib.sha256((apps / "known-tool").read_bytes()).hexdigest()
        self.gateway.policy.write_text(gw.POLICY.format(digest=digest))
        self.gateway.settings.write_text(
            SETTINGS.format(
                state=self.gateway.state,
                run=folder / "run",
                filesystems=f'"{apps}"' if self.gateway.private else "",
                policy=self.gateway.policy,
                user=user,
                board=board,
            )
            + "".join(PORT.format(name=name, board=board) for name in NAMES[1:])
        )
        fleet = gw.AGENT.with_name("edgewarden-fleet")
        token = self.stage.run(
            fleet, "token", "new", "--device", gw.DEVICE, "--dir", self.demo.fleet
        ).strip()
        gw.enroll(self.stage, self.gateway, f"https://127.0.0.1:{self.demo.enroll_port}", token)

    def start(self, interpreter: private.Interpreter | None = None) -> int:
        """`edgewarden run`; returns the supervisor's pid."""
        settings = str(self.gateway.settings)
        if interpreter is None:
            command: list[str | Path] = [gw.AGENT, "run", "--settings", settings]
        else:
            shim = _SHIM.format(
                python=str(interpreter.python), environment=interpreter.environment,
                settings=settings,
            )  # fmt: skip
            command = [sys.executable, "-c", shim]
        return self.stage.start("gateway", *command).pid

    def stop(self) -> None:
        """End the gateway; everything else stays."""
        self.stage.stop("gateway")

    def parts(self, supervisor: int) -> dict[str, int]:
        """Name -> pid of gate, guard and link."""
        found: dict[str, int] = {}
        for pid, line in proc.children(supervisor).items():
            for name, mark in (
                ("gate", "daemon.gate "),
                ("guard", "daemon.guard "),
                ("link", "daemon.lean "),
            ):
                if mark in line:
                    found[name] = pid
        if set(found) != {"gate", "guard", "link"}:
            raise CannotMeasure(f"gate, guard and link do not all run: {found}")
        return found

    def await_connected(self) -> None:
        """Wait until the uplink stands and gate, which starts behind link, is heard."""
        await_("uplink and gate", lambda: self._whole(), 20, step_s=0.2)

    def _whole(self) -> bool:
        status = gw.status(self.gateway)
        uplink, reasons = status.get("uplink"), status.get("reasons")
        connected = isinstance(uplink, dict) and uplink.get("connected") is True
        silent = not isinstance(reasons, list) or "EW-AGT-003" in [r["code"] for r in reasons]
        return connected and not silent

    def readings(self) -> dict[str, int]:
        """Readings per port so far; refuses a gateway that lost its uplink."""
        status = gw.status(self.gateway)
        uplink, sensors = status.get("uplink"), status.get("sensors")
        if not isinstance(uplink, dict) or not uplink.get("connected"):
            raise CannotMeasure("the uplink is down")
        assert isinstance(sensors, dict)
        return {name: int(one["readings"]) for name, one in sensors.items()}

    def process_events(self) -> int:
        """Forks, execs and exits of the whole machine that gate has heard of so far."""
        answer = ask_gate(str(self.stage.folder / "gateway" / "run"), Request("status", "learn"))
        if not isinstance(answer, GateStats):
            raise CannotMeasure(f"gate does not say how it is: {answer}")
        return answer.proc_events

    def enforce(self) -> None:
        """Arm enforcement where there is a filesystem for it, and run the listed program twice."""
        if self.gateway.private:
            agent, settings = gw.AGENT, self.gateway.settings
            self.stage.run(agent, "policy", "enforce", "--settings", settings)
            for _ in range(2):
                gw.run_program(self.gateway, "known-tool")

    def store(self) -> sqlite3.Connection:
        """The fleet's store, to read."""
        path = FleetFolder(self.demo.fleet).database
        return sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)


def _exists(user: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True
