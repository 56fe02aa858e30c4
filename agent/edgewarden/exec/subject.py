"""Who wants to execute something: found out when a rule asks, while the process waits for us.

What this decides: what counts as told, in order:

1. The kernel's word about the pidfd that came with the event (PIDFD_GET_INFO, 6.13): nothing is
   opened, and it is of this process or an error.
2. Older kernels: /proc by the number that came with the event, believed only if the event's process
   still lives afterwards (its pidfd): a number that was recycled meanwhile tells nothing.
3. A cgroup's path by its id, remembered (CGROUPS): ids are not used twice, and a cgroup of the
   unified hierarchy cannot be renamed.

cmdline, environ and maps are never read: they take the other process's memory lock, which a hung
filesystem can hold.

What it leaves to others: what follows (judge/exec_rules.py), the doors (gate/doors.py).

    subjects = Subjects(proc_text, image_of)
    subject = subjects.of(event)
    subject.uid; subject.parent; subject.cgroup       # UNKNOWN_UID, b"", "" when it cannot be told
"""

from __future__ import annotations

from edgewarden.kernel.process import ProcessInfo, process_info
from edgewarden.wire.local_messages import UNKNOWN_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from edgewarden.kernel.fanotify import ExecEvent

CGROUPS = 512
"""Paths remembered, about 200 bytes each; a gateway has some 60 units."""
_UNIFIED = "0::"
"""cgroups(7): the line of the unified hierarchy in /proc/PID/cgroup."""


class SubjectCounts(Exception):
    """A rule asked who it is."""


class Anybody:
    """A subject that is nobody in particular: raises SubjectCounts as soon as a rule asks."""

    __slots__ = ()

    @property
    def uid(self) -> NoReturn:
        raise SubjectCounts

    parent = cgroup = uid


class Subjects:
    """Makes subjects, and remembers the paths of cgroups.

    Args:
        proc_text: name below /proc -> its text, "" when it is gone.
        image_of: pid -> SHA-256 of the image it runs, b"" when that is not known.
    """

    __slots__ = ("_cgroups", "image_of", "proc_text")

    def __init__(self, proc_text: Callable[[str], str], image_of: Callable[[int], bytes]) -> None:
        self.proc_text = proc_text
        self.image_of = image_of
        self._cgroups: dict[int, str] = {}

    def of(self, event: ExecEvent) -> Subject:
        """Who asks in this event; nothing is looked up yet."""
        return Subject(event, self)

    def uid_of(self, event: ExecEvent) -> int:
        """Real uid of the event's process, UNKNOWN_UID when it has ended."""
        return Subject(event, self).uid

    def cgroup(self, info: ProcessInfo, subject: Subject) -> str:
        """The path of a cgroup by its id."""
        found = self._cgroups.get(info.cgroup_id)
        if found is None:
            found = subject.read_cgroup()
            again = subject.info(anew=True)
            if found and again is not None and again.cgroup_id == info.cgroup_id:
                if len(self._cgroups) >= CGROUPS:
                    del self._cgroups[next(iter(self._cgroups))]
                self._cgroups[info.cgroup_id] = found
        return found


class Subject:
    """See the module; judge/exec_rules.py has the protocol.

    Args:
        event: the process that waits.
        ways: how to find out.
    """

    __slots__ = ("_event", "_info", "_more", "_ways")

    def __init__(self, event: ExecEvent, ways: Subjects) -> None:
        self._event = event
        self._ways = ways
        self._info: ProcessInfo | None = None
        self._more = False

    @property
    def ids(self) -> tuple[int, int] | None:
        """Real uid and cgroup, if what was asked follows from these two alone."""
        info = self._info
        return None if info is None or self._more else (info.uid, info.cgroup_id)

    @property
    def uid(self) -> int:
        try:
            info = self.info()
        except ProcessLookupError:
            return UNKNOWN_UID
        if info is not None:
            return info.uid
        text = self._text("status")
        at = text.find("\nUid:\t")
        return int(text[at + 6 :].split(None, 1)[0]) if at >= 0 else UNKNOWN_UID

    @property
    def parent(self) -> bytes:
        self._more = True
        pid = self._event.pid
        found = self._ways.image_of(pid) if pid > 0 else b""
        return found if self._event.is_alive() else b""

    @property
    def cgroup(self) -> str:
        try:
            info = self.info()
            found = self.read_cgroup() if info is None else self._ways.cgroup(info, self)
        except ProcessLookupError:
            found = ""
        self._more = self._more or not found
        return found

    def info(self, *, anew: bool = False) -> ProcessInfo | None:
        """The kernel's word; None where it has none.

        Raises:
            ProcessLookupError: the process has ended.
        """
        if self._info is None or anew:
            self._info = process_info(self._event.pidfd) if self._event.pidfd >= 0 else None
        return self._info

    def read_cgroup(self) -> str:
        """The path as /proc has it now; "" when it does not say."""
        for line in self._text("cgroup").split("\n"):
            if line.startswith(_UNIFIED):
                return line[len(_UNIFIED) :]
        return ""

    def _text(self, name: str) -> str:
        event = self._event
        text = self._ways.proc_text(f"{event.pid}/{name}") if event.pid > 0 else ""
        return text if text and event.is_alive() else ""
