"""nftables through libnftables.so.1: a text in, all of it done or nothing.

What this decides: how the library is used so that it can live in a process that answers execs. It
is loaded and its context made once (which reads /etc/iproute2 and connlabel.conf); after that a
command opens no file: names of users would make libnftables ask the name service and open
/etc/passwd even for plain numbers (measured with strace, 1.0.6), so the look-up of users is set to
a service that knows none. What it leaves to others: the text (peers/).

Debian's own ``nft`` program is linked against this library, so there is no machine with the program
and without the library, and no fallback (ADR 22).

    nft = Nft(); nft.check(text); nft.run(text)
"""

from __future__ import annotations

from edgewarden.errors import HardwareFault
from edgewarden.kernel import ffi as ctypes
from edgewarden.kernel.libc import libc
from edgewarden.kernel.process import lock_memory

SONAME = "libnftables.so.1"
# <nftables/libnftables.h>
NFT_CTX_DEFAULT = 0
NFT_CTX_OUTPUT_NUMERIC_ALL = 0x780
"""PROTO | PRIO | SYMBOL | TIME: no names in what is listed."""
MOST_TEXT = 200
"""Of an error, in characters; libnftables repeats the whole command below its first line."""


class Nft:
    """One context. One thread; a call takes as long as the kernel takes for it (0.1 ms for an
    element, 30 ms for 5,000). ``close`` gives the library's memory back."""

    def __init__(self) -> None:
        """Load the library.

        Raises:
            HardwareFault: it is not there, or refuses.
        """
        try:
            self._library = ctypes.CDLL(SONAME)
        except OSError as fault:
            raise _fault(f"{SONAME} is not there: {fault}", "apt install libnftables1") from fault
        _declare(self._library)
        context = self._library.nft_ctx_new(NFT_CTX_DEFAULT)
        if not context:
            raise _fault(f"{SONAME} makes no context", "see what the kernel log says")
        self._context: int | None = context
        self._library.nft_ctx_output_set_flags(context, NFT_CTX_OUTPUT_NUMERIC_ALL)
        self._library.nft_ctx_buffer_output(context)
        self._library.nft_ctx_buffer_error(context)
        _ask_nobody_for_users()

    def run(self, text: str) -> str:
        """Do everything the text says, in one transaction.

        Returns:
            What was listed, or "".

        Raises:
            HardwareFault: the kernel or the parser refuses; nothing was changed.
        """
        status = self._library.nft_run_cmd_from_buffer(self._context, text.encode("utf-8"))
        output = self._library.nft_ctx_get_output_buffer(self._context)
        error = self._library.nft_ctx_get_error_buffer(self._context)
        if status != 0:
            raise _fault(first_line(error.decode("utf-8", "replace")), "see `nft list ruleset`")
        return str(output.decode("utf-8", "replace"))

    def check(self, text: str) -> None:
        """Have the kernel look at the text and change nothing. It loads every module the text
        needs.

        Raises:
            HardwareFault: as ``run``.
        """
        self._library.nft_ctx_set_dry_run(self._context, True)
        try:
            self.run(text)
        finally:
            self._library.nft_ctx_set_dry_run(self._context, False)

    def give_back(self, small: str) -> None:
        """Return freed memory to the kernel: a text with 5,000 elements leaves 6 MB behind.

        Args:
            small: a text that changes nothing: the library keeps what it knew for the last one
                until it is asked for something that needs less.

        Locked pages cannot be given back (madvise(2): EINVAL), so the lock is let go for that
        moment and taken again; nothing of this process is opened or waited for in it.
        """
        self.run(small)
        libc.munlockall()
        libc.malloc_trim(0)
        try:
            lock_memory()
        except HardwareFault:  # gate said so at its start (EW-EXEC-021)
            return

    def close(self) -> None:
        if self._context is not None:
            self._library.nft_ctx_free(self._context)
            self._context = None


def first_line(error: str) -> str:
    """What went wrong, without the place and the command."""
    for line in error.split("\n"):
        _, found, told = line.partition("Error: ")
        if found:
            return told[:MOST_TEXT]
    return error.strip()[:MOST_TEXT] or "refused without a reason"


def _declare(library: ctypes.CDLL) -> None:
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, result, arguments in (
        ("nft_ctx_new", pointer, [ctypes.c_uint32]),
        ("nft_ctx_free", None, [pointer]),
        ("nft_ctx_output_set_flags", None, [pointer, ctypes.c_uint]),
        ("nft_ctx_set_dry_run", None, [pointer, ctypes.c_bool]),
        ("nft_ctx_buffer_output", ctypes.c_int, [pointer]),
        ("nft_ctx_buffer_error", ctypes.c_int, [pointer]),
        ("nft_ctx_get_output_buffer", text, [pointer]),
        ("nft_ctx_get_error_buffer", text, [pointer]),
        ("nft_run_cmd_from_buffer", ctypes.c_int, [pointer, text]),
    ):
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


def _ask_nobody_for_users() -> None:
    """For this process, users are looked up in a service that has none and is part of the C
    library.

    Without it every ``meta skuid 1000`` opens /etc/nsswitch.conf and /etc/passwd and may load a
    module.
    """
    try:
        configure = libc.__nss_configure_lookup  # nss/nsswitch.h of glibc
    except AttributeError:  # another C library: it has no name service to ask
        return
    configure.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    configure(b"passwd", b"dns")


def _fault(text: str, next_step: str) -> HardwareFault:
    return HardwareFault(text, code="EW-NET-031", next_step=next_step, name="nft_refused")
