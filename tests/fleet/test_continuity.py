"""The continuity token between a real store and real files: what quarantines, what does not, what
ends it."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from edgewarden.appraise.appraisal import Appraisal
from edgewarden.daemon.clock import SystemRandomness
from edgewarden.daemon.continuity import Continuity
from edgewarden.trust.continuity import TokenFile
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Result, Tier, decode_result
from edgewarden.wire.ratchet import NOTHING_SPENT, Spent
from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.store import continuity as kept
from edgewarden_fleet.store import migrations, records, schema, views
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify import ratchet
from edgewarden_fleet.verify.attest import Appraiser
from edgewarden_fleet.verify.pipeline import Incoming
from edgewarden_fleet.verify.ratchet import Thread, is_bound
from tests.fleet.makers import CODE, SECRET, TENANT, Board, Desk

ALARM, AUDIT = RecordClass.ALARM, RecordClass.AUDIT
DEVICE = "gw-demo"


class Card:
    """A state folder with its token; ``copy`` is what somebody does to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.continuity = Continuity(lambda: TokenFile(folder, TENANT, DEVICE), SystemRandomness())
        assert self.continuity.look() == ""

    def copy(self, name: str) -> Card:
        there = self.folder.with_name(name)
        shutil.copytree(self.folder, there)
        return Card(there)

    def boot(self) -> Card:
        return Card(self.folder)

    def report(self, desk: Desk, board: Board, *, lose: bool = False) -> Result:
        """Evidence and its result, which may not arrive."""
        asked = desk.challenge(DEVICE).nonce
        result = sent(desk, board, asked, self.continuity.spend())
        if result.token is not None and not lose:
            self.continuity.adopt(result.token)
        return result


def sent(desk: Desk, board: Board, nonce: bytes, spent: Spent) -> Result:
    message = Incoming(board.topic("e", "evidence"), board.evidence(nonce, spent=spent))
    with transaction(desk.db):
        verdict, out = desk.appraiser.take_evidence(message, desk.now)
    assert verdict.accepted, verdict
    return decode_result(cose.open_envelope(out[0].payload, ContentType.RESULT).payload)


@pytest.fixture
def ready(desk: Desk, board: Board) -> Board:
    desk.record(board.introduce(ALARM))
    desk.reference("code", CODE)
    return board


@pytest.fixture
def card(tmp_path: Path) -> Card:
    return Card(tmp_path / "card")


def shown(desk: Desk) -> views.Json:
    whole = views.gateway(desk.db, DEVICE, desk.now)
    assert whole is not None
    return whole


def kinds(desk: Desk) -> list[str]:
    return [row[0] for row in desk.db.execute("SELECT kind FROM finding ORDER BY id")]


def test_an_honest_gateway_over_lost_answers_and_starts(
    desk: Desk, ready: Board, card: Card
) -> None:
    for lose in (False, True, True, False, False, True):
        assert card.report(desk, ready, lose=lose).overall is Tier.AFFIRMING
        card = card.boot()
    assert shown(desk)["quarantine"] is None
    assert kinds(desk) == []
    assert card.continuity.spend().step == 3


def test_a_copied_card_is_caught_at_its_first_report(desk: Desk, ready: Board, card: Card) -> None:
    card.report(desk, ready)
    copy = card.copy("copy")
    assert card.report(desk, ready).overall is Tier.AFFIRMING
    caught = copy.report(desk, ready)
    assert caught.overall is Tier.CONTRAINDICATED
    assert caught.token is None
    assert "quarantine" in caught.reasons["identity"]
    assert kinds(desk) == ["clone"]
    assert shown(desk)["verdict"] == "critical"
    head = kept.head(desk.db, DEVICE)
    for side in (card, copy, card):  # neither is believed from now on, and it is told once
        told = side.report(desk, ready)
        assert (told.overall, told.token) == (Tier.CONTRAINDICATED, None)
        assert kept.head(desk.db, DEVICE) == head, "a state that is not believed is not the next"
    assert kinds(desk) == ["clone"]


