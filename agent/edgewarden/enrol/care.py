"""What link does for its certificate while it runs: prove a new one, go back to the last, ask for
another.

Renewal itself is a one-shot of its own (cli/identity.py, by a timer): the X.509 parser would cost
the daemon 7 MB. Decided here, every other second, from what the uplink saw:

    a session stands                              → the certificate before is not needed any more
    the broker refuses our certificate, and the one before is still there
                                                  → that one again; told
    challenges come that another verifier key signed
                                                  → renewal is asked for, once: its answer names the
                                                    fleet's verifier (a key that was lost, say)

Each is a handful of file operations; nothing is read but symlinks. Raises HardwareFault when the
disk refuses.

    care = Care(state_dir, "identity-3"); care.look(connected=True, refused=0, unknown_verifier=0)
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from edgewarden.enrol import folder

TRIES = 3
"""Alerts before going back: a broker that is being restarted can look at half a list once."""


class Did(StrEnum):
    """What came of a look."""

    NOTHING = ""
    PROVED = "proved"
    WENT_BACK = "went back"
    ASKED = "asked"


class Care:
    """See the module.

    Args:
        state_dir: the agent's state folder.
        name: of the folder of the identity that link goes by.
    """

    def __init__(self, state_dir: Path, name: str) -> None:
        self._state_dir = state_dir
        self._name = name
        self._proved = self._asked = False

    def look(self, *, connected: bool, refused: int, unknown_verifier: int) -> Did:
        """One look.

        Args:
            connected: a session stands, so the broker has answered under this certificate.
            refused: how often the broker has refused our certificate since link started.
            unknown_verifier: challenges that were refused as another key's, since then.
        """
        if connected:
            self._proved = True
            if folder.prove(self._state_dir, self._name):
                return Did.PROVED
        if not self._proved and refused >= TRIES and folder.go_back(self._state_dir):
            folder.want(self._state_dir, "the broker refused the last one")
            return Did.WENT_BACK
        if unknown_verifier and not self._asked:
            self._asked = True
            folder.want(self._state_dir, "the verifier signs with another key")
            return Did.ASKED
        return Did.NOTHING
