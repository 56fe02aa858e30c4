"""Which adapter an open serial port really leads to: asked by the descriptor, not by a name.

What this decides: the device number of what is open leads through sysfs to the place and the USB
device, so that neither a renumbered ttyUSB0 nor a link that was moved can answer for another. What
it leaves to others: what a change means (serial/serialport.py; for ports nobody opens,
gate's plugs/).

    adapter_of(fd)      # "0403:6001 serial A100Y922 at platform-...-usb-0:1.2:1.0-port0", or ""
"""

from __future__ import annotations

import os
import stat

from edgewarden.sense.usb import DEVICES, SysTree, open_tree, printable
from edgewarden.sense.usb_places import by_path, usb_port_of
from edgewarden.wire.peripherals import MAX_SERIAL_CHARS

MAX_ID_CHARS = 4
"""Of idVendor and idProduct, sysfs-bus-usb."""


def adapter_of(fd: int, tree: SysTree | None = None) -> str:
    """The adapter behind an open character device; "" where sysfs knows of none (a pty).

    Reading a serial number can wait for the device's lock; so can opening its port, which was done
    a moment ago.
    """
    status = os.fstat(fd)
    if not stat.S_ISCHR(status.st_mode):
        return ""
    try:
        mine = tree or open_tree()
    except OSError:
        return ""
    try:
        return _adapter(mine, f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    finally:
        if tree is None:
            os.close(mine.sys_fd)
            os.close(mine.proc_fd)


def _adapter(tree: SysTree, number: str) -> str:
    path = tree.link(f"dev/char/{number}")
    place = by_path(tree, path) if path and "/virtual/" not in path else ""
    port = usb_port_of(path)
    if not place or not port:
        return place
    try:
        fd = tree.directory(f"{DEVICES}/{port}")
    except OSError:
        return place
    try:
        vid, pid = (tree.text(fd, name)[:MAX_ID_CHARS] for name in ("idVendor", "idProduct"))
        serial = printable(tree.text(fd, "serial"))[:MAX_SERIAL_CHARS]
    finally:
        os.close(fd)
    return f"{vid}:{pid} serial {serial or 'none'} at {place}"
