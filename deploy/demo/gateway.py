"""The gateway of the demo: settings, policy, a private filesystem with one known and one unknown
program.

Everything here is what a person would do by hand, with the same commands: write settings, enrol
with a token, start
`edgewarden run`, arm enforcement, run programs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from stage import BIN, RUN_LIMIT_S, Json, Stage

AGENT = BIN / "edgewarden"
DEVICE = "gw-demo"

SETTINGS = """\
# Settings of the demo's gateway. A start without spread and short commits: seconds, not minutes,
# to see something.
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

[spool]
bulk_commit_s = 2

[host]
period_s = 5

[[serial]]
name = "gps"
port = "{board}/gps"
baud = 9600
format = "nmea"

[[serial]]
name = "env"
port = "{board}/env"
baud = 115200
format = "jsonlines"

[[serial]]
name = "meter"
port = "{board}/meter"
baud = 19200
format = "modbus-rtu"

[[serial.modbus]]
name = "temperature"
unit = 1
address = 0
type = "s16"
scale = 0.1
senml_unit = "Cel"
period_s = 1
"""

POLICY = """\
# The one program that may run on the demo's private filesystem.
[[program]]
name = "known-tool"
sha256 = "{digest}"
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Paths of the demo's gateway."""

    folder: Path
    apps: Path
    private: bool

    @property
    def settings(self) -> Path:
        """Its settings file."""
        return self.folder / "edgewarden.toml"

    @property
    def policy(self) -> Path:
        """Its allowlist."""
        return self.folder / "policy.toml"

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "state"

    @property
    def identity(self) -> Path:
        """Key, certificate and root of the enrolled gateway."""
        return self.state / "identity" / "current"


def prepare(stage: Stage, board: Path) -> Gateway:
    """Write settings and policy; put a known and an unknown program on a private filesystem."""
    folder, apps = stage.folder / "gateway", stage.folder / "apps"
    folder.mkdir()
    gateway = Gateway(folder, apps, stage.mount_private(apps))
    shutil.copy("/bin/true", apps / "known-tool")
    shutil.copy("/bin/true", apps / "unknown-tool")
    with (apps / "unknown-tool").open("ab") as program:
        program.write(b"one byte more is another program")
    _give_ports(board)
    digest = hashlib.sha256((apps / "known-tool").read_bytes()).hexdigest()
    gateway.policy.write_text(POLICY.format(digest=digest))
    gateway.settings.write_text(
        SETTINGS.format(
            state=gateway.state,
            run=folder / "run",
            filesystems=f'"{apps}"' if gateway.private else "",
            policy=gateway.policy,
            user=_unprivileged_user(),
            board=board,
        )
    )
    return gateway


def enroll(stage: Stage, gateway: Gateway, url: str, token: str) -> None:
    """`edgewarden enroll`, with the token in a file as a person would carry it."""
    path = gateway.folder / "token"
    path.write_text(token)
    stage.run(AGENT, "enroll", "--ca", url, "--token-file", path, "--settings", gateway.settings)
    path.unlink()


def status(gateway: Gateway) -> Json:
    """`edgewarden status --json`; {} while the agent is not running."""
    done = subprocess.run(
        [str(AGENT), "status", "--json", "--settings", str(gateway.settings)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=RUN_LIMIT_S,
    )
    with contextlib.suppress(ValueError):
        body = json.loads(done.stdout)
        if isinstance(body, dict) and done.returncode in (0, 1, 2):
            return body
    return {}


def run_program(gateway: Gateway, name: str) -> str:
    """Run a program of the private filesystem: "ran" or "denied"."""
    try:
        subprocess.run([gateway.apps / name], check=True, timeout=RUN_LIMIT_S)
    except PermissionError:
        return "denied"
    return "ran"


def _give_ports(board: Path) -> None:
    """What udev does on a real board: the ports belong to a group that link is in."""
    if os.geteuid() == 0:
        for name in ("gps", "env", "meter"):
            shutil.chown((board / name).resolve(), _unprivileged_user())


def _unprivileged_user() -> str:
    """Whom link becomes when the demo runs as root: the package's user where it is installed."""
    for name in ("edgewarden", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "nobody"
