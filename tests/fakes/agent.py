"""A running agent for commands: link behind the real control server, gate behind a real seqpacket
socket.

Each runs in a thread of this process and ends with its ``with`` block. Meanwhile everybody who asks
has patience: how long a question may take is the affair of tests that set a limit of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from edgewarden.daemon import control as server
from edgewarden.probe import control as client
from edgewarden.probe.control import GATE_SOCKET, LINK_SOCKET
from edgewarden.wire import local
from edgewarden.wire.control import Request

PATIENCE_S = 60.0
"""Of both sides: the machine may stand still between a connection and its question."""
OWN_S = {(client, "ANSWER_S"): client.ANSWER_S, (server, "READ_S"): server.READ_S}

STATS = local.GateStats(
    mode="observe",
    tier="T3",
    source="fanotify-permission",
    armed=False,
    link=True,
    guard=True,
    trips=0,
    filesystems=1,
    rules=2,
    generation=4,
    allowed=120,
    denied=0,
    would_deny=3,
    killed=0,
    learned=0,
    undecidable=0,
    unreported=0,
    hashed=5,
    cached=118,
    proc_events=900,
    proc_lost=0,
    gate_pss_bytes=6_000_000,
    guard_pss_bytes=5_000_000,
    boot_ns=1,
)


def stats(**changed: object) -> local.GateStats:
    """STATS with some fields changed."""
    fields = {name: getattr(STATS, name) for name in local.GateStats.__slots__}
    return local.GateStats(**{**fields, **changed})


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Limits that no test has changed are long ones."""
    own = [at for at, was_s in OWN_S.items() if getattr(*at) == was_s]
    for at in own:
        setattr(*at, PATIENCE_S)
    try:
        yield
    finally:
        for at in own:
            setattr(*at, OWN_S[at])


@contextlib.contextmanager
def running_link(run_dir: Path, handler: Callable[[Request], dict[str, object]]) -> Iterator[Path]:
    """Link's control socket below ``run_dir``, answering with ``handler``."""
    path = run_dir / LINK_SOCKET
    path.parent.mkdir(parents=True, exist_ok=True)
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(server.serve_control(path, handler))
    thread = threading.Thread(target=loop.run_forever, name="fake link")
    thread.start()
    try:
        with patience():
            yield path
    finally:
        loop.call_soon_threadsafe(listening.close)
        asyncio.run_coroutine_threadsafe(_drain(), loop).result(PATIENCE_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


async def _drain() -> None:
    """Wait for clients still being served, and for those whose connection begins their task."""
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)


@contextlib.contextmanager
def running_gate(
    run_dir: Path,
    handler: Callable[[local.Request], local.Answer | local.GateStats | local.AreaStats],
) -> Iterator[list[local.Request]]:
    """gate's control socket below ``run_dir``; yields the requests it got."""
    seen: list[local.Request] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        run_dir.mkdir(parents=True, exist_ok=True)
        listener.bind(str(run_dir / GATE_SOCKET))
        listener.listen(4)
        listener.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    peer, _ = listener.accept()
                    with peer:
                        answer(peer)

        def answer(peer: socket.socket) -> None:
            try:
                asked = peer.recv(4096)
            except OSError:
                asked = b""
            if not asked:
                return  # it has gone again without a question
            request = local.parse(asked, local.Request)
            seen.append(request)
            said = local.encode(handler(request))
            with contextlib.suppress(OSError):  # or did not wait for the answer
                peer.sendall(said)

        thread = threading.Thread(target=serve, name="fake gate")
        thread.start()
        try:
            with patience():
                yield seen
        finally:
            over.set()
            thread.join(PATIENCE_S)
