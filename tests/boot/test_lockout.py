"""Enforcing where people log in, on a booted Debian, and every way back in. One story: each test
begins where the one before it ended.

refused -> observed over a boot -> trial -> kept, from every door -> apt in enforce -> gate killed
and stopped -> journald stopped -> a policy that denies everything -> two unhealthy boots -> kill
switch -> removed

Who logs in here really does: OpenSSH, dropbear, a getty (logins.py).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hw.rigs.booted import PATH
from tests.boot import traces
from tests.boot.logins import TECHNICIAN, Logins
from tests.boot.site import VERSIONS, Built, Json, Site, booted_site
from tests.steps import slack_s
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "mosquitto", "loop-mount", "nspawn", "debian-tree", "ssh")

SETTINGS = '[exec]\nfilesystems = ["/"]\nobserve_h = 0\n'
EVERY_PACKAGE = '[[program]]\nname = "packages"\npackage = "*"\n'
NOTHING = '[[program]]\nname = "nothing"\naction = "deny"\npath = "/**"\n'
STRANGER = "/opt/stranger"
FREED_S, REARMED_S = 4.0, 120.0
"""guard's 2.5 s, the second of grace where it was late itself, and the kill."""
UNHEALTHY = 2
TRIPS_LIMIT = 3
"""As daemon/gate.py has it; the one stop before counts too."""


@pytest.fixture(scope="module")
def built_site(built: Built) -> Iterator[Site]:
    with booted_site(built) as site:
        assert site.gateway.root.stat().st_dev != Path("/").stat().st_dev
        yield site


@pytest.fixture(scope="module")
def logins(built_site: Site) -> Iterator[Logins]:
    with Logins(built_site.gateway) as logins:
        yield logins


@pytest.fixture(scope="module")
def before(built_site: Site, logins: Logins) -> dict[str, str]:
    """The gateway's filesystem without us, and with the doors and programs of these tests."""
    stranger = built_site.gateway.path(STRANGER)
    shutil.copy(built_site.gateway.path("/usr/bin/true"), stranger)
    with stranger.open("ab") as file:
        file.write(b"nobody listed this")
    return traces.look(built_site.gateway.root)


@pytest.fixture(scope="module")
def site(built_site: Site, before: dict[str, str]) -> Site:
    site = built_site
    site.install(VERSIONS[0])
    site.enrol()
    site.gateway.path("/etc/edgewarden/conf.d/60-lockout.toml").write_text(SETTINGS)
    policy(site, EVERY_PACKAGE)
    site.gateway.run("edgewarden", "policy", "learn", limit_s=300)
    site.gateway.run("systemctl", "restart", "edgewarden-gate")
    site.await_gate(lambda g: g["mode"] == "learn")
    return site


def policy(site: Site, text: str) -> None:
    site.gateway.path("/etc/edgewarden/policy.toml").write_text(text)


