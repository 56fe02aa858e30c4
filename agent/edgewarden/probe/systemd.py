"""systemctl and systemd-run: the command line's one door to subprocess (law 3).

Why the commands and not D-Bus: they are what an administrator types, they come with systemd itself,
and a library for D-Bus would be a dependency for four calls. Why a door at all: confinement (tier
T1) lives in systemd, which nothing else can load or prove. Only ``edgewarden confine`` comes here,
run by a person or by its own unit; gate, guard and link cannot reach this module (laws 3, 5, 6).

Each call is bounded, gets no standard input, an environment of its own and a fixed search path.

    Systemctl().show(["ssh.service"], ["ActiveState"]) == {"ssh.service": {"ActiveState": "active"}}
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Sequence

from edgewarden.errors import HardwareFault
from edgewarden.ports import Ended

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
ANSWER_S = 90.0
"""A restart waits for the unit's own start: systemd's DefaultTimeoutStartSec."""
SETTLE_S = 1.5
"""A refused program ends its service in milliseconds; RestartSec= is 100 ms by default."""
MAX_TEXT = 1 << 20
_ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}


class Systemctl:
    """See ports.Systemd."""

    def show(self, units: Sequence[str], properties: Sequence[str]) -> dict[str, dict[str, str]]:
        """unit -> property -> value.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        found: dict[str, dict[str, str]] = {}
        for unit in units:  # one by one: of several, the one that is not found ends the answer
            words = [unit] if unit else []
            done = _run(["systemctl", "show", f"--property={','.join(properties)}", "--", *words])
            if done.code != 0:
                raise _no_answer(done.text)
            rows = (line.partition("=") for line in done.text.splitlines())
            values: dict[str, str] = {}
            for name, _, value in rows:  # Exec lines come once for each
                values[name] = f"{values[name]}\n{value}" if name in values else value
            found[unit] = values
        return found

    def do(self, verb: str, *units: str) -> Ended:
        """Do it and wait.

        Raises:
            HardwareFault: EW-EXEC-040, systemctl itself could not be run.
        """
        return _run(["systemctl", verb, *(["--", *units] if units else [])])

    def restart(self, unit: str) -> bool:
        """Whether it runs SETTLE_S after its restart: Type=simple says "started" before the exec.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        self.do("reset-failed", unit)  # StartLimitBurst= counts crashes, not what we ask for
        if self.do("restart", unit).code != 0:
            return False
        select.select([], [], [], SETTLE_S)
        shown = self.show([unit], ("ActiveState", "Type"))[unit]
        return shown["ActiveState"] == "active" or shown["Type"] == "oneshot"

    def transient(
        self, properties: Sequence[tuple[str, str]], command: Sequence[str], limit_s: float
    ) -> Ended:
        """Run a program in a unit of its own.

        Raises:
            HardwareFault: EW-EXEC-040, it did not end in time or could not be asked for.
        """
        flags = [f"--property={name}={value}" for name, value in properties]
        flags.append(f"--property=RuntimeMaxSec={limit_s:g}")
        line = ["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *flags, "--", *command]
        return _run(line, limit_s + ANSWER_S)

    def later(self, unit: str, after_s: int, command: Sequence[str]) -> None:
        """Run a command once after a time.

        Raises:
            HardwareFault: EW-EXEC-040.
        """
        line = ["systemd-run", "--quiet", "--collect", f"--unit={unit}", f"--on-active={after_s}"]
        done = _run([*line, "--timer-property=AccuracySec=1s", "--", *command])
        if done.code != 0:
            raise _no_answer(done.text)


def run_program(path: str, kept: Sequence[int] = ()) -> str:
    """Run a program without arguments: "exit N", or why it did not start ("EACCES").

    Args:
        path: of the program.
        kept: descriptors that it finds open, for a ``path`` that leads through one of them.
    """
    try:
        return f"exit {_run([path], 10.0, kept).code}"
    except HardwareFault as fault:
        cause = fault.__cause__
        if isinstance(cause, PermissionError):
            return "EACCES"
        raise


def _run(command: Sequence[str], limit_s: float = ANSWER_S, kept: Sequence[int] = ()) -> Ended:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            timeout=limit_s,
            pass_fds=kept,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise _no_answer(f"{command[0]}: {fault}") from fault
    return Ended(done.returncode, done.stdout[:MAX_TEXT].decode("utf-8", "backslashreplace"))


def _no_answer(text: str) -> HardwareFault:
    lines = text.strip().splitlines()
    return HardwareFault(
        f"systemd cannot be asked: {lines[0] if lines else 'no answer'}",
        code="EW-EXEC-040",
        next_step="see that systemd is this machine's init (`systemctl is-system-running`)",
    )
