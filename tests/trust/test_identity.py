"""The identity folder: whole or not there, at whichever step the power goes."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgewarden.enrol.folder import PENDING, _own_as, go_back, keep_pending, pending, prove, store
from edgewarden.errors import HardwareFault, TrustFault
from edgewarden.trust import identity
from edgewarden.trust.identity import load, pem_to_der
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.ladder import Keys, OwnKey

CERT = "-----BEGIN CERTIFICATE-----\nAQIDBA==\n-----END CERTIFICATE-----\n"
STEPS = ("open", "write", "fsync", "rename", "symlink", "mkdir", "unlink")


def fields(serial: str = "1") -> dict[str, object]:
    return {
        "device": "gw-test", "tenant": "main", "grade": "G0", "serial": serial,
        "not_after_utc": "2026-12-31T00:00:00Z", "broker": {"host": "b", "port": 8883},
        "verifier_key": "a0",
    }  # fmt: skip


def pending_signer(state: Path) -> OwnKey:
    """The key of an enrolment under way: kept from a try without an answer, or a new one."""
    kept = pending(state, Keys())
    if kept is not None:
        return kept
    fresh = FileSigner.generate()
    keep_pending(state, fresh)
    return fresh


def put(state: Path, serial: str = "1") -> OwnKey:
    signer = pending_signer(state)
    store(state, signer, fields(serial), CERT * 2, CERT)
    return signer


class PowerCut(BaseException):
    """Nothing runs after it; not an Exception, so that nothing handles it."""


class Disk:
    """Counts the system calls that change the disk and ends the process before or after one.

    What was written and not fsynced when the power goes is lost: such files are emptied.
    """

    def __init__(self, cut_at: int, fsync_works: bool = True) -> None:
        self.cut_at = cut_at
        self.calls = 0
        self.fsync_works = fsync_works
        self.written: set[int] = set()
        self.synced: set[int] = set()

    def step(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == self.cut_at:
                raise PowerCut
            if name == "fsync":
                if self.fsync_works:
                    self.synced.add(os.fstat(args[0]).st_ino)
                return None
            if name == "write":
                self.written.add(os.fstat(args[0]).st_ino)
                self.synced.discard(os.fstat(args[0]).st_ino)
            return real(*args, **kwargs)

        return call

    def lose_unsynced(self, folder: Path) -> None:
        for path in folder.rglob("*"):
            if path.is_file() and path.stat().st_ino in self.written - self.synced:
                os.truncate(path, 0)

    @contextlib.contextmanager
    def in_use(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        with monkeypatch.context() as patch:
            for name in STEPS:
                patch.setattr(os, name, self.step(name, getattr(os, name)))
            yield


def serial_of(state: Path) -> str | None:
    """Serial of the current identity, held to be whole; None when there is none."""
    try:
        found = load(state)
    except TrustFault as fault:
        if fault.code == "EW-ID-004":
            return None
        raise
    assert found.signer().kid
    assert found.x5chain() == (b"\x01\x02\x03\x04",) * 2
    assert found.ca_path.read_text() == CERT
    return found.serial


def cut_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None,
                   fsync_works: bool = True) -> Iterator[tuple[Path, bool]]:  # fmt: skip
    """(state, came to its end) for a power cut at each step of an enrolment's disk work."""
    for cut_at in range(1, 200):
        state = tmp_path / f"{cut_at}"
        state.mkdir()
        if old is not None:
            put(state, old)
        disk, ended = Disk(cut_at, fsync_works), False
        with disk.in_use(monkeypatch), contextlib.suppress(PowerCut):
            put(state, "2")
            ended = True
        if not ended:
            disk.lose_unsynced(state)
        yield state, ended
        if ended:
            return
    raise AssertionError("200 steps and no end")


@pytest.mark.parametrize("old", [None, "1"])
def test_power_cut_at_any_step_leaves_old_or_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None
) -> None:
    seen = []
    for state, ended in cut_everywhere(tmp_path, monkeypatch, old):
        found = serial_of(state)
        assert found in (old, "2")
        assert found == "2" or not ended
        seen.append(found)
        put(state, "3")  # and the next try goes through
        assert serial_of(state) == "3"
    assert len(seen) > 20
    assert {old, "2"} == set(seen)


