"""`edgewarden sensors probe PORT`: what speaks on a port that is not in use: rate, format, wiring.

The agent must not own the port: where it does, this names the sensor and refuses. It listens and
sends nothing, unless --modbus says so.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from itertools import zip_longest

from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.sensors_watch import BYTES_A_ROW, LEFT, raw_row, seconds, shown
from edgewarden.cli.services import lenient_settings, settings_option
from edgewarden.errors import HardwareFault, OperatorFault
from edgewarden.probe.guess import Guess, Sample, best, hints, look
from edgewarden.probe.listening import RATES, ask, is_pty, listen
from edgewarden.settings.serial import BAUDS, Serial

RAW_ROWS = 8
LIMIT_S = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """PORT, how long, whether to ask, JSON."""
    parser.add_argument("port", metavar="PORT", help="device file, as /dev/ttyUSB0")
    parser.add_argument(
        "--for", dest="limit_s", type=seconds, default=LIMIT_S, metavar="SECONDS",
        help="end after so long (30)",
    )  # fmt: skip
    parser.add_argument(
        "--baud", type=int, action="append", metavar="RATE", choices=BAUDS,
        help="try this rate only; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--modbus", type=int, metavar="UNIT",
        help="ask Modbus device UNIT for its register 0: this transmits",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.probe/1)")
    settings_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Probe and say what was found; failing when nothing was."""
    found = lenient_settings(args, console)
    owner = _owner(args.port, found.settings.serial)
    rates = tuple(args.baud or RATES)
    answered, echo = "", False
    try:
        if args.modbus is None:
            guesses = _listened(args.port, rates, args.limit_s, console)
        else:
            guesses, answered, echo = _asked(args, rates, console)
    except HardwareFault as fault:
        if owner and not fault.fields.get("missing"):
            raise OperatorFault(
                f"the agent owns {args.port}: it is sensor {owner}",
                code="EW-SER-016",
                next_step=f"watch it with `edgewarden sensors watch {owner}`, or stop "
                "edgewarden-link first",
            ) from fault
        raise
    chosen = best(guesses)
    asked = args.modbus is not None
    said = hints(guesses, pty=is_pty(args.port), echo=echo, asked=asked, answered=bool(answered))
    settings = answered or (_settings(args.port, chosen) if chosen else "")
    if args.json:
        console.json("edgewarden.probe/1", _body(args.port, guesses, chosen, said, settings))
    else:
        _print(args.port, guesses, chosen, said, settings, console)
    if settings:
        return Exit.OK
    console.fault(
        f"nothing that is known speaks on {args.port}",
        "EW-SER-017",
        "see the hints above; `edgewarden explain EW-SER-017`",
    )
    return Exit.FAILING


def _owner(port: str, wanted: Sequence[Serial]) -> str:
    """The sensor in the settings that this port is, by where both lead; "" for none."""
    real = os.path.realpath(port)
    return next((s.name for s in wanted if os.path.realpath(s.port) == real), "")


def _listened(port: str, rates: Sequence[int], limit_s: float, console: Console) -> list[Guess]:
    guesses = []
    console.note(f"listening on {port} for at most {limit_s:g} s, sending nothing ...")
    for sample in listen(port, rates, limit_s):
        guesses.append(look(sample))
        if guesses[-1].sure:
            break
    return guesses


def _asked(
    args: argparse.Namespace, rates: Sequence[int], console: Console
) -> tuple[list[Guess], str, bool]:
    if not 1 <= args.modbus <= 247:
        raise OperatorFault(
            f"{args.modbus} is no Modbus address",
            code="EW-AGT-007",
            next_step="UNIT is 1 to 247",
        )
    console.note(f"asking Modbus unit {args.modbus} on {args.port} for register 0 ...")
    guesses, echoes = [], 0
    for sample, reply, echo in ask(args.port, rates, args.modbus, args.limit_s):
        guesses.append(Guess(sample))
        echoes += echo
        if reply is not None:
            return guesses, _modbus(args.port, args.modbus, sample), echoes > 0
    return guesses, "", echoes > 0


