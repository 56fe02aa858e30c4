"""Listening and asking on a real (pseudo) port: bounded, exclusive, silent unless told to speak."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import serial

from edgewarden.errors import HardwareFault
from edgewarden.probe import listening
from edgewarden.probe.guess import look
from edgewarden.probe.listening import ask, framing_errors, is_pty, listen
from edgewarden.serial.modbus import seal
from edgewarden.serial.opening import close_port, open_port
from edgewarden.serial.portlife import Line
from hw.rigs.ptys import PtyPort
from tests.serial.test_nmea import GGA, sealed


@contextmanager
def board(path: Path, does: Callable[[PtyPort], None]) -> Iterator[PtyPort]:
    """A port at whose other end ``does`` is done again and again."""
    ended = threading.Event()
    with PtyPort(path) as port:

        def work() -> None:
            while not ended.wait(0.02):
                does(port)

        device = threading.Thread(target=work)
        device.start()
        try:
            yield port
        finally:
            ended.set()
            device.join(60)


def until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is a thread of a slow machine takes longer for its answer than a real one."""
    gather = listening._gather

    def patient(fd: int, first_s: float, more_s: float) -> bytes:
        select.select([fd], [], [], 60)
        return gather(fd, first_s, more_s)

    monkeypatch.setattr(listening, "_gather", patient)


def test_a_gps_is_heard_and_nothing_is_sent(tmp_path: Path) -> None:
    with board(tmp_path / "p", lambda port: port.send(sealed(GGA))) as port:
        samples = list(listen(str(port.link), (9600,), 20))
        assert port.receive() == b""
    (guess,) = map(look, samples)
    assert guess.format == "nmea"
    assert guess.sure
    assert is_pty(str(tmp_path / "p")) is False  # gone again


def test_a_silent_port_ends_at_the_first_rate_and_in_time(tmp_path: Path) -> None:
    with PtyPort(tmp_path / "p") as port:
        assert is_pty(str(port.link))
        (sample,) = listen(str(port.link), (9600, 115200), 0.3)
    assert (sample.baud, sample.data, sample.framing_errors) == (9600, b"", None)


def test_a_flood_is_cut_off(tmp_path: Path) -> None:
    with board(tmp_path / "p", lambda port: port.send(b"x" * 4000)) as port:
        (sample,) = listen(str(port.link), (9600,), 20)
    assert len(sample.data) == 2048


def answers(port: PtyPort) -> None:
    if asked := port.receive():
        port.send(seal(bytes((asked[0], 3, 2, 0, 215))))


def echoes(port: PtyPort) -> None:
    if asked := port.receive():
        port.send(asked)


def both(port: PtyPort) -> None:
    if asked := port.receive():
        port.send(asked + seal(bytes((asked[0], 0x83, 2))))


@pytest.mark.parametrize(
    ("does", "answered", "echo"),
    [(answers, True, False), (echoes, False, True), (both, True, True)],
)
def test_a_modbus_device_is_asked_and_an_echo_is_known(
    tmp_path: Path,
    does: Callable[[PtyPort], None],
    answered: bool,
    echo: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    until_it_answers(monkeypatch)
    with board(tmp_path / "p", does) as port:
        told = list(ask(str(port.link), (9600,), 7, 20))
    assert len(told) == 1  # a pseudo-terminal has no parity
    assert any(reply is not None for _, reply, _ in told) is answered
    assert any(heard for _, _, heard in told) is echo


def test_a_line_that_the_driver_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    """termios.error is no OSError: it used to end the sensor's task."""
    with PtyPort(tmp_path / "p") as port:
        close_port(open_port(str(port.link), Line()))
        with pytest.raises(HardwareFault) as refused:  # parity is all that changes
            open_port(str(port.link), Line(parity="even"))
    assert refused.value.code == "EW-SER-001"


def test_a_port_that_is_unplugged_meanwhile_is_not_called_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PtyPort(tmp_path / "p") as port:

        def opened(path: str, line: Line) -> serial.Serial:
            made = open_port(path, line)
            port.unplug()
            return made

        monkeypatch.setattr("edgewarden.probe.listening.open_port", opened)
        with pytest.raises(HardwareFault, match="was lost") as lost:
            list(listen(str(port.link), (9600,), 10.0))
    assert lost.value.code == "EW-SER-003"


def test_a_port_that_is_held_cannot_be_listened_to(tmp_path: Path) -> None:
    with PtyPort(tmp_path / "p") as port:
        held = open_port(str(port.link), Line())
        try:
            assert framing_errors(held.fileno()) is None
            with pytest.raises(HardwareFault) as refused:
                list(listen(str(port.link), (9600,), 1))
        finally:
            close_port(held)
    assert refused.value.code == "EW-SER-001"
