"""The systemd units: well-formed, confined, and true to the processes of ADR 1.

Works without a running systemd: ``systemd-analyze verify --root`` and ``security --offline`` read
files only. The thresholds are those of issue 2; --threshold's scale is ten times the printed score.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgewarden.daemon.publish import FOLDER as PUBLISHERS
from edgewarden.daemon.supervise import ONE_SHOT_S
from edgewarden.record.aside import FOLDER as ASIDE
from edgewarden.record.spool import FOLDER as SPOOL
from edgewarden.trust.boot import IMA_LOG
from edgewarden.trust.continuity import FOLDER as TOKEN
from edgewarden.trust.identity import FOLDER as IDENTITY
from tests.rules.planting import ROOT, tool

UNITS = ROOT / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
THRESHOLDS = {
    "edgewarden-link.service": 15,
    "edgewarden-gate.service": 30,
    "edgewarden-guard.service": 20,
    "edgewarden-policy.service": 20,
    "edgewarden-canary.service": 30,
    "edgewarden-recheck.service": 30,
    "edgewarden-confine.service": 35,
    "edgewarden-look.service": 20,
    "edgewarden-renew.service": 15,
    "edgewarden-healthy.service": 20,
}
FOREIGN = [
    "basic.target",
    "getty.target",
    "local-fs.target",
    "multi-user.target",
    "network-online.target",
    "shutdown.target",
    "sockets.target",
    "sysinit.target",
    "timers.target",
    "time-sync.target",
]
"""Units of systemd's own that ours name; their content does not matter here."""

pytestmark = pytest.mark.needs("systemd-analyze")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root folder with our units where the package puts them, and a program to start."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    (tmp_path / "usr/bin").mkdir()
    program = tmp_path / "usr/bin/edgewarden"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    shutil.copy(program, tmp_path / "usr/bin/python3")
    for name in FOREIGN:
        (units / name).write_text(f"[Unit]\nDescription={name}\n")
    for path in UNITS.glob("edgewarden*"):
        shutil.copy(path, units)
    return tmp_path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def verify(root: Path) -> str:
    """What systemd-analyze has to say about the units; nothing when all is well."""
    names = [path.name for path in UNITS.glob("edgewarden*")]
    done = analyze("verify", f"--root={root}", "--man=no", "--recursive-errors=yes", *names)
    return done.stdout + done.stderr + ("" if done.returncode == 0 else f"exit {done.returncode}")


def is_within(unit: Path, threshold: int) -> bool:
    done = analyze("security", "--offline=true", f"--threshold={threshold}", str(unit))
    assert "Overall exposure level" in done.stdout, done.stderr
    return done.returncode == 0


def settings(unit: str) -> dict[str, str]:
    """Directives of a unit; a repeated one is joined with spaces, as systemd does with lists."""
    found: dict[str, str] = {}
    for line in (UNITS / unit).read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def test_units_are_well_formed(root: Path) -> None:
    assert verify(root) == ""


@pytest.mark.parametrize("fault", ["[Service]\nBogus=1\n", "[Service]\nExecStartPre=/absent\n"])
def test_a_faulty_unit_is_seen(root: Path, fault: str) -> None:
    with (root / "usr/lib/systemd/system/edgewarden-gate.service").open("a") as unit:
        unit.write(fault)
    assert "Bogus" in verify(root) or "/absent" in verify(root)


def test_every_service_has_a_threshold() -> None:
    assert sorted(THRESHOLDS) == SERVICES


@pytest.mark.parametrize("unit", SERVICES)
def test_exposure_stays_low(unit: str) -> None:
    report = analyze("security", "--offline=true", str(UNITS / unit)).stdout
    assert is_within(UNITS / unit, THRESHOLDS[unit]), report.splitlines()[-1]


@pytest.mark.parametrize(
    ("unit", "line"),
    [
        ("edgewarden-link.service", "RestrictNamespaces=yes"),
        ("edgewarden-link.service", "CapabilityBoundingSet="),
        ("edgewarden-gate.service", "RestrictAddressFamilies=AF_UNIX AF_NETLINK"),
    ],
)
def test_a_loosened_unit_is_seen(tmp_path: Path, unit: str, line: str) -> None:
    text = (UNITS / unit).read_text()
    assert f"\n{line}\n" in text
    loosened = tmp_path / unit
    loosened.write_text(text.replace(f"\n{line}\n", "\n"))
    assert not is_within(loosened, THRESHOLDS[unit])


