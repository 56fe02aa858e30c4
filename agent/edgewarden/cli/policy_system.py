"""`edgewarden policy learn|diff|would-block|rebaseline`: the policy and what this system is.

`learn` takes a baseline of every program, writes a policy to start from where there is none, and
puts gate into learn unless it enforces. `diff` says what has changed since, `would-block` what
enforcing would stop. `rebaseline` is dpkg's: it takes over what packages brought.

Long lists are cut at LISTED lines for people; JSON has all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from edgewarden.cli.console import Console, Exit, amount, clip
from edgewarden.cli.services import (
    compare,
    learn_system,
    lenient_settings,
    rebaseline,
    settings_option,
    would_block,
)
from edgewarden.errors import EdgewardenError, OperatorFault, PeerUnavailable
from edgewarden.probe.control import ask_gate, ask_link
from edgewarden.probe.disk import Disk
from edgewarden.settings.schema import Paths
from edgewarden.wire.baseline import MAX_BASELINE_BYTES, Baseline, Entry
from edgewarden.wire.control import Command
from edgewarden.wire.local import Answer, GateStats, Request

if TYPE_CHECKING:
    from edgewarden.cli.services import Finding, Progress, Starts, Taken

LISTED = 20
PACKAGES_S = 1800
"""A distribution upgrade unpacks for half an hour on a slow card; each dpkg that apt starts says it
anew, and the last one ends it."""

_FINDINGS = {
    "differs": "another content than its package brought",
    "conffile": "changed, as people may",
    "unreadable": "cannot be read",
    "moving": "changes while it is read",
    "too_large": "too long to be judged: can never be allowed",
}


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verbs of this file, beside those of policy.py. `learn` has its own there."""
    diff = verbs.add_parser("diff", help="what changed since the baseline was taken")
    diff.add_argument("--full", action="store_true", help="read every file again")
    diff.add_argument("--json", action="store_true", help="print JSON (edgewarden.policy-diff/1)")
    settings_option(diff)
    diff.set_defaults(run=_diff)
    would = verbs.add_parser("would-block", help="what enforcing the policy would stop")
    would.add_argument("--json", action="store_true", help="print JSON (edgewarden.would-block/1)")
    settings_option(would)
    would.set_defaults(run=_would_block)
    again = verbs.add_parser("rebaseline", help="take over what packages brought (dpkg's hook)")
    how = again.add_mutually_exclusive_group(required=True)
    how.add_argument("--begin", action="store_true", help="tell gate that packages will change")
    how.add_argument("--from-dpkg", action="store_true", help="take over what dpkg vouches for")
    again.add_argument("--json", action="store_true", help="print JSON (edgewarden.policy-learn/1)")
    settings_option(again)
    again.set_defaults(run=_rebaseline)


def learn_options(learn: argparse.ArgumentParser) -> None:
    """What `learn` takes beside its area."""
    learn.add_argument(
        "--roots",
        metavar="DIR",
        nargs="+",
        default=[],
        help="folders with programs beside /usr, /etc, /opt, /srv and [exec] roots",
    )
    learn.add_argument(
        "--from-observed",
        action="store_true",
        help="print rules for what gate saw and nobody knows, to read and to add by hand",
    )
    learn.add_argument("--full", action="store_true", help="read every file, also unchanged ones")
    learn.add_argument("--json", action="store_true", help="print JSON (edgewarden.policy-learn/1)")


def learn(args: argparse.Namespace, console: Console) -> int:
    """Take the baseline, and have gate watch."""
    settings = lenient_settings(args, console).settings
    if args.from_observed:
        return _from_observed(settings.paths, args, console)
    taken = learn_system(args.settings, args.roots, full=args.full, progress=_progress(console))
    gate = _watch(settings.paths.run)
    _say(taken, settings.exec.policy, gate, args, console)
    return Exit.OK


def _watch(run_dir: str) -> str:
    """Have gate learn, unless it enforces: taking a baseline is no reason to let go of anything."""
    try:
        stats = ask_gate(run_dir, Request("status", "learn"))
        if isinstance(stats, GateStats) and stats.mode == "enforce":
            return "stays in mode enforce, with the new table"
        answer = ask_gate(run_dir, Request("mode", "learn"))
    except PeerUnavailable:
        return "is not running"
    except OperatorFault as fault:
        return f"cannot be asked: {fault.text}"
    if isinstance(answer, Answer) and not answer.ok:
        return f"refused: {answer.text}"
    return "is in mode learn"