def _modbus(port: str, unit: int, sample: Sample) -> str:
    parity = "" if sample.parity == "none" else f'\nparity = "{sample.parity}"'
    return (
        f'[[serial]]\nname = "NAME"\nport = "{port}"\nbaud = {sample.baud}{parity}\n'
        f'format = "modbus-rtu"\n[[serial.modbus]]\nname = "register-0"\nunit = {unit}\n'
        "address = 0"
    )


def _settings(port: str, chosen: Guess) -> str:
    """What to write into the settings."""
    rows = ["[[serial]]", 'name = "NAME"', f'port = "{port}"', f"baud = {chosen.sample.baud}"]
    if chosen.seven:
        rows += ["data_bits = 7", f'parity = "{chosen.seven}"']
    rows.append(f'format = "{chosen.format}"')
    if chosen.check:
        rows.append(f'check = "{chosen.check}"')
        rows.append("# what is in a frame: [[serial.field]]; without, one JSON object")
    if chosen.format == "lines":
        rows += ["[[serial.field]]", 'name = "VALUE"', "at = 0", 'type = "number"']
    if chosen.format == "modbus-rtu":
        rows.append("# others ask on this bus: the agent must not ask too")
    return "\n".join(rows)


def _print(
    port: str, guesses: Sequence[Guess], chosen: Guess | None, said: Sequence[str], settings: str,
    console: Console,
) -> None:  # fmt: skip
    console.line(f"{'baud':>7} {'parity':<6} {'bytes':>6} {'text':>5}  found")
    for guess in guesses:
        sample = guess.sample
        what = f"{guess.format}: {guess.frames} good, {guess.bad} bad" if guess.format else "-"
        if sample.framing_errors:
            what += f", {sample.framing_errors} framing errors"
        mark = "  <==" if guess is chosen else ""
        row = f"{sample.baud:>7} {sample.parity:<6} {len(sample.data):>6} {guess.text:>5.0%}"
        console.line(clip(f"{row}  {what}{mark}"))
    shown_of = chosen or max(guesses, key=lambda g: len(g.sample.data), default=None)
    if shown_of is not None and shown_of.sample.data:
        console.line(f"{'raw, the first bytes':<{LEFT}} decoded")
        data = shown_of.sample.data[: BYTES_A_ROW * RAW_ROWS]
        left = [raw_row(data[i : i + BYTES_A_ROW]) for i in range(0, len(data), BYTES_A_ROW)]
        right = [f"{r.name} {shown(r.value)} {r.unit}".rstrip() for r in shown_of.readings]
        for a, b in zip_longest(left, right[: len(left)], fillvalue=""):
            console.line(clip(f"{a:<{LEFT}} {b}".rstrip()))
    for hint in said:
        for at, part in enumerate(_wrapped(hint)):
            console.line(f"{'hint: ' if not at else '      '}{part}")
    if settings:
        console.line("in the settings:")
        for row in settings.splitlines():
            console.line(f"  {row}")


def _wrapped(text: str, width: int = 73) -> list[str]:
    out = [""]
    for word in text.split():
        if len(out[-1]) + 1 + len(word) > width:
            out.append(word)
        else:
            out[-1] = f"{out[-1]} {word}".strip()
    return out


def _body(
    port: str, guesses: Sequence[Guess], chosen: Guess | None, said: Sequence[str], settings: str
) -> dict[str, object]:
    return {
        "port": port,
        "rates": [
            {
                "baud": g.sample.baud,
                "parity": g.sample.parity,
                "bytes": len(g.sample.data),
                "hex": g.sample.data[:64].hex(),
                "text": round(g.text, 3),
                "framing_errors": g.sample.framing_errors,
                "format": g.format,
                "frames": g.frames,
                "bad": g.bad,
            }
            for g in guesses
        ],
        "chosen": None if chosen is None else chosen.sample.baud,
        "hints": list(said),
        "settings": settings,
    }
