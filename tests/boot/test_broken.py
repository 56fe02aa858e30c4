"""Broken on purpose: whatever is wrong, the gateway boots to a working shell, the status tells the
truth and names the next step, and what can still enforce does.

Each test breaks one thing, boots, looks, and mends it again; the gateway enforces throughout.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.boot.site import APPS, VERSIONS, Built, Json, Site, booted_site
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto", "loop-mount", "nspawn", "debian-tree")

NOBODY_VOUCHES = "EW-ID-016"
"""Of the clock, which is the host's: a virtual machine may be without a time service."""
BROKEN_SETTINGS = "/etc/edgewarden/conf.d/60-broken.toml"


def enrolled(built: Built, *denied: str) -> Iterator[Site]:
    with booted_site(built, syscalls_denied=denied) as site:
        site.install(VERSIONS[0])
        site.enrol()
        site.await_status(lambda s: s["uplink"]["connected"] and "EW-AGT-003" not in codes(s))
        site.allow(f"{APPS}/known")
        yield site


@pytest.fixture(scope="module")
def site(built: Built) -> Iterator[Site]:
    for site in enrolled(built):
        site.gateway.run("edgewarden", "policy", "enforce")
        yield site


@pytest.fixture
def mended(site: Site) -> Iterator[Site]:
    """The site, held to being whole again at the end of the test."""
    yield site
    site.gateway.reboot()
    site.await_status(lambda s: s["uplink"]["connected"] and codes(s) <= {NOBODY_VOUCHES})
    assert [c["unexplained_gaps"] for c in site.shown()["chain"].values()] == [0, 0, 0]


def assert_shell_and_enforcement(site: Site) -> None:
    assert site.gateway.run("bash", "-c", "echo a working shell") == "a working shell\n"
    site.await_gate(lambda g: g["mode"] == "enforce" and g["armed"])
    assert site.can_start(f"{APPS}/known")
    assert not site.can_start(f"{APPS}/unknown")


def codes(status: Json) -> set[str]:
    return {reason["code"] for reason in status["reasons"]}


def told(status: Json, code: str) -> bool:
    """Whether a reason carries the code, and a next step with it."""
    return any(r["code"] == code and r["next"] for r in status["reasons"])


def assert_link_down_because(site: Site, code: str) -> None:
    """The command says that link is down and, before that, why."""
    done = site.gateway.attempt("edgewarden", "status")
    assert done.returncode == 3
    assert done.stdout.index(f"[{code}]") < done.stdout.index("[EW-AGT-002]"), done.stdout
    doctor = site.gateway.attempt("edgewarden", "doctor")
    assert doctor.returncode == 2
    assert f"[{code}]" in "".join(doctor.stdout.splitlines(keepends=True)[:3]), doctor.stdout


def test_settings_that_are_no_text(mended: Site) -> None:
    file = mended.gateway.path(BROKEN_SETTINGS)
    file.write_bytes(b"\x00\xff[exec\nmode = 1")
    mended.gateway.reboot()
    assert_shell_and_enforcement(mended)
    mended.await_status(
        lambda s: told(s, "EW-SET-013") and s["uplink"]["connected"] and s["verdict"] == "degraded"
    )
    checked = mended.gateway.attempt("edgewarden", "config", "check", BROKEN_SETTINGS)
    assert checked.returncode == 65
    file.unlink()


def test_a_user_who_is_gone(mended: Site) -> None:
    gateway = mended.gateway
    gateway.run("systemctl", "stop", "edgewarden-link.service")
    gateway.run("userdel", "edgewarden")
    gateway.reboot()
    assert_shell_and_enforcement(mended)
    assert_link_down_because(mended, "EW-HOST-010")
    gateway.run("sh", "-c", "systemd-sysusers && systemd-tmpfiles --create", check=False)


def test_a_full_var(mended: Site) -> None:
    fill = "/var/fill"
    mended.gateway.attempt("sh", "-c", f"cat /dev/zero >{fill}; sync")
    mended.gateway.reboot()
    assert_shell_and_enforcement(mended)
    full = {"EW-SPL-001", "EW-SPL-006"}  # it takes nothing, or alarms where its log has room
    mended.await_status(lambda s: any(told(s, c) for c in full) and s["uplink"]["connected"])
    doctor = mended.gateway.attempt("edgewarden", "doctor", "disk")
    assert doctor.returncode == 2
    assert "[EW-SPL-006]" in doctor.stdout, doctor.stdout
    mended.gateway.path(fill).unlink()
    mended.await_status(lambda s: not codes(s) & full and s["uplink"]["connected"])


def test_a_read_only_root(mended: Site) -> None:
    gateway = mended.gateway
    fstab = gateway.path("/etc/fstab")
    was = fstab.read_text() if fstab.exists() else ""
    fstab.write_text("/dev/root / ext4 ro 0 1\n")
    gateway.reboot()
    assert gateway.attempt("touch", "/etc/x").returncode == 1
    assert_shell_and_enforcement(mended)
    try:
        mended.await_status(lambda s: told(s, "EW-SPL-010") and s["uplink"]["connected"])
        status = mended.status()
        assert (status["verdict"], status["storage"]["mode"]) == ("failing", "memory")
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(gateway.root)], check=True)
        fstab.write_text(was)


def test_a_policy_that_hangs(mended: Site) -> None:
    """The fleet hears of it while it hangs, and gate goes on with its last table afterwards."""
    gateway = mended.gateway
    dropin = gateway.path("/etc/systemd/system/edgewarden-policy.service.d/hangs.conf")
    dropin.parent.mkdir()
    dropin.write_text("[Service]\nExecStart=\nExecStart=/bin/sleep infinity\n")
    try:
        gateway.run("systemctl", "stop", "edgewarden.target")
        wait_until(lambda: mended.main_pid("gate") == 0, 120)
        gateway.run("systemctl", "daemon-reload")
        gateway.run("systemctl", "start", "--no-block", "edgewarden.target")
        mended.await_status(lambda s: told(s, "EW-AGT-003") and s["uplink"]["connected"])
        mended.await_fleet(lambda f: f["enforcement"]["tier"] == "T0")
        assert mended.main_pid("gate") == 0
        silent = "gate was not heard"
        mended.await_fleet(lambda f: any(silent in one["text"] for one in f["findings"]), 180)
        mended.await_gate(lambda g: g["mode"] == "enforce" and g["armed"], 240)
        assert_shell_and_enforcement(mended)
    finally:
        dropin.unlink()
        dropin.parent.rmdir()
        gateway.run("systemctl", "daemon-reload")


def test_a_kernel_without_permission_events(built: Built) -> None:
    for site in enrolled(built, "fanotify_init"):
        refused = site.gateway.attempt("edgewarden", "policy", "enforce")
        assert refused.returncode == 65
        assert "EW-EXEC-024" in refused.stderr
        assert "next: " in refused.stderr
        gate = site.gate()
        assert (gate["tier"], gate["mode"], gate["armed"]) == ("T0", "learn", False)
        site.await_status(lambda s: s["enforcement"]["exec"]["tier"] == "T0")
        site.await_status(lambda s: told(s, "EW-EXEC-001"))
        site.await_fleet(lambda f: f["enforcement"]["tier"] == "T0")
        assert site.can_start(f"{APPS}/unknown")
