"""What each import costs link: proportional set size before and after, in one fresh process.

Order matters: a module pays for everything it is the first to bring (asyncio brings ssl, and that
the system's OpenSSL). Third-party and standard library come first, our own rooms last, so that a
room's row is its own code. Run by the private interpreter, which nobody else maps: every page
counts whole, also those that link gives back when its start is over (kernel/memory.py), which is
why the sum is more than link's row.

    footprint.import.bare        the interpreter that has imported nothing
    footprint.import.NAME        what NAME adds
    footprint.import.all         link's modules all imported, nothing running yet
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

from tests.bench import private
from tests.bench.place import ROOT, CannotMeasure
from tests.bench.rows import Figure, Spec, middle

RUNS = 3
GROUPS: dict[str, tuple[str, float]] = {
    "asyncio": ("asyncio", 10.5),
    "ssl": ("ssl", 0.5),
    "sqlite3": ("sqlite3", 1.0),
    "paho": ("paho.mqtt.client", 4.5),
    "serial": ("serial", 0.4),
    "cbor2": ("cbor2", 1.0),
    "tomllib": ("tomllib", 0.4),
    "wire": ("edgewarden.wire", 0.9),
    "settings": ("edgewarden.settings", 0.9),
    "judge": ("edgewarden.judge", 0.4),
    "trust": ("edgewarden.trust", 1.4),
    "record": ("edgewarden.record", 0.5),
    "serial-room": ("edgewarden.serial", 0.9),
    "sense": ("edgewarden.sense", 0.3),
    "link": ("edgewarden.link", 0.6),
    "daemon": ("edgewarden.daemon.link", 1.0),
}
"""Row -> (module or room, bound of ours in MB: the figure of docs/performance.md and 15 %)."""
BARE_MB, ALL_MB = 8.5, 31.0

SPECS = (
    Spec("footprint.import.bare", "PSS of an interpreter that has imported nothing", "MB", BARE_MB),
    *(
        Spec(f"footprint.import.{name}", f"PSS that importing {what} adds to link", "MB", bound)
        for name, (what, bound) in GROUPS.items()
    ),
    Spec("footprint.import.all", "PSS of all that link imports, nothing running", "MB", ALL_MB),
)

_LOADED = """
import sys, json, edgewarden.daemon.link
print(json.dumps(sorted(sys.modules)))
"""
_SCRIPT = """
import gc, importlib, json, sys
def pss():
    gc.collect()
    for line in open('/proc/self/smaps_rollup'):
        if line.startswith('Pss:'):
            return int(line.split()[1]) / 1024
groups, wanted = json.loads(sys.argv[1]), json.loads(sys.argv[2])
found, last = {'bare': pss()}, pss()
for name, module in groups.items():
    # A room has an empty __init__: what link loads of it is asked of a process that has.
    for one in wanted.get(module, [module]):
        importlib.import_module(one)
    now = pss()
    found[name], last = now - last, now
found['all'] = last
print(json.dumps(found))
"""


def measure(interpreter: private.Interpreter) -> Iterator[Figure]:
    """The figures of this file."""
    loaded = _ask(interpreter, _LOADED)
    groups = {name: module for name, (module, _) in GROUPS.items()}
    rooms = {m: [one for one in loaded if one.startswith(f"{m}.")] for m in groups.values()}
    wanted = {m: ones for m, ones in rooms.items() if ones and m.startswith("edgewarden.")}
    taken = [
        _ask(interpreter, _SCRIPT, json.dumps(groups), json.dumps(wanted)) for _ in range(RUNS)
    ]
    whole = middle(one["all"] for one in taken)
    for spec in SPECS:
        name = spec.id.removeprefix("footprint.import.")
        yield Figure(
            spec.id, middle(one[name] for one in taken), f"{whole:.1f} MB of all imports", RUNS,
            f"{len(loaded)} modules" if name == "all" else "",
        )  # fmt: skip


def _ask(interpreter: private.Interpreter, script: str, *arguments: str):  # type: ignore[no-untyped-def]
    done = subprocess.run(
        [interpreter.python, "-c", script, *arguments], cwd=ROOT / "agent", capture_output=True,
        env=private.environment(interpreter), stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise CannotMeasure(done.stderr.decode()[-400:])
    return json.loads(done.stdout)
