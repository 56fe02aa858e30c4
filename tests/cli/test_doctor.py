"""doctor from end to end: with a real identity and a real TLS broker, with link alive and dead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgewarden.cli.doctor import as_link_knows
from edgewarden.cli.main import main
from edgewarden.ports import Instant
from edgewarden.wire.control import Request
from tests.fakes.agent import running_gate, running_link, stats
from tests.fakes.pki import store_identity
from tests.probe.test_net import World, listening, until_the_alert

ANSWER = json.loads((Path(__file__).parent / "answers" / "ok.json").read_text())


def settings(folder: Path, port: int) -> str:
    (folder / "edgewarden.toml").write_text(
        f'[paths]\nstate = "{folder}/state"\nrun = "{folder}/run"\n'
        f'[uplink]\nhost = "localhost"\nport = {port}\n'
    )
    return str(folder / "edgewarden.toml")


def climb(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    """Exit code, and rung -> state."""
    code = main(["doctor", "--json", "--settings", path])
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "edgewarden.doctor/1"
    for rung in body["rungs"]:
        told = rung["state"] in ("failing", "degraded")
        assert bool(rung["code"]) == bool(rung["next"]) == told, rung
        assert rung["ms"] >= 0
    return code, {rung["name"]: rung["state"] for rung in body["rungs"]}


def test_with_link_dead_the_session_is_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.gateway()
    serve = world.broker(world.authority.server(), world.authority.pem)
    with listening(serve) as port:
        code, rungs = climb(settings(tmp_path, port), capsys)
    assert code == 2
    assert [rungs[name] for name in ("identity", "name", "tcp", "tls", "mqtt")] == ["ok"] * 5
    assert rungs["link"] == "failing"
    assert rungs["gate"] == "failing"
    assert rungs["sensors"] == "unchecked"
    assert "session" not in rungs


@pytest.mark.parametrize("connected", [True, False])
def test_behind_a_proxy_the_proxy_is_tried_and_link_is_believed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], connected: bool
) -> None:
    """The broker's name is the proxy's to resolve; doctor called a site with a session failing."""
    World(tmp_path).gateway()
    why = {"code": "EW-NET-014", "text": "it wants credentials (407)", "next": "write them"}
    up = {"connected": connected, "since_utc": "2027-01-01T00:00:00Z", "reconnects": 0}
    said = {**ANSWER, "uplink": up, "reasons": [] if connected else [why]}
    with (
        listening(lambda connection: None) as port,
        running_link(tmp_path / "run", lambda _: {"schema": "edgewarden.status/1", **said}),
    ):
        path = settings(tmp_path, 1)
        text = Path(path).read_text().replace("localhost", "broker.invalid")
        Path(path).write_text(f'{text}proxy = "socks5://127.0.0.1:{port}"\n')
        _, rungs = climb(path, capsys)
    assert (rungs["proxy"], rungs["tls"]) == ("ok", "unchecked")
    assert rungs["session"] == ("ok" if connected else "failing")


def test_with_link_alive_no_second_session_is_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.gateway()
    serve = world.broker(world.authority.server(), world.authority.pem)

    def answer(request: Request) -> dict[str, object]:
        return {"schema": "edgewarden.status/1", **ANSWER}

    with (
        listening(serve) as port,
        running_link(tmp_path / "run", answer),
        running_gate(tmp_path / "run", lambda request: stats()) as asked,
    ):
        _, rungs = climb(settings(tmp_path, port), capsys)
    assert rungs["session"] == rungs["tls"] == rungs["gate"] == rungs["sensors"] == "ok"
    assert "mqtt" not in rungs
    assert not any(b"MQTT" in data for data in world.heard), "a CONNECT would end link's session"
    assert [request.verb for request in asked] == ["status"]


def test_an_expired_certificate_is_the_first_broken_rung(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    until_the_alert(monkeypatch)
    world = World(tmp_path)
    leaf = world.authority.client(ended=True)
    store_identity(
        tmp_path / "state", world.authority.pem, leaf, not_after_utc="2026-01-02T00:00:00Z"
    )
    (tmp_path / "run").mkdir()
    serve = world.broker(world.authority.server(), world.authority.pem)
    with listening(serve) as port:
        main(["doctor", "--settings", settings(tmp_path, port)])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("first: identity: the certificate of gw-demo expired at 2026")
    assert printed[0].endswith("[EW-ID-012]")
    assert any("refused our certificate" in line for line in printed)
    assert all(len(line) <= 80 for line in printed if not line.lstrip().startswith("next:"))


def test_a_key_that_cannot_be_used_is_found_without_signing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    World(tmp_path).gateway()
    (tmp_path / "state/identity/identity-1/key.pem").write_text("damaged")
    assert main(["doctor", "identity", "--settings", settings(tmp_path, 1)]) == 2
    assert "[EW-ID-003]" in capsys.readouterr().out


def test_identity_selftest_finds_a_certificate_of_another_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.gateway()
    path = settings(tmp_path, 1)
    assert main(["identity", "selftest", "--settings", path]) == 0
    assert capsys.readouterr().out.count("ok: ") == 4
    other = world.authority.client()
    (tmp_path / "state/identity/identity-1/cert.pem").write_bytes(other.cert_pem)
    assert main(["identity", "selftest", "--settings", path]) == 2
    assert "[EW-ID-005]" in capsys.readouterr().err


def test_identity_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    World(tmp_path).gateway()
    assert main(["identity", "show", "--json", "--settings", settings(tmp_path, 1)]) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["schema"] == "edgewarden.identity/1"
    assert body["device"] == "gw-demo"
    assert body["certificate"]["serial"] == "2a"


@pytest.mark.parametrize(
    ("clock", "state"),
    [
        ({"state": "signed", "uncertainty_s": 0.25, "utc": "2026-11-25T20:00:00Z"}, "signed"),
        ({"state": "ntp", "uncertainty_s": 0.02, "utc": "2026-11-25T20:00:00Z"}, "unsynced"),
        ({"state": "signed", "uncertainty_s": 0.25}, "unsynced"),
        ({"state": "signed", "uncertainty_s": 0.25, "utc": "yesterday"}, "unsynced"),
        ({"state": "unsynced", "uncertainty_s": None, "utc": "2026-11-25T20:00:00Z"}, "unsynced"),
    ],
)
def test_where_the_fleet_signed_the_time_doctor_goes_by_it_as_link_does(
    clock: dict[str, object], state: str
) -> None:
    """A board without a clock: certificates are held to the signed time, not to the system's."""
    found = as_link_knows(Instant(7, 5, None, "unsynced"), {"clock": clock})
    assert (found.boot_ns, found.state) == (7, state)
    if state == "signed":
        assert (found.wall_ns, found.uncertainty_ms) == (1_795_636_800 * 10**9, 250)
    assert as_link_knows(Instant(7, 5, None, "unsynced"), None).wall_ns == 5
