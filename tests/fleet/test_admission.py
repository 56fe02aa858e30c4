"""The broker's list follows the registry: what is sent, in which order, and what is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden_fleet.ca.broker import GATEWAY_READS, GATEWAY_WRITES, role_of
from edgewarden_fleet.ca.certificates import FLEET_CN
from edgewarden_fleet.ingest import admission as module
from edgewarden_fleet.ingest.access_list import FIRST_RETRY_S, LAST_RETRY_S, AccessList
from edgewarden_fleet.ingest.admission import COMMANDS, Admission, changes
from edgewarden_fleet.store import registry, replaced
from edgewarden_fleet.verify.attest import Outgoing
from tests.fleet.makers import NOW, Desk, new_key

DEVICES = st.sets(st.sampled_from([f"gw-{i}" for i in range(8)]))
ROLES = st.sampled_from(["right", "older", "none"])


class Plugin:
    """What Mosquitto's plugin does with commands (seen with 2.0.11), without its broker."""

    def __init__(self) -> None:
        self.clients: dict[str, list[str]] = {FLEET_CN: ["fleet"]}
        self.roles: dict[str, list[dict[str, object]]] = {"fleet": []}
        self.ended: list[str] = []

    def take(self, payload: bytes) -> bytes:
        return json.dumps(
            {"responses": [self._one(c) for c in json.loads(payload)["commands"]]}
        ).encode()

    def _one(self, command: dict[str, object]) -> dict[str, object]:
        verb, name = str(command["command"]), str(command.get("username"))
        answer: dict[str, object] = {"command": verb}
        role = str(command.get("rolename"))
        if verb == "listClients":
            offset, count = int(str(command["offset"])), int(str(command["count"]))
            names = sorted(self.clients)[offset : offset + count]
            listed = [{"username": n, "roles": self._roles(n)} for n in names]
            answer["data"] = {"totalCount": len(self.clients), "clients": listed}
        elif verb == "deleteClient":
            if self.clients.pop(name, None) is None:
                answer["error"] = "Client not found"
            self.ended.append(name)
        elif verb == "createClient":
            if name in self.clients:
                answer["error"] = "Client already exists"
            roles = command["roles"]
            assert isinstance(roles, list)
            self.clients[name] = [r["rolename"] for r in roles]
        elif verb == "deleteRole":
            if self.roles.pop(role, None) is None:
                answer["error"] = "Role not found"
        elif verb == "createRole":
            if role in self.roles:
                answer["error"] = "Role already exists"
            acls = command["acls"]
            assert isinstance(acls, list)
            self.roles.setdefault(role, acls)
        return answer

    def _roles(self, name: str) -> list[dict[str, str]]:
        return [{"rolename": role} for role in self.clients[name]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path, durable=False)
    yield made
    made.close()


def settle(admission: Admission, desk: Desk, plugin: Plugin, now: float = 0.0) -> int:
    """Rounds until nothing more is sent."""
    for rounds in range(50):
        out = admission.due(desk.db, now)
        if not out:
            return rounds
        while out:
            assert [o.topic for o in out] == [COMMANDS]
            out = admission.take(plugin.take(out[0].payload), now)
    raise AssertionError("it does not come to rest")


def new_admission(folder: Path) -> Admission:
    admission = Admission("main", AccessList(folder, "main", ()))
    admission.connected()
    return admission