def test_the_harness_sees_what_fsync_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the same cuts on a disk whose fsync does nothing damage an identity."""
    faults = []
    for state, _ in cut_everywhere(tmp_path, monkeypatch, None, fsync_works=False):
        try:
            serial_of(state)
        except (TrustFault, AssertionError) as fault:
            faults.append(str(fault))
    assert faults


def test_the_pending_key_outlives_a_try_without_an_answer(tmp_path: Path) -> None:
    first = pending_signer(tmp_path)
    assert pending_signer(tmp_path).kid == first.kid
    path = tmp_path / identity.FOLDER / PENDING
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store(tmp_path, first, fields(), CERT, CERT)
    assert not path.exists()
    assert pending_signer(tmp_path).kid != first.kid


def test_the_certified_key_is_never_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment a certificate may exist, its key is in pending.pem or in current."""
    key = FileSigner.generate().to_pem()
    for cut_at in range(1, 200):
        state = tmp_path / f"{cut_at}"
        (state / identity.FOLDER).mkdir(parents=True)
        (state / identity.FOLDER / PENDING).write_bytes(key)
        kid, disk = pending_signer(state).kid, Disk(cut_at)
        try:
            with disk.in_use(monkeypatch):
                put(state)
        except PowerCut:
            disk.lose_unsynced(state)
            kept = (state / identity.FOLDER / PENDING).exists()
            assert kept or load(state).signer().kid == kid
            if kept:
                assert pending_signer(state).kid == kid
        else:
            assert cut_at > 20
            return
    raise AssertionError("200 steps and no end")


def test_a_short_write_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """write(2) may take a part; a key cut short would be no key."""
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, bytes(data)[:7]))
    put(tmp_path)
    assert serial_of(tmp_path) == "1"


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename", "mkdir"])
def test_a_disk_that_refuses_is_a_hardware_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    put(tmp_path, "1")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(HardwareFault) as caught:
            store(tmp_path, FileSigner.generate(), fields("2"), CERT, CERT)
    assert caught.value.code == "EW-ID-006"
    assert "No space left" in str(caught.value)
    assert serial_of(tmp_path) == "1"


def test_pending_on_a_full_disk_is_a_hardware_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HardwareFault) as caught:
        pending_signer(tmp_path)
    assert caught.value.code == "EW-ID-006"


def test_what_is_stored_is_what_is_loaded(tmp_path: Path) -> None:
    signer = put(tmp_path)
    found = load(tmp_path)
    assert found.signer().kid == signer.kid
    assert (found.device, found.tenant, found.grade, found.serial) == ("gw-test", "main", "G0", "1")
    assert (found.broker_host, found.broker_port, found.verifier_key) == ("b", 8883, b"\xa0")
    assert stat.S_IMODE(found.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.folder.stat().st_mode) == 0o700
    assert found.folder.name == "identity-1"
    put(tmp_path, "2")
    assert load(tmp_path).folder.name == "identity-2"
    assert found.signer().kid == signer.kid  # who loaded before still has matching files


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610, 0o644, 0o666])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    put(tmp_path)
    load(tmp_path).key_path.chmod(mode)
    with pytest.raises(TrustFault, match=f"mode {mode:04o}") as caught:
        load(tmp_path)
    assert caught.value.code == "EW-ID-005"


def test_without_enrolment_there_is_no_identity(tmp_path: Path) -> None:
    with pytest.raises(TrustFault) as caught:
        load(tmp_path)
    assert caught.value.code == "EW-ID-004"
    assert "edgewarden enroll" in caught.value.next_step


