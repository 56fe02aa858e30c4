"""`edgewarden confine show|apply|confirm|verify|revert`: what systemd and sysctls can refuse (T1).

show prints the plan as a difference: ``+`` would change, ``=`` is already so, ``!`` is left as it
is, ``-`` is not available here. apply puts it in place, for good or with ``--confirm TIME`` until
the time is over or the machine starts again; verify tries it, with programs that must be refused;
revert takes everything back.

Which services are managed stands in the settings ([[confined]]) and nowhere else.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgewarden.change.confinement import Confiner
from edgewarden.change.records import forget_proof, record_proof
from edgewarden.cli.console import WIDTH, Console, Exit, clip
from edgewarden.cli.policy import duration
from edgewarden.cli.services import (
    lenient_settings,
    settings_option,
    this_login,
    why_no_new_login,
)
from edgewarden.confine.facts import Plan, Wish
from edgewarden.confine.plan import files, plan
from edgewarden.confine.record import Applied, Proved
from edgewarden.confine.screen import SIGNS, screen
from edgewarden.confine.service import peers_of
from edgewarden.errors import EdgewardenError, OperatorFault, PeerUnavailable
from edgewarden.ports import Systemd
from edgewarden.probe.confine_verify import Verifier
from edgewarden.probe.confinement import Look
from edgewarden.probe.control import ask_gate
from edgewarden.probe.disk import Disk
from edgewarden.probe.systemd import Systemctl
from edgewarden.settings.files import read_policy
from edgewarden.settings.policy_peers import Egress
from edgewarden.settings.schema import Settings
from edgewarden.wire.gate_files import ExecTier
from edgewarden.wire.local import Request

TRIAL_TIMER = "edgewarden-confine-trial"


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """One verb for each thing a person does with confinement."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="what would change, what is so, what cannot be here")
    show.add_argument("name", metavar="NAME", nargs="?", help="one service, place or sysctl: why")
    show.set_defaults(run=_show)
    apply = verbs.add_parser("apply", help="put it in place (root)")
    apply.add_argument(
        "--confirm",
        metavar="TIME",
        type=duration,
        default=0,
        help="take it back after TIME (10m, 2h) or at a boot unless `confine confirm` is typed",
    )
    apply.add_argument(
        "--restart", action="store_true", help="restart the managed services, and back if one fails"
    )
    apply.set_defaults(run=_apply)
    confirm = verbs.add_parser(
        "confirm", help="keep what `apply --confirm` tries; from a new login"
    )
    confirm.set_defaults(run=_confirm)
    verify = verbs.add_parser("verify", help="try it: what must be refused, what must run")
    verify.set_defaults(run=_verify)
    revert = verbs.add_parser("revert", help="take everything back, byte for byte (root)")
    revert.add_argument("--force", action="store_true", help="also what somebody changed since")
    revert.add_argument("--trial", action="store_true", help="only what is on trial")
    revert.set_defaults(run=_revert)
    for verb in (show, apply, confirm, verify, revert):
        verb.add_argument("--json", action="store_true", help="print JSON (edgewarden.confine/1)")
        settings_option(verb)


