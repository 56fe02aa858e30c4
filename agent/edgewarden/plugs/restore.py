"""Putting USB back as it was without gate: for an uninstall, and for whoever cannot start it again.

What this decides: only what the file of this boot names is touched; with nothing left in it the
file goes. What it leaves to others: a gate that runs, which puts back by itself (`policy observe
peripherals`) and would be crossed by this.

    failed = put_back("/var/lib/edgewarden")     # [] when all is as it was
"""

from __future__ import annotations

import os

from edgewarden.act.usb import MAX_BYTES, Before, restore
from edgewarden.plugs.memory import BEFORE_NAME
from edgewarden.sense.usb import SysTree, open_tree

BOOT_ID = "sys/kernel/random/boot_id"


def put_back(state_dir: str, tree: SysTree | None = None) -> list[str]:
    """Undo what is remembered; returns what could not be, in words.

    Raises:
        WireRefusal: the file is damaged: nothing is touched.
        OSError: it cannot be read.
    """
    path = os.path.join(state_dir, "policy", BEFORE_NAME)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return []
    mine = tree or open_tree()
    try:
        before = Before.load(data, mine.text(mine.proc_fd, BOOT_ID))
        failed = restore(mine, before)
    finally:
        if tree is None:
            os.close(mine.sys_fd)
            os.close(mine.proc_fd)
    if not failed:
        os.unlink(path)
    return failed
