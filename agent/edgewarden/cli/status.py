"""`edgewarden status`: one screen. link's own words, or with link dead what the disk still says.

With link running this is its answer, checked and laid out. Without it (exit 3) identity, clock and
spool counters are read from disk, and what only link could know is null in the JSON and "not known"
on the screen: nothing is guessed.
"""

from __future__ import annotations

import argparse
from typing import Any

from edgewarden import __version__
from edgewarden.cli.console import HEIGHT, WIDTH, Console, Exit, amount, clip
from edgewarden.cli.services import lenient_settings, settings_option, system_clock
from edgewarden.errors import EdgewardenError, PeerUnavailable
from edgewarden.judge.doctor import (
    State,
    judge_clock,
    judge_folder,
    judge_identity,
    judge_space,
    judge_user,
    most_first,
)
from edgewarden.judge.health import reasons_of
from edgewarden.probe.control import ask_link
from edgewarden.probe.disk import room
from edgewarden.probe.host import is_orphaned
from edgewarden.settings.faults import Fault
from edgewarden.settings.schema import Settings
from edgewarden.wire.control import Command

_EXIT = {"ok": Exit.OK, "degraded": Exit.DEGRADED, "failing": Exit.FAILING}

UNUSED = "EW-SET-013"
"""As judge/health.py says it for link."""
MAX_SENSORS = 4
MAX_WRITERS = 3
MAX_REASONS = 3
"""Rows on the screen; `sensors` and `--json` show all. With all of them the screen is full."""


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """No verb: there is one status."""
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.status/1)")
    settings_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the status; the exit code is its verdict, 3 when link is not running."""
    found = lenient_settings(args, console)
    settings = found.settings
    try:
        body: dict[str, Any] = ask_link(settings.paths.run, Command.STATUS)
        _tell_faults(found.faults, body)
        code = _EXIT.get(body["verdict"], Exit.FAILING)
    except PeerUnavailable as fault:
        body = from_disk(settings, fault)
        _tell_faults(found.faults, body)
        code = Exit.NOT_RUNNING
    if args.json:
        body.pop("schema", None)
        console.json("edgewarden.status/1", body)
        return code
    for row in screen(body)[:HEIGHT]:
        console.line(clip(row))
    return code


def _tell_faults(faults: tuple[Fault, ...], body: dict[str, Any]) -> None:
    """Faulty files are a reason, also while link has not looked at them yet."""
    if not faults or any(reason["code"] == UNUSED for reason in body["reasons"]):
        return
    text = f"new settings are not used: {faults[0]}"
    step = "run `edgewarden config check FILE` and mend what it names"
    body["reasons"].append({"code": UNUSED, "text": text, "next": step})
    if body["verdict"] == "ok":
        body["verdict"] = "degraded"


def from_disk(settings: Settings, fault: PeerUnavailable) -> dict[str, Any]:
    """What is known without link: identity, clock and spool counters."""
    from pathlib import Path

    from edgewarden.record import reader
    from edgewarden.trust import identity as store

    reasons = [*_causes(settings), _reason(fault)]
    now = system_clock().now()
    rungs = [judge_clock(now)]
    state = Path(settings.paths.state)
    device, grade, certificate = settings.device.id or "", "", {"serial": "", "not_after_utc": ""}
    try:
        identity = store.load(state)
        device, grade = identity.device, identity.grade
        certificate = {"serial": identity.serial, "not_after_utc": identity.not_after_utc}
        rungs.insert(0, judge_identity(identity, settings.device, now))
    except EdgewardenError as problem:
        reasons.append(_reason(problem))
    spool: dict[str, dict[str, int]] = {}
    try:
        for record_class, counters in reader.stat(state).items():
            spool[record_class.label] = {
                field: getattr(counters, field)
                for field in ("next", "durable", "acked", "bytes", "evicted")
            }
    except EdgewardenError as problem:
        reasons.append(_reason(problem))
    for said in reasons_of(rungs):
        reasons.append({"code": said.code, "text": said.text, "next": said.next_step})
    bound = None if now.uncertainty_ms is None else now.uncertainty_ms / 1000
    return {
        "device": device,
        "version": __version__,
        "verdict": "failing",
        "reasons": reasons,
        "attestation": {"result": "none", "age_s": None},
        "identity": {"grade": grade, "certificate": certificate},
        "clock": {"state": now.state, "uncertainty_s": bound},
        "uplink": {"connected": False, "since_utc": None, "reconnects": 0},
        "spool": spool,
        "enforcement": None,
        "sensors": {},
        "config": None,
        "footprint": None,
    }


def _causes(settings: Settings) -> list[dict[str, str]]:
    """Why link cannot run, as far as this machine shows it: what to mend before starting it."""
    state, user = settings.paths.state, settings.exec.link_user
    rungs = [judge_user(user, is_orphaned(f"{state}/identity"))]
    try:
        seen = room(state)
    except EdgewardenError as fault:
        return [_reason(fault)]
    if seen.exists:
        rungs += [
            judge_folder("state", state, True, seen.read_only, seen.writable_by_others),
            judge_space(seen.free_bytes, seen.free_inodes, seen.total_inodes),
        ]
    return [
        {"code": rung.code, "text": rung.text, "next": rung.next_step}
        for rung in rungs
        if rung.state is State.FAILING
    ]


def _reason(fault: EdgewardenError) -> dict[str, str]:
    step = fault.next_step or f"see `edgewarden explain {fault.code}`"
    return {"code": fault.code, "text": fault.text, "next": step}


def screen(body: dict[str, Any]) -> list[str]:
    """The rows of the screen, at most HEIGHT, for a status as link or the disk gives it."""
    verdict = body["verdict"].upper()
    rows = [f"{body['device'] or '(not enrolled)'}   edgewarden {body['version']}   {verdict}", ""]
    rows += [*_uplink(body), *_enforcement(body["enforcement"]), *_spool(body)]
    rows += [*_overload(body.get("overload")), *_processes(body.get("processes"))]
    if body["enforcement"] is None:  # from the disk
        rows.append("sensors      not known: only link reads them")
    else:
        rows += _sensors(body["sensors"], _behind(body.get("devices")))
    rows += _own(body)
    told = _reasons(body["reasons"])
    written = _written_by(body["footprint"])
    if len(rows) + len(written) + len(told) <= HEIGHT:  # `doctor disk` names them, too
        rows += written
    return rows + told


def _uplink(body: dict[str, Any]) -> list[str]:
    up, clock, identity = body["uplink"], body["clock"], body["identity"]
    attested, certificate = body["attestation"], identity["certificate"]
    session = f"connected since {up['since_utc']}" if up["connected"] else "not connected"
    age = "" if attested["age_s"] is None else f", {attested['age_s']:.0f} s ago"
    until = certificate["not_after_utc"]
    held = f"{identity['grade']}, until {until}" if until else "none"
    bound = clock["uncertainty_s"]
    doubt = "nothing vouches for it" if bound is None else f"within {bound:.3g} s"
    return [
        f"uplink       {session}, {up['reconnects']} reconnect(s)",
        f"attestation  {attested['result']}{age}",
        f"identity     {held}",
        f"clock        {clock['state']}, {doubt}",
    ]


def _enforcement(parts: dict[str, Any] | None) -> list[str]:
    if parts is None:
        return ["exec         not known: only link hears from gate"]
    seen = parts["exec"]
    counts = f"{seen['allowed']} allowed, {seen['denied']} denied"
    rows = [f"exec         {seen['tier']} {seen['mode']}: {counts}, {seen['would_deny']} would be"]
    if seen.get("killed_after_start"):
        rows.append(f"             {seen['killed_after_start']} killed after start, not prevented")
    if seen.get("gaps"):
        rows.append(f"             not reached: {', '.join(seen['gaps'])}")
    usb = parts.get("peripherals")
    if usb is not None:
        counts = f"{usb['allowed']} allowed, {usb['denied']} denied"
        rows.append(f"peripherals  {usb['mode']}: {counts}, {usb['would_deny']} would be")
    held = parts.get("confinement")
    if held is not None and held["services"]:
        counts = f"{len(held['services'])} managed service(s) confined by path"
        rows.append(f"confinement  {counts}, {len(held['gaps'])} open")
    return rows


def _overload(seen: dict[str, Any] | None) -> list[str]:
    """A row only in a degraded mode: the screen holds the rest."""
    if seen is None or not seen["level"]:
        return []
    return [f"overload     {seen['mode']} for {_span(seen['since_s'])}: {seen['sheds']}"]


def _processes(seen: dict[str, Any] | None) -> list[str]:
    if seen is None:
        return []
    missing = (
        f", missing: {', '.join(seen['required_missing'])}" if seen["required_missing"] else ""
    )
    return [f"processes    {seen['known']} seen, {seen['findings']} finding(s){missing}"]


def _spool(body: dict[str, Any]) -> list[str]:
    classes, cap = body["spool"], body.get("storage", {}).get("cap_bytes")
    if not classes:
        return ["spool        none"]
    most = "" if cap is None else f"  cap {amount(cap)}"
    head = f"{'next':>10} {'durable':>10} {'acked':>10} {'held':>10} {'evicted':>8}"
    rows = [f"spool        {head}{most}"]
    for name, c in classes.items():
        numbers = f"{c['next']:>10} {c['durable']:>10} {c['acked']:>10}"
        rows.append(f"  {name:<10} {numbers} {amount(c['bytes']):>10} {c['evicted']:>8}")
    return rows


def _behind(seen: dict[str, Any] | None) -> str:
    """Devices behind the gateway: a part of a row, so that the screen holds the rest."""
    if seen is None or seen["listener"]["state"] == "off":
        return ""
    states = [one["state"] for one in seen["devices"].values()]
    held = states.count("quarantined")
    text = f"{len(states)} device(s) behind, {states.count('here')} here"
    return text + (f", {held} in quarantine" if held else "")


def _sensors(sensors: dict[str, Any], behind: str = "") -> list[str]:
    rows = []
    for name, s in sorted(sensors.items())[:MAX_SENSORS]:
        quiet = "" if s["silent_s"] is None else f", last {s['silent_s']:.0f} s ago"
        counts = f"{s['readings']} readings, {s['bad_frames']} bad frames{quiet}"
        rows.append(f"  {name:<20} {s['state']:<8} {counts}")
    if len(sensors) > MAX_SENSORS:
        rows[-1] = f"  and {len(sensors) - MAX_SENSORS + 1} more: `edgewarden sensors`"
    head = "; ".join(part for part in ("" if rows else "no serial port", behind) if part)
    if not rows and not behind:
        head = "none"
    return [f"sensors      {head}".rstrip(), *rows]


def _own(body: dict[str, Any]) -> list[str]:
    config, own = body["config"], body["footprint"]
    rows = []
    if config is not None:
        signer = f", signed by {config['signed_by']}" if config["signed_by"] else ""
        rows.append(f"config       version {config['version']}, {config['state']}{signer}")
    if own is not None:
        budget = own.get("budget_bytes_day")
        of = f" of {amount(budget)}" if budget else ""
        span = _span(own["written_span_s"])
        written = f"{amount(own['written_bytes_day'])}{of} written in {span}"
        memory = amount(own["pss_bytes"])
        rows.append(f"footprint    {memory}, {own['cpu_s']:.1f} s CPU, {written}")
    return rows


def _written_by(own: dict[str, Any] | None) -> list[str]:
    """Whose records those bytes are, the most first, and what storing them took besides."""
    by = {} if own is None else own.get("written_by", {})
    if own is None or not by:
        return []
    parts = [f"{name} {amount(n)}" for name, n in most_first(by)[:MAX_WRITERS]]
    if own["overhead_bytes_day"] is not None:
        parts.append(f"storing them {amount(own['overhead_bytes_day'])}")
    return [f"  written by {', '.join(parts)}"]


def _span(seconds: float) -> str:
    """How long something was counted: 86400 -> 24 h."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _reasons(reasons: list[dict[str, str]]) -> list[str]:
    rows = []
    for r in reasons[:MAX_REASONS]:
        rows += [f"! {clip(r['text'], WIDTH - 16)} [{r['code']}]", f"  next: {r['next']}"]
    if len(reasons) > MAX_REASONS:
        rows[-2:] = [f"! and {len(reasons) - MAX_REASONS + 1} more: `edgewarden doctor`"]
    return rows
