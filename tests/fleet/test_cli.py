"""The operator's commands: help, exit codes, data on stdout, faults with code and next step."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from edgewarden.wire.record import RecordClass
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.cli.main import NOUNS, main
from edgewarden_fleet.store.schema import open_store
from tests.fleet.makers import NOW, Board, Desk
from tests.fleet.test_folder import make

AUDIT = RecordClass.AUDIT


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    made = make(tmp_path / "fleet")
    open_store(made.database).close()
    return made.path


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(w) for w in words])
    except SystemExit as ended:
        code = int(ended.code or 0)
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.mark.parametrize("noun", NOUNS)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], noun: str) -> None:
    code, out, _ = run(capsys, noun, "--help")
    assert code == 0
    assert f"edgewarden-fleet {noun}" in out


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["show"], ["token", "new"], ["init", "x", "--broker-port", "99999"]]
)
def test_a_wrong_command_line_is_64(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    code, out, err = run(capsys, *words)
    assert (code, out) == (64, "")
    assert "next:" in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["gateways", "--dir", "{tmp}/absent"], 65),
        (["show", "nobody", "--dir", "{fleet}"], 65),
        (["revoke", "nobody", "--dir", "{fleet}"], 65),
        (["token", "new", "--device", "A B", "--dir", "{fleet}"], 65),
        (["init", "{fleet}"], 73),
        (["init", "{tmp}/x", "--tenant", "A/B"], 65),
        (["init", "{tmp}/x", "--broker-host", "a b"], 65),
        (["reference", "add", "--dir", "{fleet}"], 65),
        (["reference", "add", "{tmp}/absent.whl", "--dir", "{fleet}"], 65),
        (["reference", "add", "--settings", "{tmp}/absent", "--dir", "{fleet}"], 65),
        (["verify", "{tmp}/absent", "--dir", "{fleet}"], 65),
        (["decode", "{fleet}/fleet.toml"], 65),
        (["verify", "-", "--ca", "{fleet}/fleet.toml"], 65),
    ],
)
def test_a_fault_has_a_code_and_a_next_step(
    capsys: pytest.CaptureFixture[str], fleet: Path, words: list[str], code: int
) -> None:
    filled = [w.format(tmp=fleet.parent, fleet=fleet) for w in words]
    got, out, err = run(capsys, *filled)
    assert (got, out) == (code, "")
    assert "[EW-" in err
    assert "next:" in err
    assert "Traceback" not in err
    assert not (fleet.parent / "x").exists()


def test_a_port_that_is_picked_is_none_that_the_kernel_gives_to_clients(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that is away for a moment finds its own taken by whoever knocks there meanwhile."""
    kernels = tmp_path / "kernels"
    kernels.write_text("12000\t63000\n")
    monkeypatch.setattr("edgewarden_fleet.cli.init._KERNELS", kernels)
    found: list[int] = []
    for name in ("one", "other"):
        ports = ("--broker-port", "0", "--enroll-port", "0", "--console-port", "0")
        code, out, _ = run(capsys, "init", tmp_path / name, *ports, "--json")
        assert code == 0
        said = json.loads(out)
        urls = [urlsplit(said[key]).port for key in ("enroll", "console")]
        found += [said["broker"]["port"], *(port or 0 for port in urls)]
    assert len(set(found)) == 6
    assert not set(found) & set(range(12_000, 63_001))


def test_a_token_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str], fleet: Path) -> None:
    code, out, err = run(capsys, "token", "new", "--device", "gw-demo", "--dir", fleet)
    assert code == 0
    assert out.startswith("ew1.gw-demo.")
    assert out.count("\n") == 1
    assert "edgewarden enroll --ca https://" in err
    _, out, _ = run(capsys, "token", "new", "--device", "gw-demo", "--dir", fleet, "--json")
    assert json.loads(out)["schema"] == "edgewarden-fleet.token/1"


