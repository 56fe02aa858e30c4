"""The laws of the house that an import graph cannot see: functions from a tree to its violations.

A tree is the root of a checkout or of a copy of one (tests/rules/test_laws.py plants violations in
copies). A violation reads ``FILE:LINE: what``. Every exception to a law is a line in a table below,
with its reason: adding one is a review, not an edit of the code that breaks the law.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

GATEWAY = Path("agent/edgewarden")
FLEET = Path("agent/edgewarden_fleet")

PURE_ROOMS = (
    "wire",
    "settings",
    "judge",
    "appraise",
    "confine",
    "peers",
    "watch",
    "readings",
    "order",
    "mirror",
)
FILE_CALLS = frozenset({"read_text", "read_bytes", "write_text", "write_bytes", "iterdir", "glob"})

SPAWNING = re.compile(r"^(system|popen|fork|forkpty|posix_spawnp?|exec[lv]p?e?|spawn[lv]p?e?)$")
SPAWN_DOORS = {
    "agent/edgewarden/exec/canary.py": "a one-shot that proves the tier by really executing",
    "agent/edgewarden/exec/canary_stop.py": "part of it: what is to be stopped",
    "agent/edgewarden/probe/confine_canary.py": "runs in a unit of its own to be refused (tier T1)",
    "agent/edgewarden/cli/become.py": "`edgewarden gate` becomes a lean interpreter; starts none",
}
"""Files that may start a program through os or asyncio instead of subprocess (law 3)."""

CLOCK_DOORS = {
    "agent/edgewarden/daemon/clock.py": "the real Clock and Randomness behind the ports",
    "agent/edgewarden/daemon/gate.py": "gate has no ports: deadlines and the heartbeat",
    "agent/edgewarden/exec/canary.py": "a process of its own: the beat of its BPF programs",
    "agent/edgewarden/inventory/look.py": "a process of its own: when the privileged look began",
    "agent/edgewarden/gate/arming.py": "part of gate: how long guard has been away",
    "agent/edgewarden/daemon/guard.py": "guard has no ports: the age of a heartbeat",
    "agent/edgewarden/daemon/notify.py": "sd_notify(3): where systemd listens",
    "agent/edgewarden/daemon/supervise.py": "waits between restarts",
    "agent/edgewarden/probe/listening.py": "the command line's: how long it has listened",
    "agent/edgewarden/probe/watching.py": "the command line's: asks link twice a second",
}
"""Where time, randomness and environment may enter (law 7)."""

ENVIRONMENT = frozenset(
    {
        "NO_COLOR",  # no-color.org: output only
        "NOTIFY_SOCKET",  # sd_notify(3)
        "WATCHDOG_USEC",  # sd_watchdog_enabled(3)
        "LISTEN_FDS",  # sd_listen_fds(3)
        "LISTEN_PID",  # sd_listen_fds(3)
        "CREDENTIALS_DIRECTORY",  # systemd.exec(5), LoadCredential=
    }
)
"""Every environment variable that is read anywhere. None of them loosens a check (law 8)."""

LOOSE_NAMES = re.compile(
    r"insecure|(skip|no|disable|without|ignore)_?(verify|verification|check|validation)"
    r"|unsafe_|test_?mode|debug_?mode|fake|mock|stub",
    re.IGNORECASE,
)
LOOSE_ATTRIBUTES = frozenset({"CERT_NONE", "CERT_OPTIONAL", "tls_insecure_set"})
_BOOTSTRAP = "fetches the root certificate once and believes only its pinned SHA-256"
LOOSE_DOORS = {
    "agent/edgewarden/enrol/by_token.py:CERT_NONE": _BOOTSTRAP,
    "agent/edgewarden/enrol/by_token.py:check_hostname = False": _BOOTSTRAP,
}
"""``FILE:NAME`` of each name that law 8 takes for a test switch and a reviewer does not."""

GATE_ROOMS = ("gate", "exec", "stop", "plugs", "network", "lockout", "act")
OPENS = frozenset({"open", "os.open", "io.open", "_io.open", "posix.open", "print"})
OPEN_DOORS = {
    "agent/edgewarden/gate/doors.py": "the doors themselves",
    "agent/edgewarden/gate/waiting.py": "at the start: the bell, an inode of memory",
    "agent/edgewarden/exec/canary.py": "a process of its own",
    "agent/edgewarden/exec/canary_stop.py": "part of it",
    "agent/edgewarden/exec/policy_files.py": "the policy one-shot's half: gate reads by doors",
    "agent/edgewarden/stop/resume.py": "its program; gate hands its descriptor of /proc in",
    "agent/edgewarden/plugs/restore.py": "what an uninstall runs",
}
"""Files of gate's rooms that may open one by a call of their own, or say something (row R5)."""
LATE_DOORS = {
    "agent/edgewarden/gate/stopping.py": "at the start, where [exec] bpf asks for it",
    "agent/edgewarden/exec/canary.py": "a process of its own",
}
"""Files of gate's rooms with an import inside a function (row R5)."""

