"""The word that a boot got through: a gate that starts is waited for, and for a while alone."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.lockout import healthy
from edgewarden.wire.local import MAX_MESSAGE_BYTES, Answer, Request, encode, parse


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as made:
        made.settimeout(120)
        yield made


def test_a_gate_that_starts_is_waited_for(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First there is no socket, then one that nobody listens on."""
    heard: list[object] = []
    listens = threading.Event()

    def listen() -> None:
        listener.listen(1)
        listens.set()

    steps = [lambda: listener.bind(str(tmp_path / "gate.sock")), listen]

    class Poll:
        def poll(self, wait_ms: int) -> None:
            assert wait_ms == healthy.BETWEEN_MS
            steps.pop(0)()

    def gate() -> None:
        if not listens.wait(120):
            return
        client, _ = listener.accept()
        with client:
            heard.append(parse(client.recv(MAX_MESSAGE_BYTES), Request))
            client.send(encode(Answer(True, "", "this boot is healthy")))

    monkeypatch.setattr(healthy, "poll", Poll)
    monkeypatch.setattr(healthy, "PATIENCE_S", 120.0)  # gate is a thread that may stand still
    thread = threading.Thread(target=gate)
    thread.start()
    try:
        assert healthy.main(str(tmp_path)) == 0
    finally:
        thread.join(150)
    assert heard == [Request("healthy", "learn")]


def test_where_no_gate_runs_there_is_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """But that is told: of a gate that comes later the boot counts as not healthy."""
    waits: list[int] = []
    monkeypatch.setattr(
        healthy, "poll", lambda: type("P", (), {"poll": staticmethod(waits.append)})
    )
    assert healthy.main(str(tmp_path)) == 0
    assert len(waits) == healthy.TRIES - 1
    assert "no gate listens" in capsys.readouterr().err


def test_a_gate_that_goes_without_a_word_has_not_taken_it(
    tmp_path: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    listener.bind(str(tmp_path / "gate.sock"))
    listener.listen(1)

    def gate() -> None:
        client, _ = listener.accept()
        client.close()

    thread = threading.Thread(target=gate)
    thread.start()
    try:
        assert healthy.main(str(tmp_path)) == 2
    finally:
        thread.join(150)
    assert "EW-AGT-006" in capsys.readouterr().err
