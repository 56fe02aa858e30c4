"""`edgewarden sensors`: every configured port, its state, counters and quality, as link sees them.

`watch` follows one of them (sensors_watch.py); `probe` looks at a port nobody owns
(sensors_probe.py).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from edgewarden.cli import sensors_probe, sensors_watch
from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.sensors_watch import WELL, remedy
from edgewarden.cli.services import lenient_settings, settings_option
from edgewarden.probe.control import ask_link
from edgewarden.wire.control import Command

UNSTABLE = ("/dev/ttyUSB", "/dev/ttyACM")
"""Numbered in the order of plugging in."""
BY_PATH = "/dev/serial/by-path"


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """Without a verb: a list."""
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.sensors/1)")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=False)
    text = "follow one sensor: raw beside decoded, quality and why"
    sensors_watch.configure(verbs.add_parser("watch", help=text, description=text + "."))
    text = "find out what speaks on a port that is not in use"
    sensors_probe.configure(verbs.add_parser("probe", help=text, description=text + "."))
    settings_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the list; degraded when one of them, or the settings, need somebody."""
    found = lenient_settings(args, console)
    body: dict[str, Any] = ask_link(found.settings.paths.run, Command.SENSORS)
    sensors = body["sensors"]
    ill = [name for name, s in sensors.items() if s["state"] not in WELL]
    code = Exit.DEGRADED if ill or found.faults else Exit.OK
    if args.json:
        console.json("edgewarden.sensors/1", {k: v for k, v in body.items() if k != "schema"})
        return code
    if not sensors:
        console.line("no [[serial]] port is configured")
        return code
    console.line(f"{'name':<24} {'state':<10} {'readings':>10} {'bad frames':>10} {'silent_s':>9}")
    for name, s in sorted(sensors.items()):
        silent = "-" if s["silent_s"] is None else f"{s['silent_s']:.1f}"
        counts = f"{s['readings']:>10} {s['bad_frames']:>10} {silent:>9}"
        console.line(clip(f"{name:<24} {s['state']:<10} {counts}"))
    for name, s in sorted(sensors.items()):
        for line in _notes(name, s):
            console.line(line)
    for name, s in sorted(sensors.items()):
        if s.get("quality", "good") != "good":
            code = Exit.DEGRADED
            text = clip(f"{name}: readings are {s['quality']} ({'; '.join(s['why'])})", 120)
            step = f"see `edgewarden findings` and `edgewarden sensors watch {name}`"
            console.fault(text, "EW-SER-015", step)
    for name in ill:
        reason = sensors[name].get("reason")
        state = sensors[name]["state"]
        text = f"sensor {name} is {state}" + (f": {reason}" if reason else "")
        console.fault(text, *remedy(state))
    return code


def _notes(name: str, sensor: dict[str, Any]) -> Iterator[str]:
    """What of a port somebody should see besides its row; a link before an upgrade tells less."""
    counters = sensor.get("counters", {})
    bad = {word: counters.get(word, 0) for word in ("crc_bad", "overrun")}
    bad |= counters.get("refusals", {})
    named = ", ".join(f"{word} {count}" for word, count in bad.items() if count)
    if named:
        yield clip(f"{name}: bad frames: {named}")
    for unit, note in sensor.get("slaves", {}).items():
        if note != "ok":
            yield clip(f"{name}: unit {unit}: {note}")
    place = sensor.get("adapter", "").rpartition(" at ")[2]
    if place and sensor.get("port", "").startswith(UNSTABLE):
        yield f"{name}: its path may change at a boot; this one does not:"
        yield f"  {BY_PATH}/{place}"
