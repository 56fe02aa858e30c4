"""`edgewarden confine` as a person meets it: one screen, reasons by name, a next step."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from edgewarden.change.confinement import Confiner
from edgewarden.cli.confine import Bench, put_in_place, show_one
from edgewarden.cli.console import HEIGHT, WIDTH, Console, clip
from edgewarden.cli.main import main
from edgewarden.cli.services import this_login, why_no_new_login
from edgewarden.confine.facts import Host, Mount, Plan, Service, Wish
from edgewarden.confine.plan import plan
from edgewarden.confine.screen import WIDTH as SCREEN_WIDTH
from edgewarden.confine.screen import screen
from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.gate.sessions import Session
from tests.fakes.systemd import FakeSystemd

PI = Host(
    (6, 12),
    257,
    sysctls={
        "vm.memfd_noexec": "0",
        "kernel.io_uring_disabled": "0",
        "fs.protected_hardlinks": "1",
        "fs.protected_symlinks": "1",
        "fs.protected_fifos": "0",
        "fs.protected_regular": "0",
        "user.max_user_namespaces": "15000",
    },
    userns=("chromium (installed)", "podman (installed)"),
)
PLACES = (
    Mount("/tmp", mounted=True, options=("rw", "nosuid", "nodev"), unit="tmp.mount"),
    Mount("/var/tmp"),
    Mount("/dev/shm", mounted=True, options=("rw", "nosuid", "nodev")),
    Mount("/run/user"),
    Mount("/media"),
)


def made(*units: str) -> Plan:
    programs = ("/usr/sbin/broker", "/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1")
    facts = Service("", programs=programs, libraries=("/usr/lib/aarch64-linux-gnu",))
    services = {unit: replace(facts, unit=unit) for unit in units}
    return plan([Wish(unit) for unit in units], services, PLACES, PI)


def shown(name: str, *units: str) -> str:
    out = StringIO()
    show_one(made(*units), name, Console(out, StringIO()))
    return out.getvalue()


def test_a_plan_with_a_service_is_one_screen() -> None:
    rows = ["confinement is not in place", *screen(made("mosquitto.service", "ssh.service"))]
    assert len(rows) <= HEIGHT + 2, "two rows scroll by, the counts and the next step stay"
    assert all(clip(row) == row for row in rows if not row.startswith("!"))
    assert SCREEN_WIDTH == WIDTH
    assert "- ssh.service: never touched, it is a way in" in rows
    assert "next: `edgewarden confine apply --confirm 10m`" in rows
    assert any(row.startswith("+ vm.memfd_noexec") and row.endswith("0 -> 2") for row in rows)
    assert any("used by chromium" in row for row in rows)


def test_without_a_service_it_says_how_to_name_one() -> None:
    assert "- no service is managed: name them in [[confined]] of the settings" in screen(made())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mosquitto.service", ["breaks  helpers it starts", "NoExecPaths=/", "50-edgewarden.conf"]),
        ("/tmp", ["noexec: would change", "debconf", "Options=noexec"]),
        ("vm.memfd_noexec", ["no program in a memory file", "vm.memfd_noexec = 2"]),
        ("user.max_user_namespaces", ["why     used by chromium (installed)"]),
    ],
)  # fmt: skip
def test_each_item_says_what_for_and_what_breaks(name: str, words: list[str]) -> None:
    text = shown(name, "mosquitto.service")
    for word in words:
        assert word in text
    assert all(len(row) <= WIDTH for row in text.splitlines())


def test_an_unknown_name_is_refused_with_a_next_step() -> None:
    with pytest.raises(OperatorFault, match="nothing named x") as refused:
        shown("x")
    assert (refused.value.code, bool(refused.value.next_step)) == ("EW-EXEC-045", True)


@pytest.mark.parametrize("verb", ["apply", "confirm", "verify", "revert"])
def test_only_root_changes_or_tries(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')
    assert main(["confine", verb, "--settings", str(settings)]) == 77
    said = capsys.readouterr().err
    assert "[EW-AGT-005]" in said
    assert "next: run the command again with sudo" in said


def login(scope: str, *, began_ticks: int, now_ticks: int) -> tuple[str, ...]:
    return Session("", str(began_ticks), "", str(now_ticks), scope, "").words()


def test_a_trial_is_confirmed_from_a_login_that_began_after_it() -> None:
    asked = login("session-5.scope", began_ticks=100, now_ticks=200)
    fresh = login("session-6.scope", began_ticks=300, now_ticks=400)
    early = login("session-4.scope", began_ticks=150, now_ticks=400)
    assert why_no_new_login(asked, fresh) == ""
    assert "older than the trial" in why_no_new_login(asked, early)
    assert "asked for the trial" in why_no_new_login(asked, asked)
    assert "cannot be told" in why_no_new_login(
        ("session-5.scope", "", ""), login("session-6.scope", began_ticks=300, now_ticks=400)
    ), "words of the version before"


def test_a_login_is_known_by_what_the_kernel_says_of_it() -> None:
    assert Session.of(this_login()).now_ticks.isdigit()


# --- the clock of a trial ------------------------------------------------------------------------


def put(root: Path, systemd: FakeSystemd, confirm_s: int) -> None:
    """`apply`, behind its facts."""
    for folder in ("etc/systemd/system", "run/systemd/system", "proc/sys/fs", "proc/sys/vm"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for knob in ("vm/memfd_noexec", "fs/protected_fifos", "fs/protected_regular",
                 "kernel/io_uring_disabled"):  # fmt: skip
        (root / "proc/sys" / knob).parent.mkdir(parents=True, exist_ok=True)
        (root / "proc/sys" / knob).write_text("0\n")
    bench = object.__new__(Bench)
    bench.systemd = systemd
    bench.confiner = Confiner(systemd, "/var/lib/edgewarden", "/run/edgewarden", root)
    args = argparse.Namespace(confirm=confirm_s, restart=False, settings="x.toml")
    put_in_place(bench, made("mosquitto.service"), args)


def test_a_trial_is_timed_before_systemd_reads_a_file(tmp_path: Path) -> None:
    systemd = FakeSystemd()
    put(tmp_path, systemd, 600)
    timer = "edgewarden-confine-trial"
    assert systemd.done[:3] == [f"stop {timer}.timer", f"later {timer} 600", "daemon-reload"]
    assert f"stop {timer}.timer" not in systemd.done[1:]
    assert systemd.commands[0][-1] == os.path.abspath("x.toml"), "systemd starts it in /"


def test_for_good_there_is_no_clock(tmp_path: Path) -> None:
    systemd = FakeSystemd()
    put(tmp_path, systemd, 0)
    assert not [said for said in systemd.done if "trial" in said]


def test_a_trial_that_could_not_be_put_in_place_leaves_no_clock(tmp_path: Path) -> None:
    systemd = FakeSystemd(failing={"start edgewarden-noexec.service"})
    with pytest.raises(EdgewardenError):
        put(tmp_path, systemd, 600)
    assert systemd.done[-1] == "stop edgewarden-confine-trial.timer"


def test_a_second_trial_leaves_the_first_ones_clock_alone(tmp_path: Path) -> None:
    systemd = FakeSystemd()
    put(tmp_path, systemd, 600)
    systemd.done.clear()
    with pytest.raises(OperatorFault, match="a trial is on"):
        put(tmp_path, systemd, 600)
    assert systemd.done == []
