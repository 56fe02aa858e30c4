"""The policy one-shot: what it writes, when the generation rises, and that a fault changes
nothing."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from edgewarden.daemon import policy as one_shot
from edgewarden.daemon.policy import compile_policy
from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.judge.exec_table import Table
from edgewarden.judge.peripherals_table import PeripheralTable, load_table
from edgewarden.settings.faults import SettingsFaults
from edgewarden.wire.baseline import Baseline
from edgewarden.wire.gate_files import GateConfig
from edgewarden.wire.local import Answer
from edgewarden.wire.network_table import NetworkTable
from edgewarden.wire.used import dump_used
from tests.fakes.agent import running_gate
from tests.fakes.subject import NOBODY

ONE = '[[program]]\nname = "one"\nsha256 = "' + "1" * 64 + '"\n'
TWO = '[[program]]\nname = "two"\nsha256 = "' + "2" * 64 + '"\n'


@pytest.fixture
def settings(tmp_path: Path) -> str:
    path = tmp_path / "edgewarden.toml"
    path.write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n'
        f'[exec]\nfilesystems = ["/mnt/x"]\nmode = "observe"\npolicy = "{tmp_path}/policy.toml"\n'
        'link_user = "no-such-user"\n'
    )
    return str(path)


def table(tmp_path: Path) -> Table:
    return Table.load((tmp_path / "state/policy/exec.table").read_bytes())


def named(tmp_path: Path, digest: bytes) -> str | None:
    rule = table(tmp_path).decide(digest, NOBODY)
    return None if rule is None else rule.name


def test_what_gate_reads_is_written(tmp_path: Path, settings: str) -> None:
    (tmp_path / "policy.toml").write_text(ONE + TWO)
    done = compile_policy(settings)
    assert (done.rules, done.generation, done.changed, done.reloaded) == (2, 1, True, False)
    assert named(tmp_path, b"\x22" * 32) == "two"
    assert named(tmp_path, b"\x33" * 32) is None
    config = GateConfig.load((tmp_path / "state/policy/gate.conf").read_bytes())
    assert (config.filesystems, config.mode) == (("/mnt/x",), "observe")


def test_the_generation_rises_with_the_rules_alone(tmp_path: Path, settings: str) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(ONE)
    assert compile_policy(settings).generation == 1
    policy.write_text("# a comment\n" + ONE)
    assert compile_policy(settings).generation == 1
    policy.write_text(ONE.replace("one", "uno"))
    assert compile_policy(settings).generation == 2
    policy.write_text(TWO)
    assert compile_policy(settings).generation == 3


def test_a_fault_leaves_the_last_table(tmp_path: Path, settings: str) -> None:
    (tmp_path / "policy.toml").write_text(ONE)
    compile_policy(settings)
    (tmp_path / "policy.toml").write_text(ONE + ONE)
    with pytest.raises(SettingsFaults):
        compile_policy(settings)
    assert named(tmp_path, b"\x11" * 32) == "one"


def test_no_policy_is_an_empty_one_only_the_first_time(tmp_path: Path, settings: str) -> None:
    assert compile_policy(settings).rules == 0
    with pytest.raises(SettingsFaults, match="No such file"):
        compile_policy(settings)


def test_a_damaged_table_is_replaced(tmp_path: Path, settings: str) -> None:
    (tmp_path / "policy.toml").write_text(ONE)
    compile_policy(settings)
    (tmp_path / "state/policy/exec.table").write_bytes(b"torn")
    assert compile_policy(settings).changed
    assert table(tmp_path).decide(b"\x11" * 32, NOBODY) is not None
    assert table(tmp_path).generation == 2, "gate would not go back to 1"


def test_m5_what_was_in_use_is_the_floor_of_every_table(tmp_path: Path, settings: str) -> None:
    """An older folder brought back, or a lost table: what is compiled now is the next one."""
    folder = tmp_path / "state/policy"
    (tmp_path / "policy.toml").write_text(ONE + DEVICE + EGRESS)
    compile_policy(settings)
    (folder / "used").write_bytes(dump_used({"exec": 9, "peripherals": 8, "network": 7}))
    assert compile_policy(settings).generation == 10
    found = load_table((folder / "peripherals.table").read_bytes())
    network = NetworkTable.load((folder / "network.table").read_bytes())
    assert (found.generation, network.generation) == (9, 8)
    (folder / "used").write_bytes(dump_used({"exec": 10, "peripherals": 9, "network": 8}))
    assert compile_policy(settings).generation == 10, "and it stays where nothing changes"
    (folder / "network.table").unlink()
    compile_policy(settings)
    network = NetworkTable.load((folder / "network.table").read_bytes())
    assert network.generation == 9


def test_m5_the_ones_shot_own_count_is_never_lowered_unasked(tmp_path: Path, settings: str) -> None:
    """A table and a policy of last month, copied back beside the count of today."""
    (tmp_path / "policy.toml").write_text(ONE)
    compile_policy(settings)
    (tmp_path / "state/policy/exec.generation").write_text("5\n")
    assert compile_policy(settings).generation == 6
    assert (tmp_path / "state/policy/exec.generation").read_text() == "6\n"
    (tmp_path / "state/policy/used").write_bytes(dump_used({"exec": 9}))
    assert compile_policy(settings, older=True).generation == 6, "a person said that it is meant"


def test_a_running_gate_is_told(tmp_path: Path, settings: str) -> None:
    (tmp_path / "policy.toml").write_text(ONE)
    with running_gate(tmp_path / "run", lambda request: Answer(True, "", "")) as asked:
        assert compile_policy(settings).reloaded
    assert [request.verb for request in asked] == ["reload"]


def test_m3_gate_is_told_whether_the_rules_are_the_last_ones(tmp_path: Path, settings: str) -> None:
    """Only then may what observe has seen with the last table count for the new one."""
    policy, other = tmp_path / "policy.toml", Baseline((), {"/bin": "/usr/bin"})
    policy.write_text(ONE)
    with running_gate(tmp_path / "run", lambda request: Answer(True, "", "")) as asked:
        compile_policy(settings)
        policy.write_text("# a remark\n" + ONE)
        compile_policy(settings, other)
        policy.write_text(ONE.replace("1" * 64, "3" * 64))
        compile_policy(settings, other)
        (tmp_path / "state/policy/exec.rules").unlink()
        compile_policy(settings, other)
    assert [request.verb for request in asked] == [
        "reload", "reload_contents", "reload", "reload",
    ]  # fmt: skip


def test_m3_a_compilation_that_broke_off_vouches_for_no_rules(
    tmp_path: Path, settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules are remembered after their table: a power cut between leaves the older word."""
    policy = tmp_path / "policy.toml"
    policy.write_text(ONE)
    compile_policy(settings)
    policy.write_text(TWO)

    def cut(*_: object) -> None:
        raise HardwareFault("power", code="EW-EXEC-013", next_step="wait")

    with monkeypatch.context() as patch:
        patch.setattr(one_shot, "write_policy", cut)
        with pytest.raises(HardwareFault):
            compile_policy(settings)
    with running_gate(tmp_path / "run", lambda request: Answer(True, "", "")) as asked:
        compile_policy(settings)
    assert [request.verb for request in asked] == ["reload"]


