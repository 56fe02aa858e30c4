"""Taking our table out of the kernel where no gate is there to do it: an uninstall, or a gate that
was killed while it enforced.

    remove_table("/var/lib/edgewarden") == ""
"""

from __future__ import annotations

import os

from edgewarden.errors import HardwareFault
from edgewarden.kernel.nftables import Nft
from edgewarden.network.area import TABLE_NAME
from edgewarden.peers.modes import REMOVE


def remove_table(state_dir: str) -> str:
    """Remove it, if it is there; returns why that was not possible, or "".

    Without a compiled table, or without libnftables, no gate of this machine made one.
    """
    if not os.path.exists(os.path.join(state_dir, "policy", TABLE_NAME)):
        return ""
    try:
        nft = Nft()
    except HardwareFault:
        return ""
    try:
        nft.run(REMOVE)
    except HardwareFault as fault:
        return f"nftables: {fault.text}"
    finally:
        nft.close()
    return ""
