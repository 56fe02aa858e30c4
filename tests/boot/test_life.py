"""One gateway's life on a booted Debian, in the order it is lived: the tests of this file are one
story, and each begins where the one before it ended.

install -> enrol -> verified report -> enforce, deny -> gate stalls -> link stalls -> reboot ->
power cut -> upgrade -> downgrade -> remove -> purge
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

import pytest

from tests.boot import traces
from tests.boot.site import APPS, VERSIONS, Built, Json, Site, booted_site
from tests.steps import slack_s
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto", "loop-mount", "nspawn", "debian-tree")

PARTS = {"link": 15, "gate": 30, "guard": 20}
"""Part -> its limit of exposure on the scale of --threshold: ten times the score."""
FREED_S = 4.0
"""guard's 2.5 s, the second of grace where it was late itself, and the kill; beside what a start
takes anyway."""
WATCHED_S = 15
"""In place of the minute of link's unit, which nobody needs to wait for."""
WATCHDOG_S = WATCHED_S + 20 + 85
"""What is in its place, systemd's patience after it (TimeoutStopSec), and a start."""


@pytest.fixture(scope="module")
def site(built: Built) -> Iterator[Site]:
    with booted_site(built) as site:
        yield site


@pytest.fixture(scope="module")
def before(site: Site) -> dict[str, str]:
    """The gateway's filesystem without us."""
    return traces.look(site.gateway.root)


@pytest.fixture(scope="module")
def installed(site: Site, before: dict[str, str]) -> Site:
    site.install(VERSIONS[0])
    return site


def enforcing(gate: Json) -> bool:
    return gate["mode"] == "enforce" and bool(gate["armed"])


def heads(shown: Json) -> dict[str, int]:
    return {name: chain["head"] for name, chain in shown["chain"].items()}


def assert_chain_went_on(site: Site, was: dict[str, int]) -> None:
    """Every class has new verified records, and nothing is missing, forged or forked."""
    site.await_fleet(lambda f: all(head > was[name] for name, head in heads(f).items()))
    shown = site.shown()
    assert [c["unexplained_gaps"] for c in shown["chain"].values()] == [0, 0, 0]
    assert shown["reports_rejected"] == {}
    assert not [f for f in shown["findings"] if "fork" in f["kind"]]


def assert_enforcing(site: Site) -> None:
    site.await_gate(enforcing)
    assert site.can_start(f"{APPS}/known")
    assert not site.can_start(f"{APPS}/unknown")


def test_a_fresh_install_waits_and_does_nothing(installed: Site) -> None:
    gateway = installed.gateway
    assert gateway.run("systemctl", "is-enabled", "edgewarden.target").strip() == "enabled"
    assert gateway.run("systemctl", "--failed", "--quiet", "--plain") == ""
    assert [installed.main_pid(part) for part in PARTS] == [0, 0, 0]
    status = gateway.attempt("edgewarden", "status")
    assert status.returncode == 3
    assert "EW-ID-004" in status.stdout, "it says that it is not enrolled, and what to do"
    gateway.reboot()
    assert [installed.main_pid(part) for part in PARTS] == [0, 0, 0]
    assert gateway.run("systemctl", "is-system-running").strip() == "running"


@pytest.mark.parametrize("part", PARTS)
def test_exposure_as_installed(installed: Site, part: str) -> None:
    unit = f"edgewarden-{part}.service"
    line = ("systemd-analyze", "security", f"--threshold={PARTS[part]}", "--no-pager", unit)
    done = installed.gateway.attempt(*line)
    assert "Overall exposure level" in done.stdout
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_enrolled_it_reports_and_attests(installed: Site) -> None:
    installed.enrol()
    installed.await_status(lambda s: s["uplink"]["connected"])
    installed.await_fleet(lambda f: f["attestation"]["result"] == "affirming")
    shown = installed.shown()
    assert shown["reports_verified"] > 0
    assert shown["attestation"]["version"] == VERSIONS[0]
    gate = installed.gate()
    assert (gate["mode"], gate["tier"], gate["armed"]) == ("learn", "T3", False)
    assert installed.can_start(f"{APPS}/unknown")


