"""The control server over a real socket: what it answers, whom it lets go, and its limits."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from edgewarden.daemon import control as server
from edgewarden.daemon.attester import MIN_INTERVAL_S
from edgewarden.daemon.heard import START_S
from edgewarden.errors import HardwareFault, OurFault, PeerUnavailable, WireRefusal
from edgewarden.probe import control as client
from edgewarden.probe.control import LINK_SOCKET, ask_link
from edgewarden.wire.control import Command, Refused, Request, encode_request
from tests.fakes.agent import running_link
from tests.waiting import wait_until

ASK = encode_request(Request(Command.SENSORS))


def answer(request: Request) -> dict[str, object]:
    return {"schema": request.command.schema, "device": "g", "sensors": {}}


def raw(path: Path, data: bytes, *, end: bool = False) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(30)
        peer.connect(str(path))
        peer.sendall(data)
        if end:
            peer.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := peer.recv(65536):
            said += chunk
        return said


def test_a_question_is_answered_and_the_connection_closed(tmp_path: Path) -> None:
    with running_link(tmp_path, answer):
        assert ask_link(str(tmp_path), Command.SENSORS)["device"] == "g"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"hello\n", "not_json"),
        (ASK + b"x", "not_one_line"),
        (b"x" * 5000, "too_long"),
        (ASK.replace(b"sensors", b"reboot"), "unknown_command"),
    ],
)
def test_what_is_no_question_is_refused_by_name(tmp_path: Path, data: bytes, name: str) -> None:
    with running_link(tmp_path, answer) as path:
        assert f'"name":"{name}"'.encode() in raw(path, data)


def test_a_question_cut_short_is_refused(tmp_path: Path) -> None:
    with running_link(tmp_path, answer) as path:
        assert b'"name":"not_one_line"' in raw(path, ASK[:-1], end=True)


def test_evidence_may_take_what_a_start_of_gate_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ended certificate is renewed also while link waits for gate: nobody else is so patient."""
    assert client.EVIDENCE_S > START_S + MIN_INTERVAL_S + client.ANSWER_S
    monkeypatch.setattr(client, "ANSWER_S", 0.0)  # whoever keeps to it hears nothing
    heard_nothing = threading.Event()

    def proof(request: Request) -> dict[str, object]:
        if request.command is Command.SENSORS:
            heard_nothing.wait(30)  # or the answer may be there before anybody looks
        return {"schema": request.command.schema, "device": "g", "evidence": "AA=="}

    with running_link(tmp_path, proof):
        assert ask_link(str(tmp_path), Command.EVIDENCE, b"?")["evidence"] == "AA=="
        with pytest.raises(PeerUnavailable):
            ask_link(str(tmp_path), Command.SENSORS)
        heard_nothing.set()


def test_our_own_fault_arrives_with_code_and_next_step(tmp_path: Path) -> None:
    def fail(request: Request) -> dict[str, object]:
        raise OurFault("no state", code="EW-SPL-001", next_step="look")

    with running_link(tmp_path, fail), pytest.raises(Refused) as caught:
        ask_link(str(tmp_path), Command.SENSORS)
    assert (caught.value.code, caught.value.next_step) == ("EW-SPL-001", "look")


def test_an_answer_that_is_no_json_is_a_refusal_not_silence(tmp_path: Path) -> None:
    with running_link(tmp_path, lambda request: {"x": b"y"}), pytest.raises(Refused):
        ask_link(str(tmp_path), Command.SENSORS)


def test_one_client_too_many_is_closed_and_the_others_are_served(tmp_path: Path) -> None:
    with running_link(tmp_path, answer) as path:
        held = [socket.socket(socket.AF_UNIX) for _ in range(server.MAX_CLIENTS)]
        try:
            for peer in held:
                peer.settimeout(30)
                peer.connect(str(path))
            wait_until(lambda: raw_or_closed(path) == b"")
            for peer in held:
                peer.sendall(ASK)
                assert b"edgewarden.sensors/1" in peer.recv(4096)
        finally:
            for peer in held:
                peer.close()


def raw_or_closed(path: Path) -> bytes:
    try:
        return raw(path, ASK)
    except OSError:
        return b""


def test_a_client_that_says_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "READ_S", 0.05)
    with running_link(tmp_path, answer) as path:
        assert raw(path, b"") == b""
        assert raw(path, ASK)


def test_the_socket_is_for_owner_and_group_alone(tmp_path: Path) -> None:
    with running_link(tmp_path, answer) as path:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert sorted(item.name for item in path.parent.iterdir()) == ["link.sock"]


def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / LINK_SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(PeerUnavailable) as caught:
        ask_link(str(tmp_path), Command.SENSORS)
    assert caught.value.code == "EW-AGT-002"
    with running_link(tmp_path, answer):
        assert ask_link(str(tmp_path), Command.SENSORS)


@pytest.mark.parametrize("group", [None, "no-such-group"])
def test_a_socket_that_cannot_be_made_says_why(tmp_path: Path, group: str | None) -> None:
    path = tmp_path / "l.sock" if group else tmp_path / "missing" / "l.sock"

    async def listen() -> None:
        with pytest.raises(HardwareFault) as caught:
            await server.serve_control(path, answer, group)
        assert caught.value.code == "EW-HOST-006"

    asyncio.run(listen())


def test_the_group_is_given(tmp_path: Path) -> None:
    import grp

    name = grp.getgrgid(os.getgid()).gr_name

    async def listen() -> None:
        (await server.serve_control(tmp_path / "l.sock", answer, name)).close()

    asyncio.run(listen())
    assert (tmp_path / "l.sock").stat().st_gid == os.getgid()


def test_an_answer_of_another_shape_is_refused(tmp_path: Path) -> None:
    with (
        running_link(tmp_path, lambda request: {"schema": request.command.schema}),
        pytest.raises(WireRefusal, match="device is missing"),
    ):
        ask_link(str(tmp_path), Command.SENSORS)


def test_a_link_that_never_answers_is_told_apart_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_S", 0.05)
    path = tmp_path / LINK_SOCKET
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(PeerUnavailable) as caught:
            ask_link(str(tmp_path), Command.STATUS)
    assert caught.value.code == "EW-AGT-006"
    assert threading.active_count() == 1
