"""The board's own secret: what a Raspberry Pi keeps in one-time programmable memory. Read only.

Its firmware hands out the "device private key", 256 bits that a person programmed once
(`rpi-otp-private-key`), to whoever may open /dev/vcio (group video). We never program it: that
cannot be undone. All zero means: not programmed.

    message   size, 0, tag 0x00030081, 40, 0, row 0, 8 rows, room for them, end tag 0
    answer    the same with 0x80000000 in place of the first 0, rows filled in

(raspberrypi/firmware, "Mailbox property interface"; raspberrypi/utils, rpi-otp-private-key.)
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

Mailbox = Callable[[bytes], bytes]
"""Sends one property message to the firmware and returns its answer; raises OSError."""

DEVICE = "/dev/vcio"
_TAG = 0x00030081  # GET_CUSTOMER_PRIVATE_KEY
_ROWS = 8
_VALUE_BYTES = 4 * (2 + _ROWS)
_DONE = 0x80000000
# <linux/ioctl.h>: _IOWR(100, 0, char *)
_IOCTL = 3 << 30 | struct.calcsize("P") << 16 | 100 << 8


def request() -> bytes:
    """The message that asks for the key."""
    words = (_TAG, _VALUE_BYTES, 0, 0, _ROWS, *[0] * _ROWS, 0)
    return struct.pack(f"<{len(words) + 2}I", 4 * (len(words) + 2), 0, *words)


def secret_in(answer: bytes) -> bytes | None:
    """The secret in the firmware's answer; None when it has none, or does not know the question."""
    asked = request()
    if len(answer) != len(asked):
        return None
    words = struct.unpack(f"<{len(asked) // 4}I", answer)
    if words[1] != _DONE or words[2] != _TAG or words[6] != _ROWS:
        return None
    rows = words[7 : 7 + _ROWS]
    return struct.pack(f"<{_ROWS}I", *rows) if any(rows) else None


def board_secret(mailbox: Mailbox | None = None) -> bytes | None:
    """32 bytes that this board has and no other, or None. Blocks for a moment; raises nothing."""
    try:
        return secret_in((mailbox or vcio)(request()))
    except OSError:
        return None


def vcio(message: bytes) -> bytes:
    """The firmware of this board; raises OSError where there is none or it may not be asked."""
    buffer = bytearray(message)
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _IOCTL, buffer, True)
    finally:
        os.close(fd)
    return bytes(buffer)