def bare(site: Site, script: str) -> subprocess.CompletedProcess[str]:
    """As Booted.attempt, starting nothing but the shell."""
    enter = ["nsenter", f"--target={site.gateway.pid}", "--all", "--root", "--wd"]
    return subprocess.run(
        [*enter, "/bin/sh", "-c", f"export PATH={PATH}; {script}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


def denies(site: Site) -> bool:
    return "not permitted" in said(bare(site, STRANGER))


def holds(gate: Json) -> bool:
    return gate["mode"] == "enforce" and bool(gate["armed"])


def test_enforce_is_refused_before_a_boot_was_observed(site: Site) -> None:
    site.gateway.run("edgewarden", "policy", "observe")
    done = site.gateway.attempt("edgewarden", "policy", "enforce")
    assert done.returncode != 0
    assert "no whole boot observed" in said(done)
    assert not denies(site)


def test_l2_a_trial_goes_back_and_its_own_login_cannot_confirm_it(
    site: Site, logins: Logins
) -> None:
    both = "edgewarden policy enforce --confirm 30s && edgewarden policy confirm"
    done = logins.ssh(both)
    assert done.returncode != 0
    assert "same_login" in said(done)
    assert denies(site)
    wait_until(lambda: not denies(site), 120)
    site.await_gate(lambda g: g["mode"] == "observe")


def test_after_an_observed_boot_it_is_kept_and_confirmed_from_another_login(
    site: Site, logins: Logins
) -> None:
    site.gateway.reboot()
    healthy = ("systemctl", "is-active", "edgewarden-healthy")
    wait_until(lambda: site.gateway.attempt(*healthy).stdout.strip() == "active", 120)
    trial = logins.ssh("edgewarden policy enforce --confirm 5m")
    assert trial.returncode == 0, said(trial)
    confirmed = logins.ssh("edgewarden policy confirm")
    assert confirmed.returncode == 0, said(confirmed)
    site.await_gate(holds)
    assert denies(site)


@pytest.mark.parametrize(
    "line",
    [
        "systemd-run --quiet --wait --pipe --collect edgewarden policy confirm",
        "systemd-run --quiet --wait --pipe --collect --slice=user-0.slice sh -c {}",
        "setsid --wait nsenter --target 1 --all edgewarden policy confirm",
    ],
    ids=["systemd-run", "in-a-users-slice", "nsenter-below-the-login"],
)
def test_m1_what_is_no_new_login_does_not_confirm(line: str, site: Site, logins: Logins) -> None:
    confirm = line.format("'edgewarden policy confirm'")
    done = logins.ssh(f"edgewarden policy enforce --confirm 5m && {confirm}")
    assert done.returncode != 0
    assert any(name in said(done) for name in ("no_login", "same_login")), said(done)
    from_outside = site.gateway.attempt("edgewarden", "policy", "confirm")
    assert "no_login" in said(from_outside), "nsenter from the host"


@pytest.mark.parametrize("door", ["ssh", "ssh-without-logind", "dropbear", "console", "sudo"])
def test_h1_whoever_comes_in_by_any_door_confirms_a_trial(
    door: str, site: Site, logins: Logins
) -> None:
    trial, confirm = "edgewarden policy enforce --confirm 5m", "edgewarden policy confirm"
    if door == "sudo":
        asked = logins.ssh(f"sudo {trial}", user=TECHNICIAN)
        confirmed = logins.ssh(f"sudo {confirm}", user=TECHNICIAN)
    elif door == "ssh":
        asked, confirmed = logins.ssh(trial), logins.ssh(confirm)
    else:
        with logins.without_logind():
            if door == "console":
                assert logins.console(trial)[0] == 0
                code, screen = logins.console(confirm)
                assert code == 0, screen
                return
            come_in = logins.over_dropbear if door == "dropbear" else logins.ssh
            asked, confirmed = come_in(trial), come_in(confirm)
    assert asked.returncode == 0, said(asked)
    assert confirmed.returncode == 0, said(confirmed)


def test_l5_apt_upgrades_coreutils_without_a_denial(
    site: Site, logins: Logins, tmp_path: Path
) -> None:
    deb = coreutils(site, tmp_path)
    site.gateway.copy(deb, "/root/coreutils.deb")
    before = denied(site)
    script = "apt-get -y -o Dpkg::Use-Pty=0 install /root/coreutils.deb && ls / && sleep 0"
    done = logins.ssh(f"export DEBIAN_FRONTEND=noninteractive; {script}")
    assert done.returncode == 0, said(done)
    assert denied(site) == before
    assert holds(site.gate())
    digest = site.gateway.run("sha256sum", "/usr/bin/ls").split()[0]
    assert digest in site.gateway.path("/var/lib/edgewarden/policy/baseline").read_text()
    assert denies(site), "and what no package brought is still denied"


def test_l5_a_package_behind_our_own_upgrade_is_not_denied(
    site: Site, logins: Logins, tmp_path: Path
) -> None:
    """Our postinst restarts gate in the middle of dpkg's work: what comes after it is as new as
    what came before."""
    later = package(tmp_path, "zz-later", "99.0", "#!/bin/sh\nset -e\nzz-later\n")
    site.gateway.copy(later, "/root/zz-later.deb")
    site.gateway.copy(site.built.deb("edgewarden", VERSIONS[1]), "/root/next.deb")
    was, before = site.main_pid("gate"), denied(site)
    done = logins.ssh("dpkg --force-confold -i /root/next.deb /root/zz-later.deb")
    assert done.returncode == 0, said(done)
    assert site.main_pid("gate") not in (0, was), "it was restarted"
    site.await_gate(holds)
    assert denied(site) <= before, "gate counts from its start"
    assert bare(site, "zz-later").returncode == 0, "and the baseline knows it now"
    assert denies(site)


def package(folder: Path, name: str, version: str, postinst: str) -> Path:
    """A package with one program of its own and a script that runs when it is configured."""
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/bin").mkdir(parents=True)
    shutil.copy("/usr/bin/true", tree / "usr/bin" / name)
    with (tree / "usr/bin" / name).open("ab") as file:
        file.write(name.encode())
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <n@x>\n"
        "Description: what a test brings\n"
    )
    (tree / "DEBIAN/postinst").write_text(postinst)
    (tree / "DEBIAN/postinst").chmod(0o755)
    made = folder / f"{name}.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)]
    subprocess.run(build, check=True, capture_output=True)
    return made


def coreutils(site: Site, folder: Path) -> Path:
    """The installed coreutils as a package of a higher version, with another ``ls``."""
    tree = folder / "tree"
    gateway = site.gateway
    for line in gateway.run("dpkg", "-L", "coreutils").splitlines():
        source = gateway.path(line)
        if source.is_symlink() or source.is_file():
            target = tree / line.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    with (tree / "usr/bin/ls").open("ab") as file:
        file.write(b"a later version")
    fields = gateway.run("dpkg", "-s", "coreutils").splitlines()
    kept = [f for f in fields if not f.startswith(("Status", "Version", "Conffiles"))]
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text("\n".join([*kept, "Version: 99.0", ""]))
    sums = [
        f"{subprocess.run(['md5sum', p], capture_output=True, text=True).stdout.split()[0]}  "
        f"{p.relative_to(tree)}\n"
        for p in sorted(tree.rglob("*"))
        if p.is_file() and not p.is_symlink() and "DEBIAN" not in p.parts
    ]
    (tree / "DEBIAN/md5sums").write_text("".join(sums))
    made = folder / "coreutils.deb"
    build = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(made)]
    subprocess.run(build, check=True, capture_output=True)
    return made


