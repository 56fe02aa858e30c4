"""`edgewarden policy show|check|observe|enforce|confirm|compile`: what is allowed, and how firmly.

What this system is made of (`learn`, `diff`, `would-block`, `rebaseline`) is in policy_system.py.

The mode belongs to gate and to root: learn and observe watch, enforce blocks what the compiled
policy does not name. The mode is never a setting that a file could push (docs/settings.md, [exec]
mode).
"""

from __future__ import annotations

import argparse
import pwd
from pathlib import Path

from edgewarden.cli import policy_areas, policy_network, policy_system
from edgewarden.cli.config import check_json
from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.services import compile_policy, lenient_settings, settings_option
from edgewarden.errors import EdgewardenError, OperatorFault, WireRefusal
from edgewarden.judge.programs import Effect, select
from edgewarden.probe.control import ask_gate
from edgewarden.probe.disk import Disk
from edgewarden.settings.faults import SettingsFaults
from edgewarden.settings.fields import declared
from edgewarden.settings.files import read_policy
from edgewarden.settings.lenient import read_leniently
from edgewarden.settings.policy_programs import Program
from edgewarden.wire.baseline import MAX_BASELINE_BYTES, Baseline
from edgewarden.wire.local import AREAS, Answer, GateStats, Request

TABLE = "policy/exec.table"
BASELINE = "policy/baseline"


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """One verb for each thing a person does with an allowlist."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="the allowlist, the compiled table and gate's mode")
    show.add_argument("--json", action="store_true", help="print JSON (edgewarden.policy/1)")
    settings_option(show)
    show.set_defaults(run=_show)
    check = verbs.add_parser("check", help="try a policy file")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--json", action="store_true", help="print JSON (edgewarden.check/1)")
    settings_option(check)
    check.set_defaults(run=_check)
    for mode, text in (
        ("learn", "take down what this system has (root), and watch"),
        ("observe", "watch, and report what would be denied"),
        ("enforce", "block what the policy does not name (root, on this host)"),
    ):
        verb = verbs.add_parser(mode, help=text, description=text + ".")
        settings_option(verb)
        _area(verb)
        verb.set_defaults(run=_mode, mode=mode, confirm=0)
        if mode == "learn":
            policy_system.learn_options(verb)
            verb.set_defaults(run=_learn)
        if mode == "enforce":
            verb.add_argument(
                "--confirm",
                metavar="TIME",
                type=duration,
                default=0,
                help="go back by itself after TIME (30s, 10m, 2h) unless `policy confirm` is typed",
            )
    confirm = verbs.add_parser(
        "confirm", help="keep the mode that `enforce --confirm` tries; from a new login"
    )
    settings_option(confirm)
    _area(confirm)
    confirm.set_defaults(run=_confirm)
    policy_system.configure(verbs)
    policy_areas.configure(verbs)
    one_shot = verbs.add_parser("compile", help="compile settings and policy for gate")
    one_shot.add_argument(
        "--accept-older",
        action="store_true",
        help="have gate take a table of a lower generation than the one it uses",
    )
    settings_option(one_shot)
    one_shot.set_defaults(run=_compile)


def _area(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "area",
        metavar="AREA",
        nargs="?",
        choices=AREAS,
        default="exec",
        help="exec (programs, the default), peripherals or network",
    )


def _check(args: argparse.Namespace, console: Console) -> int:
    try:
        policy = read_policy(args.file, Disk())
    except SettingsFaults as faults:
        if not args.json:
            raise
        console.json("edgewarden.check/1", check_json(faults))
        return Exit.BAD_INPUT
    baseline = _baseline(read_leniently(args.settings, Disk()).settings.paths.state)
    found = select(policy.program, baseline or Baseline((), {}), _uid_of)
    notes = [f"{note.rule}: {note.text}" for note in found.notes] if baseline else []
    if args.json:
        rules = [
            {
                "name": e.name,
                "action": r.action,
                "contents": e.contents,
                "every": e.every,
                "dead": e.dead,
            }
            for r, e in zip(policy.program, found.effects, strict=True)
        ]
        more = {"program": rules, "notes": notes, "baseline": baseline is not None}
        console.json("edgewarden.check/1", {**check_json(None), **more})
        return Exit.OK
    console.line(f"ok: {len(policy.program)} rule(s) about programs")
    if policy.device or policy.port:
        policy_areas.check_peripherals(policy, console)
    if baseline is None:
        console.line("no baseline here (`edgewarden policy learn`): what they select is not known")
        return Exit.OK
    for rule, effect in list(zip(policy.program, found.effects, strict=True))[:MAX_NOTES]:
        what = "every content" if effect.every else f"{effect.contents} content(s)"
        console.line(clip(f"{rule.action:<7} {rule.name}: {what}"))
    for note in notes[:MAX_NOTES]:
        console.line(clip(f"note    {note}"))
    if max(len(notes), len(policy.program)) > MAX_NOTES:
        console.line(f"... at most {MAX_NOTES} of each are shown; --json has all")
    return Exit.OK


MAX_NOTES = 50
"""Lines of one kind; a person reads no more."""


def _baseline(state_dir: str) -> Baseline | None:
    """The one that is kept; None when there is none."""
    path = Path(state_dir, BASELINE)
    if not path.exists():
        return None
    try:
        return Baseline.load(Disk().fetch(str(path), MAX_BASELINE_BYTES))
    except WireRefusal as damaged:
        raise OperatorFault(
            f"{path} is damaged: {damaged.text}",
            code="EW-POL-003",
            next_step="run `edgewarden policy learn`",
        ) from damaged


def _uid_of(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def _learn(args: argparse.Namespace, console: Console) -> int:
    """A baseline is about programs, rules about devices are printed; the network is watched."""
    if args.area == "peripherals":
        return policy_areas.learn_peripherals(args, console)
    return policy_system.learn(args, console) if args.area == "exec" else _mode(args, console)


def _mode(args: argparse.Namespace, console: Console) -> int:
    settings = lenient_settings(args, console).settings
    words = _ask(settings.paths.run, Request("mode", args.mode, args.confirm, args.area))
    console.line(f"gate is in mode {args.mode} ({args.area})")
    if args.area != "exec":
        console.line(clip(words))
    if args.confirm:
        area = "" if args.area == "exec" else f" {args.area}"
        console.line(f"it goes back in {args.confirm} s by itself; to keep it, log in again and")
        console.line(f"type there: `edgewarden policy confirm{area}`")
    return Exit.OK


def _confirm(args: argparse.Namespace, console: Console) -> int:
    settings = lenient_settings(args, console).settings
    _ask(settings.paths.run, Request("confirm", "learn", 0, args.area))
    console.line("confirmed: the mode stays")
    return Exit.OK


_NEXT = {
    "exec": "run `edgewarden doctor exec`",
    "peripherals": "run `edgewarden explain EW-USB-007`, and `edgewarden policy learn peripherals`",
    "network": "run `edgewarden policy show`",
}


_FROM_A_NEW_LOGIN = (
    "EW-EXEC-026",
    "log in again (a new ssh connection) and type `edgewarden policy confirm` there",
)
REFUSED = {
    "no_login": _FROM_A_NEW_LOGIN,
    "same_login": _FROM_A_NEW_LOGIN,
    "old_login": _FROM_A_NEW_LOGIN,
    "unknown_login": _FROM_A_NEW_LOGIN,
    "nothing_to_confirm": (
        "EW-EXEC-025",
        "see `edgewarden findings`, then try again: `edgewarden policy enforce --confirm 10m`",
    ),
}
"""gate's name of a refusal -> code and next step, where they say more than "gate refused"."""


