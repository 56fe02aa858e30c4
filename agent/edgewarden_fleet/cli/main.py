"""`edgewarden-fleet`: the operator's command; one file per noun.

    init DIR   serve DIR   token new --device ID   gateways   show ID
    reference add|list|end   evidence ID   appraise FILE   verify FILE
    decode FILE   revoke ID   replace ID   quarantine list|lift ID
    ca show|rotate

Commands that work on a fleet folder take --dir DIR, by default the present folder.
"""

from __future__ import annotations

import argparse
import importlib
import sqlite3
import sys
from collections.abc import Sequence
from typing import NoReturn

from edgewarden import __version__
from edgewarden.errors import EdgewardenError
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store.schema import store_fault

NOUNS = {
    "init": ("init", "make a fleet folder: CA, keys, broker configuration"),
    "serve": ("serve", "enrolment, ingest, verifier, store and console in one process"),
    "token": ("token", "enrolment tokens"),
    "gateways": ("show", "every gateway, one line each"),
    "show": ("show", "one gateway whole"),
    "reference": ("reference", "reference values, computed from release artefacts"),
    "evidence": ("appraise", "write stored evidence with all its appraisal went by"),
    "appraise": ("appraise", "judge such a file again, by another verifier too"),
    "revoke": ("revoke", "refuse everything a gateway sends from now on"),
    "replace": ("replace", "another board for the same place; its history stays"),
    "quarantine": ("quarantine", "gateways of which two states exist, and ending that"),
    "ca": ("ca", "what stands above the gateways' certificates, and rotating it"),
    "verify": ("verify", "check a file of records against the CA alone"),
    "decode": ("verify", "print a file of records without believing them"),
}
"""noun -> (file in cli/, help)."""

_EPILOG = """\
exit codes: 0 ok, 1 degraded, 2 failing, 64 usage, 65 bad input data,
69 peer unavailable, 73 cannot create, 77 permission
"""


class Parser(argparse.ArgumentParser):
    """argparse with our usage exit code and a next step."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and exit 64."""
        output.tell(f"{self.prog}: {message} [EW-AGT-007]")
        output.tell(f"  next: see `{self.prog} --help`")
        raise SystemExit(int(Exit.USAGE))


def parser(noun: str | None) -> Parser:
    """The command line; only the file of the typed noun is imported."""
    top = Parser(
        prog="edgewarden-fleet",
        description="The operator's side of edgewarden.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"edgewarden-fleet {__version__}")
    nouns = top.add_subparsers(dest="noun", metavar="COMMAND", required=True)
    for name, (file, help_text) in NOUNS.items():
        child = nouns.add_parser(
            name, help=help_text, description=help_text + ".", allow_abbrev=False
        )
        if name == noun:
            importlib.import_module(f"edgewarden_fleet.cli.{file}").configure(name, child)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    noun = next((w for w in words if not w.startswith("-")), None)
    arguments = parser(noun).parse_args(words)
    try:
        return int(arguments.run(arguments))
    except EdgewardenError as fault:
        output.tell_fault(fault)
        return int(output.exit_for(fault))
    except sqlite3.Error as fault:
        output.tell_fault(store_fault(fault))
        return int(Exit.FAILING)
    except PermissionError as fault:
        output.tell(f"edgewarden-fleet: this user may not use {fault.filename} [EW-SET-021]")
        output.tell("  next: run as the user who made the fleet folder")
        return int(Exit.PERMISSION)
    except BrokenPipeError:
        sys.stderr.close()
        return int(Exit.OK)


if __name__ == "__main__":
    raise SystemExit(main())
