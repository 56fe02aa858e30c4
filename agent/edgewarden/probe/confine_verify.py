"""Whether confinement really holds on this boot: canaries that must be refused, and what is loaded,
mounted and set now against what was put in place.

What this decides, for each managed service:

1. A program, a script and a library that were dropped where nothing else keeps them from running
   are refused in a transient unit with the drop-in's own directives, and the service's program and
   its libraries can be mapped there. Before that, the dropped program runs without them: otherwise
   a refusal would prove nothing.
2. systemd has every line of the drop-in loaded, and the service's running process sees ``/``
   noexec: a service that was not restarted since is not confined.

For each place: a program dropped there is refused by the kernel, and the mount says noexec. A place
is often writable by others and may be a user's own, so nothing there is trusted by its name: the
folder is opened once, the mount of that descriptor is asked, and what runs (as root, if nothing
keeps it from running) is the very file that was made, through its descriptor. For each sysctl: its
value. A service counts as proved when 1 and 2 hold; T1 is claimed when there is
one and all do (cli/confine.py).

    verifier = Verifier(Systemctl(), Look(Systemctl()), "/var/lib/edgewarden")
    verifier.service(plan_of_it, facts_of_it) == []
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgewarden.confine.facts import Service, ServicePlan
from edgewarden.confine.service import FOLDERS, PATHS, holds, holes
from edgewarden.errors import HardwareFault
from edgewarden.ports import Ended, Systemd
from edgewarden.probe.confinement import Look
from edgewarden.probe.programs import needs
from edgewarden.probe.systemd import run_program

CANARY = Path(__file__).with_name("confine_canary.py")
FOLDER = "confinement/canary"
"""Below [paths] state: /run is noexec on Debian, and would refuse for another reason."""
LIFE_S = 20.0
"""Of one canary; it needs about 0.1 s on a workstation."""
PROGRAMS = ("/usr/bin/true", "/bin/true")
SCRIPT = "#!/bin/sh\nexit 0\n"
NOT_MAPPED = "exit 127"
"""What the loader ends with when it cannot map a program (rtld.c, _dl_fatal_printf)."""
_REFUSED = {
    "exec": ("EACCES",),
    "script": ("EACCES",),
    "map": ("EPERM",),
    "loader": (NOT_MAPPED, "EACCES"),
}
"""NoExecPaths=: attempt -> what the kernel may say (execve(2), mmap(2))."""
_SHAPES = ("ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "ProtectKernelTunables",
           "ProtectControlGroups", "ProtectKernelLogs", "ProtectKernelModules")  # fmt: skip
"""Directives of the unit's own that give it mounts of its own: each was a hole before it was named
(confine/service.py, ALWAYS)."""
_BY_LINE = {
    "MemoryDenyWriteExecute": ("memory", ("EPERM", "EACCES")),
    "RestrictNamespaces": ("namespace", ("EPERM", "ENOSYS", "untried")),
    "BindReadOnlyPaths": ("write", ("EROFS", "EACCES")),
    "NoNewPrivileges": ("privileges", ("1",)),
}


class Verifier:
    """See the module. Blocks for seconds; root only; leaves nothing."""

    def __init__(self, systemd: Systemd, look: Look, state_dir: str) -> None:
        self._systemd = systemd
        self._look = look
        self._folder = Path(state_dir, FOLDER)

    def service(self, plan: ServicePlan, facts: Service) -> list[str]:
        """What does not hold for a service, in words.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        if not plan.lines or not facts.programs:
            return ["its drop-in or its program is gone"]
        found = self._loaded(plan)
        with self._dropped() as (dropped, script):
            alone = run_program(dropped)
            if alone != "exit 0":
                return [*found, f"the canary's program does not run here even alone: {alone}"]
            own = needs(facts.programs[0])
            interpreter = needs(os.path.realpath(sys.executable))
            extra = [("ExecPaths", p) for p in (*interpreter.programs, *interpreter.libraries)]
            elves = [own.programs[-2] if own.loader else own.programs[0]]
            command = [sys.executable, "-I", "-S", str(CANARY), dropped, script, own.loader, *elves]
            lines = [*plan.lines, *extra, *self._surroundings(plan, facts)]
            ended = self._systemd.transient(lines, command, LIFE_S)
        return found + self._judged(ServicePlan(plan.unit, (*plan.lines, *extra)), ended)

    def _surroundings(self, plan: ServicePlan, facts: Service) -> list[tuple[str, str]]:
        """The unit's own directives that shape its mounts, without making or removing a folder."""
        shown = self._systemd.show([plan.unit], ("User", "DynamicUser", *_SHAPES))[plan.unit]
        if shown.get("DynamicUser") == "yes":
            shown.pop("User", None)  # a name that exists while the unit runs, and for it alone
        kept = [(name, value) for name, value in shown.items() if value not in ("", "no")]
        ours = {value for name, value in plan.lines if name == "BindReadOnlyPaths"}
        for name in PATHS:
            words = facts.live.get(name, "").split()
            kept += [(name, w) for w in words if f"-{w.lstrip('-').split(':')[0]}" not in ours]
        for name, top in FOLDERS.items():
            for word in facts.live.get(name, "").split():
                kept.append(("ReadWritePaths", f"-{top}/{word.split(':')[0]}"))
        return kept

    def _judged(self, plan: ServicePlan, ended: Ended) -> list[str]:
        try:
            said = json.loads(ended.text.strip().splitlines()[-1])
        except (ValueError, IndexError):
            text = " ".join(ended.text.split())[:120] or "nothing"
            return [f"the canary did not come to an end (exit {ended.code}): {text}"]
        return judge_canary(plan, said)

    def _loaded(self, plan: ServicePlan) -> list[str]:
        names = sorted({name for name, _ in plan.lines})
        wanted = (*names, "NeedDaemonReload", "MainPID", "ActiveState")
        shown = self._systemd.show([plan.unit], wanted)[plan.unit]
        found = [
            f"{name}={value} is not loaded"
            for name, value in plan.lines
            if not holds(name, value, shown.get(name, ""))
        ]
        if shown.get("NeedDaemonReload") == "yes":
            found.append("systemd has not read its files again (daemon-reload)")
        pid = int(shown.get("MainPID") or 0)
        if pid and ("NoExecPaths", "/") in plan.lines:
            places = holes(self._look.open_places(pid), plan.lines)
            if "/" in places:
                found.append("it runs unconfined since before: restart it")
            elif places:
                found.append(f"programs run from {', '.join(places[:4])} in it")
        return found

    def place(self, path: str) -> list[str]:
        """What does not hold for a place that is to run nothing."""
        options = self._look.mounted().get(path)
        if options is None or "noexec" not in options:
            return ["it is not mounted noexec"]
        try:
            folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as fault:
            return [f"it could not be opened: {os.strerror(fault.errno or 0)}"]
        try:
            if not os.fstatvfs(folder).f_flag & os.ST_NOEXEC:  # mounted over since, or swapped
                return ["what lies there is not mounted noexec"]
            said = run_dropped(folder, _program())
        except OSError as fault:
            return [f"no canary could be dropped there: {os.strerror(fault.errno or 0)}"]
        finally:
            os.close(folder)
        return [] if said == "EACCES" else [f"a program dropped there ended as: {said}"]

    @contextlib.contextmanager
    def _dropped(self) -> Iterator[tuple[str, str]]:
        """A program and a script that anybody may read and execute."""
        made = not self._folder.parent.exists()
        self._folder.mkdir(0o755, parents=True, exist_ok=True)
        try:
            for name, image in (("program", _program()), ("script", SCRIPT.encode())):
                _install(self._folder / name, image)
            yield str(self._folder / "program"), str(self._folder / "script")
        finally:
            shutil.rmtree(self._folder)
            if made:
                self._folder.parent.rmdir()


