"""Where the command `edgewarden` begins. Two of its command lines cost an interpreter and no more.

Scripts and packages ask for the version often, and link is started by systemd and the supervisor in
one of two forms; on a board everything else that a command line needs takes three times as long to
load (the bench's rows data.4.5-*). Any other form goes the ordinary way, to the same end.
"""

from __future__ import annotations

import sys

from edgewarden import __version__


def main() -> int:
    """Run one command; see cli/main.py."""
    if sys.argv[1:] == ["--version"]:
        print(f"edgewarden {__version__}")
        return 0
    if (settings := _of_link(sys.argv[1:])) is not None:
        from edgewarden.cli.become import become_link

        become_link(settings)
    from edgewarden.cli.main import main as command

    return command()


def _of_link(words: list[str]) -> str | None:
    """The settings file of `link` and `link --settings FILE`; None of everything else."""
    if words == ["link"]:
        from edgewarden.cli.become import DEFAULT_SETTINGS

        return DEFAULT_SETTINGS
    plain = len(words) == 3 and words[:2] == ["link", "--settings"] and words[2][:1] != "-"
    return words[2] if plain else None