def test_whoever_comes_first_the_other_is_caught(desk: Desk, ready: Board, card: Card) -> None:
    card.report(desk, ready)
    copy = card.copy("copy")
    assert copy.report(desk, ready).overall is Tier.AFFIRMING
    assert card.report(desk, ready).overall is Tier.CONTRAINDICATED


def test_a_card_copied_in_mid_report_is_caught_at_its_second(
    desk: Desk, ready: Board, card: Card
) -> None:
    """The copy holds the mark, too: its first report is word for word the original's."""
    card.report(desk, ready, lose=True)
    copy = card.copy("copy")
    for side in (card, copy):
        assert side.report(desk, ready).overall is Tier.AFFIRMING
    assert card.report(desk, ready).overall is Tier.AFFIRMING
    assert copy.report(desk, ready).overall is Tier.CONTRAINDICATED


def test_a_restored_backup_and_a_lost_token_are_caught(
    desk: Desk, ready: Board, card: Card, tmp_path: Path
) -> None:
    backup = card.copy("backup")
    for _ in range(3):
        card.report(desk, ready)
    assert backup.report(desk, ready).overall is Tier.CONTRAINDICATED
    with transaction(desk.db):
        assert kept.lift_quarantine(desk.db, DEVICE, "test", desk.now)
    assert card.report(desk, ready).overall is Tier.AFFIRMING
    assert Card(tmp_path / "empty").report(desk, ready).overall is Tier.CONTRAINDICATED


def test_evidence_that_was_overtaken_is_no_alarm(desk: Desk, ready: Board, card: Card) -> None:
    slow, fast = desk.challenge(DEVICE).nonce, desk.challenge(DEVICE).nonce
    spent = card.continuity.spend()
    result = sent(desk, ready, fast, spent)
    assert result.token is not None
    card.continuity.adopt(result.token)
    card.report(desk, ready)
    late = sent(desk, ready, slow, spent)
    assert (late.overall, late.token) == (Tier.AFFIRMING, None)
    assert kinds(desk) == []


def test_records_of_a_gateway_in_quarantine_are_still_kept(
    desk: Desk, ready: Board, card: Card
) -> None:
    with transaction(desk.db):
        kept.begin_quarantine(desk.db, DEVICE, "clone", "test", desk.now)
    assert desk.record(ready.denied(bytes(32))).accepted
    assert kinds(desk) == ["exec_denied"]


def test_a_fork_quarantines(desk: Desk, ready: Board, card: Card) -> None:
    twin = dict(ready.heads)
    desk.record(ready.event(ALARM))
    ready.heads = twin
    assert desk.record(ready.event(ALARM, other=1)).outcome == "fork"
    assert card.report(desk, ready).overall is Tier.CONTRAINDICATED
    whole = shown(desk)
    assert isinstance(whole["quarantine"], dict)
    assert whole["quarantine"]["kind"] == "fork"
    assert kinds(desk) == ["fork"]


def test_a_key_thief_who_jumps_ahead_is_shown_by_the_next_evidence(
    desk: Desk, ready: Board, card: Card
) -> None:
    """No number is used twice, so no fork; the true gateway's heads are behind the thief's."""
    thief = replace_board(ready)
    thief.heads[ALARM] = (1000, bytes(32))
    assert desk.record(thief.introduce(ALARM)).outcome == "gap"
    assert card.report(desk, ready).overall is Tier.CONTRAINDICATED
    assert shown(desk)["quarantine"]


def replace_board(board: Board) -> Board:
    """The same identity key in other hands."""
    copy = object.__new__(Board)
    copy.__dict__.update(board.__dict__)
    copy.heads = dict(board.heads)
    copy.report = type(board.report).generate()
    return copy


