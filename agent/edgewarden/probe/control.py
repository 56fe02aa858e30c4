"""Asking the running agent: link through its JSON socket, gate through its seqpacket socket.

Both block for at most ``ANSWER_S``, for evidence ``EVIDENCE_S``, and change nothing but what the
question says. Only root may ask gate; root and the group edgewarden may ask link.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from edgewarden.errors import OperatorFault, PeerUnavailable
from edgewarden.wire import control, local

ANSWER_S = 5.0
"""link answers in milliseconds unless the board swaps."""
EVIDENCE_S = 20.0
"""At a start link waits 8 s for gate's tier (daemon/heard.py), then 2 s if it has just answered the
broker's challenge (daemon/attester.py), and a TPM takes its time."""

LINK_SOCKET = "link/link.sock"
GATE_SOCKET = "gate.sock"
"""Below [paths] run. link may write into run/link only (daemon/supervise.py, tmpfiles.d)."""


def ask_link(
    run_dir: str, asked: control.Command | control.Request, challenge: bytes = b""
) -> dict[str, object]:
    """Return link's answer, checked.

    Args:
        asked: a command, or a whole request.
        challenge: for Command.EVIDENCE.

    Raises:
        PeerUnavailable: EW-AGT-002 nobody listens; EW-AGT-006 no whole answer in time.
        OperatorFault: EW-AGT-005, this user may not ask.
        WireRefusal: the answer is not one.
        control.Refused: link refused.
    """
    question = asked
    if not isinstance(question, control.Request):
        question = control.Request(question, challenge)
    with _connection(socket.SOCK_STREAM, f"{run_dir}/{LINK_SOCKET}", "link", "EW-AGT-002") as peer:
        if question.command is control.Command.EVIDENCE:
            peer.settimeout(EVIDENCE_S)
        peer.sendall(control.encode_request(question))
        line = b""
        while len(line) <= control.MAX_ANSWER_BYTES:
            chunk = peer.recv(65536)
            if not chunk:
                break
            line += chunk
    if not line:
        raise PeerUnavailable(
            "link closed the connection without an answer",
            code="EW-AGT-006",
            next_step="wait a minute and try again; too many clients ask at once",
        )
    return control.parse_answer(line, question.command)


def ask_gate(run_dir: str, request: local.Request) -> local.Answer | local.GateStats:
    """Return gate's answer.

    Raises:
        PeerUnavailable: EW-AGT-003 nobody listens; EW-AGT-006 no answer in time.
        OperatorFault: EW-AGT-005, only root may ask.
        WireRefusal: the answer is not one.
    """
    answer = local.parse(_gate_says(run_dir, request), local.Answer, local.GateStats)
    assert isinstance(answer, local.Answer | local.GateStats)  # parse() takes no other type
    if isinstance(answer, local.Answer) and answer.name == "not_permitted":
        raise _root_only()
    return answer


def ask_area(run_dir: str, area: str) -> local.Answer | local.AreaStats:
    """Return gate's picture of one area, or why it has none; raises as ``ask_gate``."""
    request = local.Request("area", "learn", 0, area)
    answer = local.parse(_gate_says(run_dir, request), local.Answer, local.AreaStats)
    assert isinstance(answer, local.Answer | local.AreaStats)  # parse() takes no other type
    if isinstance(answer, local.Answer) and answer.name == "not_permitted":
        raise _root_only()
    return answer


def _gate_says(run_dir: str, request: local.Request) -> bytes:
    with _connection(socket.SOCK_SEQPACKET, f"{run_dir}/{GATE_SOCKET}", "gate", "EW-AGT-003") as g:
        g.sendall(local.encode(request))
        data = g.recv(local.MAX_MESSAGE_BYTES + 1)
    if not data:
        raise PeerUnavailable(
            "gate closed the connection without an answer",
            code="EW-AGT-006",
            next_step="wait a minute and try again",
        )
    return data


def _root_only() -> OperatorFault:
    return OperatorFault(
        "gate answers root only",
        code="EW-AGT-005",
        next_step="run the command again with sudo",
    )


@contextlib.contextmanager
def _connection(
    kind: socket.SocketKind, path: str, who: str, absent: str
) -> Iterator[socket.socket]:
    """A connected socket with a time limit; the kernel's refusals under our names."""
    with socket.socket(socket.AF_UNIX, kind) as peer:
        peer.settimeout(ANSWER_S)
        try:
            peer.connect(path)
            yield peer
        except (FileNotFoundError, ConnectionRefusedError) as fault:
            raise PeerUnavailable(
                f"{who} is not running (nobody listens on {path})",
                code=absent,
                next_step=f"start it: `systemctl start edgewarden-{who}` or `edgewarden run`",
            ) from fault
        except PermissionError as fault:
            raise OperatorFault(
                f"this user may not ask {who}",
                code="EW-AGT-005",
                next_step="run the command again with sudo",
            ) from fault
        except OSError as fault:  # a timeout, a reset, a path that is too long
            raise PeerUnavailable(
                f"{who} does not answer: {fault}",
                code="EW-AGT-006",
                next_step=f"wait a minute and try again; then restart edgewarden-{who}",
            ) from fault
