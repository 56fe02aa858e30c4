"""A fleet on the host and a gateway that boots: what tier boot is played on.

The fleet side is the demo's (deploy/demo/): CA, a real Mosquitto with mutual TLS, verifier. The
gateway is hw/rigs/booted.py with the packages just built; nothing of this checkout is in it.

    with booted_site(packages, tree) as site:
        site.install(__version__)
        site.enrol()
        site.await_status(lambda s: s["uplink"]["connected"])
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgewarden import __version__
from hw.rigs.booted import Booted
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy" / "demo"))

from main import FLEET, Demo  # noqa: E402
from stage import Json, Stage, free_ports, read_json  # noqa: E402

DEVICE = "gw-boot"
APPS = "/srv/apps"
"""The guest's second disk: the one filesystem that is enforced on."""
NEXT = re.sub(r"\d+$", lambda last: str(int(last[0]) + 1), __version__)
VERSIONS = (__version__, NEXT)
ATTESTATION_S = 5
LIMIT_S = 180.0

SETTINGS = f"""\
[uplink]
start_spread_s = 0

[exec]
filesystems = ["{APPS}"]

[spool]
bulk_commit_s = 1

[host]
period_s = 2
"""


@dataclass(frozen=True, slots=True)
class Built:
    """What tests/boot/prepare.sh made."""

    packages: Path
    tree: Path

    def deb(self, name: str, version: str) -> Path:
        """A package file."""
        return self.packages / f"{name}_{version}_all.deb"


def prepare(packages: Path) -> Built:
    """Build the packages and the tree.

    Raises:
        subprocess.CalledProcessError: the build failed, or lintian had something to say.
    """
    line = ["bash", str(ROOT / "tests/boot/prepare.sh"), str(packages), NEXT]
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return Built(packages, Path(done.stdout.decode().strip()))


