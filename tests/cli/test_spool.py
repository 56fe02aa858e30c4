"""spool stat|verify and status with link dead: read from a real spool of really signed records."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from edgewarden.cli import doctor, status
from edgewarden.cli.main import main
from edgewarden.probe.disk import filesystem_bytes
from edgewarden.record.journal import Introduction, Journal
from edgewarden.record.reader import iterate
from edgewarden.record.segment import SUFFIX
from edgewarden.record.spool import FOLDER, DiskSpool
from edgewarden.trust import identity as store
from edgewarden.trust.keys import FileSigner
from edgewarden.wire.facts import OCSF, Event, Severity
from edgewarden.wire.record import RecordClass
from tests.fakes.clock import FakeClock
from tests.fakes.pki import Authority, store_identity

CAP_BYTES = 64 * 1024 * 1024
WALL_NS = 1_800_000_000 * 10**9


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def state(tmp_path: Path, authority: Authority) -> Path:
    """A state folder with an identity and a spool: 3 introductions, 5 alarms, 2 batches."""
    state = tmp_path / "state"
    store_identity(state, authority.pem, authority.client())
    identity = store.load(state)
    spool = DiskSpool(state / FOLDER, CAP_BYTES)
    journal = Journal(spool, "gw-demo", FakeClock(wall_ns=WALL_NS), FileSigner.generate())
    journal.introduce(Introduction(identity.signer(), identity.x5chain(), "0.1.0"))
    for number in range(5):
        detail = {"title": f"finding {number}"}
        event = Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, 1, detail)
        journal.event(RecordClass.ALARM, event)
    for _ in range(2):
        journal.batch([], [], {"seen": 1})
    spool.ack(RecordClass.ALARM, 4)
    spool.close()
    return state


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object], str]:
    code = main([*words, "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out), printed.err


def test_stat_tells_what_survives(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, body, _ = run(["spool", "stat", "--state", str(state)], capsys)
    assert (code, body["schema"]) == (0, "edgewarden.spool/1")
    alarm = body["classes"]["alarm"]  # type: ignore[index]
    assert (alarm["next"], alarm["durable"], alarm["acked"], alarm["evicted"]) == (7, 6, 4, 0)
    main(["spool", "stat", "--state", str(state)])
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["alarm", "7", "6", "4"]


def test_stat_and_doctor_say_how_much_may_be_held_and_by_which_setting(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "edgewarden.toml"
    paths = f'[paths]\nstate = "{state}"\nrun = "{tmp_path}/run"\n'
    size = filesystem_bytes(str(state))
    assert size is not None
    share = max(size // 100, 4 << 20)
    for more, said_bytes, said in (
        ("cap_bytes = 4194304\ncap_percent = 95\n", 4194304, "cap_bytes"),
        ("cap_bytes = 68719476736\ncap_percent = 1\n", share, "cap_percent"),
    ):
        settings.write_text(f"{paths}[spool]\n{more}")
        code, body, _ = run(["spool", "stat", "--settings", str(settings)], capsys)
        assert (code, body["cap_bytes"]) == (0, said_bytes)
        main(["spool", "stat", "--settings", str(settings)])
        assert capsys.readouterr().out.splitlines()[-1].endswith(f"[spool] {said}")
        _, body, _ = run(["doctor", "disk", "--settings", str(settings)], capsys)
        (rung,) = [r for r in body["rungs"] if r["name"] == "spool"]  # type: ignore[attr-defined]
        assert f"cap {said_bytes >> 20} MiB" in rung["text"]
    _, body, _ = run(["spool", "stat", "--state", str(state)], capsys)
    assert "cap_bytes" not in body, "of a copied folder nobody knows"


def test_verify_checks_signatures_against_the_root(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, body, _ = run(["spool", "verify", "--state", str(state)], capsys)
    assert (code, body["ok"], body["signatures"], body["problems"]) == (0, True, True, [])
    classes = body["classes"]
    assert isinstance(classes, dict)
    assert {n: (c["records"], c["signed"]) for n, c in classes.items()} == {
        "alarm": (6, 6), "audit": (1, 1), "bulk": (3, 3),
    }  # fmt: skip


def test_verify_of_a_copied_folder_needs_a_root_for_signatures(
    state: Path, tmp_path: Path, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(state / FOLDER, tmp_path / "copy" / FOLDER)
    words = ["spool", "verify", "--state", str(tmp_path / "copy")]
    code, body, _ = run(words, capsys)
    assert (code, body["ok"], body["signatures"]) == (0, True, False)
    main(words)
    assert "signatures not checked" in capsys.readouterr().out
    root = tmp_path / "root.pem"
    root.write_bytes(authority.pem)
    assert run([*words, "--ca", str(root)], capsys)[1]["signatures"]


def test_records_of_another_fleet_do_not_pass(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "other.pem"
    root.write_bytes(Authority("other fleet").pem)
    words = ["spool", "verify", "--state", str(state), "--ca", str(root)]
    code, body, err = run(words, capsys)
    assert (code, body["ok"]) == (2, False)
    assert "[EW-SPL-002]" in err
    root.write_text("not a certificate")
    assert main(words) == 2
    assert "[EW-ID-005]" in capsys.readouterr().err


def test_one_altered_byte_is_found(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (segment,) = (state / FOLDER / "alarm").glob("*" + SUFFIX)
    with sqlite3.connect(segment) as db:
        ((data,),) = db.execute("SELECT data FROM record WHERE seq = 6").fetchall()
        altered = data[:-1] + bytes([data[-1] ^ 1])
        db.execute("UPDATE record SET data = ? WHERE seq = 6", (altered,))
    db.close()
    code, body, _ = run(["spool", "verify", "--state", str(state)], capsys)
    assert (code, body["ok"]) == (2, False)
    assert any("alarm" in str(problem) for problem in body["problems"])  # type: ignore[attr-defined]


@pytest.fixture
def spoilt(state: Path) -> Path:
    """A segment of bulk whose mark and records are not what was written, as of a dying card."""
    (segment,) = (state / FOLDER / "bulk").glob("*" + SUFFIX)
    with sqlite3.connect(segment) as db:
        db.execute("UPDATE mark SET head = head + 64")
        db.execute("UPDATE record SET data = data || x'00'")
    db.close()
    return state


def test_damage_is_told_with_its_class_and_a_next_step(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{spoilt}"\nrun = "{tmp_path / "run"}"\n')
    for words in (
        ["spool", "stat", "--state", str(spoilt)],
        ["status", "--settings", str(settings)],
        ["doctor", "disk", "--settings", str(settings)],
    ):
        assert main(words) != 0
        printed = capsys.readouterr()
        lines = (printed.out + printed.err).splitlines()
        (at,) = [n for n, line in enumerate(lines) if "[EW-SPL-002]" in line]
        assert "newest segment of bulk is damaged" in lines[at]
        assert lines[at + 1].strip().startswith("next: keep a copy of the folder")


def test_a_format_that_is_not_known_is_damage_and_no_mistake_of_ours(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of the number makes it so."""
    (segment,) = (state / FOLDER / "bulk").glob("*" + SUFFIX)
    with sqlite3.connect(segment) as db:
        db.execute("PRAGMA user_version=1027")
    db.close()
    assert main(["spool", "verify", "--state", str(state)]) == 2
    assert "its format, 1027, is not known" in capsys.readouterr().out
    assert main(["spool", "export", "--state", str(state), "--out", str(tmp_path / "out")]) == 2
    assert "records written: 6 alarm, 1 audit, 0 bulk" in capsys.readouterr().out