FILE_LINES = 400
FUNCTION_LINES = 80
ROOM_FILES = 14  # "full at about twelve": two for the way there
SIZE_DOORS: dict[str, str] = {
    "agent/edgewarden/kernel": "each foreign interface is a file",
    "agent/edgewarden/trust": "each place where a key is kept is a file",
    "agent/edgewarden/cli": "a file for each noun, and of policy for each area",
    "agent/edgewarden/wire": "each format that leaves a process is a file",
    "agent/edgewarden/daemon": "each process and each one-shot is put together in a file",
    "agent/edgewarden/exec": "each step between an event and its report is a file; two canaries",
    "agent/edgewarden/judge": "each kind of decision is a file",
    "agent/edgewarden/link": "each stretch of the way to the broker is a file",
    "agent/edgewarden/record": "each step from a fact to the disk, or to memory, is a file",
    "agent/edgewarden/serial": "each form of a line is a file, and each part of a port's life",
    "agent/edgewarden_fleet/verify": "each kind of message is a file beside what they share",
    "agent/edgewarden_fleet/store": "each matter with tables of its own is a file",
    "agent/edgewarden/settings": "each section of a policy is a file beside the reader of all",
}
"""``FILE``, ``FILE:FUNCTION`` or ``ROOM`` of each exemption from the size budget (law 10)."""


def modules(tree: Path, *packages: Path) -> Iterator[tuple[str, ast.Module]]:
    """(path from the tree's root, parsed module) of every Python file of the packages."""
    for package in packages or (GATEWAY, FLEET):
        for path in sorted((tree / package).rglob("*.py")):
            yield path.relative_to(tree).as_posix(), ast.parse(path.read_text(), str(path))


def has_door(name: str, doors: dict[str, str]) -> bool:
    return any(name == door or (door.endswith("/") and name.startswith(door)) for door in doors)


def law_1_one_folder_deep(tree: Path) -> list[str]:
    """A room has files and no rooms. (The import graph does not see a folder without __init__.)"""
    return [
        f"{path.relative_to(tree).as_posix()}:1: deeper than one folder"
        for package in (GATEWAY, FLEET)
        for path in sorted((tree / package).glob("*/*/**/*.py"))
    ]


def law_2_no_files(tree: Path) -> list[str]:
    """The pure rooms open nothing and print nothing."""
    found = []
    for name, module in modules(tree, *(GATEWAY / room for room in PURE_ROOMS)):
        for node in ast.walk(module):
            if not isinstance(node, ast.Call):
                continue
            called = dotted(node.func)
            if called in ("open", "print", "input", "exec", "eval", "__import__"):
                found.append(f"{name}:{node.lineno}: calls {called}()")
            elif called.rpartition(".")[2] in FILE_CALLS and "." in called:
                found.append(f"{name}:{node.lineno}: calls .{called.rpartition('.')[2]}()")
    return found


