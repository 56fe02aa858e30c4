"""Which key a board gets, and that no lower one comes in silence."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from edgewarden.enrol.folder import RECORDED, keep_pending, recorded_grade, store
from edgewarden.errors import EdgewardenError, HardwareFault, TrustFault
from edgewarden.kernel import tpm as tpms
from edgewarden.trust import identity, ladder, sealed, tsskey
from edgewarden.trust.board import board_secret, request, secret_in
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.ladder import CREDENTIAL, Keys, OwnKey, check_lower, choose
from edgewarden.trust.selftest import prove

NO_TPM = "swtpm:host=127.0.0.1,port=1"
SECRET = bytes(range(32))
OTHER = bytes(range(1, 33))
FLEET_GRADES = ("G0", "G0+", "G1", "G2")


def keys(tmp_path: Path, *, credential: bytes | None = None, board: bytes | None = None) -> Keys:
    """A machine without a TPM, and with what a test gives it."""
    folder = tmp_path / "credentials"
    if credential is not None:
        folder.mkdir(exist_ok=True)
        (folder / CREDENTIAL).write_bytes(credential)
    return Keys(NO_TPM, folder if credential is not None else None, lambda: board)


def sound(key: OwnKey) -> None:
    """A proof that every key passes."""


def grade_of(given: Keys) -> tuple[str, set[str]]:
    choice = choose(given, "auto", sound)
    return choice.key.grade, set(choice.passed_over)


def test_auto_takes_the_highest_there_is_and_says_why_not_more(tmp_path: Path) -> None:
    assert grade_of(keys(tmp_path)) == ("G0", {"G2", "G1", "G0+"})
    assert grade_of(keys(tmp_path, credential=SECRET)) == ("G0+", {"G2", "G1"})
    assert grade_of(keys(tmp_path, credential=SECRET, board=SECRET)) == ("G1", {"G2"})
    reasons = choose(keys(tmp_path), "auto", sound).passed_over
    assert all(reasons.values())
    assert "credential" in reasons["G0+"]


def test_a_key_that_fails_its_proof_is_passed_over(tmp_path: Path) -> None:
    def refuses(key: OwnKey) -> None:
        if key.grade != "G0":
            raise HardwareFault("no handshake")

    choice = choose(keys(tmp_path, board=SECRET), "auto", refuses)
    assert choice.key.grade == "G0"
    assert choice.passed_over["G1"] == "no handshake"


@pytest.mark.parametrize("wanted", ["G2", "G1", "G0+"])
def test_a_grade_that_is_wanted_is_had_or_named_as_missing(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(TrustFault) as caught:
        choose(keys(tmp_path), wanted, sound)
    assert caught.value.code == "EW-ID-034"
    assert wanted in caught.value.text
    assert choose(keys(tmp_path, board=SECRET), "G0", sound).key.grade == "G0"


def test_without_the_binding_no_tpm_is_asked_for_and_that_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tpms, "missing", lambda: "there is no binding here")
    given = keys(tmp_path)
    for ask in (given.tpm, lambda: given.make("G2")):
        with pytest.raises(TrustFault, match="there is no binding here") as refused:
            ask()
        assert refused.value.code == "EW-ID-034"


def test_a_kept_key_is_taken_in_place_of_a_new_one(tmp_path: Path) -> None:
    kept = FileSigner.generate()
    assert choose(keys(tmp_path), "auto", sound, kept).key is kept
    better = choose(keys(tmp_path, board=SECRET), "auto", sound, kept)
    assert better.key.grade == "G1", "what was wanting then is here now"


@pytest.mark.parametrize("grade", FLEET_GRADES)
@pytest.mark.parametrize("recorded", ["", *FLEET_GRADES])
@pytest.mark.parametrize("accepted", ["", *FLEET_GRADES])
def test_a_lower_grade_needs_the_operators_word_for_that_very_grade(
    grade: str, recorded: str, accepted: str
) -> None:
    lower = recorded != "" and FLEET_GRADES.index(grade) < FLEET_GRADES.index(recorded)
    if lower and accepted != grade:
        with pytest.raises(TrustFault) as caught:
            check_lower(grade, recorded, accepted)
        assert caught.value.code == "EW-ID-033"
    else:
        check_lower(grade, recorded, accepted)


@pytest.mark.parametrize("grade", ["G0", "G0+", "G1"])
def test_a_key_comes_back_from_its_file(tmp_path: Path, grade: str) -> None:
    given = keys(tmp_path, credential=SECRET, board=OTHER)
    made = given.make(grade)
    again = given.open(made.to_pem(), grade)
    assert (again.grade, again.kid) == (grade, made.kid)
    assert again.to_pem() == made.to_pem()
    assert again.quoter() is None
    assert again.about()


@pytest.mark.parametrize("grade", ["G0", "G0+", "G1"])
@pytest.mark.parametrize("recorded", FLEET_GRADES)
def test_a_file_of_another_grade_than_recorded_is_refused(
    tmp_path: Path, grade: str, recorded: str
) -> None:
    given = keys(tmp_path, credential=SECRET, board=OTHER)
    pem = given.make(grade).to_pem()
    if grade == recorded:
        assert given.open(pem, recorded).grade == grade
        return
    with pytest.raises(TrustFault) as caught:
        given.open(pem, recorded)
    assert caught.value.code == "EW-ID-033"


def test_a_tpm_key_without_its_tpm_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(EdgewardenError) as caught:
        keys(tmp_path).open(tsskey.write(bytes(88), bytes(128)), "G2")
    assert caught.value.code in ("EW-ID-030", "EW-ID-034")


# --- sealed files -------------------------------------------------------------------------------


def test_a_sealed_key_opens_on_its_own_board_alone(tmp_path: Path) -> None:
    here, there = keys(tmp_path, board=SECRET), keys(tmp_path, board=OTHER)
    made = here.make("G1")
    assert here.open(made.to_pem(), "G1").kid == made.kid
    for elsewhere in (there, keys(tmp_path), keys(tmp_path, credential=SECRET)):
        with pytest.raises(TrustFault) as caught:
            elsewhere.open(made.to_pem(), "G1")
        assert caught.value.code == "EW-ID-035"


def test_one_secret_for_two_places_is_still_two_keys() -> None:
    """A file sealed to the credential does not open as one sealed to the board."""
    pem = sealed.seal(FileSigner.generate(), sealed.CREDENTIAL, SECRET).to_pem()
    with pytest.raises(TrustFault):
        sealed.open_sealed(pem, {sealed.BOARD: SECRET})
    assert b"PRIVATE" not in pem


def test_no_changed_byte_of_a_sealed_file_opens(tmp_path: Path) -> None:
    made = sealed.seal(FileSigner.generate(), sealed.BOARD, SECRET)
    lines = made.to_pem().splitlines()
    body = b"".join(lines[1:-1])
    for at in range(0, len(body), 7):
        changed = bytearray(body)
        changed[at] = ord("A") if changed[at] != ord("A") else ord("B")
        pem = b"\n".join([lines[0], bytes(changed), lines[-1]])
        with pytest.raises(TrustFault) as caught:
            sealed.open_sealed(pem, {sealed.BOARD: SECRET, sealed.CREDENTIAL: SECRET})
        assert caught.value.code in ("EW-ID-003", "EW-ID-035")


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        sealed.BEGIN.encode(),
        f"{sealed.BEGIN}\n?\n{sealed.END}\n".encode(),
        f"{sealed.BEGIN}\nAAA\n{sealed.END}\n".encode(),
        f"{sealed.BEGIN}\n{'AAAA' * 600}\n{sealed.END}\n".encode(),
        f"{sealed.BEGIN}\nAgIA\n{sealed.END}\n".encode(),  # version 2
        f"{sealed.BEGIN}\nAQkA\n{sealed.END}\n".encode(),  # source 9
        f"{sealed.BEGIN}\nAQI=\n{sealed.END}\n".encode(),  # nothing behind the head
    ],
)
def test_what_is_no_sealed_file_is_said_to_be_damaged(pem: bytes) -> None:
    with pytest.raises(TrustFault) as caught:
        sealed.open_sealed(pem, {sealed.BOARD: SECRET})
    assert caught.value.code == "EW-ID-003"


def test_a_short_secret_seals_nothing(tmp_path: Path) -> None:
    choice = choose(keys(tmp_path, credential=b"short"), "auto", sound)
    assert choice.key.grade == "G0"
    assert "5 bytes" in choice.passed_over["G0+"]


# --- the board's secret -------------------------------------------------------------------------


def answered(rows: list[int], *, code: int = 0x80000000, tag: int = 0x00030081) -> bytes:
    """What a Raspberry Pi's firmware returns: its request, filled in."""
    data = bytearray(request())
    data[4:8] = code.to_bytes(4, "little")
    data[8:12] = tag.to_bytes(4, "little")
    data[16:20] = (0x80000000 | 40).to_bytes(4, "little")
    for at, row in enumerate(rows):
        data[28 + 4 * at : 32 + 4 * at] = row.to_bytes(4, "little")
    return bytes(data)