def test_a_lifted_quarantine_takes_the_next_state_and_no_other(
    desk: Desk, ready: Board, card: Card
) -> None:
    card.report(desk, ready)
    copy = card.copy("copy")
    card.report(desk, ready)
    copy.report(desk, ready)
    with transaction(desk.db):
        assert kept.lift_quarantine(desk.db, DEVICE, "the copy was found", desk.now)
        assert not kept.lift_quarantine(desk.db, DEVICE, "again", desk.now)
    assert shown(desk)["quarantine"] is None
    assert card.report(desk, ready).overall is Tier.AFFIRMING
    assert card.report(desk, ready).overall is Tier.AFFIRMING
    assert copy.report(desk, ready).overall is Tier.CONTRAINDICATED
    assert kinds(desk) == ["clone", "state_adopted", "clone"]


def restored(desk: Desk, ready: Board, card: Card) -> Board:
    """A backup of a gateway that has made three records since: it forked, and was let in again."""
    card.report(desk, ready)
    backup = replace_board(ready)
    for _ in range(3):
        desk.record(ready.event(ALARM))
    assert desk.record(backup.introduce(ALARM)).outcome == "fork"
    with transaction(desk.db):
        kept.lift_quarantine(desk.db, DEVICE, "the old card broke, this is its backup", desk.now)
    return backup


def test_after_a_lift_the_true_chain_goes_on_and_the_other_is_set_aside(
    desk: Desk, ready: Board, card: Card
) -> None:
    """A restored backup is the true one: its numbers were used by what it was taken from."""
    backup = restored(desk, ready, card)
    again = replace_board(backup)
    again.heads = {**ready.heads, ALARM: (1, ready_hash(desk, 1))}
    for c in (AUDIT, ALARM, RecordClass.BULK):
        assert desk.record(again.introduce(c)).accepted
    assert desk.record(again.event(ALARM)).outcome == "next"
    assert card.report(desk, again).facets["freshness"] is Tier.AFFIRMING
    assert shown(desk)["quarantine"] is None
    aside = desk.db.execute("SELECT seq FROM aside WHERE device = ? ORDER BY seq", (DEVICE,))
    assert [row[0] for row in aside] == [2, 3, 4]
    assert desk.record(ready.event(ALARM)).outcome in ("fork", "stale_key")  # the other one's next


def test_what_introduces_nobody_decides_nothing_about_an_open_chain(
    desk: Desk, ready: Board, card: Card
) -> None:
    backup = restored(desk, ready, card)
    desk.record(ready.event(ALARM))  # the other one speaks first, and goes on
    again = replace_board(backup)
    again.heads = {**ready.heads, ALARM: (1, ready_hash(desk, 1))}
    assert desk.record(again.introduce(ALARM)).accepted


def test_what_the_true_one_signed_while_it_was_not_believed_is_a_gap(
    desk: Desk, ready: Board, card: Card
) -> None:
    """Its first start after the restore used numbers, too: refused, they are not coming."""
    card.report(desk, ready)
    backup = replace_board(ready)
    for _ in range(4):
        desk.record(ready.event(ALARM))
    assert desk.record(backup.introduce(ALARM)).outcome == "fork"  # its 2
    backup.event(ALARM)  # its 3
    with transaction(desk.db):
        kept.lift_quarantine(desk.db, DEVICE, "test", desk.now)
    again = replace_board(backup)
    for c in (AUDIT, ALARM, RecordClass.BULK):
        assert desk.record(again.introduce(c)).accepted  # alarm: its 4
    assert card.report(desk, again).facets["freshness"] is Tier.AFFIRMING
    chain = shown(desk)["chain"]
    assert isinstance(chain, dict)
    assert (chain["alarm"]["head"], chain["alarm"]["dropped"]) == (4, 2)


