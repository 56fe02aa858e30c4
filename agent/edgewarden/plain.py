"""``dataclass`` as in the standard library, but for what it costs where there are 150 of them.

The standard one writes and compiles up to six functions for each class; of these only ``__init__``
is worth its own code. Here the others are shared by all classes and read the names of the fields
from their class: equal values, the same hash for them, the same text, the same faults. Link's
private memory after its imports falls by 1.3 MB, their time by a fifth (docs/adr/
0046-dataclasses-that-share-their-methods.md).

What is different: only that ``==`` and ``hash`` take a call more. Ordered classes are the standard
library's own; ``replace``, ``fields`` and ``asdict`` are so for all. For a type checker it is the
standard one (PEP 681).

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
"""

from __future__ import annotations

import dataclasses
from dataclasses import FrozenInstanceError, field
from operator import attrgetter
from reprlib import recursive_repr
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "field"]

_OURS = frozenset({"init", "repr", "eq", "frozen", "slots", "kw_only"})
"""What a decorator may name; with more than that it is the standard library's."""


def _values_of(names: list[str]) -> Any:
    """What reads these attributes of a value, in C where there are any."""
    return attrgetter(*names) if names else staticmethod(lambda _: ())


def _eq(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self._fields_compared
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self._fields_hashed(self))


@recursive_repr()
def _repr(self: Any) -> str:
    shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._fields_shown)
    return f"{self.__class__.__qualname__}({shown})"


def _set(self: object, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: object, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _shared(cls: type, **how: Any) -> Any:
    own = cls.__dict__
    if how.keys() - _OURS:
        return dataclasses.dataclass(**how)(cls)
    frozen, equal = how.get("frozen", False), how.get("eq", True)
    shown = how.get("repr", True) and "__repr__" not in own
    compared = equal and "__eq__" not in own
    hashed = compared and frozen and "__hash__" not in own
    if equal and not frozen and "__hash__" not in own:
        cls.__hash__ = None  # type: ignore[assignment]
    found: Any = dataclasses.dataclass(**{**how, "repr": False, "eq": False})(cls)
    fields = dataclasses.fields(found)
    if frozen:
        found.__setattr__, found.__delattr__ = _set, _delete
    if shown:
        found.__repr__, found._fields_shown = _repr, tuple(f.name for f in fields if f.repr)
    if compared:
        found.__eq__ = _eq
        found._fields_compared = _values_of([f.name for f in fields if f.compare])
    if hashed:
        hashed_too = [f.name for f in fields if (f.compare if f.hash is None else f.hash)]
        found.__hash__, found._fields_hashed = _hash, _values_of(hashed_too)
    return found


if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, **how):
        """See the standard library's; ``@dataclass`` and ``@dataclass(...)``."""
        return _shared(cls, **how) if cls is not None else lambda cls: _shared(cls, **how)
