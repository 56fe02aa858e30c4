"""`run`, `gate`, `guard`, `link`: thin entries into daemon/, and the only doors from cli/ to it.

gate, guard and link do not run in this interpreter: it becomes a lean one (become.py). The others
are imported when they are asked for, so that no command pays for another's libraries.
``system_clock``, ``own_keys`` and ``compile_policy`` are what other nouns need from daemon/.

Broken settings keep neither gate nor the supervisor down: both need [paths] alone, and a machine
that was guarded yesterday must be guarded after a reboot. ``lenient_settings`` is for every command
that looks at the agent or takes it in hand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgewarden.cli.become import DEFAULT_SETTINGS, become, become_link
from edgewarden.cli.console import Console
from edgewarden.probe.disk import Disk, filesystem_bytes
from edgewarden.settings.faults import CREATE, NOT_THERE, SettingsFaults
from edgewarden.settings.lenient import LAST_GOOD, Lenient, read_leniently

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgewarden.baseline.running import Starts as Starts
    from edgewarden.baseline.survey import Finding as Finding
    from edgewarden.daemon.baseline import Blocked as Blocked
    from edgewarden.daemon.baseline import Difference as Difference
    from edgewarden.daemon.baseline import Progress as Progress
    from edgewarden.daemon.baseline import Taken as Taken
    from edgewarden.daemon.policy import Compiled
    from edgewarden.ports import Clock, Randomness
    from edgewarden.record.quota import Cap
    from edgewarden.settings.schema import Settings
    from edgewarden.trust.ladder import Keys
    from edgewarden.wire.peripherals import DeviceRule


def settings_option(parser: argparse.ArgumentParser) -> None:
    """The option nearly every noun has."""
    parser.add_argument(
        "--settings",
        metavar="FILE",
        default=DEFAULT_SETTINGS,
        help="settings file; conf.d beside it is read too (default: %(default)s)",
    )


def lenient_settings(args: argparse.Namespace, console: Console) -> Lenient:
    """The settings as far as they can be had; their faults are told on stderr."""
    found = read_leniently(args.settings, Disk())
    if found.faults:
        more = f" (and {len(found.faults) - 1} more)" if len(found.faults) > 1 else ""
        console.note(f"edgewarden: settings: {found.faults[0]}{more}")
        step = f"run `edgewarden config check {args.settings}`"
        if found.faults[0].code == NOT_THERE:
            step = CREATE["config"]
        console.note(f"  next: {step}; going on without")
    return found


def spool_cap(settings: Settings) -> Cap:
    """What the spool of a start with these settings may hold: as daemon/storage.py has it, without
    loading what stores."""
    from edgewarden.record.quota import cap_of
    from edgewarden.record.spool import FOLDER

    kept, folder = settings.spool, Path(settings.paths.state, FOLDER)
    return cap_of(kept.cap_bytes, kept.cap_percent, filesystem_bytes(str(folder)))


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """The arguments of one service entry point."""
    settings_option(parser)
    parser.set_defaults(run={"run": _run, "gate": _gate, "guard": _guard, "link": _link}[noun])


def _run(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.daemon.supervise import Plan, supervise

    found = lenient_settings(args, console)
    paths, user = found.settings.paths, found.settings.exec.link_user
    ran_before = [Path(paths.state, name) for name in (GATE_CONFIG, LAST_GOOD)]
    if found.faults and not any(path.exists() for path in ran_before):
        raise SettingsFaults(found.faults)  # nothing to go on with: a new installation's typing
    settings = os.path.abspath(args.settings)  # the parts are started in /
    return supervise(Plan(settings, paths.state, paths.run, user))


def _gate(args: argparse.Namespace, console: Console) -> int:
    paths = lenient_settings(args, console).settings.paths
    return become(
        "from edgewarden.daemon.gate import main", "*sys.argv[1:]", paths.state, paths.run
    )


def _guard(args: argparse.Namespace, console: Console) -> int:
    return become("from edgewarden.daemon.guard import main", str(LISTEN_FD))


def _link(args: argparse.Namespace, console: Console) -> int:
    return become_link(args.settings)


GATE_CONFIG = "policy/gate.conf"
"""Below [paths] state: what the policy one-shot last compiled for gate."""
LISTEN_FD = 3
"""Where systemd and the supervisor put guard's listening socket (sd_listen_fds(3))."""


def system_clock() -> Clock:
    """The real clock, for the commands that judge certificates and measure probes."""
    from edgewarden.daemon.clock import SystemClock

    return SystemClock()


def system_randomness() -> Randomness:
    """The kernel's generator."""
    from edgewarden.daemon.clock import SystemRandomness

    return SystemRandomness()


def own_keys(tcti: str) -> Keys:
    """The places where this machine may keep the identity's key."""
    from edgewarden.daemon.clock import credentials_folder
    from edgewarden.trust.ladder import Keys

    return Keys(tcti, credentials_folder())


def compile_policy(settings_path: str, *, older: bool = False) -> Compiled:
    """The policy one-shot (daemon/policy.py): it writes what gate reads."""
    from edgewarden.daemon.policy import compile_policy

    return compile_policy(settings_path, older=older)


def learn_system(
    settings_path: str, roots: Sequence[str], *, full: bool, progress: Progress
) -> Taken:
    """Take the baseline of this system (daemon/baseline.py)."""
    from edgewarden.daemon.baseline import learn_system

    return learn_system(settings_path, roots, full=full, progress=progress)


def rebaseline(settings_path: str) -> Taken | None:
    """Take over what dpkg brought (daemon/baseline.py)."""
    from edgewarden.daemon.baseline import rebaseline

    return rebaseline(settings_path)


def compare(settings_path: str, *, full: bool, progress: Progress) -> Difference:
    """The system against its baseline (daemon/baseline.py)."""
    from edgewarden.daemon.baseline import compare

    return compare(settings_path, full=full, progress=progress)


def this_login() -> tuple[str, ...]:
    """The login this command was typed in, as gate/sessions.py tells it."""
    from edgewarden.gate.sessions import session_of

    def proc_text(name: str) -> str:
        with contextlib.suppress(OSError):
            return Path("/proc", name).read_text()
        return ""

    return session_of(proc_text, os.getpid(), system_clock().now().boot_ns).words()


def why_no_new_login(earlier: tuple[str, ...], now: tuple[str, ...]) -> str:
    """Why ``now`` is certainly no login that began after ``earlier`` asked; "" when it is."""
    from edgewarden.gate.sessions import REFUSALS, Session

    here = Session.of(now)
    return REFUSALS.get(here.why_not(Session.of(earlier)), "")


def learned_peripherals() -> str:
    """Rules for what is plugged into this machine now, as TOML."""
    from edgewarden.plugs.learn import this_machine

    return this_machine()


def refused_peripherals(devices: Sequence[DeviceRule]) -> list[str]:
    """What these rules would refuse of what is plugged into this machine now."""
    from edgewarden.plugs.learn import refused_here

    return refused_here(devices)


def put_peripherals_back(state_dir: str) -> list[str]:
    """Undo what a gate that ended has left in USB; returns what could not be."""
    from edgewarden.plugs.restore import put_back

    return put_back(state_dir)


def remove_network_table(state_dir: str) -> str:
    """Take the network table out of the kernel; returns why that was not possible, or ""."""
    from edgewarden.network.restore import remove_table

    return remove_table(state_dir)


def would_block(settings_path: str) -> Blocked:
    """What runs or would be started and is not allowed (daemon/baseline.py)."""
    from edgewarden.daemon.baseline import would_block

    return would_block(settings_path)
