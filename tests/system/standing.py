"""A whole installation standing for tests: broker, fleet, virtual board and one gateway, all real.

The same stage as the demo (deploy/demo/), with the agent run from a copy of the tree, so that a
test may change a byte of "installed" code without touching the checkout.

    with standing(tmp_path) as site:
        site.await_status(lambda s: s["uplink"]["connected"])
        site.kill("link")
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "demo"))

import attack as demo_attack  # noqa: E402, F401
import gateway as demo_gateway  # noqa: E402
from main import FLEET, Demo  # noqa: E402
from stage import Json, Stage, read_json  # noqa: E402

ATTESTATION_S = 5
"""How often the fleet asks in tests: fleet.toml's own setting, low enough to see it twice."""


class Site:
    """One installation; every wait is bounded."""

    def __init__(self, stage: Stage, demo: Demo, agent: Path) -> None:
        self.stage = stage
        self.demo = demo
        self.agent = agent
        self.gateway = demo.gateway
        self.supervisor: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """The environment in which ``-m edgewarden`` is the copy."""
        return {**os.environ, "PYTHONPATH": str(self.agent)}

    def command(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run one command of the agent, from the copy, on the gateway's settings."""
        return self.plain(*words, "--settings", str(self.gateway.settings))

    def plain(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        """Run one command of the agent, from the copy."""
        return subprocess.run(
            [sys.executable, "-m", "edgewarden", *words],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=300,
            check=False,
        )

    def start(self) -> None:
        """Start `edgewarden run` from the copy."""
        line = [sys.executable, "-m", "edgewarden", "run", "--settings"]
        with (self.stage.folder / "log" / "gateway").open("ab") as log:
            self.supervisor = subprocess.Popen(
                [*line, str(self.gateway.settings)],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """End the agent by its supervisor's pid."""
        if self.supervisor is not None:
            self.supervisor.terminate()
            self.supervisor.wait(60)
            self.supervisor = None

    def status(self) -> Json:
        """`edgewarden status --json`, of a link that may be slow to answer."""
        found: list[Json] = []

        def answered() -> bool:
            found.append(self._status())
            return bool(found[-1])

        wait_until(answered)
        return found[-1]

    def _status(self) -> Json:
        """The same; {} where link does not answer."""
        done = self.command("status", "--json")
        with contextlib.suppress(ValueError):
            body = json.loads(done.stdout)
            if done.returncode in (0, 1, 2):
                return dict(body)
        return {}

    def shown(self) -> Json:
        """`edgewarden-fleet show gw-demo --json`."""
        line = (FLEET, "show", demo_gateway.DEVICE, "--dir", self.demo.fleet, "--json")
        return read_json(self.stage.run(*line))

    def await_status(self, holds: Callable[[Json], object], limit_s: float = 180) -> None:
        """Wait until the status is there and holds(status)."""
        wait_until(lambda: bool((s := self._status()) and holds(s)), limit_s)

    def await_fleet(self, holds: Callable[[Json], object], limit_s: float = 180) -> None:
        """Wait until holds(what the fleet shows)."""
        wait_until(lambda: bool(holds(self.shown())), limit_s)

    def pids(self) -> dict[str, int]:
        """Pids of guard, gate and link under the supervisor."""
        assert self.supervisor is not None
        children = Path(f"/proc/{self.supervisor.pid}/task/{self.supervisor.pid}/children")
        found: dict[str, int] = {}
        for pid in children.read_text().split():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                name = re.search(r"daemon\.(guard|gate|lean) ", line)
                if name:
                    found["link" if name[1] == "lean" else name[1]] = int(pid)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL one part and wait until the supervisor has started it again."""
        old = self.pids()[name]
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: self.pids().get(name, old) != old)


def whole(status: Json) -> bool:
    """Every part is up: link, which answers, has a session and hears gate, which starts later."""
    silent = "EW-AGT-003" in [reason["code"] for reason in status["reasons"]]
    return bool(status["uplink"]["connected"]) and not silent


@contextlib.contextmanager
def standing(before_enrolment: Callable[[Demo], None] = lambda _: None) -> Iterator[Site]:
    """Stand everything up, yield, take everything down.

    Args:
        before_enrolment: may change settings and the fleet's folder.
    """
    stage = Stage()
    site: Site | None = None
    try:
        wheels = stage.folder / "wheels"
        build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
        stage.run(sys.executable, "-m", "pip", *build, "--wheel-dir", wheels, ROOT)
        demo = Demo(stage, next(wheels.glob("*.whl")))
        demo.operator_side(attestation_s=ATTESTATION_S)
        demo.prepare()
        before_enrolment(demo)
        demo.enrol()
        agent = stage.folder / "agent"
        shutil.copytree(
            ROOT / "agent" / "edgewarden",
            agent / "edgewarden",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        site = Site(stage, demo, agent)
        site.start()
        site.await_status(whole)
        yield site
    finally:
        if site is not None:
            site.stop()
        stage.close()
        assert stage.check_clean() == []
