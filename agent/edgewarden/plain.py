"""``dataclass`` as in the standard library, but for what it costs where there are 150 of them.

The standard one writes and compiles up to eight functions for each class. Here all but ``__init__``
are shared by all classes and read the names of the fields from their class: equal values, the same
hash for them, the same text, the same faults. ``__init__`` has its own code, as it is called most,
but only from the first value on. Link's private memory after its imports falls by 1.9 MB, their
time by two fifths (docs/adr/0046-dataclasses-that-share-their-methods.md).

What is different: ``==`` and ``hash`` take a call more, and a class's first value a compilation.
Ordered classes, those with an ``InitVar``, and what is not in ``_OURS`` are the standard library's
own; ``replace``, ``fields`` and ``asdict`` are so for all. For a type checker it is the standard
one (PEP 681).

    @dataclass(frozen=True, slots=True)
    class Point:
        x: int
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import MISSING, FrozenInstanceError, field
from operator import attrgetter
from reprlib import recursive_repr
from types import MemberDescriptorType
from typing import TYPE_CHECKING, Any

__all__ = ["dataclass", "field"]

_OURS = frozenset({"init", "repr", "eq", "frozen", "slots", "kw_only"})
"""What a decorator may name; with more than that it is the standard library's."""


def _values_of(names: list[str]) -> Any:
    """What reads these attributes of a value, in C where there are any."""
    return attrgetter(*names) if names else staticmethod(lambda _: ())


# --- what all classes share ----------------------------------------------------------------


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


def _getstate(self: Any) -> list[object]:
    return [getattr(self, f.name) for f in dataclasses.fields(self)]


def _setstate(self: Any, state: list[object]) -> None:
    for f, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, f.name, value)


# --- __init__ ------------------------------------------------------------------------------


class _Init:
    """Stands for a class's ``__init__`` until somebody asks for it, as the first value does."""

    __slots__ = ("_frozen", "_kind")

    def __init__(self, kind: Any, frozen: bool) -> None:
        self._kind, self._frozen = kind, frozen

    def __get__(self, value: object, _owner: type) -> Any:
        made = _init_of(self._kind, self._frozen)
        self._kind.__init__ = made
        return made if value is None else made.__get__(value)


def _init_of(kind: Any, frozen: bool) -> Any:
    """Write and compile it, in the namespace of the class's module.

    What it refers to are the parameters of a function around it: reading them is cheap, and no name
    of the module is hidden.
    """
    around: dict[str, object] = {"_new_": MISSING}
    fields, lines = dataclasses.fields(kind), []
    for f in fields:
        name, given = f.name, f.name
        if f.default_factory is not MISSING:
            around[f"_f_{name}"] = f.default_factory
            given = f"_f_{name}() if {name} is _new_ else {name}" if f.init else f"_f_{name}()"
        elif f.default is not MISSING:
            around[f"_d_{name}"] = f.default
            given = name if f.init else f"_d_{name}"
        elif not f.init:
            continue
        member = getattr(kind, name, None)
        if not frozen:
            lines.append(f"self.{name} = {given}")
        elif isinstance(member, MemberDescriptorType):
            around[f"_s_{name}"] = member.__set__
            lines.append(f"_s_{name}(self, {given})")
        else:
            around["_set_"] = object.__setattr__
            lines.append(f"_set_(self, {name!r}, {given})")
    if hasattr(kind, "__post_init__"):
        lines.append("self.__post_init__()")
    asked = [_asked(f) for f in fields if f.init and not f.kw_only]
    by_name = [_asked(f) for f in fields if f.init and f.kw_only]
    asked = ["self", *asked, *(["*", *by_name] if by_name else [])]
    text = f"def around({', '.join(around)}):\n def __init__({', '.join(asked)}):\n  "
    text += "\n  ".join(lines or ["pass"]) + "\n return __init__"
    found: dict[str, Any] = {}
    exec(text, sys.modules[kind.__module__].__dict__, found)  # noqa: S102  # names of fields only
    made = found["around"](**around)
    made.__qualname__ = f"{kind.__qualname__}.__init__"
    made.__annotations__ = {f.name: f.type for f in fields if f.init} | {"return": None}
    return made


def _asked(f: dataclasses.Field[Any]) -> str:
    """A field as a parameter."""
    if f.default_factory is not MISSING:
        return f"{f.name}=_new_"
    return f.name if f.default is MISSING else f"{f.name}=_d_{f.name}"


def _check_order(kind: Any) -> None:
    """Raises: TypeError: a field without a default stands behind one that has a default."""
    defaults = False
    for f in dataclasses.fields(kind):
        if f.init and not f.kw_only:
            missing = f.default is MISSING and f.default_factory is MISSING
            if missing and defaults:
                raise TypeError(f"non-default argument {f.name!r} follows default argument")
            defaults = not missing


# --- the class -----------------------------------------------------------------------------


def _shared(cls: type, **how: Any) -> Any:
    own = cls.__dict__
    if how.keys() - _OURS or "InitVar" in str(own.get("__annotations__")):
        return dataclasses.dataclass(**how)(cls)
    frozen, equal = how.get("frozen", False), how.get("eq", True)
    shown = how.get("repr", True) and "__repr__" not in own
    compared = equal and "__eq__" not in own
    hashed = compared and frozen and "__hash__" not in own
    started = how.get("init", True) and "__init__" not in own
    if equal and not frozen and "__hash__" not in own:
        cls.__hash__ = None  # type: ignore[assignment]
    found = _bare(cls, frozen, how)
    fields = dataclasses.fields(found)
    if started:
        _check_order(found)
        found.__init__ = _Init(found, frozen)
    if shown:
        found.__repr__, found._fields_shown = _repr, tuple(f.name for f in fields if f.repr)
    if compared:
        found.__eq__ = _eq
        found._fields_compared = _values_of([f.name for f in fields if f.compare])
    if hashed:
        hashed_too = [f.name for f in fields if (f.compare if f.hash is None else f.hash)]
        found.__hash__, found._fields_hashed = _hash, _values_of(hashed_too)
    return found


def _bare(cls: type, frozen: bool, how: dict[str, Any]) -> Any:
    """The standard library's class without a method but what keeps a frozen one frozen.

    It compiles two functions for that, which are ours here: it is told of ``frozen`` only where it
    may have to refuse, for what the class has of its own or inherits.
    """
    bare = {**how, "init": False, "repr": False, "eq": False}
    own = cls.__dict__
    if not frozen or "__setattr__" in own or "__delattr__" in own or _inherits(cls):
        found: Any = dataclasses.dataclass(**bare)(cls)
    else:
        found = dataclasses.dataclass(**{**bare, "frozen": False})(cls)
        found.__dataclass_params__.frozen = True
        if how.get("slots") and "__getstate__" not in own:
            found.__getstate__ = _getstate
        if how.get("slots") and "__setstate__" not in own:
            found.__setstate__ = _setstate
    if frozen:
        found.__setattr__, found.__delattr__ = _set, _delete
    return found


def _inherits(cls: type) -> bool:
    return any(hasattr(base, "__dataclass_fields__") for base in cls.__bases__)


if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls=None, /, **how):
        """See the standard library's; ``@dataclass`` and ``@dataclass(...)``."""
        return _shared(cls, **how) if cls is not None else lambda cls: _shared(cls, **how)