def denied(site: Site) -> int:
    """From gate itself: link hears of counts every ten seconds."""
    return int(site.gate()["denied"])


def took_s(work: Callable[[], object]) -> float:
    """Seconds: what a machine at work takes for it anyway is nobody's waiting."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


@pytest.mark.parametrize("end", ["KILL", "STOP"])
def test_r1_r2_a_gate_that_ends_or_stops_holds_nobody(site: Site, end: str) -> None:
    def programs() -> None:
        assert bare(site, "for i in 1 2 3 4 5; do /usr/bin/true; done").returncode == 0

    usual_s, was = took_s(programs), site.main_pid("gate")
    assert bare(site, f"kill -{end} {was}").returncode == 0
    assert took_s(programs) - usual_s <= FREED_S + slack_s()
    wait_until(lambda: site.main_pid("gate") not in (0, was), REARMED_S)
    site.await_gate(holds)


def test_r2_a_gate_that_is_stopped_again_and_again_ends_in_observe(
    site: Site, logins: Logins
) -> None:
    """Whatever stops it persists: nobody waits longer for that, and guard gives up on enforcing."""

    def login() -> None:
        done = logins.ssh(":")
        assert done.returncode == 0, said(done)

    for _ in range(TRIPS_LIMIT):
        usual_s, was = took_s(login), site.main_pid("gate")
        assert bare(site, f"kill -STOP {was}").returncode == 0
        assert took_s(login) - usual_s <= FREED_S + slack_s(), "longer than a login takes"
        wait_until(lambda was=was: site.main_pid("gate") not in (0, was), REARMED_S)
        site.await_gate(lambda g: holds(g) or g["mode"] == "observe")
        if site.gate()["mode"] == "observe":
            break
    site.await_gate(lambda g: g["mode"] == "observe" and not g["armed"])
    assert not denies(site)
    lifted = logins.ssh("edgewarden policy enforce")
    assert lifted.returncode == 0, said(lifted)
    assert denies(site)


def test_r4_a_stopped_journal_holds_no_exec(site: Site) -> None:
    def programs() -> None:
        assert bare(site, "for i in 1 2 3 4 5 6 7 8; do /usr/bin/true; done").returncode == 0
        assert denies(site)

    journal = bare(site, "systemctl show -p MainPID --value systemd-journald").stdout.strip()
    usual_s = took_s(programs)
    bare(site, f"kill -STOP {journal}")
    try:
        assert took_s(programs) - usual_s <= FREED_S + slack_s()
    finally:
        bare(site, f"kill -CONT {journal}")


def test_l1_under_a_policy_that_denies_everything_people_still_get_in(
    site: Site, logins: Logins
) -> None:
    policy(site, NOTHING)
    compiled = bare(site, "edgewarden policy compile")
    assert compiled.returncode == 0, said(compiled)
    site_denies = said(bare(site, "/usr/bin/env"))
    assert "not permitted" in site_denies, site_denies
    for script in (
        "/bin/sh -c :",
        "bash -lc :",
        "su - root -c ':'",
        "login --help",
        "apt-get --version",
        "dpkg --version",
        "mount --version",
        "systemctl --version",
        "edgewarden policy show",
    ):
        done = bare(site, script)  # /etc/profile misses its helpers; the shell is there
        assert done.returncode == 0, (script, said(done))
    assert_every_door_is_open(logins)
    back = logins.ssh("sudo edgewarden policy observe", user=TECHNICIAN)
    assert back.returncode == 0, said(back)
    assert bare(site, "/usr/bin/env").returncode == 0
    policy(site, EVERY_PACKAGE)
    site.gateway.run("edgewarden", "policy", "compile")


def assert_every_door_is_open(logins: Logins) -> None:
    """Real logins, with a shell that still denies what it denies."""
    for come_in in (logins.ssh, logins.over_dropbear):
        done = come_in("echo in as $USER; /usr/bin/env")
        assert "in as root" in done.stdout, said(done)
        assert "denied" in said(done) or "not permitted" in said(done)
    by_sudo = logins.ssh("sudo -n sh -c 'echo in as $SUDO_USER'", user=TECHNICIAN)
    assert f"in as {TECHNICIAN}" in by_sudo.stdout, said(by_sudo)
    code, screen = logins.console("echo in as $USER")
    assert code == 0, screen
    assert "in as root" in screen


def test_l3_two_boots_that_nobody_calls_healthy_put_it_into_observe(
    site: Site, logins: Logins
) -> None:
    gateway = site.gateway
    gateway.reboot()  # observed whole with this policy
    healthy = ("systemctl", "is-active", "edgewarden-healthy")
    wait_until(lambda: gateway.attempt(*healthy).stdout.strip() == "active", 120)
    kept = logins.ssh("edgewarden policy enforce")
    assert kept.returncode == 0, said(kept)
    gateway.run("systemctl", "mask", "edgewarden-healthy")
    for _ in range(UNHEALTHY):
        gateway.run("sync")
        gateway.pull_the_plug()
        site.await_gate(holds)
    gateway.pull_the_plug()
    site.await_gate(lambda g: g["mode"] == "observe" and not g["armed"])
    assert not denies(site)
    gateway.run("systemctl", "unmask", "edgewarden-healthy")
    lifted = logins.ssh("edgewarden policy enforce")
    assert lifted.returncode == 0, said(lifted)
    assert denies(site)


def test_l4_the_kill_switch_has_the_last_word(site: Site, logins: Logins) -> None:
    gateway = site.gateway
    gateway.path("/boot/edgewarden-observe").touch()
    gateway.run("sync")
    gateway.pull_the_plug()
    site.await_gate(lambda g: g["mode"] == "observe" and not g["armed"])
    refused = logins.ssh("edgewarden policy enforce")
    assert refused.returncode != 0
    assert "edgewarden-observe" in said(refused)
    gateway.path("/boot/edgewarden-observe").unlink()
    gateway.run("systemctl", "restart", "edgewarden-gate")
    site.await_gate(holds)


def test_l6_removed_in_enforce_nothing_of_it_is_left(
    site: Site, logins: Logins, before: dict[str, str]
) -> None:
    assert denies(site)
    done = logins.ssh("DEBIAN_FRONTEND=noninteractive apt-get -y purge edgewarden")
    assert done.returncode == 0, said(done)
    assert bare(site, STRANGER).returncode == 0
    assert bare(site, "ls /var/lib/edgewarden /run/edgewarden").returncode != 0
    brought = ("/usr/bin/ls", "/usr/bin/zz-later")  # by these tests' own packages
    left = traces.since(before, traces.look(site.gateway.root))
    assert [line for line in left if not any(path in line for path in brought)] == []
