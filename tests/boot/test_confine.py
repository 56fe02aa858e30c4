"""Confinement (tier T1) on a booted Debian: one story, as administrator and attacker live it.

nothing -> on trial, a boot ends it -> on trial, time ends it -> confirmed -> attacked -> after a
boot -> drift -> taken back byte for byte -> the package removed with confinement in place

No sysctl is touched: /proc/sys is read-only in the guest, and the plan says so
(tests/change has them on a tree, tests/system/test_confine_kernel.py what the kernel does at 2).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.wire.gate_files import ExecTier
from hw.rigs.booted import Booted
from tests.boot import traces
from tests.boot.logins import Logins
from tests.boot.site import VERSIONS, Built, apt
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount", "nspawn", "debian-tree", "ssh")

SETTINGS = """\
[[confined]]
name = "plant"
unit = "plant.service"
exec = ["/usr/bin/dash"]
network = "none"

[[confined]]
name = "hard"
unit = "hard.service"
exec = ["/usr/bin/dash"]
network = "none"

[[confined]]
name = "full"
unit = "full.service"
exec = ["/usr/bin/dash"]
network = "none"

[[confined]]
name = "dynamic"
unit = "dynamic.service"
exec = ["/usr/bin/dash"]
network = "none"

[[confined]]
name = "loop"
unit = "loop.service"

[[confined]]
name = "login"
unit = "ssh.service"
"""
ATTACK = """\
[Service]
Type=oneshot
{more}
StateDirectory={name}
ExecStart=/usr/bin/python3 /opt/plant/attack.py /var/lib/{name}
"""
ATTACKED = {
    "plant": "User=daemon",
    "hard": "User=daemon\nProtectSystem=strict\nProtectHome=yes\nPrivateTmp=yes\n"
    "PrivateDevices=yes",
    "full": "ProtectSystem=full\nPrivateTmp=yes",  # as root
    "dynamic": "DynamicUser=yes",
}
"""Units that shape their own mounts: each was a hole with NoExecPaths=/ alone."""
LOOP = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n"
"""Type=exec: it has become its own program when systemctl returns, and is looked at after that."""
FRAGILE = """\
[Service]
ExecStart=/usr/bin/python3 -c "import os, time; os.posix_spawn('/usr/bin/true', ['true'], {}); \\
  time.sleep(9999)"
"""
PLACES = ("/tmp", "/var/tmp", "/dev/shm")

FREE = {
    "dropped program": "exit 0",
    "dropped script": "script ran",
    "mapped as code": "ran",
    "by the loader": "exit 0",
    "preloaded": "mapped",
    "another program": "exit 0",
    "memory file": "exit 0",
    "own mount": "made",
    "sent": "sent",
    "sh script": "script ran",
    "inline code": "inline ran",
}
CONFINED = {
    "dropped program": "EACCES",
    "dropped script": "EACCES",
    "mapped as code": "EPERM",
    "by the loader": "exit 127",
    "preloaded": "no",
    "another program": "EACCES",
    "memory file": "EPERM",
    "own mount": "EPERM",
    "sent": "EPERM",
    # What T1 cannot see (docs/threat-model.md): a path is no content.
    "sh script": "script ran",
    "inline code": "inline ran",
}


@pytest.fixture(scope="module")
def guest(built: Built) -> Iterator[Booted]:
    """A gateway with our package, a service that is attacked and one that runs."""
    with Booted(built.tree) as guest:
        guest.path("/opt/plant").mkdir(parents=True)
        guest.copy(Path(__file__).with_name("attack.py"), "/opt/plant/attack.py")
        units = {name: ATTACK.format(name=name, more=more) for name, more in ATTACKED.items()}
        units |= {"loop": LOOP, "fragile": FRAGILE}
        for name, text in units.items():
            guest.path(f"/etc/systemd/system/{name}.service").write_text(text)
        guest.run("systemctl", "daemon-reload")
        guest.run("systemctl", "start", "loop", "fragile")
        yield guest


@pytest.fixture(scope="module")
def logins(guest: Booted) -> Iterator[Logins]:
    with Logins(guest) as logins:
        yield logins


@pytest.fixture(scope="module")
def before(guest: Booted, logins: Logins) -> dict[str, str]:
    """The gateway's filesystem without us."""
    attacked(guest)  # what the service itself makes is not ours
    guest.run("sync")
    return traces.look(guest.root)


