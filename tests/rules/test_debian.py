"""The Debian packaging says what the rest of the tree says, as far as files can show it.

That the packages build, boot and go without a trace is shown by tests/boot.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from edgewarden import __version__
from edgewarden.settings.policy import load_policy
from edgewarden.settings.source import SourceFile
from edgewarden.settings.validate import load
from tests.rules.planting import ROOT

DEBIAN = ROOT / "deploy" / "deb" / "debian"
UNITS = sorted((ROOT / "systemd").glob("edgewarden-*.s*"))


def page(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-B", str(ROOT / "deploy/deb/pages.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={"PYTHONPATH": str(ROOT / "agent"), "SOURCE_DATE_EPOCH": "86400"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def uncommented(text: str) -> str:
    """The file with every key in force, as if a person had taken away each "#"."""
    return re.sub(r"(?m)^#(?=\S)", "", text)


def test_the_changelog_carries_the_agents_version() -> None:
    assert (DEBIAN / "changelog").read_text().startswith(f"edgewarden ({__version__}) ")


def test_the_control_file_asks_for_the_same_floors() -> None:
    control = (DEBIAN / "control").read_text()
    build, gateway, fleet = (control.split("\n\n")[i] for i in range(3))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    debian = {"pyserial": "serial"}
    for lines, wanted in (
        (build + gateway, project["dependencies"]),
        (fleet, project["optional-dependencies"]["fleet"]),
    ):
        for requirement in wanted:
            name, _, floor = requirement.partition(">=")
            assert f" python3-{debian.get(name, name)} (>= {floor})," in lines, requirement


def test_the_settings_as_shipped_are_the_defaults() -> None:
    text = page("settings")
    assert not load([SourceFile("edgewarden.toml", text)]).origins


def test_every_commented_key_is_one_that_can_be_used() -> None:
    text = uncommented(page("settings"))
    text = text.replace('on_fault = "mark"', 'on_fault = "substitute"')  # else no failsafe
    register = re.compile(r"(?ms)^\[\[serial\.modbus\]\].*?(?=^\[)")
    field = re.compile(r"(?ms)^\[\[serial\.field\]\].*?(?=^\[)")
    # A port has registers or fields, and each a type that has all its keys.
    asked, told = (
        re.sub(r'(?m)^format = ".*"', f'format = "{name}"', text)
        for name in ("modbus-rtu", "lines")
    )
    asked = field.sub("", asked).replace('type = "u16"', 'type = "bool"')
    told = register.sub("", told).replace('type = "f64"', 'type = "number"')
    serial = [
        load([SourceFile("edgewarden.toml", one)]).settings.serial[0] for one in (asked, told)
    ]
    shipped = len(re.findall(r"(?m)^#[a-z_]+ = ", page("settings")))
    assert shipped > 30
    assert serial[0].modbus
    assert serial[1].field


def test_the_policy_as_shipped_allows_nothing() -> None:
    text = page("policy")
    assert load_policy(SourceFile("policy.toml", text)).program == ()
    used = uncommented(text)
    assert len(load_policy(SourceFile("policy.toml", used)).program) == 1


@pytest.mark.parametrize("command", ["edgewarden", "edgewarden-fleet"])
def test_a_manual_page_names_every_command(command: str) -> None:
    import importlib

    text = page("man", command)
    assert '"1970-01-02"' in text, "the date of a page is the source's"
    nouns = importlib.import_module(f"{command.replace('-', '_')}.cli.main").NOUNS
    for noun in nouns:
        assert f".SS {command} {noun}".replace("-", "\\-") in text
    if command == "edgewarden":
        assert ".B policy enforce" in text


def test_the_settings_page_names_every_table() -> None:
    text = page("man", "edgewarden.toml")
    for table in ("[uplink]", "[exec]", "[[serial.modbus]]"):
        assert f".SH {table}" in text


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
def test_every_unit_is_inert_until_a_person_acted(unit: object) -> None:
    state = "/var/lib/edgewarden"
    path = "confinement/applied" if "confine" in Path(str(unit)).name else "identity/current"
    condition = f"ConditionPathExists={state}/{path}"
    assert condition in (ROOT / "systemd" / str(unit)).read_text().splitlines()


def test_the_hook_of_dpkg_fails_nothing_and_outlives_its_command() -> None:
    """dpkg gives up when a hook fails (dpkg.cfg(5)); a removed package leaves its conffile."""
    hook = ROOT / "deploy/deb/dpkg.cfg.d/edgewarden"
    assert re.fullmatch(r"[A-Za-z0-9_-]+", hook.name), "dpkg reads no other names"
    lines = [line for line in hook.read_text().splitlines() if not line.startswith("#")]
    assert [line.partition("=")[0] for line in lines] == ["pre-invoke", "post-invoke"]
    for line in lines:
        assert line.partition("=")[2].startswith("if [ -x /usr/bin/edgewarden ]; then ")
        assert line.endswith(">/dev/null 2>&1 || :; fi")
    assert (
        "deploy/deb/dpkg.cfg.d/edgewarden etc/dpkg/dpkg.cfg.d/"
        in (DEBIAN / "edgewarden.install").read_text().splitlines()
    )
