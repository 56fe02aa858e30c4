"""doctor's classifiers: each value that matters, on both sides of its border."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from edgewarden import codes
from edgewarden.judge import doctor, doctor_net
from edgewarden.judge.doctor import Rung, State
from edgewarden.ports import Instant
from edgewarden.settings.schema import Device

NOW_S = 1_800_000_000  # 2027-01-15T08:00:00Z
NOW = Instant(1, NOW_S * 10**9, 20, "ntp")
DAY = 86400


@dataclass(frozen=True)
class Who:
    device: str = "gw-demo"
    tenant: str = "main"
    not_after_utc: str = "2027-02-14T08:00:00Z"


@dataclass(frozen=True)
class Outcome:
    name: str
    detail: str = "what was seen"
    number: int = 0


def is_told(rung: Rung, state: State, code: str) -> None:
    """The rung is in that state, with a code that explain knows and a next step, or with
    neither."""
    assert (rung.state, rung.code) == (state, code), rung
    assert bool(rung.next_step) == bool(code)
    assert not code or codes.explain(code) is not None
    assert rung.text.isascii()


def test_settings_show_the_first_fault_and_count_the_others() -> None:
    rung = doctor.judge_settings(0, ["a.toml:1: host: bad [EW-SET-004]", "b", "c"])
    is_told(rung, State.FAILING, "EW-SET-004")
    assert rung.text == "a.toml:1: host: bad (and 2 more)"
    is_told(doctor.judge_settings(2, []), State.OK, "")


@pytest.mark.parametrize(
    ("who", "device", "state", "code"),
    [
        (Who(), Device(), State.OK, ""),
        (Who(), Device(id="gw-demo"), State.OK, ""),
        (Who(), Device(id="gw-other"), State.FAILING, "EW-ID-014"),
        (Who(), Device(tenant="other"), State.FAILING, "EW-ID-014"),
        (Who(not_after_utc="2027-01-15T07:59:59Z"), Device(), State.FAILING, "EW-ID-012"),
        (Who(not_after_utc="2027-01-15T08:00:01Z"), Device(), State.DEGRADED, "EW-ID-013"),
        (Who(not_after_utc="2027-01-22T19:59:59Z"), Device(), State.DEGRADED, "EW-ID-013"),
        (Who(not_after_utc="2027-01-22T20:00:01Z"), Device(), State.OK, ""),
        (Who(not_after_utc="soon"), Device(), State.FAILING, "EW-ID-005"),
    ],
)
def test_identity(who: Who, device: Device, state: State, code: str) -> None:
    is_told(doctor.judge_identity(who, device, NOW), state, code)


def test_who_has_to_renew_is_told_how() -> None:
    for end in ("2027-01-15T07:59:59Z", "2027-01-20T00:00:00Z"):
        rung = doctor.judge_identity(Who(not_after_utc=end), Device(), NOW)
        assert "`edgewarden identity renew`" in rung.next_step


@pytest.mark.parametrize(
    ("instant", "state", "code"),
    [
        (Instant(0, 0, None, "unsynced"), State.FAILING, "EW-ID-015"),
        (Instant(0, (doctor.EARLIEST_S - 1) * 10**9, 5, "ntp"), State.FAILING, "EW-ID-015"),
        (Instant(0, doctor.EARLIEST_S * 10**9, 5, "ntp"), State.OK, ""),
        (Instant(0, NOW_S * 10**9, None, "unsynced"), State.DEGRADED, "EW-ID-016"),
    ],
)
def test_clock(instant: Instant, state: State, code: str) -> None:
    is_told(doctor.judge_clock(instant), state, code)


@pytest.mark.parametrize(
    ("mode", "armed", "tier", "guard", "filesystems", "trips", "state", "code"),
    [
        ("enforce", True, "T3", True, 1, 0, State.OK, ""),
        ("enforce", False, "T3", True, 1, 0, State.FAILING, "EW-EXEC-001"),
        ("observe", False, "T3", True, 1, 3, State.DEGRADED, "EW-EXEC-004"),
        ("observe", False, "T3", False, 1, 0, State.DEGRADED, "EW-AGT-004"),
        ("learn", False, "T0", True, 1, 0, State.DEGRADED, "EW-EXEC-001"),
        ("learn", False, "T0", True, 0, 0, State.OK, ""),
    ],
)
def test_gate(
    mode: str, armed: bool, tier: str, guard: bool, filesystems: int, trips: int,
    state: State, code: str,
) -> None:  # fmt: skip
    is_told(doctor.judge_gate(mode, armed, tier, guard, filesystems, trips), state, code)


def test_sensors_that_need_somebody_have_a_rung_each() -> None:
    sensors = {
        "gps": {"state": "live", "readings": 1, "bad_frames": 0},
        "plc": {"state": "silent", "readings": 0, "bad_frames": 9},
        "rtu": {"state": "reopen", "readings": 0, "bad_frames": 0},
    }
    plc, rtu = doctor.judge_sensors(sensors, 3)
    is_told(plc, State.DEGRADED, "EW-SER-002")
    is_told(rtu, State.DEGRADED, "EW-SER-001")
    (all_well,) = doctor.judge_sensors({"gps": sensors["gps"]}, 1)
    is_told(all_well, State.OK, "")
    assert doctor.judge_sensors({}, 0)[0].text == "none configured"


@pytest.mark.parametrize(
    ("exists", "read_only", "open_to_all", "state"),
    [
        (False, False, False, State.FAILING),
        (True, True, False, State.FAILING),
        (True, False, True, State.FAILING),
        (True, False, False, State.OK),
    ],
)
def test_folders(exists: bool, read_only: bool, open_to_all: bool, state: State) -> None:
    rung = doctor.judge_folder("state", "/s", exists, read_only, open_to_all)
    is_told(rung, state, "EW-HOST-002" if state is State.FAILING else "")


def test_a_user_who_is_gone_is_missed_and_another_is_not() -> None:
    is_told(doctor.judge_user("edgewarden", orphaned=True), State.FAILING, "EW-HOST-010")
    is_told(doctor.judge_user("edgewarden", orphaned=False), State.OK, "")


def test_space_spool_memory_and_heat() -> None:
    reserve = doctor.DISK_RESERVE_BYTES
    is_told(doctor.judge_space(reserve, 50, 100), State.OK, "")
    is_told(doctor.judge_space(reserve - 1, 50, 100), State.DEGRADED, "EW-HOST-003")
    is_told(doctor.judge_space(reserve, 0, 100), State.DEGRADED, "EW-HOST-003")
    is_told(doctor.judge_space(reserve, 0, 0), State.OK, "")
    is_told(doctor.judge_space(doctor.FULL_BYTES - 1, 50, 100), State.FAILING, "EW-SPL-006")
    is_told(doctor.judge_space(doctor.FULL_BYTES, 50, 100), State.DEGRADED, "EW-HOST-003")
    cap = 100 << 20, "cap_percent"
    is_told(doctor.judge_spool(0, 10, 10, *cap), State.OK, "")
    is_told(doctor.judge_spool(0, 11, 10, *cap), State.DEGRADED, "EW-SPL-004")
    full = doctor.judge_spool(1, 11, 10, *cap)
    is_told(full, State.DEGRADED, "EW-SPL-003")
    assert "cap 100 MiB" in full.text
    assert "[spool] cap_percent" in full.next_step, "the other one would change nothing"
    is_told(doctor.judge_spool(1, 10, 10, *cap), State.OK, "")
    assert "1 were evicted unsent" in doctor.judge_spool(1, 0, 10, *cap).text
    is_told(doctor.judge_storage("disk", "", 0, 0), State.OK, "")
    is_told(doctor.judge_storage("memory", "read-only", 3, 1), State.FAILING, "EW-SPL-010")
    is_told(doctor.judge_memory(doctor.MEMORY_RESERVE_BYTES), State.OK, "")
    is_told(doctor.judge_memory(doctor.MEMORY_RESERVE_BYTES - 1), State.DEGRADED, "EW-HOST-004")
    is_told(doctor.judge_memory(None), State.UNCHECKED, "")
    is_told(doctor.judge_heat(doctor.HOT_MC - 1), State.OK, "")
    is_told(doctor.judge_heat(doctor.HOT_MC), State.DEGRADED, "EW-HOST-005")
    is_told(doctor.judge_heat(None), State.UNCHECKED, "")


def test_more_written_than_the_budget_names_who() -> None:
    seen = {
        "written_bytes_day": 1_000_000_000, "written_span_s": 86_400.0,
        "written_by": {"host": 10**6, "gps": 9 * 10**6, "x": 1, "exec": 10**7},
        "overhead_bytes_day": None, "budget_bytes_day": 1_000_000_000,
    }  # fmt: skip
    is_told(doctor.judge_wear(seen), State.OK, "")
    over = doctor.judge_wear(seen | {"written_bytes_day": 1_000_000_001})
    is_told(over, State.DEGRADED, "EW-SPL-012")
    assert over.text.startswith("1000.0 of 1000 MB written in 24.0 h")
    assert over.text.endswith("exec 10.0, gps 9.0, host 1.0")
    is_told(doctor.judge_wear(seen | {"budget_bytes_day": 0}), State.OK, "")
    bare = doctor.judge_wear(seen | {"written_by": {}, "budget_bytes_day": 0})
    assert bare.text == "1000.0 MB written in 24.0 h"
    young = doctor.judge_wear(seen | {"written_by": {}, "written_span_s": 150.0})
    assert young.text == "1000.0 of 1000 MB written in 2 min"


@pytest.mark.parametrize(
    ("name", "code"), [("ok", ""), ("unknown", "EW-NET-003"), ("timeout", "EW-NET-003")]
)
def test_names(name: str, code: str) -> None:
    rung = doctor_net.judge_name("broker", Outcome(name))
    is_told(rung, State.FAILING if code else State.OK, code)


def test_three_ways_not_to_connect_have_three_next_steps() -> None:
    steps = set()
    for name in ("refused_connection", "timeout", "unreachable"):
        rung = doctor_net.judge_tcp("h:1", Outcome(name))
        is_told(rung, State.FAILING, "EW-NET-004")
        steps.add(rung.next_step)
    assert len(steps) == 3
    is_told(doctor_net.judge_tcp("h:1", Outcome("ok")), State.OK, "")


@pytest.mark.parametrize(
    ("name", "number", "code", "word"),
    [
        ("ok", 0, "", ""),
        ("untrusted", doctor_net.CERT_HAS_EXPIRED, "EW-NET-006", "clock"),
        ("untrusted", doctor_net.CERT_NOT_YET_VALID, "EW-NET-006", "clock"),
        ("untrusted", doctor_net.HOSTNAME_MISMATCH, "EW-NET-006", "uplink.host"),
        ("untrusted", 19, "EW-NET-006", "do not retry"),
        ("refused", 0, "EW-NET-007", "revoked"),
        ("not_tls", 0, "EW-NET-005", "inspects"),
        ("timeout", 0, "EW-NET-005", "inspects"),
    ],
)
def test_an_impostor_and_a_refusal_are_never_confused(
    name: str, number: int, code: str, word: str
) -> None:
    rung = doctor_net.judge_tls("h:1", Outcome(name, number=number))
    is_told(rung, State.FAILING if code else State.OK, code)
    assert word in rung.next_step


@pytest.mark.parametrize(
    ("name", "number", "code", "word"),
    [
        ("ok", 0, "", "seen"),
        ("refused", 0x87, "EW-NET-008", "not authorised"),
        ("refused", 0x01, "EW-NET-008", "no MQTT 5"),
        ("refused", 0xFE, "EW-NET-008", "seen"),
        ("refused_certificate", 0, "EW-NET-007", "seen"),
        ("closed", 0, "EW-NET-008", "seen"),
    ],
)
def test_mqtt(name: str, number: int, code: str, word: str) -> None:
    rung = doctor_net.judge_mqtt(Outcome(name, number=number))
    is_told(rung, State.FAILING if code else State.OK, code)
    assert word in rung.text


def test_a_session_is_judged_on_sound_ground_only() -> None:
    up = {"connected": True, "since_utc": "2027-01-01T00:00:00Z", "reconnects": 0}
    down = {"connected": False, "since_utc": None, "reconnects": 5}
    is_told(doctor_net.judge_session(up, False), State.OK, "")
    is_told(doctor_net.judge_session(down, True), State.FAILING, "EW-NET-009")
    is_told(doctor_net.judge_session(down, False), State.UNCHECKED, "")
    told = [
        {"code": "EW-SPL-004", "text": "x", "next": "y"},
        {"code": "EW-NET-008", "text": "no session: Banned (0x8a)", "next": "ask the operator"},
    ]
    is_told(rung := doctor_net.judge_session(down, True, told), State.FAILING, "EW-NET-008")
    assert (rung.text, rung.next_step) == ("no session: Banned (0x8a)", "ask the operator")
    told[1]["next"] = "run `edgewarden doctor network`"
    assert "journalctl" in doctor_net.judge_session(down, True, told).next_step


def test_attestation() -> None:
    is_told(fresh := doctor_net.judge_attestation("affirming", 3.0417), State.OK, "")
    assert fresh.text == "affirming, 3.0 s ago"
    is_told(doctor_net.judge_attestation("none", None), State.DEGRADED, "EW-ATT-002")
    is_told(doctor_net.judge_attestation("contraindicated", 3.0), State.DEGRADED, "EW-ATT-001")


NORMAL = {
    "mode": "normal", "level": 0, "since_s": None, "why": "", "next": "",
    "shed": {"readings_aggregated": 0, "routine_shed": 0},
}  # fmt: skip


def test_a_degraded_mode_is_explained_with_its_next_step() -> None:
    rung = doctor.judge_overload(NORMAL)
    assert (rung.state, rung.text) == (State.OK, "normal; since the start: nothing shed")
    was = {**NORMAL, "shed": {"readings_aggregated": 7, "routine_shed": 0}}
    assert doctor.judge_overload(was).text.endswith("7 readings aggregated")
    full = {"mode": "sampling", "level": 2, "since_s": 61.2, "why": "the disk is slow", "next": "x"}
    rung = doctor.judge_overload({**was, **full})
    assert (rung.state, rung.code, rung.next_step) == (State.DEGRADED, "EW-AGT-012", "x")
    assert rung.text == "sampling for 61 s: the disk is slow; 7 readings aggregated"