@pytest.fixture(scope="module")
def installed(guest: Booted, built: Built, before: dict[str, str]) -> Booted:
    guest.copy(built.deb("edgewarden", VERSIONS[0]), "/root/edgewarden.deb")
    apt(guest, "install", "/root/edgewarden.deb")
    guest.path("/etc/edgewarden/conf.d/50-site.toml").write_text(SETTINGS)
    return guest


@pytest.fixture(scope="module")
def without(installed: Booted) -> dict[str, str]:
    """The gateway's filesystem without confinement."""
    return configuration(installed)


def attacked(guest: Booted) -> dict[str, str]:
    """What came of it, the same from inside each service."""
    found = {}
    for name in ATTACKED:
        guest.run("systemctl", "start", name)
        below = "/var/lib/private" if name == "dynamic" else "/var/lib"
        found[name] = json.loads(guest.path(f"{below}/{name}/said.json").read_text())
    others = [name for name in ATTACKED if found[name] != found["plant"]]
    # systemd 257 (not 252) makes the state of a dynamic user noexec by itself.
    assert others == [] or (others == ["dynamic"] and found["plant"] == FREE), found
    return dict(found["plant"])


def confine(guest: Booted, *words: str, code: int = 0) -> str:
    done = guest.attempt("edgewarden", "confine", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def verified(guest: Booted, code: int = 0) -> dict[str, object]:
    return dict(json.loads(confine(guest, "verify", "--json", code=code)))


def configuration(guest: Booted) -> dict[str, str]:
    """What confinement writes to, byte for byte: /etc, our state, units of this boot."""
    guest.run("sync")
    found = traces.look(guest.root)
    kept = {
        path: what for path, what in found.items() if path.startswith(("/etc/", "/var/lib/edgew"))
    }
    runtime = guest.run("find", "/run/systemd/system", "/run/edgewarden", "-name", "*edgewarden*")
    return {**kept, "runtime": runtime}


def words(value: object) -> list[str]:
    assert isinstance(value, list)
    return value


def options(guest: Booted, path: str) -> list[str]:
    shown = guest.attempt("findmnt", "--noheadings", "--output", "OPTIONS", "--mountpoint", path)
    return shown.stdout.strip().split(",")


def test_without_it_everything_runs(installed: Booted) -> None:
    assert attacked(installed) == FREE
    shown = confine(installed, "show")
    assert "+ plant.service" in shown
    assert "- ssh.service: never touched, it is a way in" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_a_trial_ends_with_the_boot(installed: Booted, without: dict[str, str]) -> None:
    confine(installed, "apply", "--confirm", "10m")
    assert attacked(installed) == CONFINED
    installed.reboot()
    assert attacked(installed) == FREE
    assert configuration(installed) == without


def test_a_trial_that_nobody_confirms_takes_itself_back(
    installed: Booted, without: dict[str, str]
) -> None:
    installed.run("systemctl", "start", "loop")
    confine(installed, "apply", "--restart", "--confirm", "20s")
    assert "noexec" in options(installed, "/tmp")
    wait_until(lambda: "is not in place" in confine(installed, "show"), 120)
    assert attacked(installed) == FREE
    assert "noexec" not in options(installed, "/tmp")
    assert configuration(installed) == without


def test_a_service_that_does_not_come_back_takes_everything_back(
    installed: Booted, without: dict[str, str]
) -> None:
    installed.run("systemctl", "start", "fragile")
    settings = installed.path("/etc/edgewarden/conf.d/60-fragile.toml")
    settings.write_text('[[confined]]\nname = "fragile"\nunit = "fragile.service"\n')
    said = confine(installed, "apply", "--restart", code=65)
    settings.unlink()
    assert "fragile.service did not come back confined; everything was taken back" in said
    assert installed.run("systemctl", "is-active", "fragile").strip() == "active"
    assert configuration(installed) == without


def test_confirmed_it_holds_and_is_proved(installed: Booted, logins: Logins) -> None:
    """K3: T1 is claimed in the run in which every managed service refused its canary."""
    installed.run("systemctl", "start", "loop")
    confirm = "edgewarden confine confirm"
    asked = logins.ssh(f"edgewarden confine apply --restart --confirm 10m && {confirm}")
    assert asked.returncode == 65, asked.stdout + asked.stderr
    assert "this login asked for the trial" in asked.stderr
    assert "this is no login" in confine(installed, "confirm", code=65)
    confirmed = logins.ssh(confirm)
    assert confirmed.returncode == 0, confirmed.stderr
    found = verified(installed)
    assert (found["tier"], found["drift"]) == ("T1", [])
    assert found["proved"] == [f"{name}.service" for name in (*ATTACKED, "loop")]
    assert any("ssh.service is not confined" in gap for gap in words(found["gaps"]))
    assert attacked(installed) == CONFINED
    for place in PLACES:
        assert "noexec" in options(installed, place)
    data = installed.path("/var/lib/edgewarden/policy/confine-tier").read_bytes()
    assert ExecTier.load(data).tier == "T1"


def test_after_a_boot_it_is_in_place_and_proved_again(installed: Booted) -> None:
    installed.reboot()
    assert attacked(installed) == CONFINED
    for place in PLACES:
        assert "noexec" in options(installed, place)
    installed.run("systemctl", "start", "edgewarden-confine.service")
    assert installed.path("/var/lib/edgewarden/policy/confine-tier").exists()
    assert installed.run("systemctl", "--failed", "--quiet", "--plain") == ""
    shown = confine(installed, "show")
    assert "is in place for good" in shown
    assert "0 would change" in shown


OURS = "/etc/systemd/system/loop.service.d"
LOOSE = "/etc/systemd/system/plant.service.d/99-loose.conf"
READ = "systemctl daemon-reload"
DRIFTS = {
    "a drop-in that loosens": (
        f"printf '[Service]\\nNoExecPaths=\\n' >{LOOSE}; {READ}",
        "NoExecPaths=/ is not loaded",
        f"rm {LOOSE}; {READ}",
    ),
    "a changed file": (
        f"cp -a {OURS}/*.conf /root/kept; sed -i s,NoExecPaths=/,NoExecPaths=/srv, {OURS}/*.conf",
        "changed since it was made",
        f"cp -a /root/kept {OURS}/50-edgewarden.conf; {READ}",
    ),
    "a place mounted anew": (
        "mount -o remount,exec /tmp",
        "it is not mounted noexec",
        "systemctl reload tmp.mount",
    ),
    "a service started outside": (
        f"mv {OURS} /root/d; {READ}; systemctl restart loop; mv /root/d {OURS}; {READ}",
        "it runs unconfined since before: restart it",
        "systemctl restart loop",
    ),
}


@pytest.mark.parametrize("drift", DRIFTS)
def test_drift_is_named(installed: Booted, drift: str) -> None:
    change, named, back = DRIFTS[drift]
    installed.run("systemctl", "start", "loop")
    assert verified(installed)["drift"] == []
    installed.run("sh", "-c", change)
    try:
        found = verified(installed, code=2)
        assert any(named in one for one in words(found["drift"])), found
        assert found["tier"] == ("T1" if "place" in drift else "T0")
    finally:
        installed.run("sh", "-c", back)
    assert verified(installed)["drift"] == []


def test_a_filesystem_that_comes_later_is_a_hole_and_is_named(installed: Booted) -> None:
    """docs/threat-model.md: it reaches a running service without noexec, until its restart."""
    installed.run("systemctl", "restart", "loop")
    pid = installed.run("systemctl", "show", "--property=MainPID", "--value", "loop").strip()
    installed.run("mkdir", "-p", "/mnt/later")
    installed.run("mount", "-t", "tmpfs", "later", "/mnt/later")
    try:
        installed.run("cp", "/usr/bin/true", "/mnt/later/program")
        inside = ("nsenter", f"--mount=/proc/{pid}/ns/mnt", "/mnt/later/program")
        assert installed.attempt(*inside).returncode == 0
        found = verified(installed, code=2)
        assert found["tier"] == "T0"
        assert any("programs run from /mnt/later" in one for one in words(found["drift"]))
        installed.run("systemctl", "restart", "loop")
        assert verified(installed)["tier"] == "T1"
    finally:
        installed.run("umount", "/mnt/later")
        installed.run("rmdir", "/mnt/later")


def test_taken_back_byte_for_byte(installed: Booted, without: dict[str, str]) -> None:
    said = confine(installed, "revert")
    assert "taken back" in said
    assert configuration(installed) == without
    assert attacked(installed) == FREE
    for place in PLACES:
        assert "noexec" not in options(installed, place)
    assert "it is not in place" in confine(installed, "show").replace("confinement is", "it is")


def test_removed_with_confinement_in_place_it_leaves_nothing(
    installed: Booted, before: dict[str, str]
) -> None:
    installed.run("systemctl", "start", "loop")
    confine(installed, "apply", "--restart")
    assert attacked(installed) == CONFINED
    apt(installed, "remove", "edgewarden")
    assert attacked(installed) == FREE
    for place in PLACES:
        assert "noexec" not in options(installed, place)
    apt(installed, "purge", "edgewarden")
    installed.run("sync")
    assert traces.since(before, traces.look(installed.root)) == []
