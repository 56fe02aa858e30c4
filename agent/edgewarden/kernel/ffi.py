"""What gate, guard and link use of ``ctypes``, without the package around the interpreter's part.

``import ctypes`` makes some thirty types in both byte orders, callbacks and two libraries before
anything is called: 470 kB (PSS, measured) in each of two processes that make a dozen calls, and in
link for three dozen. Here are the same names with the same meaning, made of the same ``_ctypes``;
type checkers see the package. What this decides: nothing. What it leaves to others: every call
(kernel/libc.py and whoever declares one). Who is called back (a TPM's key) or needs more (BPF) uses
the package.

    from edgewarden.kernel import ffi as ctypes
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctypes import (
        CDLL,
        Array,
        PyDLL,
        Structure,
        addressof,
        byref,
        c_bool,
        c_char,
        c_char_p,
        c_int,
        c_int32,
        c_int64,
        c_long,
        c_size_t,
        c_uint,
        c_uint32,
        c_uint64,
        c_ulong,
        c_void_p,
        create_string_buffer,
        get_errno,
    )
else:
    from _ctypes import (
        FUNCFLAG_CDECL,
        FUNCFLAG_PYTHONAPI,
        FUNCFLAG_USE_ERRNO,
        Array,
        CFuncPtr,
        Structure,
        _SimpleCData,
        addressof,
        byref,
        dlopen,
        get_errno,
        sizeof,
    )

    RTLD_LOCAL = 0
    """<dlfcn.h>, as the package has it."""

    class c_bool(_SimpleCData):
        _type_ = "?"

    class c_char(_SimpleCData):
        _type_ = "c"

    class c_char_p(_SimpleCData):
        _type_ = "z"

    class c_int(_SimpleCData):
        _type_ = "i"

    class c_uint(_SimpleCData):
        _type_ = "I"

    class c_long(_SimpleCData):
        _type_ = "l"

    class c_ulong(_SimpleCData):
        _type_ = "L"

    class c_uint64(_SimpleCData):
        _type_ = "Q"

    class c_void_p(_SimpleCData):
        _type_ = "P"

    class c_longlong(_SimpleCData):
        _type_ = "q"

    c_uint32, c_size_t = c_uint, c_ulong  # of Linux: int has 32 bits, long those of an address
    c_int32, c_int64 = c_int, c_long if sizeof(c_long) == 8 else c_longlong

    class CDLL:
        """A loaded library; its functions are its attributes, made when they are first asked for.

        Args:
            name: of the library; None: what this interpreter already runs on.
            mode: RTLD_* of os; the interpreter adds RTLD_NOW.
            use_errno: keep errno of each call for ``get_errno``.
        """

        _flags = FUNCFLAG_CDECL

        def __init__(self, name, mode=RTLD_LOCAL, *, use_errno=False):
            class Function(CFuncPtr):
                _flags_ = self._flags | (FUNCFLAG_USE_ERRNO if use_errno else 0)
                _restype_ = c_int

            self._function = Function
            self._handle = dlopen(name, mode)

        def __getattr__(self, name):
            if name.startswith("__") and name.endswith("__"):
                raise AttributeError(name)
            function = self._function((name, self))  # AttributeError where there is none
            setattr(self, name, function)
            return function

    class PyDLL(CDLL):
        """As ``CDLL``; a call does not let other threads of the interpreter run."""

        _flags = FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI

    def create_string_buffer(size):
        """Bytes to be written to, all zero."""
        return (c_char * size)()


__all__ = [
    "CDLL", "Array", "PyDLL", "Structure", "addressof", "byref", "c_bool", "c_char",
    "c_char_p", "c_int", "c_int32", "c_int64", "c_long", "c_size_t", "c_uint", "c_uint32",
    "c_uint64", "c_ulong", "c_void_p", "create_string_buffer", "get_errno",
]  # fmt: skip