@pytest.mark.parametrize(
    "words", [["token", "new", "--device", "x"], ["revoke", "x"], ["gateways"]]
)
def test_a_folder_of_another_user_is_said_plainly(
    capsys: pytest.CaptureFixture[str],
    fleet: Path,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def access(path: object, mode: int) -> bool:
        return not str(path).startswith(str(fleet / "store"))

    monkeypatch.setattr("edgewarden_fleet.store.schema.os.access", access)
    code, out, err = run(capsys, *words, "--dir", fleet)
    assert (code, out) == (77, "")
    assert f"this user may not use {fleet / 'store'} [EW-SET-021]" in err
    assert "next: run as the user who made the fleet folder" in err


def test_a_key_of_another_user_is_said_plainly(
    capsys: pytest.CaptureFixture[str], fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == "root.pem":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    code, _, err = run(capsys, "token", "new", "--device", "x", "--dir", fleet)
    assert code == 77
    assert f"this user may not use {fleet / 'ca/root.pem'}" in err


def test_reading_an_empty_fleet(capsys: pytest.CaptureFixture[str], fleet: Path) -> None:
    code, out, _ = run(capsys, "gateways", "--dir", fleet)
    assert code == 0
    assert "verdict" in out
    _, out, _ = run(capsys, "gateways", "--dir", fleet, "--json")
    assert json.loads(out) == {"schema": "edgewarden-fleet.gateways/1", "gateways": []}


def test_references_are_kept_and_listed(capsys: pytest.CaptureFixture[str], fleet: Path) -> None:
    policy = fleet.parent / "policy.toml"
    policy.write_text("x = 1\n")
    code, _, _ = run(
        capsys, "reference", "add", "--policy", policy, "--device", "gw-demo", "--dir", fleet
    )
    assert code == 0
    _, out, _ = run(capsys, "reference", "list", "--dir", fleet, "--json")
    (kept,) = json.loads(out)["references"]
    assert (kept["kind"], kept["device"]) == ("policy", "gw-demo")
    assert list(kept["sources"]) == ["policy.toml"]


def test_a_gateway_is_shown_and_its_verdict_is_the_exit_code(
    capsys: pytest.CaptureFixture[str], fleet: Path, desk: Desk
) -> None:
    board = Board(desk)
    desk.record(board.introduce(RecordClass.ALARM))
    desk.record(board.denied(bytes(32), path="/mnt/\x1b[31mx"))
    with open_store(fleet / "store" / "fleet.db") as target:
        desk.db.backup(target)
    target.close()
    code, out, _ = run(capsys, "show", "gw-demo", "--dir", fleet)
    assert code == 1
    assert "not attested" in out
    assert "\x1b" not in out
    code, out, _ = run(capsys, "show", "gw-demo", "--dir", fleet, "--json")
    body = json.loads(out)
    assert code == 0
    assert body["exec"]["denied_verdicts"][0]["digest"] == "00" * 32
    code, out, _ = run(capsys, "revoke", "gw-demo", "--reason", "stolen", "--dir", fleet)
    assert code == 0
    assert run(capsys, "show", "gw-demo", "--dir", fleet)[0] == 2
    assert "gw-demo" in run(capsys, "gateways", "--dir", fleet)[1]


def test_verify_and_decode_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, desk: Desk, board: Board
) -> None:
    ca = tmp_path / "root.pem"
    ca.write_text(certificates.pem(desk.root.certificate))
    made = [board.introduce(AUDIT).data, *(board.event(AUDIT, n=n).data for n in range(3))]
    path = tmp_path / "records"

    def verify(*data: bytes) -> tuple[int, dict[str, object]]:
        path.write_bytes(b"".join(data))
        code, out, _ = run(capsys, "verify", path, "--ca", ca, "--at", str(NOW), "--json")
        return code, json.loads(out)

    assert verify(*made)[0] == 0
    code, body = verify(made[0], made[1], made[3])
    assert (code, body["outcomes"]) == (1, {"next": 2, "gap": 1})
    code, body = verify(made[0], made[1][:-1] + b"\0")
    assert (code, body["refused"]) == (2, 1)
    path.write_bytes(b"".join(made))
    code, out, _ = run(capsys, "verify", path, "--ca", ca, "--at", str(NOW))
    assert (code, out) == (0, "4 accepted, 0 refused\n")
    code, out, err = run(capsys, "decode", path, "--json")
    assert code == 0
    decoded = json.loads(out)
    assert decoded["verified"] is False
    assert [m["kind"] for m in decoded["messages"]] == ["report-key", *["event"] * 3]
    code, out, err = run(capsys, "decode", path)
    assert "not verified" in err
