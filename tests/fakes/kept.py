"""state/policy as gate's parts see it: small files by name."""

from __future__ import annotations


class Kept:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    def recall(self, name: str) -> bytes | None:
        return self.kept.get(name)

    def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
        self.kept[name] = data
        return ""
