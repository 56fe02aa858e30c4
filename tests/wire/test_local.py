"""gate's local messages: every one survives the wire, nothing else gets through it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire import local
from edgewarden.wire.gate_files import ExecTier, GateConfig, StopConfig, compile_gate_config
from edgewarden.wire.lean import Frozen, seal, unseal
from edgewarden.wire.local import (
    Alarm,
    Answer,
    AnyMessage,
    AreaStats,
    ExecVerdict,
    GateStats,
    Heartbeat,
    ProcBatch,
    ProcEntry,
    ProcessAlert,
    Repeated,
    Request,
    TripInfo,
    encode,
    parse,
)
from edgewarden.wire.local_peripherals import TEXTS
from edgewarden.wire.local_tier import GAPS, TierSaid, said
from edgewarden.wire.peripherals import KINDS, OUTCOMES, REASONS, PeripheralVerdict

ALL = (*local.FACTS, Heartbeat, TripInfo, Request, Answer)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
U16 = st.integers(0, 2**16 - 1)


def short(most: int) -> st.SearchStrategy[str]:
    return st.text(max_size=most // 4).filter(lambda t: max(t, default="a") < "\ud800")


VERDICTS = st.builds(
    ExecVerdict,
    st.sampled_from(local.DECISIONS),
    st.sampled_from(local.REASONS),
    st.sampled_from(local.MODES),
    st.sampled_from(local.TIERS),
    st.sampled_from([b"", bytes(range(32))]),
    short(64),
    st.binary(max_size=local.MAX_PATH_BYTES),
    U32,
    U32,
    U64,
)
ENTRIES = st.builds(ProcEntry, st.sampled_from(local.PROC_KINDS), U32, U32, U64)
BATCHES = st.builds(
    ProcBatch, U32, U32, U32, st.booleans(), st.lists(ENTRIES, max_size=64).map(tuple)
)
STATS = st.builds(
    GateStats,
    st.sampled_from(local.MODES),
    st.sampled_from(local.TIERS),
    st.sampled_from(local.SOURCES),
    *[st.booleans()] * 3,
    *[U16] * 2,
    U32,
    *[U64] * 15,
)
ALARMS = st.builds(Alarm, st.just("EW-EXEC-008"), st.integers(1, 5), short(240), U64)
BYTE = st.integers(0, 255)
PERIPHERALS = st.builds(
    PeripheralVerdict,
    st.sampled_from(KINDS),
    st.sampled_from(OUTCOMES),
    st.sampled_from(REASONS),
    st.sampled_from(local.MODES),
    st.booleans(),
    U16,
    U16,
    U32,
    U64,
    st.sampled_from([b"", bytes(range(32))]),
    st.lists(st.tuples(BYTE, BYTE, BYTE), max_size=32).map(tuple),
    *(short(most) for most in TEXTS.values()),
)
ALERTS = st.builds(
    ProcessAlert,
    st.sampled_from(local.ALERTS),
    U32,
    U32,
    st.binary(max_size=256),
    U32,
    st.binary(max_size=256),
    U64,
)
TIERS = st.builds(
    TierSaid,
    st.sampled_from(local.TIERS),
    short(240),
    st.sets(st.sampled_from(GAPS)).map(lambda some: tuple(gap for gap in GAPS if gap in some)),
)
MESSAGES = st.one_of(
    TIERS,
    ALERTS,
    VERDICTS,
    PERIPHERALS,
    BATCHES,
    STATS,
    ALARMS,
    st.builds(
        Repeated,
        st.integers(1, 2**64 - 1),
        U64,
        U64,
        st.booleans(),
        st.one_of(VERDICTS, ALARMS, PERIPHERALS, ALERTS),
    ),
    st.builds(Heartbeat, U64),
    st.builds(TripInfo, U16, U16, U32),
    st.builds(
        Request,
        st.sampled_from(local.VERBS),
        st.sampled_from(local.MODES),
        st.integers(0, 65535),
        st.sampled_from(local.AREAS),
    ),
    st.builds(
        AreaStats,
        st.sampled_from(local.AREAS),
        st.sampled_from(local.MODES),
        st.booleans(),
        U16,
        U32,
        *[U64] * 5,
        short(240),
        short(240),
    ),
    st.builds(Answer, st.booleans(), short(64), short(240)),
)


def refusal(data: bytes, *expected: type[AnyMessage]) -> str:
    with pytest.raises(WireRefusal) as caught:
        parse(data, *(expected or ALL))
    return caught.value.name


@given(MESSAGES)
def test_every_message_survives_and_fits(message: AnyMessage) -> None:
    data = encode(message)
    assert len(data) <= local.MAX_MESSAGE_BYTES
    assert parse(data, *ALL) == message


@given(MESSAGES, st.integers(0, 2000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_another_whole_message(
    message: AnyMessage, at: int, value: int
) -> None:
    data = bytearray(encode(message))
    data[at % len(data)] = value
    try:
        found = parse(bytes(data), *ALL)
    except WireRefusal:
        return
    assert encode(found) == bytes(data)


@given(st.binary(max_size=3000))
def test_garbage_raises_only_a_refusal(garbage: bytes) -> None:
    assert refusal_or_message(garbage) in ("refused", "message")


@given(st.sampled_from([*range(1, 9), 0x10, 0x11, 0x20, 0x21]), st.binary(max_size=1500))
def test_garbage_under_a_good_header_raises_only_a_refusal(kind: int, garbage: bytes) -> None:
    data = struct.pack("<BBH", 1, kind, 4 + len(garbage)) + garbage
    assert refusal_or_message(data) in ("refused", "message")


def refusal_or_message(data: bytes) -> str:
    try:
        parse(data, *ALL)
    except WireRefusal:
        return "refused"
    return "message"


BEAT = encode(Heartbeat(7))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"", "too_short"),
        (bytes(local.MAX_MESSAGE_BYTES + 1), "too_long"),
        (b"\x02" + BEAT[1:], "bad_version"),
        (BEAT + b"\0", "bad_length"),
        (BEAT[:-1], "bad_length"),
        (b"\x01\x7f\x04\0", "unknown_type"),
        (b"\x01\x10\x05\0x", "bad_length"),
        (encode(Request("mode", "learn"))[:-4] + b"\x09\x00\x00\x00", "bad_value"),
        (encode(Request("mode", "learn"))[:-1] + b"\x09", "bad_value"),
        (encode(Answer(True, "", ""))[:4] + b"\x02\0\0\0", "bad_value"),
    ],
)
def test_each_refusal_has_its_name(data: bytes, name: str) -> None:
    assert refusal(data) == name


def test_a_message_the_caller_does_not_take_is_refused() -> None:
    assert refusal(BEAT, *local.FACTS) == "not_expected"


def test_long_paths_keep_their_end_and_never_fail() -> None:
    path = b"/" + b"d" * 5000 + b"/evil"
    verdict = ExecVerdict("deny", "unlisted", "enforce", "T3", bytes(32), "", path, 1, 2, 3)
    found = parse(encode(verdict), ExecVerdict)
    assert found.path == path[-local.MAX_PATH_BYTES :]
    assert found.path_text().endswith("/evil")


def test_long_texts_are_cut_between_characters() -> None:
    found = parse(encode(Alarm("EW-EXEC-008", 5, "ü" * 500, 1)), Alarm)
    assert found.text == "ü" * 120


def test_a_frozen_value_is_frozen_and_wants_all_its_fields() -> None:
    beat = Heartbeat(1)
    with pytest.raises(AttributeError):
        beat.mono_ns = 2  # type: ignore[misc]
    with pytest.raises(TypeError):
        Heartbeat()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Heartbeat(1, 2)  # type: ignore[call-arg]
    assert hash(beat) == hash(Heartbeat(mono_ns=1))
    assert beat != Frozen()


@given(st.binary(max_size=200), st.integers(0, 239), st.integers(1, 255))
def test_a_seal_shows_every_changed_byte(body: bytes, at: int, flip: int) -> None:
    data = bytearray(seal(b"EWTEST_1", body))
    assert unseal(b"EWTEST_1", bytes(data), most=300) == body
    data[at % len(data)] ^= flip
    with pytest.raises(WireRefusal):
        unseal(b"EWTEST_1", bytes(data), most=300)


PATHS = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=30)


@given(st.lists(PATHS.map(lambda p: f"/{p}"), max_size=16, unique=True), st.integers(0, 2**32 - 2))
def test_the_configuration_survives(paths: list[str], uid: int) -> None:
    data = compile_gate_config(paths, "observe", link_uid=uid)
    assert GateConfig.load(data) == GateConfig(tuple(paths), "observe", uid)


@pytest.mark.parametrize(
    ("paths", "mode", "uid"),
    [
        (["/a"], "enforce", 1),
        (["a"], "learn", 1),
        (["/a\nfilesystem /b"], "learn", 1),
        (["/a", "/a"], "learn", 1),
        ([f"/{n}" for n in range(17)], "learn", 1),
        (["/a"], "learn", -1),
        (["/a"], "learn", 2**32 - 1),
    ],
)
def test_a_configuration_gate_would_refuse_is_not_compiled(
    paths: list[str], mode: str, uid: int
) -> None:
    with pytest.raises(OperatorFault):
        compile_gate_config(paths, mode, link_uid=uid)


@given(st.binary(max_size=120))
def test_a_garbage_configuration_raises_only_a_refusal(garbage: bytes) -> None:
    with pytest.raises(WireRefusal):
        GateConfig.load(seal(b"EWGCONF1", b"mode enforce\n" + garbage))
    with pytest.raises(WireRefusal):
        ExecTier.load(seal(b"EWTIER_1", b"tier T9\n" + garbage))


def test_a_tier_survives_and_its_reason_stays_one_line() -> None:
    tier = ExecTier("T0", "fanotify-notify", "EINVAL\nboot x", "b")
    assert ExecTier.load(tier.dump()) == ExecTier("T0", "fanotify-notify", "EINVAL boot x", "b")


def test_a_count_holds_one_alarm_and_no_other_count() -> None:
    alarm = Alarm("EW-EXEC-008", 3, "t", 5)
    once = Repeated(1, 5, 5, False, alarm)
    for inner in (once, Heartbeat(1)):
        assert refusal(encode(Repeated(1, 5, 5, False, inner))) == "not_expected"
    assert refusal(encode(Repeated(0, 5, 5, False, alarm))) == "bad_value"
    assert refusal(encode(once)[:-1]) == "bad_length"


@pytest.mark.parametrize(
    ("tier", "stop", "gaps"),
    [
        (ExecTier("T3", "none", "", "b"), None, ("namespace", "inline", "scripts", "restart")),
        (
            ExecTier("T3", "none", "", "b", ("memfd",)),
            None,
            ("memfd", "namespace", "inline", "scripts", "restart"),
        ),
        (ExecTier("T2", "none", "", "b"), StopConfig("/", (0,)), ("inline", "scripts", "restart")),
        (
            ExecTier("T2", "none", "", "b"),
            StopConfig("/system.slice", ()),
            ("inline", "scripts", "sessions", "resume", "restart"),
        ),
        (ExecTier("T1", "none", "", "b", ("memfd",)), None, ("memfd", "inline", "confined")),
        (ExecTier("T0", "none", "", "b", ("memfd",)), None, ("memfd", "after-start")),
    ],
)
def test_each_tier_names_its_gaps(
    tier: ExecTier, stop: StopConfig | None, gaps: tuple[str, ...]
) -> None:
    assert said(tier, stop).gaps == gaps


@pytest.mark.parametrize(
    "body", [b"", b"\x05\0\0\0\0", b"\0\0\x10\0\0", b"\0\0\0\1\0", b"\0\0\0\1\0\xff"]
)
def test_a_tier_that_is_none_is_refused(body: bytes) -> None:
    data = struct.pack("<BBH", 1, 9, 4 + len(body)) + body
    with pytest.raises(WireRefusal):
        parse(data, TierSaid)


def test_who_may_be_stopped_is_written_and_read() -> None:
    stop = StopConfig("/system.slice", (0, 33))
    data = compile_gate_config(["/a"], "learn", link_uid=1, stop=stop, kill_after_start=True)
    config = GateConfig.load(data)
    assert (config.stop, config.kill_after_start, config.filesystems) == (stop, True, ("/a",))


@pytest.mark.parametrize("cgroup", ["", "system.slice", "/a/../b", "/a/", "//", "/a\nmode enforce"])
def test_a_cgroup_that_is_none_is_refused(cgroup: str) -> None:
    with pytest.raises(OperatorFault):
        compile_gate_config([], "learn", link_uid=0, stop=StopConfig(cgroup, ()))


def test_strict_mode_closes_the_gap_of_scripts() -> None:
    found = said(ExecTier("T3", "none", "", "b"), None, True).gaps
    assert found == ("namespace", "inline", "classes", "restart")


def test_strict_mode_and_its_data_paths_reach_gate() -> None:
    data = compile_gate_config(["/a"], "learn", link_uid=1, strict=True, data=["/a/var", "/a/tmp"])
    config = GateConfig.load(data)
    assert (config.strict, config.data) == (True, ("/a/var", "/a/tmp"))
    config = GateConfig.load(compile_gate_config(["/a"], "learn", link_uid=1))
    assert (config.strict, config.data) == (False, ())


@pytest.mark.parametrize("path", ["var", "/a\nstrict yes", "/a\0"])
def test_a_data_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(OperatorFault):
        compile_gate_config(["/a"], "learn", link_uid=1, strict=True, data=[path])
