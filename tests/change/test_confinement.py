"""Confinement in a tree of the test's own: put in place, on trial, for good, and away again byte
for byte."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.change.confinement import Confiner
from edgewarden.confine.facts import Host, Mount, Plan, Service, Wish
from edgewarden.confine.plan import SYSCTL_FILE, plan
from edgewarden.confine.record import APPLIED_NAME, TRIAL_NAME, Applied, Made
from edgewarden.errors import HardwareFault, OperatorFault, WireRefusal
from tests.fakes.systemd import FakeSystemd

STATE, RUN = "/var/lib/edgewarden", "/run/edgewarden"
DROPIN = "etc/systemd/system/broker.service.d/50-edgewarden.conf"
BROKER = Service("broker.service", active=True, programs=("/usr/sbin/broker",),
                 libraries=("/usr/lib/aarch64-linux-gnu",))  # fmt: skip
SYSCTLS = {"vm.memfd_noexec": "0", "fs.protected_fifos": "0"}
HOST = Host((6, 12), 257, sysctls=SYSCTLS)
TMP = Mount("/tmp", mounted=True, options=("rw",), unit="tmp.mount", unit_options="mode=1777")


def made(
    *wishes: str, host: Host = HOST, mounts: tuple[Mount, ...] = (TMP, Mount("/var/tmp"))
) -> Plan:
    return plan([Wish(unit) for unit in wishes],
                {unit: replace(BROKER, unit=unit) for unit in wishes}, mounts, host)  # fmt: skip


FULL = made("broker.service")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder in ("etc/systemd/system", "etc/sysctl.d", "run/systemd/system", f".{STATE}",
                   f".{RUN}", "proc/sys/vm", "proc/sys/fs"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    for name, value in SYSCTLS.items():
        (tmp_path / "proc/sys" / name.replace(".", "/")).write_text(f"{value}\n")
    (tmp_path / "etc/systemd/system/broker.service").write_text("[Service]\nExecStart=broker\n")
    return tmp_path


@pytest.fixture
def systemd() -> FakeSystemd:
    return FakeSystemd()


def confiner(root: Path, systemd: FakeSystemd) -> Confiner:
    return Confiner(systemd, STATE, RUN, root)


def no_clock() -> None:
    """A trial that nothing ends."""


def look(root: Path) -> dict[str, str]:
    """Everything of the tree, by path: kind, mode, content."""
    found = {}
    for folder, folders, names in os.walk(root):
        for name in folders + names:
            path = Path(folder, name)
            text = os.readlink(path) if path.is_symlink() else ""
            if path.is_file() and not path.is_symlink():
                text = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(root))] = f"{path.lstat().st_mode:o} {text}"
    return found


def sysctl(root: Path, name: str) -> str:
    return (root / "proc/sys" / name.replace(".", "/")).read_text().strip()


def test_for_good_and_away_again_byte_for_byte(root: Path, systemd: FakeSystemd) -> None:
    before = look(root)
    one = confiner(root, systemd)
    applied = one.apply(FULL)
    assert "NoExecPaths=/" in (root / DROPIN).read_text()
    assert (root / SYSCTL_FILE.lstrip("/")).stat().st_mode & 0o777 == 0o644
    assert sysctl(root, "vm.memfd_noexec") == "2"
    assert systemd.done == ["daemon-reload", "reload tmp.mount", "start edgewarden-noexec.service"]
    assert one.changed(applied) == []
    systemd.done.clear()
    assert one.revert() == []
    assert look(root) == before
    assert systemd.done == ["stop edgewarden-noexec.service", "daemon-reload", "reload tmp.mount"]
    assert one.applied() is None
    assert one.revert() == []


def test_the_record_stands_before_the_first_file(root: Path, systemd: FakeSystemd) -> None:
    """Whatever a power cut leaves behind can be taken away by name."""
    before = look(root)

    class Cut(FakeSystemd):
        def do(self, verb: str, *units: str):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        confiner(root, Cut()).apply(FULL)
    assert look(root) != before
    assert confiner(root, systemd).revert() == []
    assert look(root) == before


@pytest.mark.parametrize(
    "failing",
    ["daemon-reload", "reload tmp.mount", "start edgewarden-noexec.service"],
)
def test_a_step_that_fails_takes_everything_back(root: Path, failing: str) -> None:
    before = look(root)
    systemd = FakeSystemd(failing={failing})
    if failing == "daemon-reload":
        systemd.do = _fails_once(systemd)  # type: ignore[method-assign]
    with pytest.raises(HardwareFault, match="Job failed") as refused:
        confiner(root, systemd).apply(FULL)
    assert refused.value.code == "EW-EXEC-042"
    assert look(root) == before


def _fails_once(systemd: FakeSystemd):  # type: ignore[no-untyped-def]
    inner = systemd.do

    def do(verb: str, *units: str):  # type: ignore[no-untyped-def]
        ended = inner(verb, *units)
        systemd.failing.discard(verb)
        return ended

    return do


def test_a_sysctl_the_kernel_refuses_takes_everything_back(
    root: Path, systemd: FakeSystemd
) -> None:
    (root / "proc/sys/vm/memfd_noexec").unlink()
    (root / "proc/sys/vm/memfd_noexec").symlink_to("/proc/self/nonsense/none")
    before = look(root)
    with pytest.raises(HardwareFault, match="memfd_noexec"):
        confiner(root, systemd).apply(FULL)
    assert look(root) == before


def test_a_file_of_somebody_elses_is_not_overwritten(root: Path, systemd: FakeSystemd) -> None:
    (root / DROPIN).parent.mkdir()
    (root / DROPIN).write_text("[Service]\nUser=nobody\n")
    before = look(root)
    with pytest.raises(OperatorFault, match="not ours") as refused:
        confiner(root, systemd).apply(FULL)
    assert refused.value.code == "EW-EXEC-041"
    assert look(root) == before
    assert systemd.done == []


def test_a_trial_stands_in_run_alone(root: Path, systemd: FakeSystemd) -> None:
    before = look(root / "etc")
    one = confiner(root, systemd)
    applied = one.apply(FULL, trial=no_clock)
    assert applied.trial
    assert look(root / "etc") == before, "a boot ends it"
    assert not (root / STATE.lstrip("/") / APPLIED_NAME).exists()
    assert (root / RUN.lstrip("/") / TRIAL_NAME).exists()
    assert sysctl(root, "vm.memfd_noexec") == "2"
    with pytest.raises(OperatorFault, match="a trial is on"):
        one.apply(FULL)
    assert one.revert() == []
    assert sysctl(root, "vm.memfd_noexec") == "0"


def test_the_clock_of_a_trial_runs_before_anything_is_changed(root: Path) -> None:
    before, seen = look(root), []

    class Cut(FakeSystemd):
        def do(self, verb: str, *units: str):  # type: ignore[no-untyped-def]
            raise KeyboardInterrupt  # the first thing systemd is told of what was made

    with pytest.raises(KeyboardInterrupt):
        confiner(root, Cut()).apply(FULL, trial=lambda: seen.append(look(root)))
    assert seen == [before]
    assert look(root) != before


def test_a_trial_whose_clock_does_not_start_changes_nothing(
    root: Path, systemd: FakeSystemd
) -> None:
    before = look(root)

    def clock() -> None:
        raise HardwareFault("no timer", code="EW-EXEC-040", next_step="look")

    with pytest.raises(HardwareFault, match="no timer"):
        confiner(root, systemd).apply(FULL, trial=clock)
    assert look(root) == before
    assert systemd.done == []


def test_a_trial_that_is_refused_starts_no_clock(root: Path, systemd: FakeSystemd) -> None:
    """It would end the trial that is on, or wait for the next."""
    one = confiner(root, systemd)
    one.apply(FULL, trial=no_clock)
    calls: list[int] = []
    with pytest.raises(OperatorFault, match="a trial is on"):
        one.apply(FULL, trial=lambda: calls.append(1))
    assert calls == []


def test_a_confirmed_trial_is_what_apply_makes(
    root: Path, systemd: FakeSystemd, tmp_path: Path
) -> None:
    before = look(root)
    one = confiner(root, systemd)
    one.apply(FULL, trial=no_clock)
    kept = one.confirm()
    assert not kept.trial
    confirmed = look(root / "etc")
    assert one.revert() == []
    assert look(root) == before
    one.apply(FULL)
    assert look(root / "etc") == confirmed
    with pytest.raises(OperatorFault, match="no confinement is on trial"):
        one.confirm()


def test_a_changed_trial_is_not_confirmed(root: Path, systemd: FakeSystemd) -> None:
    one = confiner(root, systemd)
    one.apply(FULL, trial=no_clock)
    (root / "run" / DROPIN.removeprefix("etc/")).write_text("[Service]\n")
    with pytest.raises(OperatorFault, match="changed since"):
        one.confirm()


def test_another_plan_takes_its_place_and_the_first_values_are_kept(
    root: Path, systemd: FakeSystemd
) -> None:
    before = look(root)
    one = confiner(root, systemd)
    one.apply(FULL)
    host = replace(HOST, sysctls={"vm.memfd_noexec": "2"}, before={"vm.memfd_noexec": "0"})
    second = made("historian.service", host=host, mounts=(replace(TMP, method="dropin"),))
    applied = one.apply(second)
    assert not (root / DROPIN).exists()
    assert sysctl(root, "fs.protected_fifos") == "0", "not planned any more"
    assert "stop edgewarden-noexec.service" in systemd.done
    assert applied.sysctls[0].before == "0"
    assert one.revert() == []
    assert look(root) == before


def test_the_same_plan_again_changes_nothing(root: Path, systemd: FakeSystemd) -> None:
    one = confiner(root, systemd)
    one.apply(FULL)
    first = look(root)
    systemd.done.clear()
    one.apply(FULL)
    assert look(root) == first
    assert "stop edgewarden-noexec.service" not in systemd.done


@pytest.mark.parametrize("what", ["file", "gone", "link", "sysctl"])
def test_drift_is_named_and_left(root: Path, systemd: FakeSystemd, what: str) -> None:
    one = confiner(root, systemd)
    applied = one.apply(FULL)
    link = root / "etc/systemd/system/sysinit.target.wants/edgewarden-noexec.service"
    if what == "file":
        (root / DROPIN).write_text("[Service]\nNoExecPaths=\n")
    elif what == "gone":
        (root / DROPIN).unlink()
    elif what == "link":
        link.unlink()
        link.symlink_to("/dev/null")
    else:
        (root / "proc/sys/vm/memfd_noexec").write_text("1\n")
    (said,) = one.changed(applied)
    assert {"file": "changed since", "gone": "gone", "link": "not our link", "sysctl": "is 1"}[
        what
    ] in said
    left = one.revert()
    assert len(left) == (0 if what == "gone" else 1)
    assert (root / DROPIN).exists() is (what == "file")
    assert sysctl(root, "vm.memfd_noexec") == ("1" if what == "sysctl" else "0")


def test_force_leaves_nothing(root: Path, systemd: FakeSystemd) -> None:
    before = look(root)
    one = confiner(root, systemd)
    one.apply(FULL)
    (root / DROPIN).write_text("[Service]\n")
    (root / "proc/sys/vm/memfd_noexec").write_text("1\n")
    assert one.revert(force=True) == []
    assert look(root) == before


def test_a_record_that_others_may_write_is_not_believed(root: Path, systemd: FakeSystemd) -> None:
    one = confiner(root, systemd)
    one.apply(FULL)
    (root / STATE.lstrip("/") / APPLIED_NAME).chmod(0o666)
    with pytest.raises(OperatorFault, match="root's alone"):
        one.revert()


def test_a_record_is_read_as_written_and_nothing_else() -> None:
    applied = Applied(False, ("a.service",), (Made("/etc/x", "00"), Made("/etc/y", link="/etc/x")))
    assert Applied.load(applied.dump()) == applied
    for bad in (b"", applied.dump()[:-1], applied.dump()[:-1] + b" "):
        with pytest.raises(WireRefusal):
            Applied.load(bad)
    for path in ("etc/x", "/etc/../../x"):
        with pytest.raises(WireRefusal, match="bad_value"):
            Applied.load(Applied(False, (), (Made(path),)).dump())


def test_what_stands_in_the_files_is_what_is_verified(root: Path, systemd: FakeSystemd) -> None:
    one = confiner(root, systemd)
    applied = one.apply(FULL)
    (found,) = one.dropins(applied)
    assert found.lines == FULL.services[0].lines
    (root / DROPIN).unlink()
    assert one.dropins(applied)[0].lines == ()


@pytest.mark.parametrize("keep", [True, False])
def test_without_its_record_force_goes_by_name(
    root: Path, systemd: FakeSystemd, keep: bool
) -> None:
    before = look(root)
    one = confiner(root, systemd)
    one.apply(FULL, trial=None if keep else no_clock)
    record = APPLIED_NAME if keep else TRIAL_NAME
    (root / (STATE if keep else RUN).lstrip("/") / record).write_bytes(b"torn")
    with pytest.raises(OperatorFault) as refused:
        one.revert()
    assert refused.value.code == "EW-EXEC-047"
    (said,) = one.revert(force=True)
    assert "until a boot" in said
    for name, value in SYSCTLS.items():
        (root / "proc/sys" / name.replace(".", "/")).write_text(f"{value}\n")
    assert look(root) == before
    assert "reload tmp.mount" in systemd.done