class Site:
    """One fleet, one gateway; every wait is bounded."""

    def __init__(self, built: Built, stage: Stage, gateway: Booted) -> None:
        self.built = built
        self.stage = stage
        self.gateway = gateway
        self.demo = Demo(stage, built.deb("edgewarden", VERSIONS[0]))
        self.demo.operator_side(attestation_s=ATTESTATION_S)

    # --- the gateway's life ----------------------------------------------------------------------

    def install(self, version: str) -> None:
        """Install, upgrade or downgrade with apt, as a person with the file would."""
        package = f"/root/edgewarden_{version}.deb"
        self.gateway.copy(self.built.deb("edgewarden", version), package)
        self.apt("install", "--allow-downgrades", package)

    def apt(self, *words: str) -> None:
        """Run apt-get in the gateway."""
        apt(self.gateway, *words)

    def enrol(self) -> None:
        """Settings, reference values of every version, a token, `edgewarden enroll`, start."""
        (self.gateway.path("/etc/edgewarden/conf.d/50-site.toml")).write_text(SETTINGS)
        self.reference_files()
        for version in VERSIONS:
            self.fleet("reference", "add", str(self.built.deb("edgewarden", version)))
        token = self.fleet("token", "new", "--device", DEVICE)
        self.gateway.path("/root/token").write_text(token.strip())
        url = f"https://127.0.0.1:{self.demo.enroll_port}"
        self.gateway.run("edgewarden", "enroll", "--ca", url, "--token-file", "/root/token")
        self.gateway.run("systemctl", "start", "edgewarden.target")

    def reference_files(self) -> None:
        """Tell the fleet which settings and policy this gateway is meant to have."""
        etc = self.gateway.path("/etc/edgewarden")
        settings = [str(etc / "edgewarden.toml"), str(etc / "conf.d/50-site.toml")]
        policy = ["--policy", str(etc / "policy.toml")]
        self.fleet("reference", "add", "--device", DEVICE, "--settings", *settings, *policy)

    def allow(self, *programs: str) -> None:
        """Make the allowlist exactly these files of the guest, compile it, tell the fleet."""
        rows = []
        for program in programs:
            digest = self.gateway.run("sha256sum", program).split()[0]
            rows.append(f'[[program]]\nname = "{Path(program).name}"\nsha256 = "{digest}"\n')
        self.gateway.path("/etc/edgewarden/policy.toml").write_text("\n".join(rows))
        self.gateway.run("edgewarden", "policy", "compile")
        self.reference_files()

    # --- what can be seen ------------------------------------------------------------------------

    def status(self) -> Json:
        """`edgewarden status --json`; {} while link does not answer."""
        done = self.gateway.attempt("edgewarden", "status", "--json")
        with contextlib.suppress(ValueError):
            if done.returncode in (0, 1, 2):
                return read_json(done.stdout)
        return {}

    def gate(self) -> Json:
        """Mode, tier and whether marks are armed, from gate itself; {} while it does not answer."""
        done = self.gateway.attempt("edgewarden", "policy", "show", "--json")
        with contextlib.suppress(ValueError):
            return dict(read_json(done.stdout)["gate"] or {})
        return {}

    def fleet(self, *words: str) -> str:
        """Run edgewarden-fleet on this fleet's folder."""
        return self.stage.run(FLEET, *words, "--dir", str(self.demo.fleet))

    def shown(self) -> Json:
        """What the fleet has verified of the gateway."""
        return read_json(self.fleet("show", DEVICE, "--json"))

    def await_status(self, holds: Callable[[Json], object], limit_s: float = LIMIT_S) -> None:
        """Wait until the status is there and holds(status)."""
        self._await(self.status, holds, limit_s)

    def await_gate(self, holds: Callable[[Json], object], limit_s: float = LIMIT_S) -> None:
        """Wait until gate answers and holds(answer)."""
        self._await(self.gate, holds, limit_s)

    def await_fleet(self, holds: Callable[[Json], object], limit_s: float = LIMIT_S) -> None:
        """Wait until holds(what the fleet shows)."""
        self._await(self.shown, holds, limit_s)

    def _await(
        self, look: Callable[[], Json], holds: Callable[[Json], object], limit_s: float
    ) -> None:
        latest: Json = {}

        def ready() -> bool:
            nonlocal latest
            latest = look()
            return bool(latest and holds(latest))

        try:
            wait_until(ready, limit_s)
        except TimeoutError as late:
            raise TimeoutError(f"{json.dumps(latest)}\n{self.journal()}") from late

    def journal(self) -> str:
        """The end of what the units of ours said."""
        line = ("journalctl", "--no-pager", "--lines=60", "--unit=edgewarden*")
        return self.gateway.attempt(*line).stdout

    def main_pid(self, part: str) -> int:
        """The guest's pid of a running part; 0 when it does not run."""
        unit = f"edgewarden-{part}.service"
        return int(self.gateway.run("systemctl", "show", "--property=MainPID", "--value", unit))

    def can_start(self, program: str) -> bool:
        """Whether a program of the guest starts: 126 is what a shell says of EPERM."""
        done = self.gateway.attempt("sh", "-c", f"{program}; exit $?")
        assert done.returncode in (0, 126), done.stderr
        return done.returncode == 0


def ports(count: int) -> list[int]:
    """Free TCP ports of the loopback that host and guest share."""
    return list(free_ports(count))


def apt(guest: Booted, *words: str) -> None:
    """Run apt-get without a person."""
    quiet = ["-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold"]
    guest.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", *quiet, *words)


def programs(gateway: Booted) -> None:
    """A program for the list and one that is not on it, on the second disk."""
    for name in ("known", "unknown"):
        shutil.copy(gateway.path("/usr/bin/true"), gateway.path(f"{APPS}/{name}"))
    with gateway.path(f"{APPS}/unknown").open("ab") as file:
        file.write(b"one byte more is another program")


@contextlib.contextmanager
def booted_site(built: Built, *, syscalls_denied: Sequence[str] = ()) -> Iterator[Site]:
    """A fleet and a booted gateway with nothing of ours on it."""
    stage = Stage()
    try:
        with Booted(built.tree, disks=[APPS], syscalls_denied=syscalls_denied) as gateway:
            programs(gateway)
            yield Site(built, stage, gateway)
    finally:
        stage.close()
        assert stage.check_clean() == []
