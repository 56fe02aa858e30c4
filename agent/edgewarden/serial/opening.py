"""A serial port opened, set up and closed: all that pyserial is used for.

Decides how the kernel is asked for a line (speed, bits, parity, who turns RS-485 around) and what a
refusal is called. Leaves to others reading, writing and the port's life (serialport.py).

Rules, in order:

1. The port is opened exclusively and non-blocking. Waiting input is older than we can say:
   pyserial flushes it.
2. A line that cannot be set up as asked is closed again and refused by name: half-duplex without
   its turn-around would talk into every answer.
3. Closing waits for nobody: output that is not drained is dropped.

    port = open_port("/dev/serial/by-path/...", Line(19200, parity="even"))
    os.read(port.fileno(), 4096)
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import termios

import serial
from serial.rs485 import RS485Settings

from edgewarden.errors import HardwareFault
from edgewarden.serial.portlife import Line

_PARITY = {"none": serial.PARITY_NONE, "even": serial.PARITY_EVEN, "odd": serial.PARITY_ODD}

_HELD = frozenset({errno.EAGAIN, errno.EBUSY})
"""Of a lock (flock), and of a port that somebody opened for himself alone (TIOCEXCL)."""


def open_port(path: str, line: Line) -> serial.Serial:
    """Open ``path`` exclusively, non-blocking, with raw characters.

    Raises:
        HardwareFault: EW-SER-001, with the kernel's reason; field ``missing``: no such path.
    """
    try:
        port = serial.Serial(
            path,
            baudrate=line.baud,
            bytesize=line.data_bits,
            parity=_PARITY[line.parity],
            stopbits=line.stop_bits,
            timeout=0,
            exclusive=True,
        )
        if line.rs485:
            _drive_rts(port)
        return port
    except (OSError, ValueError, termios.error) as fault:  # SerialException is an OSError
        reason = os.strerror(fault.errno) if isinstance(fault, OSError) and fault.errno else fault
        if isinstance(fault, OSError) and fault.errno in _HELD:
            reason = "another program holds it"
        asked = fault.__context__ or fault  # pyserial wraps some of them
        if isinstance(asked, termios.error):  # a setting that this driver does not have, or none
            none = asked.args[0] == errno.ENOTTY
            reason = "it is no serial port" if none else asked.args[-1]
        denied = isinstance(fault, OSError) and fault.errno == errno.EACCES
        raise HardwareFault(
            f"serial port {path} cannot be opened: {reason}",
            code="EW-SER-001",
            next_step="become a member of the device file's group (`ls -lL`; usually dialout)"
            if denied
            else "check the plug, the path and that no other program holds the port",
            port=path,
            missing=isinstance(fault, OSError) and fault.errno == errno.ENOENT,
        ) from fault


def _drive_rts(port: serial.Serial) -> None:
    try:
        port.rs485_mode = RS485Settings()
    except ValueError:
        close_port(port)
        raise OSError(errno.ENOTTY, "") from None


def close_port(port: serial.Serial) -> None:
    """Close ``port`` without waiting for output that nobody drains (closing_wait: 30 s)."""
    with contextlib.suppress(OSError, termios.error):
        port.reset_output_buffer()
    with contextlib.suppress(OSError):
        port.close()


def hung_up(fd: int) -> bool:
    """Whether nothing will ever come from an open port: unplugged, or the other end was closed."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))
