"""The one door to the C library: a call, its errno, and the error of ours that it becomes.

What this decides: that every foreign call is declared with its argument types once, and that a
refusal of the kernel is a ``HardwareFault`` whose fields hold ``call`` and ``errno``. What it
leaves to others: which calls to make (the other files of this room).

    check(libc.mlockall(flags), "mlockall")
"""

from __future__ import annotations

import errno
import os

from edgewarden.errors import HardwareFault
from edgewarden.kernel import ffi as ctypes

libc = ctypes.CDLL(None, use_errno=True)
"""The C library this interpreter already runs on; nothing new is mapped."""


def refused(call: str, number: int, **fields: object) -> HardwareFault:
    """The HardwareFault for a call that the kernel answered with errno ``number``."""
    name = errno.errorcode.get(number, str(number))
    return HardwareFault(
        f"{call} refused: {name} ({os.strerror(number)})",
        code="EW-EXEC-005",
        next_step="run as root; `edgewarden policy show` says what this kernel lacks",
        call=call,
        errno=number,
        **fields,
    )


def check(result: int, call: str, **fields: object) -> int:
    """Return ``result`` of a call that reports failure by -1 and errno.

    Raises:
        HardwareFault: the result is negative; fields call, errno and those given.
    """
    if result < 0:
        raise refused(call, ctypes.get_errno(), **fields)
    return result
