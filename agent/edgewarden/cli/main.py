"""`edgewarden`: noun, then verb. Finds the noun's file, hands it the rest, turns faults into exit
codes.

The table below is the whole top level. Only the file of the noun that was typed is imported, so
that `edgewarden gate` never sees a TLS library.

    main(["explain", "EW-SET-004"]) == 0
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from edgewarden import __version__
from edgewarden.cli.console import Console, Exit, exit_for
from edgewarden.errors import EdgewardenError

NOUNS = {
    "run": ("services", "gate, guard and link under one supervisor"),
    "gate": ("services", "service entry point: exec control"),
    "guard": ("services", "service entry point: ends a gate that stalls"),
    "link": ("services", "service entry point: sensors, records, uplink"),
    "enroll": ("identity", "get this gateway its first identity"),
    "identity": ("identity", "who this gateway is"),
    "status": ("status", "one screen: how this gateway is"),
    "doctor": ("doctor", "check everything, first broken rung first"),
    "policy": ("policy", "what may be executed"),
    "confine": ("confine", "what systemd and sysctls can refuse: managed services"),
    "config": ("config", "settings: show, check, reference"),
    "sensors": ("sensors", "serial ports and what they deliver"),
    "devices": ("devices", "devices behind this gateway: who, and what each is worth"),
    "spool": ("spool", "durable records, also with the agent dead"),
    "findings": ("findings", "what the agent noticed"),
    "explain": ("explain", "meaning, causes and fix of a code"),
}
"""noun -> (file in cli/, help)."""

_EPILOG = """\
exit codes: 0 ok, 1 degraded, 2 failing, 3 agent not running, 64 usage,
65 bad input data, 69 peer unavailable, 73 cannot create, 77 permission
"""


class Parser(argparse.ArgumentParser):
    """argparse with our usage exit code, a code, and a next step."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the command line and exit 64."""
        typed = re.search(
            r"argument (\w+): invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL
        )
        if typed:  # argparse lists every choice; the nearest one says more in less
            close = difflib.get_close_matches(typed[2], re.findall(r"[\w-]+", typed[3]), n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            message = f"no such {typed[1].lower()}: {typed[2][:40]}{hint}"
        Console(sys.stdout, sys.stderr).fault(message, "EW-AGT-007", f"see `{self.prog} --help`")
        raise SystemExit(int(Exit.USAGE))


def parser(noun: str | None) -> Parser:
    """The command line; with the arguments of one noun, those of the others are not loaded."""
    top = Parser(
        prog="edgewarden",
        description="Security agent of this gateway.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"edgewarden {__version__}")
    nouns = top.add_subparsers(dest="noun", metavar="COMMAND", required=True)
    for name, (file, help_text) in NOUNS.items():
        child = nouns.add_parser(
            name, help=help_text, description=help_text + ".", allow_abbrev=False
        )
        if name == noun:
            importlib.import_module(f"edgewarden.cli.{file}").configure(name, child)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. argparse's own exits (help, usage) raise
    SystemExit."""
    words = list(sys.argv[1:] if argv is None else argv)
    typed = next((word for word in words if not word.startswith("-")), None)
    args = parser(typed).parse_args(words)
    console = Console(sys.stdout, sys.stderr)
    try:
        code = int(args.run(args, console))
        sys.stdout.flush()
        return code
    except EdgewardenError as fault:
        _report(fault, console)
        return int(exit_for(fault))
    except PermissionError as fault:
        console.fault(str(fault), "EW-AGT-005", "run the command again with sudo")
        return int(Exit.PERMISSION)
    except BrokenPipeError:  # the reader of a pipe went away, as `| head` does
        # The interpreter flushes stdout once more at its end (docs.python.org, "Note on SIGPIPE").
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(Exit.OK)
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


def _report(fault: EdgewardenError, console: Console) -> None:
    for one in getattr(fault, "faults", ()):
        console.note(str(one))
    if getattr(fault, "faults", ()):
        console.note(f"  next: {fault.next_step}")
        return
    step = fault.next_step or f"see `edgewarden explain {fault.code}`"
    console.fault(fault.text, fault.code, step)