def test_what_no_good_record_follows_is_told_without_a_riddle(
    spoilt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["spool", "verify", "--state", str(spoilt)]) == 2
    assert "problem: bulk 1: it is damaged, and no good record" in capsys.readouterr().out
    assert main(["spool", "export", "--state", str(spoilt), "--out", str(tmp_path / "out")]) == 2
    assert "what could not be read is not in the file" in capsys.readouterr().err


def test_export_writes_every_record_as_it_was_signed(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the agent dead; audit first, since its gap records explain the others."""
    out = tmp_path / "records.cbor"
    words = ["spool", "export", "--state", str(state), "--out", str(out)]
    code, body, _ = run(words, capsys)
    assert (code, body["schema"], body["ok"]) == (0, "edgewarden.spool-export/1", True)
    assert body["records"] == {"alarm": 6, "audit": 1, "bulk": 3}
    order = (RecordClass.AUDIT, RecordClass.ALARM, RecordClass.BULK)
    assert out.read_bytes() == b"".join(s.data for c in order for s in iterate(state, c))
    assert out.stat().st_mode & 0o777 == 0o600
    assert main(words) == 73
    assert "[EW-AGT-008]" in capsys.readouterr().err, "a file that is there is not written over"


def test_export_of_nothing_makes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "records.cbor"
    assert main(["spool", "export", "--state", str(tmp_path), "--out", str(out)]) != 0
    assert "[EW-SPL-005]" in capsys.readouterr().err
    assert not out.exists()


def test_a10_export_steps_over_a_damaged_segment_and_says_so(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Acceptance 10 (dataplane): damage costs what is damaged; the other classes are written."""
    (segment,) = (state / FOLDER / "alarm").glob("*" + SUFFIX)
    segment.write_bytes(b"\xa5" * segment.stat().st_size)
    out = tmp_path / "records.cbor"
    code, body, err = run(["spool", "export", "--state", str(state), "--out", str(out)], capsys)
    assert (code, body["ok"]) == (2, False)
    assert body["records"] == {"alarm": 0, "audit": 1, "bulk": 3}
    assert len(body["problems"]) == 1  # type: ignore[arg-type]
    assert "[EW-SPL-002]" in err


def test_status_with_link_dead_tells_what_the_disk_knows_and_guesses_nothing(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    well = FakeClock(wall_ns=WALL_NS, uncertainty_ms=5, state="ntp")
    monkeypatch.setattr(status, "system_clock", lambda: well)
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{state}"\nrun = "{tmp_path}/run"\n')
    code, body, _ = run(["status", "--settings", str(settings)], capsys)
    assert (code, body["schema"], body["verdict"]) == (3, "edgewarden.status/1", "failing")
    assert body["device"] == "gw-demo"
    assert body["spool"]["bulk"]["durable"] == 3  # type: ignore[index]
    assert body["identity"]["certificate"]["serial"] == "2a"  # type: ignore[index]
    assert [reason["code"] for reason in body["reasons"]] == ["EW-AGT-002"]  # type: ignore[attr-defined]
    assert body["enforcement"] is None
    assert body["footprint"] is None
    assert main(["status", "--settings", str(settings)]) == 3
    rows = capsys.readouterr().out.splitlines()
    for what in ("exec   ", "sensors"):
        assert any(row.startswith(f"{what}      not known") for row in rows)
    assert all(len(row) <= 80 for row in rows)


def test_status_and_doctor_say_the_same_of_clock_and_certificate(
    state: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ill = FakeClock(wall_ns=4_200_000_000 * 10**9)  # unsynced, and long after the certificate
    monkeypatch.setattr(status, "system_clock", lambda: ill)
    monkeypatch.setattr(doctor, "system_clock", lambda: ill)
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{state}"\nrun = "{tmp_path}/run"\n')
    _, body, _ = run(["status", "--settings", str(settings)], capsys)
    said = {r["code"]: (r["text"], r["next"]) for r in body["reasons"]}  # type: ignore[attr-defined]
    climbed: dict[str, tuple[str, str]] = {}
    for area in ("identity", "clock"):
        _, body, _ = run(["doctor", area, "--settings", str(settings)], capsys)
        climbed |= {r["code"]: (r["text"], r["next"]) for r in body["rungs"]}  # type: ignore[attr-defined]
    assert set(climbed) == {"EW-ID-012", "EW-ID-016"}
    assert {code: said[code] for code in climbed} == climbed


def test_status_of_a_fresh_installation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    well = FakeClock(wall_ns=WALL_NS, uncertainty_ms=5, state="ntp")
    monkeypatch.setattr(status, "system_clock", lambda: well)
    settings = tmp_path / "edgewarden.toml"
    settings.write_text(f'[paths]\nstate = "{tmp_path}/state"\nrun = "{tmp_path}/run"\n')
    code, body, _ = run(["status", "--settings", str(settings)], capsys)
    assert code == 3
    codes = [reason["code"] for reason in body["reasons"]]  # type: ignore[attr-defined]
    assert codes == ["EW-AGT-002", "EW-ID-004", "EW-SPL-005"]