def test_the_question_is_the_firmwares() -> None:
    """Word for word what ``vcmailbox 0x00030081 40 40 0 8 0 0 0 0 0 0 0 0`` sends."""
    words = [int.from_bytes(request()[at : at + 4], "little") for at in range(0, 64, 4)]
    assert words == [64, 0, 0x00030081, 40, 0, 0, 8, *[0] * 8, 0]


def test_a_programmed_key_is_the_boards_secret() -> None:
    rows = [0x01020304 + n for n in range(8)]
    secret = board_secret(lambda message: answered(rows) if message == request() else b"")
    assert secret == b"".join(row.to_bytes(4, "little") for row in rows)


@pytest.mark.parametrize(
    "answer",
    [b"", answered([0] * 8), answered([1] * 8, code=0x80000001), answered([1] * 8, tag=1),
     answered([1] * 8)[:-1], answered([1] * 8) + b"\0", request()],
)  # fmt: skip
def test_any_other_answer_is_no_secret(answer: bytes) -> None:
    assert secret_in(answer) is None


def test_a_board_without_the_firmware_has_none() -> None:
    def refuses(message: bytes) -> bytes:
        raise PermissionError(13, "no")

    assert board_secret(refuses) is None


# --- the proof ------------------------------------------------------------------------------------


