"""One rule about programs as gate holds it, and when it matches who asks.

What this decides: whether a rule's conditions on the subject hold. The subject is the process that
calls execve, with the image it has until then: for a program started by a shell that is the shell.
Conditions on the content (digest, path, package, class) were resolved when the policy was compiled
(judge/exec_table.py): a rule is only asked about content that it names.

Rules in order:

1. All conditions of a rule must hold; of the values of one condition one is enough.
2. Something about the subject that cannot be told (it ended, /proc does not say) fulfils a
   condition of a rule that denies and none of a rule that allows: not knowing never lets through.
3. ``unit`` is compared with the unit that systemd made, never with a name further down the
   cgroup path: below its own service a user may make cgroups of any name (``unit_of``).

    Rule("web", True, uids=((33, 33),), parents=(), units=("nginx.service",)).matches(subject)
"""

from __future__ import annotations

from edgewarden.wire.lean import Frozen
from edgewarden.wire.local_messages import UNKNOWN_UID
from edgewarden.wire.units import unit_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Subject(Protocol):
        """Who asks. Each is found out when a rule asks for it, and only then."""

        @property
        def uid(self) -> int:
            """Real user, UNKNOWN_UID when it cannot be told."""

        @property
        def parent(self) -> bytes:
            """SHA-256 of the image that calls execve, b"" when it cannot be told."""

        @property
        def cgroup(self) -> str:
            """Path in the unified hierarchy, beginning with ``/``; "" when it cannot be told."""


CLASSES = (
    "data", "program", "script", "library", "module", "interpreter", "shell", "loader",
)  # fmt: skip
"""What a content is. Order is the wire value; a new word goes to the end.

program      ELF that the kernel starts
script       starts with ``#!``
library      ELF shared object
module       read as code by an interpreter (Python, Perl)
interpreter  program that runs code it is handed (python3, perl, node)
shell        an interpreter that people log in with (sh, bash)
loader       ld.so: starts any ELF that it is handed
data         listed, of none of these
"""
HANDS_ON = frozenset(("interpreter", "shell", "loader"))
"""Classes whose programs run other content: strict mode looks at what these open."""


class Rule(Frozen):
    """One rule; see the module.

    Attributes:
        name: as in the policy, for every record of its verdicts.
        allow: whether it lets through.
        uids: ranges of real users, ends included; () for any.
        parents: SHA-256 of images that may call execve; () for any.
        units: units, slices, or either with one ``*`` in it; () for any.
    """

    __slots__ = ("allow", "name", "parents", "uids", "units")
    name: str
    allow: bool
    uids: tuple[tuple[int, int], ...]
    parents: tuple[bytes, ...]
    units: tuple[str, ...]

    def matches(self, subject: Subject) -> bool:
        """Whether every condition on the subject holds."""
        return (
            (not self.uids or self._uid(subject.uid))
            and (not self.parents or self._parent(subject.parent))
            and (not self.units or self._unit(subject.cgroup))
        )

    def _uid(self, uid: int) -> bool:
        if uid == UNKNOWN_UID:
            return not self.allow
        return any(low <= uid <= high for low, high in self.uids)

    def _parent(self, digest: bytes) -> bool:
        if not digest:
            return not self.allow
        return digest in self.parents

    def _unit(self, cgroup: str) -> bool:
        if not cgroup:
            return not self.allow
        names = unit_of(cgroup)
        return any(_like(name, pattern) for pattern in self.units for name in names)


def _like(name: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    if not star:
        return name == pattern
    return len(name) >= len(head) + len(tail) and name.startswith(head) and name.endswith(tail)