def law_3_no_spawning(tree: Path) -> list[str]:
    """No program is started through os or asyncio behind subprocess's back."""
    found = []
    for name, module in modules(tree):
        if has_door(name, SPAWN_DOORS):
            continue
        for node in ast.walk(module):
            owner, _, verb = dotted(node).rpartition(".")
            if (owner == "os" and SPAWNING.match(verb)) or verb.startswith("create_subprocess_"):
                found.append(f"{name}:{node.lineno}: starts a program through {owner}.{verb}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                for alias in node.names:
                    if SPAWNING.match(alias.name):
                        found.append(f"{name}:{node.lineno}: imports os.{alias.name}")
    return found


def law_7_clocks(tree: Path) -> list[str]:
    """Time, randomness and environment enter through ports, settings and the named doors."""
    found = []
    for name, module in modules(tree, GATEWAY):
        if has_door(name, CLOCK_DOORS):
            continue
        for node in ast.walk(module):
            for what in outside_names(node):
                found.append(f"{name}:{node.lineno}: {what}")
    return found


def outside_names(node: ast.AST) -> list[str]:
    """What of the clock, of chance or of the environment this node reaches for."""
    roots = {"time", "random", "secrets", "uuid"}
    if isinstance(node, ast.Import):
        return [f"imports {a.name}" for a in node.names if a.name in roots]
    if isinstance(node, ast.ImportFrom):
        if node.module in roots:
            return [f"imports {node.module}"]
        if node.module == "os":
            taken = {"environ", "getenv", "urandom", "environb", "getrandom"}
            return [f"imports os.{a.name}" for a in node.names if a.name in taken]
        return []
    name = dotted(node)
    if name in ("os.environ", "os.environb", "os.getenv", "os.urandom", "os.getrandom"):
        return [f"uses {name}"]
    if re.search(r"(^|\.)datetime\.(now|utcnow|today)$|(^|\.)date\.today$", name):
        return [f"uses {name}"]
    return []


def law_8_environment(tree: Path) -> list[str]:
    """Every environment variable that is read is one of ENVIRONMENT, by a literal name."""
    found = []
    for name, module in modules(tree):
        for node in ast.walk(module):
            key: ast.expr | None = None
            if isinstance(node, ast.Subscript) and dotted(node.value) == "os.environ":
                key = node.slice
            elif isinstance(node, ast.Call) and dotted(node.func) in (
                "os.getenv",
                "os.environ.get",
                "os.environ.pop",
            ):
                key = node.args[0]
            else:
                continue
            literal = key.value if isinstance(key, ast.Constant) else None
            if literal not in ENVIRONMENT:
                found.append(f"{name}:{node.lineno}: reads the environment variable {literal!r}")
    return found


def law_8_switches(tree: Path) -> list[str]:
    """No name or option in what ships reads like a fake, a test switch or a loosened check."""
    found = []
    for name, module in modules(tree):
        if LOOSE_NAMES.search(Path(name).name):
            found.append(f"{name}:1: the file's name")
        for node in ast.walk(module):
            for word in named(node):
                loose = word in LOOSE_ATTRIBUTES or LOOSE_NAMES.search(word)
                if loose and f"{name}:{word}" not in LOOSE_DOORS:
                    found.append(f"{name}:{getattr(node, 'lineno', 0)}: {word!r}")
            if isinstance(node, ast.Assign) and is_false(node.value):
                for target in node.targets:
                    attribute = dotted(target).rpartition(".")[2]
                    word = f"{attribute} = False"
                    if attribute == "check_hostname" and f"{name}:{word}" not in LOOSE_DOORS:
                        found.append(f"{name}:{node.lineno}: {word}")
            if isinstance(node, ast.keyword) and node.arg == "verify" and is_false(node.value):
                found.append(f"{name}:{node.value.lineno}: verify=False")
    return found


def named(node: ast.AST) -> list[str]:
    """Identifiers that this node introduces or uses, and option-like strings."""
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.arg(arg=word):
            return [word]
        case ast.FunctionDef(name=word) | ast.AsyncFunctionDef(name=word):
            return [word]
        case ast.ClassDef(name=word) | ast.alias(name=word):
            return [word]
        case ast.Constant(value=str(word)) if re.fullmatch(r"-{0,2}[A-Za-z][\w-]*", word):
            return [word.replace("-", "_")]
    return []


def law_10_sizes(tree: Path) -> list[str]:
    """Files, functions and rooms stay small; a room's __init__ is empty."""
    found = []
    for name, module in modules(tree):
        lines = len((tree / name).read_text().splitlines())
        if lines > FILE_LINES and name not in SIZE_DOORS:
            found.append(f"{name}:1: {lines} lines, the cap is {FILE_LINES}")
        if name.endswith("/__init__.py") and name.count("/") > 2 and lines:
            found.append(f"{name}:1: a room's __init__ is not empty")
        for node in ast.walk(module):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                if size > FUNCTION_LINES and f"{name}:{node.name}" not in SIZE_DOORS:
                    found.append(
                        f"{name}:{node.lineno}: {node.name}() has {size} lines,"
                        f" the cap is {FUNCTION_LINES}"
                    )
    for package in (GATEWAY, FLEET):
        for room in sorted(p for p in (tree / package).iterdir() if p.is_dir()):
            count = len([p for p in room.glob("*.py") if p.name != "__init__.py"])
            name = room.relative_to(tree).as_posix()
            if count > ROOM_FILES and name not in SIZE_DOORS:
                found.append(f"{name}:1: {count} files, the cap is {ROOM_FILES}")
    return found


def storage_alone_has_the_database(tree: Path) -> list[str]:
    """Issue 6: the storage thread is the only thing that touches SQLite. So record/ alone imports
    it, whose connections the module itself keeps to the thread that made them."""
    found = []
    for name, module in modules(tree, GATEWAY):
        for node in ast.walk(module):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            loose = isinstance(node, ast.keyword) and node.arg == "check_same_thread"
            away = "sqlite3" in names and not name.startswith("agent/edgewarden/record/")
            if loose or away:
                found.append(
                    f"{name}:{getattr(node, 'lineno', 1)}: the database, of another thread"
                )
    return found


def row_r5_gate_opens_nothing(tree: Path) -> list[str]:
    """Row R5 of issue 4, its half that can be read: what answers execs opens, imports and logs
    nothing while it does (the other half is gate/doors.py's audit hook)."""
    found = []
    rooms = [GATEWAY / room for room in GATE_ROOMS]
    own = GATEWAY / "daemon" / "gate.py"
    trees = [*modules(tree, *rooms), (own.as_posix(), ast.parse((tree / own).read_text()))]
    for name, module in trees:
        for node in ast.walk(module):
            said = ""
            if isinstance(node, ast.Call) and not has_door(name, OPEN_DOORS):
                called = dotted(node.func)
                if called in OPENS or called.rpartition(".")[2] in FILE_CALLS - {"read_bytes"}:
                    said = f"{called}()"
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or "", *(one.name for one in node.names)]
                if {"logging", "syslog", "warnings"} & {one.partition(".")[0] for one in names}:
                    said = "a log"
            elif isinstance(node, ast.FunctionDef) and not has_door(name, LATE_DOORS):
                late = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
                if late:
                    said = f"an import inside {node.name}()"
            if said:
                found.append(f"{name}:{node.lineno}: {said} where execs wait for an answer")
    return found


def row_r5_gate_is_shut(tree: Path) -> list[str]:
    """``main`` shuts every other way before it turns to execs."""
    name = (GATEWAY / "daemon" / "gate.py").as_posix()
    for node in ast.parse((tree / name).read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            at = {dotted(call.func): call.lineno for call in calls}
            if at.get("confine", at["gate.run"]) < at["gate.run"]:
                return []
    return [f"{name}:1: main() does not call confine() before gate.run()"]


def stale_doors(tree: Path) -> list[str]:
    """A door that leads to a file that is gone is an exception nobody reviews any more."""
    tables = (SPAWN_DOORS, CLOCK_DOORS, LOOSE_DOORS, SIZE_DOORS, OPEN_DOORS, LATE_DOORS)
    return [
        f"{door}: no such file"
        for table in tables
        for door in table
        if not (tree / door.partition(":")[0]).exists()
    ]


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a chain of attributes, empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    elif parts:
        parts.append("?")
    return ".".join(reversed(parts))


def is_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is False
