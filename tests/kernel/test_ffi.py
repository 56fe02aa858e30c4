"""What gate and guard have in place of the package ctypes does what the package does."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from edgewarden.kernel import ffi
from edgewarden.kernel.process import thrifty_heap

TYPES = [
    "c_bool", "c_char", "c_char_p", "c_int", "c_long", "c_size_t", "c_uint", "c_uint32", "c_uint64",
    "c_ulong", "c_void_p",
]  # fmt: skip


@pytest.mark.parametrize("name", TYPES)
def test_a_type_is_as_large_and_of_the_same_kind(name: str) -> None:
    ours, theirs = getattr(ffi, name), getattr(ctypes, name)
    assert ctypes.sizeof(ours) == ctypes.sizeof(theirs)
    assert ours._type_ == theirs._type_ or {ours._type_, theirs._type_} == {"L", "Q"}  # 64 bits


def test_every_name_is_there() -> None:
    assert [name for name in ffi.__all__ if not hasattr(ffi, name)] == []
    assert [name for name in ffi.__all__ if not hasattr(ctypes, name)] == []


def test_a_call_its_result_and_its_errno() -> None:
    libc = ffi.CDLL(None, use_errno=True)
    assert libc.getpid() == os.getpid()
    libc.close.argtypes = [ffi.c_int]
    assert libc.close(-1) == -1
    assert ffi.get_errno() == errno.EBADF
    with pytest.raises(ctypes.ArgumentError):
        libc.close("1")
    assert ffi.PyDLL(None).getpid() == os.getpid()
    assert libc.__errno_location() != 0, "a function may be called so"
    assert not hasattr(libc, "__wrapped__")


def test_texts_and_addresses_come_and_go() -> None:
    libc = ffi.CDLL(None)
    find = libc.strchr
    find.argtypes, find.restype = [ffi.c_char_p, ffi.c_int], ffi.c_char_p
    assert find(b"a=b", ord("=")) == b"=b"
    assert find(b"a", ord("=")) is None
    find.restype = ffi.c_void_p
    assert find(b"a", ord("=")) is None
    buffer = ffi.create_string_buffer(8)
    assert buffer.raw == bytes(8)
    libc.memcpy(ffi.c_void_p(ffi.addressof(buffer)), b"1234", ffi.c_size_t(4))
    assert (buffer.value, buffer[0]) == (b"1234", b"1")
    number = ffi.c_int()
    assert libc.sscanf(b"42", b"%d", ffi.byref(number)) == 1
    assert number.value == 42
    kept = bytearray(b"abc")
    libc.memcpy(ffi.c_void_p(ffi.addressof(ffi.c_char.from_buffer(kept))), b"x", ffi.c_size_t(1))
    assert kept == b"xbc"


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError):
        getattr(ffi.CDLL(None), "no_such_function")  # noqa: B009
    with pytest.raises(OSError, match="no-such-library"):
        ffi.CDLL("no-such-library.so.1")


def test_a_heap_that_gives_back_is_asked_for_without_harm() -> None:
    thrifty_heap()
    assert len(bytes(1 << 20)) == 1 << 20
