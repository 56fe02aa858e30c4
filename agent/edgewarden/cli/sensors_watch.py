"""`edgewarden sensors watch NAME`: what a port says, raw beside decoded, as link reads it.

link owns the port; this asks link and opens nothing. Each read is a few rows: on the left its first
bytes in hexadecimal and as text, on the right each value with its quality and, where that is not
good, why.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.services import lenient_settings, settings_option
from edgewarden.probe.watching import follow

BYTES_A_ROW = 8
RAW_ROWS = 3
"""More only beside values that need the rows anyway: ten reads should stand on one screen."""
LEFT = 27
"""Two groups of four bytes, their text, a gap: a value has the other 52 columns."""
HEADER = f"{'raw':<{LEFT}} decoded"
WELL = ("live", "open")
"""States that need nobody."""
MOST_S = 1e6


def configure(parser: argparse.ArgumentParser) -> None:
    """NAME, how long, JSON."""
    parser.add_argument("name", metavar="NAME", help="the sensor's name in the settings")
    parser.add_argument(
        "--for", dest="limit_s", type=seconds, metavar="SECONDS", help="end after so long"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a read (edgewarden.watch/1)"
    )
    settings_option(parser)
    parser.set_defaults(run=run)


def seconds(typed: str) -> float:
    """What --for takes.

    Raises:
        ArgumentTypeError: no number, a negative one, or one without end.
    """
    try:
        given = float(typed)
    except ValueError:
        given = -1.0
    if not 0 <= given <= MOST_S:
        raise argparse.ArgumentTypeError(f"{typed} is no number of seconds from 0 on")
    return given


def run(args: argparse.Namespace, console: Console) -> int:
    """Follow until Ctrl-C, or for --for seconds; degraded when the port is not well at the end."""
    found = lenient_settings(args, console)
    before: tuple[str, str] = ("", "")
    reads = 0
    for said in follow(found.settings.paths.run, args.name, args.limit_s):
        state = said["state"]
        now = state["state"], state.get("quality", "good")
        if args.json:
            if said["lines"] or now != before:
                console.json("edgewarden.watch/1", {k: v for k, v in said.items() if k != "schema"})
        else:
            if now != before:
                console.line(clip(headline(args.name, state)))
                console.line(HEADER)
            if said["missed"]:
                console.line(f"({said['missed']} reads came too fast to be shown)")
            for line in said["lines"]:
                for row in rows(line):
                    console.line(row)
        reads += len(said["lines"])
        before = now
        console.out.flush()
    if not reads:
        state = "silent" if before[0] in WELL else before[0]
        console.fault(f"nothing came from {args.name} in {args.limit_s:g} s", *remedy(state))
    return Exit.OK if before[0] in WELL and before[1] == "good" and reads else Exit.DEGRADED


def remedy(state: str) -> tuple[str, str]:
    """Code and next step of a port that needs somebody: it says nothing, or it is not there."""
    code, check = "EW-SER-001", "plug and path"
    if state == "silent":
        code, check = "EW-SER-002", "power and wiring"
    return code, f"check {check}; `edgewarden explain {code}`"


def headline(name: str, state: dict[str, Any]) -> str:
    """How the port is: ``gps: live, quality suspect (lat: range), 4 bad frames``."""
    said = f"{name}: {state['state']}"
    if state.get("reason"):
        said += f", {state['reason']}"
    quality = state.get("quality", "good")
    if quality != "good" or state["state"] == "live":  # of what does not come nothing is good
        said += f", quality {quality}"
    if state.get("why"):
        said += f" ({'; '.join(state['why'])})"
    return f"{said}, {state['bad_frames']} bad frames"


def rows(read: dict[str, Any]) -> Iterator[str]:
    """One read, at most 80 columns."""
    data = bytes.fromhex(read["hex"])
    most = BYTES_A_ROW * max(RAW_ROWS, len(read["readings"]))
    left = [
        raw_row(data[at : at + BYTES_A_ROW]) for at in range(0, min(len(data), most), BYTES_A_ROW)
    ]
    right = [value_row(reading) for reading in read["readings"]]
    if read["more"]:
        right.append(f"... {read['more']} values more")
    yield f"-- {read['bytes']} bytes, {read['age_s']:.1f} s ago"
    for raw, value in zip_longest(left, right, fillvalue=""):
        yield clip(f"{raw:<{LEFT}} {value}".rstrip())


def raw_row(data: bytes) -> str:
    """``24475047 47412c31 $GPGGA,1``"""
    text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in data)
    return f"{data.hex(' ', -4):<18}{text}"


def value_row(reading: dict[str, Any]) -> str:
    """``temperature 21.5 Cel``, and behind it what is not good about it."""
    said = f"{reading['name']} {shown(reading['value'])} {reading['unit']}".rstrip()
    if reading["quality"] == "good":
        return said
    raw = "" if reading["raw"] is None else f", was {shown(reading['raw'])}"
    return f"{said} {reading['quality'].upper()}{raw} ({', '.join(reading['why'])})"


def shown(value: str | float) -> str:
    """A value as a person reads it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:.8g}" if isinstance(value, (int, float)) else value