def test_a_gate_that_will_not_is_a_fault(tmp_path: Path, settings: str) -> None:
    (tmp_path / "policy.toml").write_text(ONE)
    refusal = Answer(False, "bad_stamp", "torn")
    with (
        running_gate(tmp_path / "run", lambda request: refusal),
        pytest.raises(OperatorFault, match="bad_stamp"),
    ):
        compile_policy(settings)


EGRESS = '[[egress]]\nname = "all"\nuid = 1000\naddress = "10.0.0.1"\n'
DEVICE = '[[device]]\nname = "gps"\nid = "1546:01a7"\n'


def test_rules_about_devices_are_a_table_of_their_own(tmp_path: Path, settings: str) -> None:
    path = tmp_path / "state/policy/peripherals.table"
    (tmp_path / "policy.toml").write_text(ONE)
    compile_policy(settings)
    assert not path.exists(), "nobody ever spoke of peripherals"
    (tmp_path / "policy.toml").write_text(ONE + DEVICE)
    assert not compile_policy(settings).changed
    found = load_table(path.read_bytes())
    assert [rule.name for rule in found.devices] == ["gps"]
    (tmp_path / "policy.toml").write_text(ONE)
    compile_policy(settings)
    assert load_table(path.read_bytes()) == PeripheralTable((), (), 2)


def test_rules_about_peers_are_a_table_and_units_nobody_knows_are_noted(
    tmp_path: Path, settings: str
) -> None:
    rule = '[[egress]]\nname = "a"\nunit = "no-such@unit.service"\naddress = "10.0.0.1"\n'
    (tmp_path / "policy.toml").write_text(rule)
    done = compile_policy(settings)
    assert [note for note in done.notes if "no-such@unit.service" in note]
    found = NetworkTable.load((tmp_path / "state/policy/network.table").read_bytes())
    assert [unit.path for unit in found.units] == [
        r"system.slice/system-no\x2dsuch.slice/no-such@unit.service"
    ]


def test_a_range_of_users_that_covers_link_changes_nothing(tmp_path: Path, settings: str) -> None:
    uid = pwd.getpwnam("nobody").pw_uid
    path = Path(settings)
    path.write_text(path.read_text().replace("no-such-user", "nobody"))
    rule = f'[[egress]]\nname = "a"\nuid = "{uid - 5}-{uid + 5}"\naddress = "10.0.0.1"\n'
    (tmp_path / "policy.toml").write_text(rule)
    with pytest.raises(OperatorFault, match="covers nobody"):
        compile_policy(settings)
    assert not (tmp_path / "state/policy/network.table").exists()
