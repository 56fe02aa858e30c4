"""Somebody who wants to execute something."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgewarden.wire.local_messages import UNKNOWN_UID


@dataclass
class Someone:
    """A subject of which each part is as given; ``asked`` says what a rule wanted to know."""

    who: int = UNKNOWN_UID
    image: bytes = b""
    place: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def uid(self) -> int:
        self.asked.append("uid")
        return self.who

    @property
    def parent(self) -> bytes:
        self.asked.append("parent")
        return self.image

    @property
    def cgroup(self) -> str:
        self.asked.append("cgroup")
        return self.place


NOBODY = Someone()