class Bench:
    """What every verb works with: settings, systemd, what is in place, and the plan."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        found = lenient_settings(args, console)
        if found.faults:
            console.note("edgewarden: services are confined as far as the settings can be read")
        self.settings: Settings = found.settings
        self.systemd: Systemd = Systemctl()
        paths = self.settings.paths
        self.confiner = Confiner(self.systemd, paths.state, paths.run)
        self.applied: Applied | None = None
        try:
            self.applied = self.confiner.applied()
        except OperatorFault:
            if not getattr(args, "force", False):
                raise
        done = self.applied
        self.look = Look(
            self.systemd,
            methods={m.path: m.method for m in done.mounts} if done else {},
            before={t.name: t.before for t in done.sysctls} if done else {},
        )

    def plan(self) -> Plan:
        """The plan of this moment.

        Raises:
            HardwareFault: EW-EXEC-040.
            SettingsFaults: the policy is faulty and a service goes by it.
        """
        wanted = self.settings.confinement
        wishes = self._wishes()
        return plan(
            wishes,
            {wish.unit: self.look.service(wish.unit) for wish in wishes},
            [self.look.mount(path) for path in wanted.noexec],
            self.look.host(),
            sysctls=wanted.sysctls == "auto",
            user_namespaces=wanted.user_namespaces == "auto",
        )

    def _wishes(self) -> list[Wish]:
        confined = self.settings.confined
        rules: tuple[Egress, ...] = ()
        if any(one.network == "policy" for one in confined):
            rules = read_policy(self.settings.exec.policy, Disk()).egress
        rows = [(r.unit, r.uid, r.address, r.host, bool(r.port), r.denies) for r in rules]
        return [
            Wish(
                one.unit,
                one.exec,
                one.jit,
                one.namespaces,
                one.devices,
                one.network,
                peers_of(one.unit, rows),
            )
            for one in confined
        ]

    def restart(self, units: Sequence[str]) -> list[str]:
        """Restart those that run; returns those that did not come back."""
        states = self.systemd.show(units, ("ActiveState",))
        runs = [unit for unit in units if states[unit].get("ActiveState") == "active"]
        return [unit for unit in runs if not self.systemd.restart(unit)]


# --- show ----------------------------------------------------------------------------------------


def _show(args: argparse.Namespace, console: Console) -> int:
    bench = Bench(args, console)
    made = bench.plan()
    if args.json:
        items = [{**asdict(item), "state": item.state.value} for item in made.items]
        body = {"applied": _applied_word(bench.applied), "items": items, "gaps": list(made.gaps())}
        units = [asdict(file) for file in files(made, keep=True)]
        console.json("edgewarden.confine/1", {**body, "files": units})
        return Exit.OK
    if args.name:
        return show_one(made, args.name, console)
    console.line(f"confinement {_applied_word(bench.applied)}")
    for row in screen(made):
        console.line(clip(row))
    return Exit.OK


def show_one(made: Plan, name: str, console: Console) -> int:
    """One service, place or sysctl: what for, what breaks, and its file."""
    items = [item for item in made.items if name in (item.subject, f"{item.subject} {item.name}")]
    refused = [service for service in made.services if service.unit == name and service.refused]
    if not items and not refused:
        raise OperatorFault(
            f"nothing named {name} is planned",
            code="EW-EXEC-045",
            next_step="see `edgewarden confine show`, and [[confined]] of the settings",
        )
    for service in refused:
        console.line(clip(f"{service.unit} is not confined: {service.refused}"))
    for item in items:
        what = f"{item.name} " if item.name else ""
        console.line(clip(f"{SIGNS[item.state]} {what}{item.want}: {item.state}"))
        for word, text in (("why", item.why), ("for", item.reason), ("breaks", item.breaks)):
            if text:
                head, gap = f"    {word:<6}  ", " " * 12
                for row in textwrap.wrap(head + text, WIDTH, subsequent_indent=gap):
                    console.line(row)
    for file in files(made, keep=True):
        if name in file.path or (items and items[0].area == "sysctl" and "sysctl.d" in file.path):
            console.line()
            for row in (f"# {file.path}", *file.text.splitlines()):
                console.line(row)
    return Exit.OK


def _applied_word(applied: Applied | None) -> str:
    if applied is None:
        return "is not in place"
    return "is on trial, until it is confirmed" if applied.trial else "is in place for good"


# --- apply, confirm, revert ----------------------------------------------------------------------


def _apply(args: argparse.Namespace, console: Console) -> int:
    _root_only()
    bench = Bench(args, console)
    made = bench.plan()
    applied = put_in_place(bench, made, args)
    if args.restart:
        failed = bench.restart(applied.units)
        if failed:
            _take_back(bench, applied, force=True)
            for unit in failed:
                bench.systemd.restart(unit)
            raise OperatorFault(
                f"{failed[0]} did not come back confined; everything was taken back",
                code="EW-EXEC-046",
                next_step=f"see `journalctl -u {failed[0]}`; name what it starts in exec",
            )
    if args.json:
        console.json("edgewarden.confine/1", {"applied": asdict(applied)})
        return Exit.OK
    console.line(f"{len(applied.files)} file(s), {len(applied.sysctls)} sysctl(s) put in place")
    if applied.units and not args.restart:
        console.line(clip(f"in force from their next start: {', '.join(applied.units)}"))
    if args.confirm:
        console.line(f"taken back in {args.confirm} s, or at a boot; to keep it, log in again")
        console.line("and type there: `edgewarden confine confirm`")
    console.line("next: `edgewarden confine verify`")
    return Exit.OK


def put_in_place(bench: Bench, made: Plan, args: argparse.Namespace) -> Applied:
    """For good, or on trial with the clock that ends it running before anything is changed."""
    timer = f"{TRIAL_TIMER}.timer"
    runs = False

    def clock() -> None:
        nonlocal runs
        bench.systemd.do("stop", timer)  # of a trial that could not be put in place
        bench.systemd.later(TRIAL_TIMER, args.confirm, _ourselves("revert", "--trial", args))
        runs = True

    trial, login = (clock, this_login()) if args.confirm else (None, ())
    try:
        return bench.confiner.apply(made, trial=trial, restarted=args.restart, login=login)
    except EdgewardenError:
        if runs:
            bench.systemd.do("stop", timer)
        raise


def _confirm(args: argparse.Namespace, console: Console) -> int:
    _root_only()
    bench = Bench(args, console)
    asked = bench.applied.login if bench.applied and bench.applied.trial else ()
    if asked and (why_not := why_no_new_login(asked, this_login())):
        raise OperatorFault(
            why_not,
            code="EW-EXEC-026",
            next_step="log in again (a new ssh connection) and confirm from there",
        )
    applied = bench.confiner.confirm()
    bench.systemd.do("stop", f"{TRIAL_TIMER}.timer")
    if args.json:
        console.json("edgewarden.confine/1", {"applied": asdict(applied)})
    else:
        console.line(f"confirmed: {len(applied.files)} file(s) stand for good")
    return Exit.OK


def _revert(args: argparse.Namespace, console: Console) -> int:
    _root_only()
    bench = Bench(args, console)
    if args.trial and (bench.applied is None or not bench.applied.trial):
        console.line("nothing is on trial")
        return Exit.OK
    left = _take_back(bench, bench.applied, force=args.force)
    if args.json:
        console.json("edgewarden.confine/1", {"applied": None, "left": left})
    elif bench.applied is None:
        console.line("nothing is in place")
    else:
        console.line(f"{len(bench.applied.files)} file(s) and every value taken back")
        for one in left:
            console.line(clip(f"left, somebody changed it: {one}"))
    return Exit.DEGRADED if left else Exit.OK


def _take_back(bench: Bench, applied: Applied | None, *, force: bool) -> list[str]:
    """Revert, and free the services that still run confined; returns what was left."""
    left = bench.confiner.revert(force=force)
    if applied is not None:
        if applied.trial:
            bench.systemd.do("stop", f"{TRIAL_TIMER}.timer")
        bench.restart([unit for unit in applied.units if bench.look.runs_confined(unit)])
    forget_proof(bench.settings.paths.state, bench.settings.paths.run)
    _tell_gate(bench)
    return left


# --- verify --------------------------------------------------------------------------------------


def _verify(args: argparse.Namespace, console: Console) -> int:
    _root_only()
    bench = Bench(args, console)
    if bench.applied is None:
        raise OperatorFault(
            "no confinement is in place",
            code="EW-EXEC-043",
            next_step="`edgewarden confine show`, then `edgewarden confine apply --confirm 10m`",
        )
    made = bench.plan()
    found = check(bench, made)
    services = {unit: found[unit] for unit in bench.applied.units}
    proved = tuple(unit for unit, faults in services.items() if not faults)
    drift = [f"{subject}: {fault}" for subject, faults in found.items() for fault in faults]
    held = bool(proved) and len(proved) == len(services)
    gaps = (*drift, *made.gaps())
    boot_id, paths = bench.look.boot_id(), bench.settings.paths
    reason = f"{len(proved)} of {len(services)} managed service(s) confined by path"
    tier = ExecTier("T1" if held else "T0", "none", reason, boot_id)
    record_proof(paths.state, paths.run, tier, Proved(boot_id, proved, gaps))
    _tell_gate(bench)
    if args.json:
        words = {"proved": list(proved), "drift": drift, "gaps": list(gaps)}
        console.json("edgewarden.confine/1", {"tier": tier.tier, **words})
    else:
        for unit, faults in services.items():
            console.line(clip(f"{'!' if faults else '='} {unit}"))
        for one in drift:
            console.line(clip(f"! {one}"))
        console.line(f"{tier.tier}: {reason}; {len(drift)} not as planned, {len(gaps)} open")
        if drift:
            console.line("next: `edgewarden confine apply --restart`, or see who changed it")
    return Exit.FAILING if drift else Exit.OK


def check(bench: Bench, made: Plan) -> dict[str, list[str]]:
    """Subject -> what does not hold; subjects without a fault are there with none."""
    assert bench.applied is not None
    verifier = Verifier(bench.systemd, bench.look, bench.settings.paths.state)
    found: dict[str, list[str]] = {}
    for service in bench.confiner.dropins(bench.applied):
        found[service.unit] = verifier.service(service, bench.look.service(service.unit))
    for place in bench.applied.mounts:
        found[place.path] = verifier.place(place.path)
    found["files"] = bench.confiner.changed(bench.applied)
    planned = {file.path: file.text for file in files(made, keep=not bench.applied.trial)}
    there = {one.path for one in bench.applied.files}
    for path in sorted(planned.keys() ^ there):
        word = (
            "planned and not in place" if path in planned else "in place and not planned any more"
        )
        found["files"].append(f"{path}: {word}")
    return found


def _tell_gate(bench: Bench) -> None:
    """gate reads the tier again; without gate there is nobody to tell."""
    with contextlib.suppress(PeerUnavailable, EdgewardenError):
        ask_gate(bench.settings.paths.run, Request("reload", "learn"))


def _root_only() -> None:
    if os.geteuid() != 0:
        raise OperatorFault(
            "only root confines services",
            code="EW-AGT-005",
            next_step="run the command again with sudo",
        )


def _ourselves(verb: str, flag: str, args: argparse.Namespace) -> list[str]:
    """The command line of this very program, for systemd's timer."""
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.append({root!r}); from edgewarden.cli.main import main"
    words = ["confine", verb, flag, "--settings", os.path.abspath(args.settings)]
    return [sys.executable, "-I", "-c", f"{code}; sys.exit(main())", *words]