def test_link_is_its_own_user_and_alone_reads_the_key(installed: Site) -> None:
    gateway, key = installed.gateway, "/var/lib/edgewarden/identity/current/key.pem"
    assert gateway.run("stat", "-L", "-c", "%U %a", key).split() == ["edgewarden", "600"]
    for user, reads in (("edgewarden", True), ("nobody", False), ("daemon", False)):
        line = ("setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups", "cat", key)
        assert (gateway.attempt(*line).returncode == 0) is reads, user
    status = gateway.run("cat", f"/proc/{installed.main_pid('link')}/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = gateway.run("id", "-u", "edgewarden").strip()
    assert fields["Uid"].split() == [uid] * 4
    assert (int(fields["CapEff"], 16), int(fields["CapBnd"], 16)) == (0, 0)
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")


def test_nothing_listens_on_a_network(installed: Site) -> None:
    listening = installed.gateway.run("ss", "-Hlntup")
    pids = [installed.main_pid(part) for part in PARTS]
    assert all(pids)
    assert [p for p in pids if f"pid={p}," in listening] == []


def test_enforce_denies_and_the_fleet_verifies_the_verdict(installed: Site) -> None:
    gateway = installed.gateway
    installed.allow(f"{APPS}/known")
    gateway.run("edgewarden", "policy", "enforce")  # trials and logins: test_lockout.py
    assert_enforcing(installed)
    digest = hashlib.sha256(gateway.path(f"{APPS}/unknown").read_bytes()).hexdigest()
    installed.await_fleet(lambda f: digest in str(f["exec"]["denied_verdicts"]))
    assert installed.shown()["exec"]["denied"] >= 1


def test_guard_frees_what_a_stopped_gate_holds(installed: Site) -> None:
    began = time.monotonic()
    assert installed.can_start(f"{APPS}/known")
    usual_s, stalled = time.monotonic() - began, installed.main_pid("gate")
    installed.gateway.run("kill", "-STOP", str(stalled))
    began = time.monotonic()
    assert installed.can_start(f"{APPS}/known")
    assert time.monotonic() - began - usual_s <= FREED_S + slack_s()
    wait_until(lambda: installed.main_pid("gate") not in (0, stalled), 120)
    assert_enforcing(installed)


def test_systemd_starts_a_stopped_link_again(installed: Site) -> None:
    gateway, unit = installed.gateway, "edgewarden-link.service"
    shipped = gateway.run("systemctl", "show", "--property=WatchdogUSec", "--value", unit).strip()
    assert shipped == "1min"
    dropin = gateway.path(f"/etc/systemd/system/{unit}.d/watched.conf")
    dropin.parent.mkdir()
    dropin.write_text(f"[Service]\nWatchdogSec={WATCHED_S}\n")
    try:
        gateway.run("systemctl", "daemon-reload")
        gateway.run("systemctl", "restart", unit)
        installed.await_status(lambda s: s["uplink"]["connected"])
        was, stalled = heads(installed.shown()), installed.main_pid("link")
        assert "watchdog" not in installed.journal().lower()
        gateway.run("kill", "-STOP", str(stalled))
        wait_until(lambda: installed.main_pid("link") not in (0, stalled), WATCHDOG_S)
        wait_until(lambda: "watchdog" in installed.journal().lower())
        installed.await_status(lambda s: s["uplink"]["connected"])
        assert_chain_went_on(installed, was)
    finally:
        dropin.unlink()
        dropin.parent.rmdir()
        gateway.run("systemctl", "daemon-reload")


@pytest.mark.parametrize("end", ["reboot", "pull_the_plug"])
def test_after_a_boot_enforcement_is_back_and_the_chain_goes_on(installed: Site, end: str) -> None:
    was = heads(installed.shown())
    getattr(installed.gateway, end)()
    assert_enforcing(installed)
    installed.await_status(lambda s: s["uplink"]["connected"])
    assert_chain_went_on(installed, was)
    assert installed.gateway.run("systemctl", "--failed", "--quiet", "--plain") == ""


@pytest.mark.parametrize("version", [VERSIONS[1], VERSIONS[0]], ids=["upgrade", "downgrade"])
def test_another_version_takes_over(installed: Site, version: str) -> None:
    was = heads(installed.shown())
    installed.install(version)
    assert_enforcing(installed)
    installed.await_status(lambda s: s["version"] == version and s["uplink"]["connected"])
    assert_chain_went_on(installed, was)
    installed.await_fleet(
        lambda f: (
            (f["attestation"]["version"], f["attestation"]["result"]) == (version, "affirming")
        )
    )


def test_removed_it_stops_nothing_and_keeps_its_identity(installed: Site) -> None:
    gateway = installed.gateway
    installed.apt("remove", "edgewarden")
    assert installed.can_start(f"{APPS}/unknown")
    assert gateway.run("sh", "-c", "ps -eo args | grep '[e]dgewarden' || true") == ""
    assert gateway.path("/var/lib/edgewarden/identity/current/key.pem").exists()


def test_purged_it_leaves_nothing(installed: Site, before: dict[str, str]) -> None:
    gateway = installed.gateway
    installed.apt("purge", "edgewarden")
    assert gateway.attempt("id", "edgewarden").returncode == 1
    assert gateway.attempt("test", "-e", "/run/edgewarden").returncode == 1
    loaded = gateway.run("systemctl", "list-units", "--all", "--quiet", "--plain", "edgewarden*")
    assert loaded == ""
    assert gateway.run("sh", "-c", "mount | grep edgewarden || true") == ""
    gateway.run("sync")
    assert traces.since(before, traces.look(gateway.root)) == []