def test_gate_speaks_no_ip_and_holds_nine_capabilities() -> None:
    gate = settings("edgewarden-gate.service")
    assert gate["RestrictAddressFamilies"].split() == ["AF_UNIX", "AF_NETLINK"]
    assert set(gate["CapabilityBoundingSet"].split()) == {
        "CAP_SYS_ADMIN",
        "CAP_NET_ADMIN",
        "CAP_KILL",
        "CAP_DAC_READ_SEARCH",
        "CAP_LEASE",
        "CAP_SYS_PTRACE",
        "CAP_IPC_LOCK",
        "CAP_SYS_NICE",
        "CAP_CHOWN",
    }
    assert "PrivateNetwork" not in gate, "the proc connector needs the host's network namespace"
    assert gate["Restart"] == "always"


def test_guard_can_kill_and_lock_memory_and_nothing_else() -> None:
    guard = settings("edgewarden-guard.service")
    assert guard["CapabilityBoundingSet"].split() == ["CAP_KILL", "CAP_IPC_LOCK"]
    assert guard["RestrictAddressFamilies"].split() == ["AF_UNIX"]
    assert guard["Restart"] == "always"
    socket = settings("edgewarden-guard.socket")
    assert socket["ListenSequentialPacket"] == "/run/edgewarden/guard.sock"
    assert socket["SocketMode"] == "0600"


def test_link_is_an_ordinary_user_with_serial_ports_only() -> None:
    link = settings("edgewarden-link.service")
    assert link["User"] == "edgewarden"
    assert link["CapabilityBoundingSet"] == ""
    assert link["AmbientCapabilities"] == ""
    assert link["DevicePolicy"] == "closed"
    assert all(
        word.startswith(("char-tty", "char-gpiochip", "/dev/tpmrm0", "rw"))
        for word in link["DeviceAllow"].split()
    )


def test_the_policy_compiler_has_no_network() -> None:
    policy = settings("edgewarden-policy.service")
    assert policy["PrivateNetwork"] == "yes"
    assert policy["RestrictAddressFamilies"] == "AF_UNIX"
    assert policy["Before"] == "edgewarden-gate.service"


def test_link_waits_for_no_part_and_gate_not_for_ever_for_its_policy() -> None:
    link, policy = settings("edgewarden-link.service"), settings("edgewarden-policy.service")
    assert not [word for word in link["After"].split() if word.startswith("edgewarden-")]
    assert "Requires" not in link
    assert float(policy["TimeoutStartSec"]) == ONE_SHOT_S
    gate = settings("edgewarden-gate.service")
    for unit in ("edgewarden-policy.service", "edgewarden-canary.service"):
        assert unit in gate["After"].split()
        assert unit in gate["Wants"].split()
        assert settings(unit)["Nice"] == gate["Nice"], "what gate waits for comes before link"


def test_what_gate_believes_is_not_writable_by_link() -> None:
    rows = [
        line.split() for line in (UNITS / "tmpfiles.d/edgewarden.conf").read_text().splitlines()
    ]
    owner = {row[1]: (row[2], row[3]) for row in rows if row and row[0] == "d"}
    for folder in ("/run/edgewarden", "/var/lib/edgewarden", "/var/lib/edgewarden/policy"):
        assert owner[folder] == ("0755", "root"), folder
    writable = settings("edgewarden-link.service")["ReadWritePaths"].split()
    assert {owner[folder] for folder in writable} == {("0750", "edgewarden")}


@pytest.mark.parametrize("folder", [SPOOL, ASIDE, TOKEN, IDENTITY, PUBLISHERS])
def test_every_folder_that_link_makes_is_one_that_it_may_write(folder: str) -> None:
    writable = settings("edgewarden-link.service")["ReadWritePaths"].split()
    made = Path("/var/lib/edgewarden") / folder
    assert any(made.is_relative_to(path) for path in writable)


