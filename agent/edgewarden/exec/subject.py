"""Who wants to execute something: found out when a rule asks, while the process waits for us.

What this decides: what counts as told. Everything is read from /proc by the number that came with
the event, and believed only if the event's process still lives afterwards (its pidfd): a number
that was recycled meanwhile tells nothing. cmdline, environ and maps are never read: they take the
other process's memory lock, which a hung filesystem can hold.

What it leaves to others: what follows (judge/exec_rules.py), the doors (gate/doors.py).

    subject = Subject(event, proc_text, image_of)
    subject.uid; subject.parent; subject.cgroup       # UNKNOWN_UID, b"", "" when it cannot be told
"""

from __future__ import annotations

from edgewarden.wire.local_messages import UNKNOWN_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.kernel.fanotify import ExecEvent

_UNIFIED = "0::"
"""cgroups(7): the line of the unified hierarchy in /proc/PID/cgroup."""


class Subject:
    """See the module; judge/exec_rules.py has the protocol.

    Args:
        event: the process that waits.
        proc_text: name below /proc -> its text, "" when it is gone.
        image_of: pid -> SHA-256 of the image it runs, b"" when that is not known.
    """

    __slots__ = ("_cgroup", "_event", "_image_of", "_parent", "_proc_text", "_uid")

    def __init__(
        self,
        event: ExecEvent,
        proc_text: Callable[[str], str],
        image_of: Callable[[int], bytes],
    ) -> None:
        self._event = event
        self._proc_text = proc_text
        self._image_of = image_of
        self._uid: int | None = None
        self._parent: bytes | None = None
        self._cgroup: str | None = None

    @property
    def uid(self) -> int:
        if self._uid is None:
            text = self._text("status")
            at = text.find("\nUid:\t")
            self._uid = int(text[at + 6 :].split(None, 1)[0]) if at >= 0 else UNKNOWN_UID
        return self._uid

    @property
    def parent(self) -> bytes:
        if self._parent is None:
            pid = self._event.pid
            found = self._image_of(pid) if pid > 0 else b""
            self._parent = found if self._event.is_alive() else b""
        return self._parent

    @property
    def cgroup(self) -> str:
        if self._cgroup is None:
            lines = self._text("cgroup").split("\n")
            found = [line[len(_UNIFIED) :] for line in lines if line.startswith(_UNIFIED)]
            self._cgroup = found[0] if found else ""
        return self._cgroup

    def _text(self, name: str) -> str:
        event = self._event
        text = self._proc_text(f"{event.pid}/{name}") if event.pid > 0 else ""
        return text if text and event.is_alive() else ""