def test_who_is_enrolled_may_speak_and_who_is_revoked_is_ended(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    for device in ("gw-1", "gw-2"):
        desk.enrol(device, new_key())
    assert not admission.admits("gw-1")
    settle(admission, desk, plugin)
    assert set(plugin.clients) == {FLEET_CN, "gw-1", "gw-2"}
    assert admission.admits("gw-1")
    topics = {a["topic"] for a in plugin.roles[role_of("gw-1")]}
    assert topics == {f"ew/1/main/gw-1/{t}" for t in (*GATEWAY_WRITES, *GATEWAY_READS)}
    registry.revoke(desk.db, "gw-1", "stolen", NOW)
    settle(admission, desk, plugin)
    assert plugin.ended == ["gw-1"], "and nobody else was disturbed"
    assert set(plugin.clients) == {FLEET_CN, "gw-2"}
    assert set(plugin.roles) == {"fleet", role_of("gw-2")}
    assert not admission.admits("gw-1")


def test_nothing_is_sent_while_nothing_changes(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    settle(admission, desk, plugin)
    assert admission.due(desk.db, module.RELIST_S - 1) == []
    assert admission.due(desk.db, module.RELIST_S) != []


def test_what_a_person_changed_by_hand_is_put_right(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    desk.enrol("gw-1", new_key())
    settle(admission, desk, plugin)
    del plugin.clients["gw-1"]
    plugin.clients["stranger"] = []
    settle(admission, desk, plugin, module.RELIST_S)
    assert set(plugin.clients) == {FLEET_CN, "gw-1"}


def test_a_role_of_an_older_version_is_replaced(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    desk.enrol("gw-1", new_key())
    plugin.clients["gw-1"], plugin.roles["gateway.gw-1.0"] = ["gateway.gw-1.0"], []
    settle(admission, desk, plugin)
    assert plugin.clients["gw-1"] == [role_of("gw-1")]
    assert set(plugin.roles) == {"fleet", role_of("gw-1")}


def test_a_long_list_is_read_whole(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 3)
    monkeypatch.setattr(module, "AT_ONCE", 4)
    admission, plugin = new_admission(tmp_path), Plugin()
    for i in range(10):
        desk.enrol(f"gw-{i}", new_key())
        plugin.clients[f"other-{i}"] = []
    settle(admission, desk, plugin)
    assert set(plugin.clients) == {FLEET_CN, *(f"gw-{i}" for i in range(10))}


def test_a_broker_without_the_plugin_gets_the_list_in_a_file(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = tmp_path / "told"
    admission = Admission("main", AccessList(tmp_path, "main", ("touch", str(told))))
    (tmp_path / "acl").write_text("nothing")
    admission.connected()
    desk.enrol("gw-1", new_key())
    assert admission.due(desk.db, 0.0)
    assert admission.due(desk.db, module.ANSWER_S - 0.1) == []
    assert not admission.absent
    admission.due(desk.db, module.ANSWER_S)
    assert admission.absent
    assert "EW-NET-022" in caplog.text
    assert admission.admits("gw-1"), "the list in the file lets whoever has a certificate"
    registry.revoke(desk.db, "gw-1", "stolen", NOW)
    admission.due(desk.db, module.ANSWER_S + 1)
    assert "user gw-1\ntopic deny #" in (tmp_path / "acl").read_text()
    assert told.exists()


def test_a_replaced_board_stays_denied_by_name_for_ever(desk: Desk, tmp_path: Path) -> None:
    access = AccessList(tmp_path, "main", ())
    (tmp_path / "acl").write_text("nothing")
    desk.enrol("gw-1", new_key())
    registry.revoke(desk.db, "gw-1", "stolen", NOW)
    replaced.retire(desk.db, "gw-1", "stolen", NOW)
    access.follow(desk.db, 0.0)
    assert "user gw-1\ntopic deny #" in (tmp_path / "acl").read_text()
    desk.enrol("gw-1", new_key())
    access.follow(desk.db, 0.0)
    text = (tmp_path / "acl").read_text()
    assert "user gw-1\ntopic deny #" in text, "its successor has another name"
    assert "user gw-1.2\ntopic write ew/1/main/gw-1/r/+\n" in text
    assert "user gw-1.2\ntopic deny" not in text
    registry.revoke(desk.db, "gw-1", "stolen too", NOW)
    access.follow(desk.db, 0.0)
    text = (tmp_path / "acl").read_text()
    assert "user gw-1.2\ntopic deny #" in text
    assert "user gw-1.2\ntopic write" not in text


def test_a_board_enrolled_by_an_earlier_version_keeps_the_plain_name(
    desk: Desk, tmp_path: Path
) -> None:
    """It stands where another was replaced, and its certificate says no number."""
    desk.enrol("gw-1", new_key())
    replaced.retire(desk.db, "gw-1", "burnt", NOW)
    desk.enrol("gw-1", new_key())
    desk.db.execute("DELETE FROM board")
    assert registry.sessions(desk.db) == ({"gw-1": "gw-1"}, set())
    assert registry.board_of(desk.db, "gw-1") == 1, "renewal, too, goes by what it has"
    replaced.retire(desk.db, "gw-1", "burnt", NOW)
    assert registry.board_of(desk.db, "gw-1") == 3, "and the next is told from both"


def test_a_replaced_board_is_another_client_than_its_successor(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    desk.enrol("gw-1", new_key())
    settle(admission, desk, plugin)
    replaced.retire(desk.db, "gw-1", "stolen", NOW)
    settle(admission, desk, plugin)
    assert plugin.ended == ["gw-1"]
    desk.enrol("gw-1", new_key())
    settle(admission, desk, plugin)
    assert set(plugin.clients) == {FLEET_CN, "gw-1.2"}
    assert admission.admits("gw-1.2")
    assert not admission.admits("gw-1")
    topics = {a["topic"] for a in plugin.roles[role_of("gw-1.2")]}
    assert topics == {f"ew/1/main/gw-1/{t}" for t in (*GATEWAY_WRITES, *GATEWAY_READS)}


def test_a_reload_that_fails_is_told(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "acl").write_text("nothing")
    access = AccessList(tmp_path, "main", ("sh", "-c", "echo no such unit >&2; exit 5"))
    access.follow(desk.db, 0.0)
    assert "status=5" in caplog.text
    assert "no such unit" in caplog.text
    caplog.clear()
    access.follow(desk.db, 0.0)
    assert not caplog.text, "once for one change"
    AccessList(tmp_path / "gone", "main", ()).follow(desk.db, 0.0)
    assert "EW-NET-022" in caplog.text


def test_a_reload_that_failed_is_tried_again_until_the_broker_was_told(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "acl").write_text("nothing")
    told = tmp_path / "told"
    command = ("sh", "-c", f"echo x >> {told}; test $(wc -l < {told}) -ge 4")
    access = AccessList(tmp_path, "main", command)
    desk.enrol("gw-1", new_key())
    registry.revoke(desk.db, "gw-1", "stolen", NOW)

    def tries(now_mono_s: float) -> int:
        access.follow(desk.db, now_mono_s)
        return len(told.read_text().splitlines())

    assert tries(0.0) == 1
    assert tries(FIRST_RETRY_S - 0.1) == 1
    assert tries(FIRST_RETRY_S) == 2
    assert caplog.text.count("not in force") == 2, "each failure is said"
    access = AccessList(tmp_path, "main", command)  # serve was started again
    assert tries(100.0) == 3
    assert tries(100.0 + FIRST_RETRY_S) == 4
    assert "in force after" in caplog.text
    assert tries(100.0 + 10 * LAST_RETRY_S) == 4, "told, and left alone"


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"responses": 1}', b'{"responses": [1]}', b"[" * 100_000]
)
def test_what_is_no_answer_is_passed_over(desk: Desk, tmp_path: Path, payload: bytes) -> None:
    admission = new_admission(tmp_path)
    assert admission.due(desk.db, 0.0)
    assert admission.take(payload, 0.0) == []
    assert not admission.admits("gw-1")


@given(wanted=DEVICES, there=st.dictionaries(st.sampled_from([f"gw-{i}" for i in range(8)]), ROLES))
def test_whatever_is_there_becomes_what_is_wanted(
    wanted: set[str], there: Mapping[str, str]
) -> None:
    plugin = Plugin()
    for device, kind in there.items():
        roles = {"right": [role_of(device)], "older": [f"gateway.{device}.x"], "none": []}[kind]
        plugin.clients[device] = roles
        plugin.roles.update({role: [] for role in roles})
    mine = {d: r for d, r in plugin.clients.items() if d != FLEET_CN}
    commands = changes("main", {d: d for d in wanted}, mine)
    plugin.take(json.dumps({"commands": commands}).encode())
    assert {d: r for d, r in plugin.clients.items() if d != FLEET_CN} == {
        d: [role_of(d)] for d in wanted
    }
    undisturbed = {d for d, kind in there.items() if kind == "right" and d in wanted}
    assert not undisturbed & set(plugin.ended)


def test_outgoing_goes_where_the_plugin_listens(desk: Desk, tmp_path: Path) -> None:
    out = new_admission(tmp_path).due(desk.db, 0.0)
    assert isinstance(out[0], Outgoing)
    assert out[0].topic == "$CONTROL/dynamic-security/v1"


@pytest.mark.parametrize(
    "waited_s", [1.0, module.ANSWER_S + 1], ids=["waits", "is taken for absent"]
)
def test_a_revoked_board_is_ended_while_an_answer_is_late(
    desk: Desk, tmp_path: Path, waited_s: float
) -> None:
    """The plugin's answers come behind the records that wait at the broker: minutes, after an
    outage. The word that ends a session waits for none of them."""
    admission, plugin = new_admission(tmp_path), Plugin()
    for device in ("gw-1", "gw-2", "gw-3"):
        desk.enrol(device, new_key())
    settle(admission, desk, plugin)
    (asked,) = admission.due(desk.db, module.RELIST_S)
    late = plugin.take(asked.payload)
    now = module.RELIST_S + waited_s
    assert admission.due(desk.db, now) == []
    registry.revoke(desk.db, "gw-1", "stolen", NOW)
    (word,) = admission.due(desk.db, now + module.LOOK_S)
    assert json.loads(word.payload) == {
        "commands": [{"command": "deleteClient", "username": "gw-1"}]
    }
    assert admission.due(desk.db, now + 2 * module.LOOK_S) == [], "once"
    registry.revoke(desk.db, "gw-2", "stolen", NOW)
    (other,) = admission.due(desk.db, now + 3 * module.LOOK_S)
    told = [plugin.take(one.payload) for one in (word, other)]
    assert plugin.ended == ["gw-1", "gw-2"]
    for answer in (late, *told):
        for out in admission.take(answer, now + 9):
            admission.take(plugin.take(out.payload), now + 9)
    settle(admission, desk, plugin, now + 9)
    assert set(plugin.clients) == {FLEET_CN, "gw-3"}
    assert set(plugin.roles) == {"fleet", role_of("gw-3")}


def test_who_was_revoked_before_is_not_ended_again(desk: Desk, tmp_path: Path) -> None:
    admission, plugin = new_admission(tmp_path), Plugin()
    for device in ("gw-1", "gw-2"):
        desk.enrol(device, new_key())
    registry.revoke(desk.db, "gw-1", "stolen", NOW)
    settle(admission, desk, plugin)
    admission.due(desk.db, module.RELIST_S)
    for more in (1, 2, 3):
        assert admission.due(desk.db, module.RELIST_S + more) == []
