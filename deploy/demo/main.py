"""`bash deploy/demo.sh`: from nothing to signed health data that a verifier believes, and two
reports it does not.

    fleet init -> broker -> serve -> reference -> token -> enrol -> board -> run -> enforce -> exec
    -> attack -> verdict

With ``--once --json`` it ends by itself and prints one JSON object (schema edgewarden.demo/1) on
stdout; everything else goes to stderr. Without, it shows what flows until Ctrl-C. Either way
everything it started is stopped by its pid.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import time
from pathlib import Path

import gateway as gw
from attack import Outcome, attack, forge
from stage import BIN, PYTHON, ROOT, DemoError, Json, Stage, free_ports, listening, read_json

from edgewarden.record import reader
from edgewarden.wire import cose
from edgewarden.wire.record import Kind, RecordClass, decode_record

FLEET = BIN / "edgewarden-fleet"
WANTED_REPORTS = 3
WATCH_S = 2.0


def say(text: str) -> None:
    """One line for the person who watches."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


class Demo:
    """One run, step by step; every step leaves what the next one needs in an attribute."""

    def __init__(self, stage: Stage, wheel: Path) -> None:
        self.stage = stage
        self.wheel = wheel
        self.began = time.monotonic()
        self.fleet = stage.folder / "fleet"
        self.broker_port, self.enroll_port, self.console_port = free_ports(3)
        self.outcome = Outcome(0, 0)

    def operator_side(self, attestation_s: int = 15) -> None:
        """CA, broker, verifier, console; gateways are challenged every attestation_s."""
        ports = {
            "--broker-port": self.broker_port,
            "--enroll-port": self.enroll_port,
            "--console-port": self.console_port,
        }
        flags = [str(x) for pair in ports.items() for x in pair]
        self.stage.run(FLEET, "init", self.fleet, *flags)
        settings = self.fleet / "fleet.toml"
        text = re.sub(r"(?m)^period_s = \d+", f"period_s = {attestation_s}", settings.read_text())
        settings.write_text(text)
        self.stage.start("mosquitto", "mosquitto", "-c", self.fleet / "broker" / "mosquitto.conf")
        self.stage.await_("broker", lambda: listening(self.broker_port))
        self.stage.start("fleet", FLEET, "serve", self.fleet)
        self.stage.await_("enrolment", lambda: listening(self.enroll_port))
        say(f"fleet is up; console on http://127.0.0.1:{self.console_port}/")

    def provision(self) -> None:
        """Board, settings, reference values, enrolment."""
        self.prepare()
        self.enrol()

    def prepare(self) -> None:
        """Everything before enrolment."""
        board = self.stage.folder / "board"
        board.mkdir()
        self.stage.start("board", PYTHON, ROOT / "hw" / "rigs" / "board.py", "--dir", board)
        names = ("gps", "env", "meter")
        self.stage.await_("board", lambda: all((board / n).exists() for n in names))
        self.gateway = gw.prepare(self.stage, board)
        self.stage.run(
            FLEET, "reference", "add", self.wheel, "--dir", self.fleet,
            "--settings", self.gateway.settings, "--policy", self.gateway.policy,
        )  # fmt: skip

    def enrol(self) -> None:
        """A token, and the identity that it gets."""
        token = self.stage.run(
            FLEET, "token", "new", "--device", gw.DEVICE, "--dir", self.fleet
        ).strip()
        gw.enroll(self.stage, self.gateway, f"https://127.0.0.1:{self.enroll_port}", token)
        say(f"{gw.DEVICE} is enrolled; its key never left it")

    def gateway_side(self) -> None:
        """Everything a gateway needs, and the agent."""
        self.provision()
        self.stage.start("gateway", gw.AGENT, "run", "--settings", self.gateway.settings)
        self.stage.await_("uplink", self._connected)
        say("uplink is up over mutual TLS")

    def _connected(self) -> bool:
        uplink = gw.status(self.gateway).get("uplink")
        return isinstance(uplink, dict) and uplink.get("connected") is True

    def _gate_heard(self) -> bool:
        reasons = gw.status(self.gateway).get("reasons")
        return isinstance(reasons, list) and "EW-AGT-003" not in [r["code"] for r in reasons]

    def enforce(self) -> None:
        """Arm enforcement, run a listed and an unlisted program."""
        if not self.gateway.private:
            say("exec control: not root, nothing is enforced; detect and report only")
            return
        self.stage.await_("gate", self._gate_heard)  # link comes first and waits for nobody
        self.stage.run(gw.AGENT, "policy", "enforce", "--settings", self.gateway.settings)
        for name in ("known-tool", "unknown-tool"):
            say(f"{name}: {gw.run_program(self.gateway, name)}")

    def attack(self) -> None:
        """Send a forged and a replayed report with the gateway's own credentials."""
        self.stage.await_("two bulk reports", lambda: self._head("bulk") >= 4)
        record = genuine_record(self.gateway.state)
        topic = f"ew/1/main/{gw.DEVICE}/r/bulk"
        self.outcome = attack(
            self.gateway.identity, "127.0.0.1", self.broker_port, gw.DEVICE,
            [(topic, forge(record)), (topic, record)],
        )  # fmt: skip
        say(
            f"attack: a forged and a replayed report, {self.outcome.sent} sent,"
            f" {self.outcome.delivered} taken by the broker"
        )

    def _head(self, record_class: str) -> int:
        return int(self.shown()["chain"][record_class]["head"])

    def shown(self) -> Json:
        """What the fleet has verified of the gateway."""
        return read_json(self.stage.run(FLEET, "show", gw.DEVICE, "--dir", self.fleet, "--json"))

    def complete(self) -> bool:
        """Has everything that the demo promises arrived and been verified?"""
        report = self.report()
        control, forgery = report["exec"], report["forgery"]
        return (
            report["reports_verified"] >= WANTED_REPORTS
            and report["attestation"]["result"] == "affirming"
            and sum(s["readings"] > 0 for s in report["sensors"].values()) >= 2
            and (control["tier"] != "T3" or (control["denied"] >= 1 and control["allowed"] >= 1))
            and sum(forgery["refused"].values()) >= forgery["sent"]
            and self._connected()
        )

    def report(self) -> Json:
        """The demo's JSON (surface.md): what the fleet verified, bad frames as counted on board."""
        shown, status = self.shown(), gw.status(self.gateway)
        ports = status.get("sensors", {})
        refused = shown["chain"]["bulk"]["refused"]
        return {
            "schema": "edgewarden.demo/1",
            "device": shown["device"],
            "reports_verified": shown["reports_verified"],
            "reports_rejected": sum(shown["reports_rejected"].values()),
            "attestation": {
                "result": shown["attestation"]["result"],
                "grade": shown["attestation"]["grade"],
            },
            "sensors": {
                name: {
                    "readings": sensor["readings"],
                    "bad_frames": ports.get(name, {}).get("bad_frames", 0),
                }
                for name, sensor in shown["sensors"].items()
            },
            "exec": {
                "tier": status.get("enforcement", {}).get("exec", {}).get("tier", "T0"),
                "allowed": shown["exec"]["allowed"],
                "denied": shown["exec"]["denied"],
            },
            "forgery": {
                "sent": self.outcome.sent,
                "delivered": self.outcome.delivered,
                "accepted": self.outcome.delivered - sum(refused.values()),
                "refused": refused,
            },
            "elapsed_s": round(time.monotonic() - self.began, 2),
        }

    def watch(self) -> None:
        """Show what flows until a signal ends it."""
        say(f"running; console on http://127.0.0.1:{self.console_port}/ ; Ctrl-C ends everything")
        while True:
            shown, status = self.shown(), gw.status(self.gateway)
            readings = {n: s["readings"] for n, s in shown["sensors"].items()}
            say(
                f"{status.get('verdict', '?')}  verified {shown['reports_verified']}"
                f"  refused {sum(shown['reports_rejected'].values())}"
                f"  attestation {shown['attestation']['result']}"
                f"  denied {shown['exec']['denied']}  readings {readings}"
            )
            time.sleep(WATCH_S)


