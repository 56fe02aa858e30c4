"""What gate and guard use in place of dataclasses and hashlib, because each has about 6 MB in all.

Measured (CPython 3.11, PSS of a process that imports only this, above a bare interpreter's 6.2 MB):
dataclasses +3.0 MB, typing +2.1 MB, hashlib +3.8 MB (it maps libcrypto), enum +0.9 MB. So:
``Frozen`` is the few lines of a dataclass that messages need, ``sha256`` is the interpreter's own C
module, and a file that crosses a process border is sealed with it.

A seal shows a torn or mixed-up file, not a forged one: whoever may write the file may seal it. That
the file is owned by root is for its reader to check.

    data = seal(b"EWTABLE1", body)
    body = unseal(b"EWTABLE1", data, most=1 << 20)
"""

from __future__ import annotations

from edgewarden.errors import WireRefusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import sha256
    from typing import dataclass_transform
else:
    try:
        from _sha2 import sha256  # CPython >= 3.12
    except ImportError:
        from _sha256 import sha256

    def dataclass_transform(**_):
        """Tell type checkers only; see PEP 681."""
        return lambda cls: cls


__all__ = ["DIGEST_BYTES", "Frozen", "digest_of", "field_names", "seal", "sha256", "unseal"]

DIGEST_BYTES = 32
MAGIC_BYTES = 8


@dataclass_transform(frozen_default=True, eq_default=True)
class Frozen:
    """A value whose fields are its annotations, given in that order, and never change.

    class Point(Frozen):
        __slots__ = ("x", "y")
        x: int
        y: int
    """

    __slots__: tuple[str, ...] = ()
    if not TYPE_CHECKING:
        fields = ()

        def __init_subclass__(cls):
            cls.fields = tuple(cls.__annotations__)

    def __init__(self, *values: object, **named: object) -> None:
        fields = field_names(self)
        for field, value in zip(fields, values, strict=False):
            object.__setattr__(self, field, value)
        for field in fields[len(values) :]:
            if field not in named:
                raise TypeError(f"{type(self).__name__}: {field} is missing")
            object.__setattr__(self, field, named.pop(field))
        if named or len(values) > len(fields):
            raise TypeError(f"{type(self).__name__}: too many values")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} is frozen")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and _values(other) == _values(self)

    def __hash__(self) -> int:
        return hash((type(self), _values(self)))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in field_names(self))
        return f"{type(self).__name__}({fields})"


def field_names(value: Frozen) -> tuple[str, ...]:
    """The names of a value's fields, in the order of its class."""
    names: tuple[str, ...] = type(value).fields  # type: ignore[attr-defined]  # see Frozen
    return names


def _values(value: object) -> tuple[object, ...]:
    return tuple(getattr(value, name) for name in type(value).fields)  # type: ignore[attr-defined]


def digest_of(data: bytes) -> bytes:
    """SHA-256, 32 bytes."""
    return sha256(data).digest()


def seal(magic: bytes, body: bytes) -> bytes:
    """magic (8 bytes) || SHA-256(magic || body) || body."""
    return magic + digest_of(magic + body) + body


def unseal(magic: bytes, data: bytes, *, most: int) -> bytes:
    """The body of what ``seal`` made.

    Args:
        magic: the kind and version expected, 8 bytes.
        data: the whole file.
        most: greatest length of the file in bytes.

    Raises:
        WireRefusal: too_long, too_short, bad_magic, bad_stamp.
    """
    if len(data) > most:
        raise WireRefusal("too_long", f"{len(data)} bytes where {most} are the most")
    if len(data) < MAGIC_BYTES + DIGEST_BYTES:
        raise WireRefusal("too_short", f"{len(data)} bytes")
    if data[:MAGIC_BYTES] != magic:
        raise WireRefusal("bad_magic", f"not {magic.decode()}")
    stamp = sha256(magic)
    stamp.update(memoryview(data)[MAGIC_BYTES + DIGEST_BYTES :])  # no copy: a table has a megabyte
    if stamp.digest() != data[MAGIC_BYTES : MAGIC_BYTES + DIGEST_BYTES]:
        raise WireRefusal("bad_stamp", "the digest over the body does not hold")
    return data[MAGIC_BYTES + DIGEST_BYTES :]