@pytest.mark.parametrize("grade", ["G0", "G0+", "G1"])
def test_a_sound_key_carries_a_handshake(tmp_path: Path, grade: str) -> None:
    key = keys(tmp_path, credential=SECRET, board=OTHER).make(grade)
    path = keep_pending(tmp_path / "state", key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    prove(key, path)
    assert (b"BEGIN PRIVATE" in path.read_bytes()) == (grade == "G0")


def test_a_key_whose_file_is_another_key_fails_its_proof(tmp_path: Path) -> None:
    """The very key: it signs well, but what TLS would load is not it."""
    key, path = FileSigner.generate(), tmp_path / "key.pem"
    path.write_bytes(FileSigner.generate().to_pem())
    with pytest.raises(TrustFault) as caught:
        prove(key, path)
    assert caught.value.code == "EW-ID-036"


def test_a_signer_that_lies_fails_its_proof(tmp_path: Path) -> None:
    class Liar(FileSigner):
        def sign(self, message: bytes) -> bytes:
            return FileSigner.generate().sign(message)

    key, path = Liar.generate(), tmp_path / "key.pem"
    path.write_bytes(key.to_pem())
    with pytest.raises(TrustFault, match="its own signature"):
        prove(key, path)


def test_the_recorded_grade_outlives_the_identity(tmp_path: Path) -> None:
    assert recorded_grade(tmp_path) == ""
    key = keys(tmp_path, board=SECRET).make("G1")
    fields = {
        "device": "gw", "tenant": "main", "grade": "G1", "serial": "1",
        "not_after_utc": "2099-01-01T00:00:00Z", "broker": {"host": "b", "port": 1},
        "verifier_key": "00",
    }  # fmt: skip
    stored = store(tmp_path, key, fields, "", "", keys(tmp_path, board=SECRET))
    assert stored.signer().kid == key.kid
    (tmp_path / identity.FOLDER / identity.CURRENT).unlink()
    assert recorded_grade(tmp_path) == "G1"
    with pytest.raises(TrustFault):
        check_lower("G0", recorded_grade(tmp_path), "")
    (tmp_path / identity.FOLDER / RECORDED).write_text("G9")
    assert recorded_grade(tmp_path) == ""


def test_no_rung_is_named_twice() -> None:
    assert sorted({*ladder.GRADES}) == sorted(FLEET_GRADES)
