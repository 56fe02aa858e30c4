"""The operator's side's one door to other programs (law 3).

Whoever needs a program names it here by its words: no shell, no input, a bounded life, output cut.

    status, said = run(("systemctl", "reload", "mosquitto"), 10.0)
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from edgewarden.errors import PeerUnavailable

SAID_CHARACTERS = 400
"""The end of what a program complained about: the reason stands in its last line."""


class Ended(NamedTuple):
    """Exit status (negative: the signal) and the end of what it said."""

    status: int
    said: str


def run(
    command: Sequence[str], within_s: float, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end.

    Args:
        environment: all that it is to know; None for what this process knows.

    Raises:
        PeerUnavailable: EW-SET-029, it cannot be started or takes longer than ``within_s``.
    """
    try:
        done = subprocess.run(
            list(command), timeout=within_s, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise PeerUnavailable(
            f"{command[0]} did not run: {fault}",
            code="EW-SET-029",
            next_step="check that the program is installed and named right in fleet.toml",
        ) from fault
    said = done.stdout.decode(errors="replace").strip()[-SAID_CHARACTERS:]
    return Ended(done.returncode, said)