def _from_observed(paths: Paths, args: argparse.Namespace, console: Console) -> int:
    """Rules for programs that ran and that the baseline lacks. Printed, never added: link, which
    told of them, is not the one who says what is allowed."""
    programs, _ = _seen(paths.run)
    known = {entry.sha256.hex() for entry in _kept(paths.state)}
    fresh: dict[str, dict[str, Any]] = {}
    for one in programs:
        if one["sha256"] and one["sha256"] not in known:
            fresh.setdefault(one["sha256"], one)
    if args.json:
        body: dict[str, object] = {"programs": list(fresh.values())}
        console.json("edgewarden.policy-observed/1", body)
        return Exit.OK
    if not fresh:
        console.note("edgewarden: gate saw nothing that the baseline does not have")
    for sha256, one in fresh.items():
        console.line(f"# {one['path']}, user {one['uid']}, {one['count']} time(s)")
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", str(one["path"]).rpartition("/")[2])[:40] or "x"
        for row in (
            "[[program]]",
            f'name = "seen-{stem}-{sha256[:8]}"',
            f'sha256 = "{sha256}"',
            "",
        ):
            console.line(row)
    return Exit.OK


def _seen(run_dir: str) -> tuple[list[dict[str, Any]], int]:
    """What gate told link since link started, and how many more had no room."""
    body: dict[str, Any] = ask_link(run_dir, Command.OBSERVED)
    return body["observed"], body["others"]


def _kept(state_dir: str) -> tuple[Entry, ...]:
    path = f"{state_dir}/policy/baseline"
    if not Disk().names(f"{state_dir}/policy").count("baseline"):
        return ()
    return Baseline.load(Disk().fetch(path, MAX_BASELINE_BYTES)).entries


def _rebaseline(args: argparse.Namespace, console: Console) -> int:
    settings = lenient_settings(args, console).settings
    if args.begin:
        _tell_gate(settings.paths.run, PACKAGES_S)
        return Exit.OK
    taken = rebaseline(args.settings)  # it fails: what came is excused until that ends by itself
    _tell_gate(settings.paths.run, 0)
    if taken is None:
        console.note("edgewarden: no baseline, nothing to bring up to date")
        return Exit.OK
    _say(taken, settings.exec.policy, "", args, console)
    return Exit.OK


def _tell_gate(run_dir: str, for_s: int) -> None:
    """Packages change from now on, or no longer. A gate that does not run, or cannot take it, is
    no reason to fail dpkg."""
    with contextlib.suppress(EdgewardenError):
        ask_gate(run_dir, Request("packages", "learn", for_s))


def _say(taken: Taken, policy: str, gate: str, args: argparse.Namespace, console: Console) -> None:
    entries = taken.baseline.entries
    own = [e for e in entries if not e.package]
    differ = [e for e in entries if e.differs]
    done = taken.compiled
    if args.json:
        kinds: dict[str, int] = {}
        for entry in entries:
            kinds[entry.kind] = kinds.get(entry.kind, 0) + 1
        body: dict[str, object] = {
            "looked_at": taken.looked_at,
            "files": len(entries),
            "classes": kinds,
            "unowned": len(own),
            "differs": len(differ),
            "hashed": taken.hashed,
            "hashed_bytes": taken.hashed_bytes,
            "findings": _findings(taken.findings),
            "faults": list(taken.faults),
            "held": [entry.path for entry in taken.held],
            "started_policy": taken.started_policy,
            "rules": done.rules,
            "contents": done.contents,
            "generation": done.generation,
            "changed": done.changed,
            "reloaded": done.reloaded,
            "notes": list(done.notes),
        }
        console.json("edgewarden.policy-learn/1", body)
        return
    read = f"{taken.hashed} read, {amount(taken.hashed_bytes)}"
    console.line(f"files   {taken.looked_at} looked at; {len(entries)} may run code ({read})")
    console.line(f"owners  {len(entries) - len(own)} of packages, {len(own)} of none")
    changed = "changed" if done.changed else "unchanged"
    what = f"{done.rules} rule(s) know {done.contents} contents"
    console.line(f"table   {what}, generation {done.generation} ({changed})")
    if taken.started_policy:
        console.line(f"policy  wrote {policy}: read it, it is a start")
    if gate:
        console.line(f"gate    {gate}")
    _list_findings(taken.findings, console)
    for fault in taken.faults[:LISTED]:
        console.line(clip(f"dpkg    {fault}"))
    _list(
        "held    ", [f"{e.path}: not from a package, kept as it was" for e in taken.held], console
    )
    _list("note    ", taken.compiled.notes, console)


