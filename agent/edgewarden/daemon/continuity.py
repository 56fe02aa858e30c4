"""The gateway's half of the continuity token: order/ratchet.py's rules over trust/continuity.py's
file.

* Spent before sent: the mark is on the disk before the token is in anybody's hands.
* One mark per token until the answer came, over any number of tries, starts and power cuts: that
  is how the fleet tells a lost answer from a copy.
* An answer is used once it is on the disk; one that cannot be stored is as good as lost.
* A file that cannot be opened costs evidence, and is tried again with the next challenge; readings
  and records go on without it.

    continuity = Continuity(lambda: TokenFile(state, "main", "gw-demo"), randomness)
    spent = continuity.spend()      into evidence
    continuity.adopt(issued)        from the result
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from edgewarden.errors import HardwareFault
from edgewarden.order import ratchet
from edgewarden.ports import Randomness
from edgewarden.trust.continuity import TokenFile
from edgewarden.wire.ratchet import MARK_BYTES, Issued, Spent


class Continuity:
    """See the module's docstring. Every method blocks on the disk: executor only."""

    def __init__(self, open_file: Callable[[], TokenFile], randomness: Randomness) -> None:
        self._open_file = open_file
        self._opened: TokenFile | None = None
        self._randomness = randomness
        self._one = threading.Lock()

    def look(self) -> str:
        """Open the file; returns why its token is not what it should be, else ""."""
        with self._one:
            try:
                return self._file().lost
            except HardwareFault as fault:
                return fault.text

    def spend(self) -> Spent:
        """What evidence presents; raises HardwareFault, and then nothing may be sent."""
        with self._one:
            file = self._file()
            spent = ratchet.spend(file.held, self._randomness.token_bytes(MARK_BYTES))
            if spent != file.held:
                file.write(spent)
            return ratchet.presentation(spent)

    def adopt(self, issued: Issued) -> None:
        """Take the fleet's answer; raises HardwareFault, and then the old token stays."""
        with self._one:
            file = self._file()
            held = ratchet.adopt(file.held, issued)
            if held != file.held:
                file.write(held)

    def _file(self) -> TokenFile:
        if self._opened is None:
            self._opened = self._open_file()
        return self._opened
