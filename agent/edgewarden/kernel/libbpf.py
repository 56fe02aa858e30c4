"""BPF through Debian's libbpf.so.1: load an object, attach it to a raw tracepoint, speak with maps.

What this decides: that every way in which this can be missing is a ``HardwareFault`` with the call
and its errno (no library, a kernel without BPF_EVENTS, a refused load), so that a lesser tier can
say why; and that nothing is attached longer than somebody holds a descriptor: no pins. What it
leaves to others: what the programs do (deploy/bpf/), what to make of their events
(stop/stopper.py).

The library is optional and is opened by ``Libbpf()``, before gate closes its doors. Afterwards only
system calls are made: an object is closed as soon as it is loaded, its programs and maps live on as
descriptors.

    bpf = Libbpf()
    loaded = bpf.load(EXEC_STOP)
    link_fd = bpf.attach("sched_process_exec", loaded["exec_stop"])
    ring = Ring(bpf, loaded["events"], take)
"""

from __future__ import annotations

import ctypes
import errno
import os

from edgewarden.errors import HardwareFault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = "libbpf.so.1"
# <linux/bpf.h>
BPF_ANY = 0

_Pointer = ctypes.c_void_p
_TAKER = ctypes.CFUNCTYPE(ctypes.c_int, _Pointer, _Pointer, ctypes.c_size_t)
"""ring_buffer_sample_fn of <bpf/libbpf.h>."""
_NO_MORE = -errno.EAGAIN
_SIGNATURES = {
    "libbpf_set_print": (_Pointer, [_Pointer]),
    "bpf_object__open_mem": (_Pointer, [ctypes.c_char_p, ctypes.c_size_t, _Pointer]),
    "bpf_object__load": (ctypes.c_int, [_Pointer]),
    "bpf_object__close": (None, [_Pointer]),
    "bpf_object__next_program": (_Pointer, [_Pointer, _Pointer]),
    "bpf_program__name": (ctypes.c_char_p, [_Pointer]),
    "bpf_program__fd": (ctypes.c_int, [_Pointer]),
    "bpf_object__next_map": (_Pointer, [_Pointer, _Pointer]),
    "bpf_map__name": (ctypes.c_char_p, [_Pointer]),
    "bpf_map__fd": (ctypes.c_int, [_Pointer]),
    "bpf_raw_tracepoint_open": (ctypes.c_int, [ctypes.c_char_p, ctypes.c_int]),
    "bpf_map_update_elem": (
        ctypes.c_int, [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint64],
    ),
    "bpf_map_lookup_elem": (ctypes.c_int, [ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p]),
    "bpf_map_delete_elem": (ctypes.c_int, [ctypes.c_int, ctypes.c_char_p]),
    "ring_buffer__new": (_Pointer, [ctypes.c_int, _TAKER, _Pointer, _Pointer]),
    "ring_buffer__consume": (ctypes.c_int, [_Pointer]),
    "ring_buffer__epoll_fd": (ctypes.c_int, [_Pointer]),
    "ring_buffer__free": (None, [_Pointer]),
}  # fmt: skip
"""What is used of <bpf/libbpf.h> and <bpf/bpf.h>, libbpf 1.0 and later: result, arguments."""