def _diff(args: argparse.Namespace, console: Console) -> int:
    found = compare(args.settings, full=args.full, progress=_progress(console))
    files = found.files
    code = Exit.DEGRADED if files or found.table != "same" else Exit.OK
    if args.json:
        body: dict[str, object] = {
            "added": [_entry(entry) for entry in files.added],
            "removed": [_entry(entry) for entry in files.removed],
            "changed": [{"from": _entry(old), "to": _entry(new)} for old, new in files.changed],
            "findings": _findings(found.findings),
            "table": found.table,
        }
        console.json("edgewarden.policy-diff/1", body)
        return code
    _list("+ ", [_words(entry) for entry in files.added], console)
    _list("- ", [_words(entry) for entry in files.removed], console)
    _list(
        "~ ",
        [f"{_words(new)} (was {old.sha256.hex()[:12]})" for old, new in files.changed],
        console,
    )
    counts = f"{len(files.added)} added, {len(files.removed)} removed, {len(files.changed)} changed"
    console.line(f"files   {counts} since the baseline was taken")
    console.line(f"table   {_TABLES[found.table]}")
    _list_findings(found.findings, console)
    return code


_TABLES = {
    "same": "says what the policy file and the baseline say",
    "differs": "says something else than the policy file: run `edgewarden policy compile`",
    "none": "there is none: run `edgewarden policy compile`",
}


def _would_block(args: argparse.Namespace, console: Console) -> int:
    run_dir = lenient_settings(args, console).settings.paths.run
    blocked = would_block(args.settings)
    try:
        programs, others = _seen(run_dir)
    except EdgewardenError as fault:
        programs, others = [], 0
        console.note(f"edgewarden: {fault.text}: what gate saw is not known")
    seen = [one for one in programs if one["decision"] != "learned"]
    code = Exit.DEGRADED if blocked.denied or seen else Exit.OK
    if args.json:
        denied = [_start(one, rule) for one, rule in blocked.denied]
        elsewhere = [_start(one, rule) for one, rule in blocked.elsewhere]
        unread = [{"name": one.name, "path": one.path} for one in blocked.unread]
        body: dict[str, object] = {"denied": denied, "elsewhere": elsewhere, "unread": unread}
        body |= {"asked": blocked.asked}
        body |= {"seen": seen, "seen_others": others}
        console.json("edgewarden.would-block/1", body)
        return code
    lines = []
    for one, rule in blocked.denied:
        why = f"rule {rule}" if rule else "no rule allows it"
        lines.append(f"{one.path} ({one.name}, user {one.uid}): {why}")
    _list("would   ", lines, console)
    told = []
    for saw in seen:
        why = f"rule {saw['rule']}" if saw["rule"] else saw["reason"]
        told.append(f"{saw['path']} (user {saw['uid']}, x{saw['count']}): {why}")
    _list("seen    ", told, console)
    if others:
        console.line(f"seen    {others} more had no room of their own")
    _list("unread  ", [f"{one.path} ({one.name})" for one in blocked.unread], console)
    count = f"{len(blocked.denied)} of {blocked.asked}"
    console.line(f"static  {count} processes and commands of units would be stopped")
    if blocked.elsewhere:
        console.line(
            f"beside  {len(blocked.elsewhere)} more are on no list and lie on filesystems that are "
            "not watched"
        )
    return code


def _start(one: Starts, rule: str) -> dict[str, object]:
    return {
        "name": one.name,
        "path": one.path,
        "sha256": one.sha256.hex(),
        "uid": one.uid,
        "cgroup": one.cgroup,
        "rule": rule,
    }


def _progress(console: Console) -> Progress:
    """A line on stderr that a person watches; nothing where nobody does."""
    shows = sys.stderr.isatty()

    def tell(done: int, of: int) -> None:
        if shows:
            end = "\n" if done == of else ""
            print(f"\rreading {done} of {of} files", end=end, file=console.err, flush=True)

    return tell


def _list(mark: str, lines: Iterable[str], console: Console) -> None:
    all_lines = list(lines)
    for line in all_lines[:LISTED]:
        console.line(clip(f"{mark}{line}"))
    if len(all_lines) > LISTED:
        console.line(f"{mark}... and {len(all_lines) - LISTED} more (--json has all)")


def _list_findings(findings: Sequence[Finding], console: Console) -> None:
    for kind, words in _FINDINGS.items():
        paths = [f.path for f in findings if f.kind == kind]
        if paths:
            console.line(f"odd     {len(paths)}: {words}")
            _list("          ", paths[: LISTED // 4], console)


def _findings(findings: Sequence[Finding]) -> list[dict[str, str]]:
    return [{"kind": f.kind, "path": f.path, "package": f.package} for f in findings]


def _entry(entry: Entry) -> dict[str, object]:
    return {
        "path": entry.path,
        "sha256": entry.sha256.hex(),
        "class": entry.kind,
        "package": entry.package,
        "differs": entry.differs,
    }


def _words(entry: Entry) -> str:
    owner = f", {'not as in ' if entry.differs else ''}{entry.package}" if entry.package else ""
    return f"{entry.path} ({entry.kind}{owner})"