def judge_canary(plan: ServicePlan, said: dict[str, str]) -> list[str]:
    """What a canary's words mean for the lines of a drop-in: each that did not hold."""
    lines = dict(plan.lines)
    expected: dict[str, tuple[str, ...]] = {}
    if lines.get("NoExecPaths") == "/":
        static = "loader" not in said
        expected.update({n: words for n, words in _REFUSED.items() if n != "loader" or not static})
        expected.update({name: ("exit 0",) for name in said if name.startswith("list ")})
    for line, (name, words) in _BY_LINE.items():
        if line in lines:
            expected[name] = words
    if "memfd_create" in lines.get("SystemCallFilter", ""):
        expected["memfd"] = ("EPERM",)
    open_ = holes(said.get("places", "").split(), plan.lines)
    found = [f"programs run from {', '.join(open_[:4])}"] if open_ else []
    return found + [
        f"{name}: the kernel said {said.get(name, 'nothing')}, not {' or '.join(words)}"
        for name, words in expected.items()
        if said.get(name) not in words
    ]


def run_dropped(
    folder: int, image: bytes, run: Callable[[str, Sequence[int]], str] = run_program
) -> str:
    """Make a program in a folder that may be somebody else's, and run it: what the kernel said.

    It runs through a descriptor of the file that was made: whoever owns the folder may put another
    one in its place at any moment, and root would run that.

    Args:
        folder: a descriptor.
        image: the program.
        run: as run_program.

    Raises:
        OSError: it could not be made.
    """
    name = f".edgewarden-canary-{os.getpid()}"
    fresh = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, fresh, 0o600, dir_fd=folder)
    try:
        with open(made, "wb") as file:
            file.write(image)
            file.flush()
            os.fchmod(made, 0o755)
            fd = os.open(f"/proc/self/fd/{made}", os.O_RDONLY | os.O_CLOEXEC)
        try:  # the writable descriptor is closed: an exec would be ETXTBSY
            return run(f"/proc/self/fd/{fd}", (fd,))
        finally:
            os.close(fd)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)


def _program() -> bytes:
    for path in PROGRAMS:
        with contextlib.suppress(OSError):
            return Path(path).read_bytes()
    raise HardwareFault(
        f"none of {', '.join(PROGRAMS)} is there to make a canary of",
        code="EW-EXEC-044",
        next_step="install coreutils",
    )


def _install(where: Path, image: bytes) -> None:
    fd = os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755)
    with open(fd, "wb") as file:
        os.fchmod(fd, 0o755)
        file.write(image)
