"""Where the command `edgewarden` begins. What the version is costs an interpreter and no more.

Scripts and packages ask for it often, and on a board everything else that a command line needs
takes three times as long to load (the bench's row data.4.5-version).
"""

from __future__ import annotations

import sys

from edgewarden import __version__


def main() -> int:
    """Run one command; see cli/main.py."""
    if sys.argv[1:] == ["--version"]:
        print(f"edgewarden {__version__}")
        return 0
    from edgewarden.cli.main import main as command

    return command()
