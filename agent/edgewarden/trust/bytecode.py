"""Is a ``.pyc`` what its source compiles to? Python runs it and asks the source only for its time.

Rules, in order:

1. cut short, or another interpreter's: this one never loads it          same
2. of another size or time than its source (PEP 552, timestamp): stale,
   never loaded                                                          same
3. not loadable, or the source does not compile                          differs
4. every field of every code object, but the file name, is equal         same, else differs

Code objects are compared field by field. Their bytes are not: marshal writes equal code in
unequal ways. Nor is ``==``: on CPython 3.11 it passes a changed exception table or stack size.

    compiles_to(Path("cose.py"), Path("__pycache__/cose.cpython-311.pyc"), 0) -> True
"""

from __future__ import annotations

import importlib.util
import marshal
import struct
from pathlib import Path
from types import CodeType

_HEADER_BYTES = 16
"""PEP 552: magic, flags, then mtime and size or a hash of the source."""
_FIELDS = (
    "co_name", "co_qualname", "co_argcount", "co_posonlyargcount", "co_kwonlyargcount",
    "co_nlocals", "co_stacksize", "co_flags", "co_firstlineno", "co_code", "co_names",
    "co_varnames", "co_freevars", "co_cellvars", "co_linetable", "co_exceptiontable",
)  # fmt: skip
"""All that makes a code object (CPython 3.11 to 3.13), but co_consts and co_filename."""


def compiles_to(source: Path, compiled: Path, level: int) -> bool:
    """May the interpreter run compiled in source's place at this optimisation level?

    Blocks on the disk and the compiler; raises nothing.
    """
    try:
        text, data, status = source.read_bytes(), compiled.read_bytes(), source.stat()
    except OSError:
        return False
    if len(data) < _HEADER_BYTES or data[:4] != importlib.util.MAGIC_NUMBER:
        return True
    flags, mtime, size = struct.unpack("<III", data[4:_HEADER_BYTES])
    stale = mtime != int(status.st_mtime) & 0xFFFFFFFF or size != status.st_size & 0xFFFFFFFF
    if flags == 0 and stale:
        return True
    try:
        found = marshal.loads(data[_HEADER_BYTES:])  # noqa: S302 - the interpreter would load it too
        expected = compile(text, str(source), "exec", dont_inherit=True, optimize=level)
    except Exception:  # marshal ends damaged bytes in any error it likes, SystemError among them
        return False
    return _equal(found, expected)


def _equal(a: object, b: object) -> bool:
    """Are two constants the same: 1, 1.0 and True are not, nor 0.0 and -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, CodeType) and isinstance(b, CodeType):
        return all(getattr(a, f) == getattr(b, f) for f in _FIELDS) and _equal(
            a.co_consts, b.co_consts
        )
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return {(type(x), repr(x)) for x in a} == {(type(x), repr(x)) for x in b}
    return repr(a) == repr(b) if isinstance(a, (float, complex)) else bool(a == b)
