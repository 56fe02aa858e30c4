"""Is a ``.pyc`` what its source compiles to? Python runs it and asks its source only for a time.

Rules, in order:

1. cut short, or another interpreter's: this one never loads it          same
2. of another size or time than its source (PEP 552, timestamp): stale,
   never loaded                                                          same
3. not loadable, or the source does not compile                          differs
4. any part of any code object differs from what the source gives        differs
5. else                                                                  same

Equal is more than ``==``. Code objects that differ in exception table, stack size or the kinds of
their variables are ``==``; so are those that differ in the inline caches and specialised
instructions (PEP 659), which ``co_code`` hides and the interpreter obeys. Their bytes in the file
are no measure: marshal writes equal code in unequal ways.

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
    "co_filename", "_co_code_adaptive",
)  # fmt: skip
"""All of a code object (CPython 3.11 to 3.14) but co_consts; the last is the code as it runs."""


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
        # Compiled under the name that stands in the file: a package may have been moved since.
        expected = compile(text, found.co_filename, "exec", dont_inherit=True, optimize=level)
    except Exception:  # marshal ends damaged bytes in any error it likes, SystemError among them
        return False
    return _equal(found, expected) and _plain(found) == _plain(expected)


def _plain(code: CodeType) -> bytes:
    """Every part of a code object, without marshal's sharing; kinds of variables show only here."""
    try:
        return marshal.dumps(code, 0)
    except ValueError:  # CPython 3.14: a constant slice has no spelling that old; _equal has to do
        return b""


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
