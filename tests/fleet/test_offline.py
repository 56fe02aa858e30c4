"""Files of records: cut exactly, believed against the CA certificate alone."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.errors import WireRefusal
from edgewarden.trust.keys import FileSigner
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import Kind, RecordClass
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.verify.offline import check_file, split
from tests.fleet.makers import NOW, Board, Desk, Made, authority

ALARM, AUDIT = RecordClass.ALARM, RecordClass.AUDIT


def story(board: Board) -> list[Made]:
    return [board.introduce(AUDIT), *(board.event(AUDIT, n=n) for n in range(4))]


def outcomes(desk: Desk, *data: bytes) -> list[str]:
    lines = check_file(b"".join(data), [desk.root.certificate], NOW)
    return [line.outcome for line in lines]


def test_an_honest_file_is_believed_without_registry_or_store(desk: Desk, board: Board) -> None:
    made = story(board)
    desk.db.execute("DELETE FROM device")
    assert outcomes(desk, *(m.data for m in made)) == ["next"] * 5


def test_two_gateways_in_one_file(desk: Desk, board: Board) -> None:
    other = Board(desk, "gw-other")
    mixed = [m.data for pair in zip(story(board), story(other), strict=True) for m in pair]
    assert outcomes(desk, *mixed) == ["next"] * 10


def test_what_is_wrong_is_named_and_the_rest_still_judged(desk: Desk, board: Board) -> None:
    made = [m.data for m in story(board)]
    forged = made[2][:-1] + bytes([made[2][-1] ^ 1])
    assert outcomes(desk, *made[:2], forged, made[3], made[2], made[1]) == [
        "next", "next", "bad_signature", "gap", "reordered", "replay",
    ]  # fmt: skip
    assert outcomes(desk, made[1], made[0]) == ["unknown_key", "next"]
    assert outcomes(desk, made[0], made[1][:-5]) == ["next", "truncated"]
    assert outcomes(desk, made[0], b"\0") == ["next", "wrong_tag"]


@pytest.mark.parametrize("rest", [b"\0 not a message", b"\xd2\x84\x41", b"\xd2\x84\x41\0\xa1"])
def test_the_offset_is_that_of_the_message_at_fault(desk: Desk, board: Board, rest: bytes) -> None:
    whole = b"".join(m.data for m in story(board))
    lines = list(check_file(whole + rest, [desk.root.certificate], NOW))
    assert (lines[-1].accepted, lines[-1].offset) == (False, len(whole))


def test_an_introduction_that_nobody_signed_introduces_nothing(desk: Desk, board: Board) -> None:
    first, *rest = (m.data for m in story(board))
    forged = first[:-1] + bytes([first[-1] ^ 1])
    assert outcomes(desk, forged, *rest) == ["bad_signature", *["unknown_key"] * 4]


def test_another_ca_believes_nothing(desk: Desk, board: Board) -> None:
    data = b"".join(m.data for m in story(board))
    stranger, _ = authority()
    lines = list(check_file(data, [stranger.certificate], NOW))
    assert [line.outcome for line in lines] == ["bad_chain", *["unknown_key"] * 4]
    assert not any(line.accepted for line in lines)


def test_a_key_of_an_earlier_start_is_stale_here_too(desk: Desk, board: Board) -> None:
    made, stolen = story(board), board.report
    board.introduce(ALARM)  # lost
    board.start()
    made += [board.introduce(AUDIT), board.event(AUDIT)]
    forged = [
        board.sign(board.build(c, "event", {}), signer=stolen, advance=False)
        for c in (AUDIT, ALARM)
    ]
    lines = outcomes(desk, *(m.data for m in (*made, *forged)))
    assert lines == ["next"] * 7 + ["stale_key"] * 2


def test_a_forked_introduction_introduces_nothing(desk: Desk, board: Board) -> None:
    made = story(board)
    board.start()
    board.heads[AUDIT] = (1, bytes(32))
    clone = [board.introduce(AUDIT), board.event(AUDIT)]
    lines = outcomes(desk, *(m.data for m in (*made, *clone)))
    assert lines[5:] == ["fork", "unknown_key"]


def test_certificates_are_judged_at_the_time_the_caller_names(desk: Desk, board: Board) -> None:
    data = story(board)[0].data
    later = NOW + 40 * 86400
    lines = list(check_file(data, [desk.root.certificate], later))
    assert [line.outcome for line in lines] == ["cert_expired"]


def test_a_report_key_of_one_device_does_not_speak_for_another(desk: Desk, board: Board) -> None:
    other = Board(desk, "gw-other")
    stolen = board.sign(other.build(AUDIT, "event", {}), advance=False)
    made = [story(board)[0].data, story(other)[0].data, stolen.data]
    assert outcomes(desk, *made)[-1] == "wrong_signer"


@given(st.lists(st.binary(max_size=400), max_size=6))
def test_a_sequence_is_cut_where_it_was_joined(payloads: list[bytes]) -> None:
    messages = [
        cose.seal(payload, ContentType.RECORD, bytes(8), lambda _: bytes(64))
        for payload in payloads
    ]
    assert [message for _, message in split(b"".join(messages))] == messages


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_named_refusal(data: bytes) -> None:
    try:
        whole = b"".join(message for _, message in split(b"\xd2\x84" + data))
    except WireRefusal:
        return
    assert whole == b"\xd2\x84" + data


def test_a_huge_length_is_not_believed() -> None:
    with pytest.raises(WireRefusal, match="truncated"):
        list(split(b"\xd2\x84\x5a\xff\xff\xff\xff" + os.urandom(10)))


@pytest.mark.parametrize(
    ("days", "name"),
    [
        (-1, "cert_not_yet_valid"), (40, "cert_expired"),
        (certificates.ISSUING_DAYS + 1, "cert_expired"),
    ],
)  # fmt: skip
def test_both_certificates_hold_at_the_time_the_caller_names(
    desk: Desk, board: Board, days: float, name: str
) -> None:
    data, at = story(board)[0].data, NOW + days * 86400
    (line,) = check_file(data, [desk.root.certificate], at)
    assert line.outcome == name
    assert ("its issuer ended" in line.why) is (days > certificates.ISSUING_DAYS)


def test_a_report_key_introduces_no_other(desk: Desk, board: Board) -> None:
    made, stranger = story(board), FileSigner.generate()
    body: dict[str, object] = {"key": stranger.public_key(), "agent": "x"}
    another = board.sign(board.build(AUDIT, Kind.REPORT_KEY, body), board.report, [])
    assert outcomes(desk, *(m.data for m in (*made, another)))[-1] == "wrong_signer"


@pytest.mark.parametrize("lie", ["kid", "device", "kind", "no key", "a text as key"])
def test_what_an_identity_key_may_not_sign_is_refused(desk: Desk, board: Board, lie: str) -> None:
    """The real chain and signature around something else than an introduction of its own."""
    body: dict[str, object] = {"key": board.report.public_key(), "agent": "x"}
    if lie in ("no key", "a text as key"):
        body["key"] = None if lie == "no key" else "text"
    kind = Kind.EVENT if lie == "kind" else Kind.REPORT_KEY
    record = board.build(AUDIT, kind, body)
    record = replace(record, device="gw-other") if lie == "device" else record
    signer = FileSigner(board.key)
    signer.kid = bytes(8) if lie == "kid" else signer.kid
    made = board.sign(record, signer, board.x5chain)
    expected = {"kid": "bad_header", "device": "wrong_topic"}.get(lie, "wrong_signer")
    assert outcomes(desk, made.data) == [expected]


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\xd2\x84", "bad_envelope"), (b"\xd2\x84\x60", "bad_envelope"),
        (b"\xd2\x84\x5b" + bytes(8), "not_deterministic"), (b"\xd2\x84\x5f", "not_deterministic"),
        (b"\xd2\x84\x40\xa1", "bad_header"), (b"\xd2\x85", "wrong_tag"),
    ],
)  # fmt: skip
def test_a_head_that_is_not_the_one_shape_is_refused(data: bytes, name: str) -> None:
    with pytest.raises(WireRefusal) as caught:
        list(split(data))
    assert caught.value.name == name
