"""`edgewarden-fleet gateways` and `show ID`: what the store knows, for people and for scripts."""

from __future__ import annotations

import argparse
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import views
from edgewarden_fleet.store.schema import open_store

_EXIT = {"ok": Exit.OK, "warning": Exit.DEGRADED, "critical": Exit.FAILING}


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    if noun == "show":
        command.add_argument("device")
    command.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=show if noun == "show" else gateways)


def gateways(arguments: argparse.Namespace) -> Exit:
    """Every gateway, one line each."""
    with closing(_store(arguments.dir)) as db:
        body = views.gateways(db, time.time())
    if arguments.json:
        output.say_json(body)
        return Exit.OK
    lines = body["gateways"]
    assert isinstance(lines, list)
    rows = [
        (
            g["device"], g["verdict"], "on" if g["online"] else "off", g["attestation"]["result"],
            g["attestation"]["grade"], g["enforcement"]["tier"] or "-",
            g["enforcement"]["mode"] or "-", g["reports_verified"],
            sum(g["reports_rejected"].values()), g["last_seen_utc"] or "never",
        )
        for g in lines
    ]  # fmt: skip
    head = ("device", "verdict", "line", "attestation", "grade", "tier", "mode", "verified",
            "rejected", "last seen")  # fmt: skip
    output.table(head, rows)
    return Exit.OK


def show(arguments: argparse.Namespace) -> Exit:
    """One gateway; the exit code is its verdict unless --json asks for data alone."""
    with closing(_store(arguments.dir)) as db:
        body = views.gateway(db, arguments.device, time.time())
    if body is None:
        raise OperatorFault(
            f"no gateway {arguments.device!r} is enrolled",
            code="EW-SET-027",
            next_step="see `edgewarden-fleet gateways`",
        )
    if arguments.json:
        output.say_json(body)
        return Exit.OK
    _print(body)
    return _EXIT[str(body["verdict"])]


def _print(body: views.Json) -> None:
    attestation, chain, execs = body["attestation"], body["chain"], body["exec"]
    sensors, findings, reasons = body["sensors"], body["findings"], body["reasons"]
    assert isinstance(attestation, dict)
    assert isinstance(chain, dict)
    assert isinstance(execs, dict)
    assert isinstance(sensors, dict)
    assert isinstance(findings, list)
    assert isinstance(reasons, list)
    output.say(f"{body['device']}  {body['verdict']}  {'on' if body['online'] else 'off'} line")
    for reason in reasons:
        output.say(f"  - {reason}")
    earlier = body["earlier"]
    assert isinstance(earlier, list)
    for one in earlier:
        output.say(f"before it  {one['device']}  until {one['replaced_utc']}  {one['why']}")
    quarantine = body["quarantine"]
    if quarantine is not None:
        assert isinstance(quarantine, dict)
        output.say(
            f"quarantine  {quarantine['kind']}  since {quarantine['since_utc']}"
            f"  {quarantine['why']}"
        )
        output.say("  next: find out which of the two is the true one, take the other away, then")
        output.say(f"        `edgewarden-fleet quarantine lift {body['device']} --why TEXT`, or")
        output.say(f"        `edgewarden-fleet revoke {body['device']}` and enrol anew")
    age = attestation["age_s"]
    output.say(
        f"attestation  {attestation['result']}  grade {attestation['grade']}"
        + (f"  {age:.0f} s ago" if isinstance(age, float) else "")
    )
    for facet, tier in attestation["facets"].items():
        output.say(f"  {facet:12} {tier:15} {attestation['reasons'].get(facet, '')}".rstrip())
    for name, one in attestation["devices"].items():
        key = f"key {one['key_sha256'][:16]} number {one['lineage']}" if one["key_sha256"] else ""
        output.say(f"device {name}  {one['tier']}  {key}  {one['why']}".rstrip()[:200])
    output.say("chain")
    rows = [
        (f"  {name}", c["head"], c["records"], c["dropped"], c["reordered"], c["duplicates"],
         " ".join(f"{k}={v}" for k, v in c["refused"].items()) or "-")
        for name, c in chain.items()
    ]  # fmt: skip
    output.table(
        ("  class", "head", "verified", "dropped", "reordered", "sent twice", "refused"), rows
    )
    for name, sensor in sensors.items():
        last = ", ".join(
            f"{channel} {r['value']} {r['unit']}".rstrip()
            for channel, r in sensor["channels"].items()
        )
        output.say(f"sensor {name}  {sensor['readings']} readings  {last}"[:200])
    output.say(f"programs  {execs['denied']} denied, {execs['would_deny']} would be denied")
    for v in execs["denied_verdicts"][:5]:
        output.say(f"  {v['path']}  sha256 {v['digest']}  {v['rule']}".rstrip())
    for f in findings[:10]:
        output.say(f"finding {f['id']}  {f['severity']}  {f['kind']}  {f['text']}")


def _store(path: Path) -> sqlite3.Connection:
    folder = FleetFolder(path.absolute())
    folder.check()
    return open_store(folder.database, read_only=True)