class Libbpf:
    """The library; see the module. One thread. Nothing here blocks.

    Raises:
        HardwareFault: it is not installed, or another version than we know (field ``call``
            "dlopen").
    """

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY, use_errno=True)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(self._library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as fault:
            raise _fault(
                "dlopen", errno.ENOENT, f"{LIBRARY}: {fault}", "install Debian's package libbpf1"
            ) from fault
        self.call("libbpf_set_print", None)  # what it would print, our errors say

    def call(self, name: str, *arguments: object) -> int:
        """One call; what it returns, 0 for a null pointer."""
        return getattr(self._library, name)(*arguments) or 0

    def load(self, image: bytes) -> dict[str, int]:
        """Load an object; its programs and maps by name, each a descriptor of the caller's.

        Raises:
            HardwareFault: the kernel or the library refuses; nothing stays loaded.
        """
        opened = self.call("bpf_object__open_mem", image, len(image), None)
        if not opened:
            raise _refused("bpf_object__open_mem", ctypes.get_errno())
        found: dict[str, int] = {}
        try:
            done = self.call("bpf_object__load", opened)
            if done < 0:
                raise _refused("bpf_object__load", -done)
            for kind in ("program", "map"):
                at = 0
                while at := self.call(f"bpf_object__next_{kind}", opened, at or None):
                    name = getattr(self._library, f"bpf_{kind}__name")(at).decode("ascii")
                    found[name] = os.dup(self.call(f"bpf_{kind}__fd", at))
        except BaseException:
            for fd in found.values():
                os.close(fd)
            raise
        finally:
            self.call("bpf_object__close", opened)
        return found

    def attach(self, tracepoint: str, program_fd: int) -> int:
        """Run the program at each hit of the tracepoint until the descriptor returned is closed.

        Raises:
            HardwareFault: no such tracepoint, or the kernel refuses.
        """
        fd = self.call("bpf_raw_tracepoint_open", tracepoint.encode("ascii"), program_fd)
        if fd < 0:
            raise _refused(f"bpf_raw_tracepoint_open({tracepoint})", -fd)
        return fd

    def put(self, map_fd: int, key: bytes, value: bytes) -> None:
        """Set one element; the caller knows the map's key and value sizes.

        Raises:
            HardwareFault: the map is full, or not ours.
        """
        done = self.call("bpf_map_update_elem", map_fd, key, value, BPF_ANY)
        if done < 0:
            raise _refused("bpf_map_update_elem", -done)

    def get(self, map_fd: int, key: bytes, size: int) -> bytes | None:
        """One element, ``size`` bytes as the map was made for; None when there is none."""
        value = ctypes.create_string_buffer(size)
        done = self.call("bpf_map_lookup_elem", map_fd, key, value)
        return None if done < 0 else value.raw

    def drop(self, map_fd: int, key: bytes) -> None:
        """Remove an element; one that is not there is no fault."""
        self.call("bpf_map_delete_elem", map_fd, key)


class Ring:
    """The reading end of a BPF ring buffer.

    Args:
        bpf: the library.
        map_fd: of a BPF_MAP_TYPE_RINGBUF; stays the caller's.
        take: gets each record; False stops the reading after it.

    Attributes:
        fd: readable while there are records.

    Raises:
        HardwareFault: not a ring buffer, or no memory.
    """

    def __init__(self, bpf: Libbpf, map_fd: int, take: Callable[[bytes], bool]) -> None:
        self._bpf = bpf

        def taken(_context: object, data: int, size: int) -> int:
            return 0 if take(ctypes.string_at(data, size)) else _NO_MORE

        self._taken = _TAKER(taken)  # the library keeps no reference to it
        self._ring = bpf.call("ring_buffer__new", map_fd, self._taken, None, None)
        if not self._ring:
            raise _refused("ring_buffer__new", ctypes.get_errno())
        self.fd = bpf.call("ring_buffer__epoll_fd", self._ring)

    def consume(self) -> None:
        """Hand what is there to ``take``. Does not wait.

        Raises:
            HardwareFault: the kernel refuses.
        """
        done = self._bpf.call("ring_buffer__consume", self._ring)
        if done < 0 and done != _NO_MORE:
            raise _refused("ring_buffer__consume", -done)

    def close(self) -> None:
        """Unmap it; twice is harmless."""
        if self._ring:
            self._bpf.call("ring_buffer__free", self._ring)
            self._ring = 0


def _refused(call: str, number: int) -> HardwareFault:
    name = errno.errorcode.get(number, str(number))
    next_step = "run as root on a kernel with CONFIG_BPF_EVENTS; a lesser tier is in use meanwhile"
    return _fault(call, number, f"{call} refused: {name} ({os.strerror(number)})", next_step)


def _fault(call: str, number: int, text: str, next_step: str) -> HardwareFault:
    return HardwareFault(text, code="EW-EXEC-060", next_step=next_step, call=call, errno=number)