def _ask(run_dir: str, request: Request) -> str:
    """Have gate do it; what it says. Raises OperatorFault when it refuses."""
    answer = ask_gate(run_dir, request)
    if isinstance(answer, Answer) and not answer.ok:
        code, step = REFUSED.get(answer.name, ("EW-EXEC-024", _NEXT[request.area]))
        text = f"gate refused: {answer.name}: {answer.text}"
        raise OperatorFault(text, code=code, next_step=step)
    return answer.text if isinstance(answer, Answer) else ""


MAX_CONFIRM_S = 12 * 3600
"""A working day's trial; the message carries 16 bits of seconds."""
_UNITS = {"s": 1, "m": 60, "h": 3600}


def duration(text: str) -> int:
    """``30s``, ``10m``, ``2h`` in seconds."""
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 10m")
    seconds = int(number) * _UNITS[unit]
    if not 1 <= seconds <= MAX_CONFIRM_S:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1s and 12h")
    return seconds


def _compile(args: argparse.Namespace, console: Console) -> int:
    try:
        done = compile_policy(args.settings, older=args.accept_older)
    except SettingsFaults:
        console.note("edgewarden: nothing was compiled: gate keeps its last table")
        raise
    word = "changed" if done.changed else "unchanged"
    taken = "gate took it" if done.reloaded else "gate is not running; it reads it at its start"
    what = f"{done.rules} rule(s) know {done.contents} contents"
    console.line(f"{what}, generation {done.generation} ({word}); {taken}")
    for note in done.notes[:MAX_NOTES]:
        console.line(clip(f"note    {note}"))
    return Exit.OK