def test_links_group_may_read_the_imas_log(tmp_path: Path) -> None:
    """As securityfs has it: 0440, root's, reached by a link to a folder and one to the file."""
    log = tmp_path / "sys" / IMA_LOG
    real = tmp_path / "sys/kernel/security/integrity/ima"
    real.mkdir(parents=True)
    log.parent.symlink_to("integrity/ima")
    log.symlink_to(f"{log.name}_sha1")
    for name in (f"{log.name}_sha1", "policy"):
        (real / name).touch(0o440)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:\nedgewarden:x:777:778::/:\n")
    (tmp_path / "etc/group").write_text("root:x:0:\nedgewarden:x:778:\n")
    conf = UNITS / "tmpfiles.d/edgewarden.conf"
    subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", conf], check=True, timeout=60
    )
    found = log.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (0, 778, 0o440)
    assert (real / "policy").stat().st_gid == 0


@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_waits_only_for_those_that_notify(unit: str) -> None:
    """Type=notify with a daemon that never says READY=1 is a start that times out."""
    daemon = ROOT / f"agent/edgewarden/daemon/{unit.removeprefix('edgewarden-')[:-8]}.py"
    notifies = daemon.exists() and "edgewarden.daemon.notify" in daemon.read_text()
    directives = settings(unit)
    assert (directives["Type"] == "notify") == notifies
    assert ("WatchdogSec" in directives) == notifies


BY_FILE = {
    "edgewarden-canary.service": ["/run/edgewarden", "/var/lib/edgewarden"],
    "edgewarden-look.service": ["/run/edgewarden"],
    "edgewarden-recheck.service": ["/run/edgewarden", "/var/lib/edgewarden"],
    "edgewarden-healthy.service": ["/run/edgewarden"],
}
"""Started without the command, for the sake of a lean interpreter; and what with."""
COMMANDS = [unit for unit in SERVICES if unit not in BY_FILE]


@pytest.mark.parametrize("unit", COMMANDS)
def test_every_unit_starts_a_command_that_exists(unit: str) -> None:
    program, *arguments = settings(unit)["ExecStart"].split()
    assert program == "/usr/bin/edgewarden"
    done = tool(ROOT, "python", "-m", "edgewarden", *arguments, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: edgewarden"), done.stdout


@pytest.mark.parametrize("unit", BY_FILE)
def test_a_one_shot_is_started_by_its_file_as_debian_installs_it(unit: str) -> None:
    python, *options, script = settings(unit)["ExecStart"].split()[:4]
    assert (python, options) == ("/usr/bin/python3", ["-I", "-S"])
    assert settings(unit)["ExecStart"].split()[4:] == BY_FILE[unit]
    installed = "/usr/lib/python3/dist-packages/"
    assert script.startswith(installed)
    assert (ROOT / "agent" / script.removeprefix(installed)).exists()


def test_what_says_healthy_is_started_after_the_boot() -> None:
    unit = settings("edgewarden-healthy.service")
    assert "multi-user.target" in unit["After"].split()
    assert unit["WantedBy"] == "multi-user.target"


UNDER_MDWE = """
import ctypes, mmap, sys
assert ctypes.CDLL(None).prctl(65, 1, 0, 0, 0) == 0  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    sys.exit("writable code was allowed")
except PermissionError:
    pass
import edgewarden.daemon.gate, edgewarden.daemon.guard, edgewarden.daemon.link
from edgewarden.trust.keys import FileSigner
FileSigner.generate().sign(b"what link does")
from edgewarden.kernel.libbpf import Libbpf, Ring, _TAKER
_TAKER(lambda context, data, size: 0)  # libffi makes code for it
"""


@pytest.mark.needs("mdwe")
def test_the_daemons_live_without_writable_code() -> None:
    """MemoryDenyWriteExecute= for real: ctypes, cffi and TLS work with the kernel's own refusal."""
    assert all(settings(unit)["MemoryDenyWriteExecute"] == "yes" for unit in SERVICES)
    done = tool(ROOT, "python", "-c", UNDER_MDWE)
    assert done.returncode == 0, done.stderr
