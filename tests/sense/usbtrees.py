"""A recorded tree and the agent's view of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgewarden.sense.usb import DEVICES, SysTree, open_tree, read_device
from edgewarden.wire.peripherals import DeviceFacts
from hw.rigs.usbtree import UsbTree


@contextlib.contextmanager
def view(tree: UsbTree) -> Iterator[SysTree]:
    """The tree through the descriptors the agent holds, closed at the end."""
    made = open_tree(str(tree.sys), str(tree.proc))
    try:
        yield made
    finally:
        os.close(made.sys_fd)
        os.close(made.proc_fd)


def read(tree: UsbTree, port: str) -> DeviceFacts | None:
    with view(tree) as made:
        fd = made.directory(f"{DEVICES}/{port}")
        try:
            return read_device(made, fd, port)
        finally:
            os.close(fd)


def plugged(folder: Path, *devices: tuple[str, str]) -> UsbTree:
    tree = UsbTree(folder)
    for name, port in devices:
        tree.plug(name, port)
    return tree