def test_the_original_goes_on_behind_its_own_records(desk: Desk, ready: Board, card: Card) -> None:
    card.report(desk, ready)
    copy = replace_board(ready)
    for _ in range(3):
        desk.record(ready.event(ALARM))
    assert desk.record(copy.introduce(ALARM)).outcome == "fork"
    with transaction(desk.db):
        kept.lift_quarantine(desk.db, DEVICE, "test", desk.now)
    again = replace_board(ready)
    for c in (AUDIT, ALARM, RecordClass.BULK):
        assert desk.record(again.introduce(c)).outcome == "next"
    assert desk.db.execute("SELECT count(*) FROM aside").fetchone()[0] == 0
    assert card.report(desk, again).facets["freshness"] is Tier.AFFIRMING


def test_a_chain_that_was_never_opened_is_never_set_aside(desk: Desk, ready: Board) -> None:
    twin = replace_board(ready)
    desk.record(ready.event(ALARM))
    assert desk.record(twin.introduce(ALARM)).outcome == "fork"
    assert desk.db.execute("SELECT count(*) FROM aside").fetchone()[0] == 0


def ready_hash(desk: Desk, seq: int) -> bytes:
    found = records.hash_at(desk.db, DEVICE, ALARM, seq)
    assert found is not None
    return found


def vouch(
    grade: str, identity: Tier = Tier.AFFIRMING, hardware: Tier = Tier.AFFIRMING
) -> Appraisal:
    return Appraisal(Tier.AFFIRMING, grade, {"identity": identity, "hardware": hardware}, {})


@pytest.mark.parametrize(
    ("judged", "bound"),
    [
        (vouch("G2"), True), (vouch("G3"), True), (vouch("G1"), False), (vouch("G0+"), False),
        (vouch("G2", Tier.WARNING), False), (vouch("G2", Tier.CONTRAINDICATED), False),
    ],
)  # fmt: skip
def test_only_a_key_that_exists_once_vouches(judged: Appraisal, bound: bool) -> None:
    assert is_bound(judged) is bound


@pytest.mark.parametrize("grade", ["G0", "G2"])
def test_at_g2_fresh_evidence_ends_a_quarantine_and_below_it_does_not(
    desk: Desk, ready: Board, grade: str
) -> None:
    thread = Thread(desk.db, SECRET, TENANT)
    claims = ready.claims(bytes(32), grade=grade)
    with transaction(desk.db):
        token = thread.take(claims, vouch(grade), desk.now)
        assert token is not None
        ahead = replace(claims, spent=Spent(token.step, token.token, b"m" * 16))
        thread.take(ahead, vouch(grade), desk.now)
        backup = replace(claims, spent=replace(NOTHING_SPENT, mark=b"b" * 16))
        answer = thread.take(backup, vouch(grade), desk.now)
    if grade == "G0":
        assert answer is None
        assert kinds(desk) == ["clone"]
        assert kept.quarantined(desk.db, DEVICE)
        return
    assert answer is not None
    assert kinds(desk) == ["state_restored"]
    assert kept.quarantined(desk.db, DEVICE) is None
    with transaction(desk.db):
        kept.begin_quarantine(desk.db, DEVICE, "fork", "test", desk.now)
        onward = Spent(answer.step, answer.token, b"c" * 16)
        assert thread.take(replace(claims, spent=onward), vouch(grade), desk.now)
    assert kept.quarantined(desk.db, DEVICE) is None


def test_the_fleet_starts_again_from_its_store(
    desk: Desk, ready: Board, card: Card, tmp_path: Path
) -> None:
    """Its answer was committed, and not sent: the same answer comes again."""
    lost = card.report(desk, ready, lose=True)
    desk.appraiser = Appraiser(desk.verifier, desk.verifier_key, desk.settings, SECRET)
    assert card.boot().report(desk, ready).token == lost.token
    assert kinds(desk) == []


def test_a_lost_secret_opens_the_door_once(desk: Desk, ready: Board, card: Card) -> None:
    card.report(desk, ready)
    copy = card.copy("copy")
    desk.appraiser = Appraiser(desk.verifier, desk.verifier_key, desk.settings, b"n" * 32)
    for _ in range(3):
        assert card.report(desk, ready).overall is Tier.AFFIRMING
    assert kinds(desk) == ["state_adopted"]
    assert copy.report(desk, ready).overall is Tier.CONTRAINDICATED


