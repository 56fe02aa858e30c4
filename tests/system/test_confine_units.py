"""What a plan makes, read by systemd's own parser: well-formed units, and a lower exposure.

Works without a running systemd, as tests/system/test_units.py does; that the units then hold is
shown by tests/boot/test_confine.py.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edgewarden.confine.facts import Host, Mount, Plan, Service, Wish
from edgewarden.confine.plan import NOEXEC_UNIT, files, plan

pytestmark = pytest.mark.needs("systemd-analyze")

LIBS = "/usr/lib/x86_64-linux-gnu"
BROKER = Service(
    "broker.service",
    live={"StateDirectory": "broker", "BindPaths": "/opt:/mnt:rbind"},
    programs=("/usr/sbin/broker",),
    libraries=(LIBS,),
    devices=("/dev/ttyUSB0",),
)
WISHES = (
    Wish("broker.service", network="policy", peers=("192.0.2.7", "2001:db8::/32")),
    Wish("jit.service", jit=True, network="none"),
)
PLACES = (
    Mount("/tmp", mounted=True, options=("rw", "nosuid"), unit="tmp.mount",
          unit_options="mode=1777,size=50%%"),
    Mount("/var/tmp"),
    Mount("/dev/shm", mounted=True, options=("rw", "nosuid", "nodev")),
)  # fmt: skip


@pytest.fixture
def made() -> Plan:
    services = {wish.unit: BROKER for wish in WISHES}
    return plan(WISHES, services, PLACES, Host((6, 12), 252))


@pytest.fixture
def root(tmp_path: Path, made: Plan) -> Path:
    """A root folder with the services and what the plan puts beside them."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    for folder in ("usr/sbin", "usr/bin"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("usr/sbin/broker", "usr/bin/mount", "usr/bin/umount"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    for wish in WISHES:
        (units / wish.unit).write_text("[Service]\nUser=daemon\nExecStart=/usr/sbin/broker\n")
    (units / "tmp.mount").write_text("[Mount]\nWhat=tmpfs\nWhere=/tmp\nType=tmpfs\n")
    for name in ("sysinit", "basic", "shutdown", "local-fs", "multi-user"):
        (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    for file in files(made, keep=True):
        where = tmp_path / file.path.lstrip("/")
        where.parent.mkdir(parents=True, exist_ok=True)
        if file.link:
            where.symlink_to(file.link)
        else:
            where.write_text(file.text)
    return tmp_path


def verify(root: Path, unit: str) -> str:
    line = [
        "systemd-analyze",
        "verify",
        f"--root={root}",
        "--man=no",
        "--recursive-errors=no",
        unit,
    ]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    return done.stdout + done.stderr


def exposure(root: Path, unit: str) -> float:
    line = ["systemd-analyze", "security", "--offline=true", f"--root={root}", unit]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)
    (row,) = [row for row in done.stdout.splitlines() if "Overall exposure level" in row]
    return float(row.split()[-3])


@pytest.mark.parametrize("unit", ["broker.service", "jit.service", "tmp.mount", NOEXEC_UNIT])
def test_systemd_reads_every_line(root: Path, unit: str) -> None:
    assert verify(root, unit) == ""


def test_a_line_that_systemd_does_not_know_is_seen(root: Path) -> None:
    dropin = root / "etc/systemd/system/broker.service.d/50-edgewarden.conf"
    with dropin.open("a") as file:
        file.write("NoExecPath=/srv\n")
    assert "NoExecPath" in verify(root, "broker.service")


def test_a_managed_service_is_less_exposed(root: Path) -> None:
    confined = exposure(root, "broker.service")
    (root / "etc/systemd/system/broker.service.d/50-edgewarden.conf").unlink()
    assert confined <= exposure(root, "broker.service") - 1.0