def genuine_record(state: Path) -> bytes:
    """A batch that the gateway itself wrote, as a thief of its disk would find it."""
    for stored in reader.iterate(state, RecordClass.BULK):
        payload = cose.open_envelope(stored.data, cose.ContentType.RECORD).payload
        if decode_record(payload).kind == Kind.BATCH:
            return stored.data
    raise DemoError("the gateway's spool holds no batch")


def stop_on_signals() -> None:
    """INT and TERM become KeyboardInterrupt: one way out, through the stage's close()."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def main() -> int:
    """Run the demo; returns its exit code."""
    options = argparse.ArgumentParser(prog="demo.sh", description=__doc__)
    options.add_argument("--once", action="store_true", help="end when everything is shown")
    options.add_argument("--json", action="store_true", help="print the result as JSON")
    options.add_argument("--wheel", type=Path, required=True, help=argparse.SUPPRESS)
    args = options.parse_args()
    stop_on_signals()
    stage, result = Stage(), None
    try:
        demo = Demo(stage, args.wheel)
        for step in (demo.operator_side, demo.gateway_side, demo.enforce, demo.attack):
            step()
        try:
            stage.await_("everything to be verified", demo.complete)
        finally:
            result = demo.report()
            say(f"the fleet shows {json.dumps(result)}")
        say(f"everything is verified after {result['elapsed_s']} s")
        if not args.once:
            demo.watch()
    except KeyboardInterrupt:
        say("stopping")
    except DemoError as fault:
        say(f"failed: {fault}")
        result = None
    finally:
        stage.close()
    left = stage.check_clean()
    for line in left:
        say(f"left behind: {line}")
    if result is not None and args.json:
        print(json.dumps(result), flush=True)
    return 0 if not left and (result is not None or not args.once) else 1


if __name__ == "__main__":
    sys.exit(main())
