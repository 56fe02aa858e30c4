"""The lean interpreters that gate, guard and link run in: this one becomes one of them.

It has read a command line and TOML, and what it loaded for that would stay mapped, and locked, for
as long as gate or guard lives. This file loads nothing that an interpreter has not: entry.py comes
straight here with link's one ordinary command line.

    become_link("/etc/edgewarden/edgewarden.toml")
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

DEFAULT_SETTINGS = "/etc/edgewarden/edgewarden.toml"


def become(load: str, arguments: str, *words: str, site: bool = False) -> NoReturn:
    """Become a lean interpreter that runs ``main(arguments)``.

    -I and -S: no environment, no user site, no site-packages, which neither gate nor guard needs.
    With ``site`` it has those that this one has.
    """
    root = os.path.realpath(__file__).removesuffix("/edgewarden/cli/become.py")
    code = f"import sys; sys.path.append({root!r}); {load}; sys.exit(main({arguments}))"
    flags = ["-I", "-S"]
    if site:
        flags = ["-I"] if sys.flags.isolated else ["-P"]
        code = code.replace("sys.path.append(", "sys.path.insert(0, ")
    command = [sys.executable, *flags, "-c", code, *words]
    os.execv(sys.executable, command)  # noqa: S606 - a shell would have no part in this


def become_link(settings: str) -> NoReturn:
    """Link, with the site-packages of this interpreter."""
    become("from edgewarden.daemon.lean import main", "sys.argv[1]", settings, site=True)