def _show(args: argparse.Namespace, console: Console) -> int:
    settings = lenient_settings(args, console).settings
    policy = read_policy(settings.exec.policy, Disk())
    table = _table(settings.paths.state)
    gate, why_not = _gate(settings.paths.run)
    baseline = _baseline(settings.paths.state)
    found = None if baseline is None else select(policy.program, baseline, _uid_of)
    nothing = [Effect(rule.name, 0, False, False) for rule in policy.program]
    effects = nothing if found is None else found.effects
    if args.json:
        program = [
            _rule_json(rule) | ({} if found is None else {"contents": effect.contents})
            for rule, effect in zip(policy.program, effects, strict=True)
        ]
        body = {"source": settings.exec.policy, "program": program, "table": table, "gate": gate}
        body["baseline"] = None if baseline is None else _about(baseline)
        body["peripherals"] = policy_areas.peripherals_json(policy, settings.paths.run)
        body["network"] = policy_network.network_json(
            policy, settings.paths.run, settings.paths.state
        )
        console.json("edgewarden.policy/1", dict(body))
        return Exit.OK
    console.line(f"policy  {settings.exec.policy}: {len(policy.program)} rule(s) about programs")
    if table is None:
        console.line("table   none: run `edgewarden policy compile`")
    else:
        console.line(
            f"table   {table['rules']} contents, {table['critical']} critical paths, "
            f"generation {table['generation']}"
        )
    if baseline is None:
        console.line("base    none: run `edgewarden policy learn`")
    else:
        about = _about(baseline)
        console.line(
            f"base    {about['files']} files, {about['unowned']} of no package, "
            f"{about['differs']} not as their package brought them"
        )
    if gate is None:
        console.line(clip(f"gate    {why_not}"))
    else:
        armed = "armed" if gate["armed"] else "not armed"
        console.line(f"gate    mode {gate['mode']}, tier {gate['tier']}, {armed}")
    for rule, effect in zip(policy.program, effects, strict=True):
        count = "" if found is None or effect.every else f" ({effect.contents} contents)"
        console.line(clip(f"{rule.action:<7} {rule.name}{count}: {_words(rule)}"))
    policy_areas.show_peripherals(policy, settings.paths.run, console)
    policy_network.show_network(policy, settings.paths.run, settings.paths.state, console)
    return Exit.OK


def _about(baseline: Baseline) -> dict[str, object]:
    entries = baseline.entries
    return {
        "files": len(entries),
        "unowned": sum(not entry.package for entry in entries),
        "differs": sum(entry.differs for entry in entries),
    }


def _conditions(rule: Program) -> dict[str, tuple[str, ...]]:
    """What a rule asks for, key by key."""
    keys = ("sha256", "path", "package", "class", "uid", "parent", "unit")
    fields = {key: declared(Program)[key].field for key in keys}
    return {key: getattr(rule, field) for key, field in fields.items() if getattr(rule, field)}


def _rule_json(rule: Program) -> dict[str, object]:
    conditions = {key: list(values) for key, values in _conditions(rule).items()}
    return {"name": rule.name, "action": rule.action, **conditions}


def _words(rule: Program) -> str:
    """``package = coreutils, uid = root or 1000``."""
    parts = []
    for key, values in _conditions(rule).items():
        shown = [value[:16] if key == "sha256" else value for value in values[:3]]
        more = f" or {len(values) - 3} more" if len(values) > 3 else ""
        parts.append(f"{key} {' or '.join(shown)}{more}")
    return ", ".join(parts)


def _table(state_dir: str) -> dict[str, object] | None:
    """Rules and generation of the compiled table; None when there is none."""
    from edgewarden.judge.exec_table import MAX_TABLE_BYTES, Table

    path = Path(state_dir, TABLE)
    if not path.exists():
        return None
    try:
        table = Table.load(Disk().fetch(str(path), MAX_TABLE_BYTES))
    except WireRefusal as damaged:
        raise OperatorFault(
            f"{path} is damaged: {damaged.text}",
            code="EW-EXEC-017",
            next_step="run `edgewarden policy compile`",
        ) from damaged
    critical = len(table.critical)
    return {"rules": table.count, "generation": table.generation, "critical": critical}


def _gate(run_dir: str) -> tuple[dict[str, object] | None, str]:
    """gate's mode and tier, or None and why it cannot be asked."""
    try:
        stats = ask_gate(run_dir, Request("status", "learn"))
    except EdgewardenError as fault:
        return None, fault.text
    if not isinstance(stats, GateStats):
        return None, f"{stats.name}: {stats.text}"
    return {
        "mode": stats.mode,
        "tier": stats.tier,
        "armed": stats.armed,
        "rules": stats.rules,
        "generation": stats.generation,
        "allowed": stats.allowed,
        "denied": stats.denied,
        "would_deny": stats.would_deny,
    }, ""