def test_a_replaced_board_begins_anew(desk: Desk, ready: Board, card: Card, tmp_path: Path) -> None:
    for _ in range(3):
        card.report(desk, ready)
    with transaction(desk.db):
        kept.forget(desk.db, DEVICE)
    assert Card(tmp_path / "new").report(desk, ready).overall is Tier.AFFIRMING
    assert kinds(desk) == []


def test_what_is_remembered_is_bounded(desk: Desk, ready: Board, card: Card) -> None:
    for _ in range(kept.KEPT_STEPS + 20):
        card.report(desk, ready)
    for table in ("continuity", "continuity_floor"):
        count = desk.db.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        assert count <= kept.KEPT_STEPS
    assert kinds(desk) == []


def test_the_secret_is_made_once_and_kept_to_its_owner(tmp_path: Path) -> None:
    folder = FleetFolder(tmp_path)
    (tmp_path / "verifier").mkdir()
    secret = folder.continuity_secret()
    assert len(secret) == 32
    assert folder.continuity_secret() == secret
    assert (tmp_path / "verifier/continuity.key").stat().st_mode & 0o777 == 0o600


def test_an_older_store_gets_the_new_tables(tmp_path: Path, desk: Desk) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    for statement in schema.DDL.split(";\n"):
        old.execute(statement)
    old.execute("INSERT INTO counter VALUES ('gw', 'kept', 7)")
    old.execute(f"PRAGMA user_version = {migrations.BASE}")
    old.commit()
    old.close()
    db = open_store(path)
    ddl = "SELECT type, name, sql FROM sqlite_master ORDER BY type, name"
    assert [tuple(r) for r in db.execute(ddl)] == [tuple(r) for r in desk.db.execute(ddl)]
    assert db.execute("SELECT value FROM counter").fetchone()[0] == 7
    db.close()


def test_while_an_operators_word_is_carried_out_only_a_clone_begins_another_quarantine(
    desk: Desk, ready: Board
) -> None:
    """What a fork or an older head shows then is the other history, which the word is about."""
    with transaction(desk.db):
        kept.open_chains(desk.db, DEVICE)
        for kind in (ratchet.FORK, ratchet.OLDER):
            ratchet.suspect(desk.db, DEVICE, kind, "of the other one", desk.now)
            assert kept.quarantined(desk.db, DEVICE) is None
        ratchet.suspect(desk.db, DEVICE, ratchet.CLONE, "twice", desk.now)
    assert kept.quarantined(desk.db, DEVICE) is not None


def test_an_introduction_that_comes_again_sets_nothing_aside(
    desk: Desk, ready: Board, card: Card
) -> None:
    """After an operator's word the broker delivers an earlier one once more."""
    made = ready.introduce(AUDIT)
    desk.record(made)
    for _ in range(2):
        desk.record(ready.event(AUDIT))
    with transaction(desk.db):
        kept.open_chains(desk.db, DEVICE)
    desk.record(made, dup=True)
    assert desk.db.execute("SELECT count(*) FROM aside").fetchone()[0] == 0
    assert kept.is_open(desk.db, DEVICE, AUDIT)
    assert desk.stored(DEVICE, AUDIT) == [1, 2, 3]


def test_an_operators_word_lets_an_older_state_connect(desk: Desk, ready: Board) -> None:
    """Its heads are behind: that is what the word is about."""
    backup = replace_board(ready)
    for _ in range(3):
        desk.record(ready.event(ALARM))
    desk.connect(ready, {})
    backup.start()
    data = backup.status({}, heads={ALARM: 1})
    topic = backup.topic("s", "status")
    assert desk.take(topic, data).outcome == "stale_session"
    with transaction(desk.db):
        kept.open_chains(desk.db, DEVICE)
    assert desk.take(topic, data).outcome == "online"