def edit(**changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "identity.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))

    return change


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "key gone": (lambda f: (f / "key.pem").unlink(), "key.pem"),
    "json gone": (lambda f: (f / "identity.json").unlink(), "identity.json"),
    "json empty": (lambda f: (f / "identity.json").write_text(""), "damaged"),
    "json cut": (lambda f: os.truncate(f / "identity.json", 20), "damaged"),
    "json not utf-8": (lambda f: (f / "identity.json").write_bytes(b"\xff\xff"), "damaged"),
    "json a list": (lambda f: (f / "identity.json").write_text("[]"), "identity.json"),
    "no broker": (edit(broker={}), "identity.json"),
    "port a word": (edit(broker={"host": "b", "port": "x"}), "identity.json"),
    "verifier key not hex": (edit(verifier_key="zz"), "identity.json"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(tmp_path: Path, what: str) -> None:
    harm, says = DAMAGE[what]
    put(tmp_path)
    harm(load(tmp_path).folder)
    with pytest.raises(TrustFault, match=says) as caught:
        load(tmp_path)
    assert caught.value.code == "EW-ID-005"


def test_a_pointer_to_nothing_is_damage_and_not_a_fresh_gateway(tmp_path: Path) -> None:
    put(tmp_path)
    load(tmp_path).folder.rename(tmp_path / "elsewhere")
    with pytest.raises(TrustFault) as caught:
        load(tmp_path)
    assert caught.value.code == "EW-ID-005"


@pytest.mark.parametrize(
    "text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAQ=\n-----END CERTIFICATE-----\n",
             "-----BEGIN CERTIFICATE-----\nA?ID\n-----END CERTIFICATE-----\n"],
)  # fmt: skip
def test_a_damaged_certificate_is_named(tmp_path: Path, text: str) -> None:
    put(tmp_path)
    found = load(tmp_path)
    found.cert_path.write_text(text)
    with pytest.raises(TrustFault, match=r"cert\.pem"):
        found.x5chain()


def test_a_damaged_key_is_named(tmp_path: Path) -> None:
    put(tmp_path)
    found = load(tmp_path)
    os.truncate(found.key_path, 40)
    with pytest.raises(TrustFault) as caught:
        found.signer()
    assert caught.value.code == "EW-ID-003"


def test_pem_to_der_takes_every_block() -> None:
    assert pem_to_der(CERT + "text between\n" + CERT.replace("\n", "\r\n")) == [b"\1\2\3\4"] * 2


@pytest.mark.needs("root")
def test_root_gives_nothing_away_through_a_link(tmp_path: Path) -> None:
    """Link's user owns the folder around it and may swap what root has just made."""
    parent, victim = tmp_path / "identity", tmp_path / "etc"
    for folder in (parent, victim):
        folder.mkdir()
    (victim / "shadow").write_text("root's")
    os.chown(parent, 12345, 12345)
    (parent / ".building-1").symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic|Not a directory"):
        _own_as(parent / ".building-1", parent)
    mine = parent / ".building-2"
    mine.mkdir()
    (mine / "link").symlink_to(victim / "shadow")
    (mine / "key.pem").touch()
    _own_as(mine, parent)
    assert (victim / "shadow").stat().st_uid == 0
    assert (mine / "key.pem").stat().st_uid == 12345


@pytest.mark.needs("root")
def test_root_gives_nothing_away_that_is_not_roots(tmp_path: Path) -> None:
    """A folder of somebody's own in the place of the one that root has made."""
    parent = tmp_path / "identity"
    swapped = parent / ".building-1"
    swapped.mkdir(parents=True)
    (swapped / "key.pem").touch()
    os.chown(parent, 12345, 12345)
    os.chown(swapped, 54321, 54321)
    with pytest.raises(PermissionError, match="another folder"):
        _own_as(swapped, parent)
    assert (swapped / "key.pem").stat().st_uid == 0


@pytest.mark.needs("root")
@pytest.mark.parametrize("who", ["not root", "root's parent"])
def test_nothing_is_given_where_there_is_nobody_to_give_it_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    parent, uid = tmp_path / "identity", 0 if who == "root's parent" else 12345
    mine = parent / ".building-1"
    mine.mkdir(parents=True)
    (mine / "key.pem").touch()
    os.chown(parent, uid, 12345)
    if who == "not root":
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    _own_as(mine, parent)
    for one in (mine, mine / "key.pem"):
        assert (one.stat().st_uid, one.stat().st_gid) == (0, 0)


def test_going_back_leaves_nothing_of_what_was_refused(tmp_path: Path) -> None:
    """A key and a certificate that nobody uses are a copy more that can be taken."""
    put(tmp_path, "1")
    put(tmp_path, "2")
    refused = load(tmp_path).folder
    assert go_back(tmp_path)
    assert load(tmp_path).serial == "1"
    assert not refused.exists()
    assert {p.name for p in (tmp_path / "identity").glob("identity-*")} == {
        load(tmp_path).folder.name
    }


def test_going_back_after_a_power_cut_on_the_way_keeps_what_is_current(tmp_path: Path) -> None:
    put(tmp_path, "1")
    put(tmp_path, "2")
    parent = tmp_path / "identity"
    before = os.readlink(parent / "previous")
    (parent / "current").unlink()
    (parent / "current").symlink_to(before)  # the power went before ``previous`` was removed
    assert go_back(tmp_path)
    assert load(tmp_path).serial == "1"


def test_renewed_twice_before_any_round_trip_all_of_them_can_be_gone_back_to(
    tmp_path: Path,
) -> None:
    """The broker is down for weeks, the enrolment service is not: the last one that has carried
    anything is two behind, and it is the only one that the broker takes."""
    for serial in ("1", "2", "3", "4"):
        put(tmp_path, serial)
    for serial in ("3", "2", "1"):
        assert go_back(tmp_path)
        assert load(tmp_path).serial == serial
    assert not go_back(tmp_path)
    assert [p.name for p in (tmp_path / "identity").glob("identity-*")] == ["identity-1"]


def test_going_back_over_a_power_cut_before_the_last_swap_misses_none(tmp_path: Path) -> None:
    put(tmp_path, "1")
    put(tmp_path, "2")
    before = os.readlink(tmp_path / "identity" / "current")
    put(tmp_path, "3")
    (tmp_path / "identity" / "current").unlink()
    (tmp_path / "identity" / "current").symlink_to(before)
    put(tmp_path, "4")
    for serial in ("2", "1"):
        assert go_back(tmp_path)
        assert load(tmp_path).serial == serial
    assert not go_back(tmp_path)


def test_what_is_proven_has_nothing_behind_it_any_more(tmp_path: Path) -> None:
    for serial in ("1", "2", "3"):
        put(tmp_path, serial)
    assert go_back(tmp_path)
    put(tmp_path, "3")
    put(tmp_path, "4")
    assert go_back(tmp_path)
    assert prove(tmp_path, load(tmp_path).folder.name)
    put(tmp_path, "5")
    assert go_back(tmp_path)
    assert load(tmp_path).serial == "3"
    assert not go_back(tmp_path)
    assert load(tmp_path).serial == "3"
