"""gate's three sockets: facts out to link, a person's control in, heartbeats to guard.

What this decides: who is heard (the kernel's SO_PEERCRED, never a claim), and that nobody who
listens slowly can delay gate: every send is non-blocking. What it leaves to others: what to say
(daemon/gate.py), what waits until it can be said (gate/facts.py), the bytes (wire/local.py).

    control = Control(listen(path), handle)
    send(client, encode(Answer(True, "", "observe")))
"""

from __future__ import annotations

import os
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_SEQPACKET,
    socket,
)

from edgewarden.errors import HardwareFault, OperatorFault, WireRefusal
from edgewarden.kernel.netlink import PROC_EVENT_EXEC, PROC_EVENT_EXIT, PROC_EVENT_FORK
from edgewarden.kernel.process import accept_connection, peer_of
from edgewarden.wire.local import (
    MAX_MESSAGE_BYTES,
    Answer,
    AreaStats,
    GateStats,
    Heartbeat,
    ProcBatch,
    ProcEntry,
    Request,
    TripInfo,
    encode,
    parse,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.netlink import Gathered

    Handle = Callable[[Request, int], Answer | GateStats | AreaStats]

CONTROL_CLIENTS = 4
BACKLOG = 8
HEARTBEAT_S, EARLY_S = 1.2, 0.6
"""An idle gate's, and how much sooner one beats that is awake anyway: two and four of them fit into
guard's patience (guard.SILENCE_S)."""
STOPPER_S = 0.9
"""An idle gate's at tier T2: behind one that is older than a second its BPF programs stop nobody
(STALE_NS in deploy/bpf/exec_stop.bpf.c)."""
SUN_PATH_BYTES = 107
"""<linux/un.h>: sun_path[108] with its NUL."""

_PROC_WORDS = {PROC_EVENT_FORK: "fork", PROC_EVENT_EXEC: "exec", PROC_EVENT_EXIT: "exit"}
_U32 = 0xFFFFFFFF
_KIND = SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC


def beat_after_s(source: str) -> float:
    """Seconds to an idle gate's next heartbeat; ``source`` is where execs come from."""
    return STOPPER_S if source == "bpf-stop" else HEARTBEAT_S


def listen(path: str, *, owner_uid: int = 0) -> socket:
    """A listening socket at ``path``, mode 0600, owned by ``owner_uid``.

    What a gate that ended has left there is replaced; what one that lives listens at is not.

    Raises:
        OperatorFault: the path is too long, the directory refuses, or (field name ``taken``)
            somebody answers there.
    """
    if len(os.fsencode(path)) > SUN_PATH_BYTES:
        raise _fault(path, f"longer than {SUN_PATH_BYTES} bytes", "choose a shorter [paths] run")
    made = socket(AF_UNIX, _KIND)
    mask = os.umask(0o177)
    try:
        if os.path.lexists(path):
            _check_nobody_answers(path)
            os.unlink(path)
        made.bind(path)
        os.chown(path, owner_uid, -1)
        made.listen(BACKLOG)
    except OperatorFault:
        made.close()
        raise
    except OSError as fault:
        made.close()
        text = os.strerror(fault.errno or 0)
        raise _fault(path, text, "check that [paths] run is there") from fault
    finally:
        os.umask(mask)
    return made


def _check_nobody_answers(path: str) -> None:
    """Refuse a socket that has a listener; one whose queue is full has one, too."""
    other = socket(AF_UNIX, _KIND)
    try:
        other.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except PermissionError:
        # The facts socket is link's and gate has no CAP_DAC_OVERRIDE: systemd's gate could never
        # start again after a kill. That no other gate lives is asked at the control socket, root's.
        return
    except BlockingIOError:
        pass
    finally:
        other.close()
    raise _fault(path, "another gate listens here", "end it first", name="taken")


def _fault(path: str, text: str, next_step: str, name: str = "no_socket") -> OperatorFault:
    return OperatorFault(
        f"{path}: {text}", code="EW-EXEC-016", next_step=next_step, path=path, name=name
    )


def send(connection: socket, data: bytes) -> bool | None:
    """True sent, None not now, False the peer is gone."""
    try:
        connection.send(data, MSG_DONTWAIT | MSG_NOSIGNAL)
    except BlockingIOError:
        return None
    except OSError:
        return False
    return True


def receive(connection: socket) -> bytes | None:
    """One message, b"" at the end of the connection, None when there is none."""
    try:
        return connection.recv(MAX_MESSAGE_BYTES + 1, MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def batch_of(seen: Gathered, boot_minus_mono_ns: int) -> ProcBatch:
    """The fact; the proc connector counts in CLOCK_MONOTONIC, facts in CLOCK_BOOTTIME."""
    entries = tuple(
        ProcEntry(
            _PROC_WORDS[e.kind], e.pid, e.other & _U32, max(0, e.mono_ns + boot_minus_mono_ns)
        )
        for e in seen.events
    )
    return ProcBatch(seen.forks, seen.execs, seen.exits, seen.resync, entries)


class Control:
    """A person's requests, from root only.

    Args:
        listener: of run/gate.sock.
        handle: request and the pid of who asks -> answer; raises nothing.
    """

    def __init__(self, listener: socket, handle: Handle) -> None:
        self.listener = listener
        self.refused = 0
        self._handle = handle
        self._clients: dict[socket, int] = {}

    def accept(self) -> list[socket]:
        """New clients that may speak; others hear why not and are closed."""
        taken = []
        while (found := accept_connection(self.listener)) is not None:
            client, peer = found
            if peer.uid != 0:
                self._refuse(client, "not_permitted", f"uid {peer.uid}; only root controls gate")
            elif len(self._clients) >= CONTROL_CLIENTS:
                self._refuse(client, "busy", "too many control connections; try again")
            else:
                self._clients[client] = peer.pid
                taken.append(client)
        return taken

    def _refuse(self, client: socket, name: str, text: str) -> None:
        self.refused += 1
        send(client, encode(Answer(False, name, text)))
        client.close()

    def serve(self, client: socket) -> bool:
        """Answer one request; False when the client is gone and must be forgotten."""
        data = receive(client)
        if data is None:
            return True
        if data:
            try:
                answer = self._handle(parse(data, Request), self._clients[client])
            except WireRefusal as refusal:
                send(client, encode(Answer(False, refusal.name, refusal.text)))
                data = b""
            else:
                if send(client, encode(answer)):
                    return True
        del self._clients[client]
        client.close()
        return False

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self._clients.clear()


class GuardLine:
    """The connection to guard: heartbeats out, its count of trips in.

    Args:
        path: guard's socket.
        mono_ns: CLOCK_MONOTONIC, which guard goes by, too.

    Attributes:
        connection: None while nobody listens at the socket.
        trips: kills within guard's window, as it said when we connected.
        pid: guard's, 0 before it spoke.
        present: it spoke on this connection. A connection alone says nothing: the socket is held
            by whoever starts guard, and queues us while guard is dead.
    """

    def __init__(self, path: str, mono_ns: Callable[[], int]) -> None:
        self._mono_ns = mono_ns
        self.connection: socket | None = None
        self.trips = 0
        self.pid = 0
        self._path = path

    @property
    def present(self) -> bool:
        return self.connection is not None and self.pid != 0

    def connect(self) -> bool:
        """Try once; does not wait."""
        made = socket(AF_UNIX, _KIND)
        try:
            made.connect(self._path)
            ours = peer_of(made).uid == 0
        except (OSError, HardwareFault):
            ours = False
        if not ours:
            made.close()
            return False
        self.connection = made
        return self.beat()

    def beat(self) -> bool:
        """One heartbeat; False when guard is gone."""
        if self.connection is None:
            return False
        if send(self.connection, encode(Heartbeat(self._mono_ns()))) is False:
            self.drop()
        return self.connection is not None

    def hear(self) -> bool:
        """Take what guard said; False when it is gone."""
        while self.connection is not None and (data := receive(self.connection)) is not None:
            try:
                said = parse(data, TripInfo)
            except WireRefusal:
                self.drop()
            else:
                self.trips, self.pid = said.trips, said.pid
        return self.connection is not None

    def fileno(self) -> int:
        """Of the connection, -1 without one."""
        return -1 if self.connection is None else self.connection.fileno()

    def drop(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.pid = 0
