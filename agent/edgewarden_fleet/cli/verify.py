"""`edgewarden-fleet verify FILE` and `decode FILE`: a file of records, with and without belief."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

from cryptography import x509

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.record import MAX_RECORD_BYTES, Record, decode_record
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import views
from edgewarden_fleet.verify.offline import MAX_FILE_BYTES, check_file, split


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("file", help="COSE_Sign1 messages one behind the other; - is stdin")
    command.add_argument("--json", action="store_true")
    if noun == "decode":
        command.set_defaults(run=decode)
        return
    command.add_argument("--ca", type=Path, help="root certificate, PEM; default: the fleet's")
    command.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    command.add_argument(
        "--at", type=float, metavar="UNIX_S", help="judge certificates at this time; default: now"
    )
    command.set_defaults(run=verify)


def verify(arguments: argparse.Namespace) -> Exit:
    """Check every message; 0 when all are accepted without a gap, 1 with gaps, 2 otherwise."""
    roots = _roots(arguments)
    at = time.time() if arguments.at is None else arguments.at
    lines = list(check_file(_read(arguments.file), roots, at))
    counts = Counter(line.outcome for line in lines)
    accepted = sum(line.accepted for line in lines)
    if arguments.json:
        output.say_json(
            {
                "schema": "edgewarden-fleet.verified/1",
                "accepted": accepted,
                "refused": len(lines) - accepted,
                "outcomes": dict(counts),
                "messages": [
                    {
                        "offset": line.offset,
                        "accepted": line.accepted,
                        "outcome": line.outcome,
                        "why": line.why,
                        "record": _outline(line.record) if line.record else None,
                    }
                    for line in lines
                ],
            }
        )
    else:
        for line in lines:
            if line.outcome != "next":
                where = f"{line.record.record_class.label} {line.record.seq}" if line.record else ""
                output.say(f"byte {line.offset}  {line.outcome}  {where}  {line.why}".rstrip())
        output.say(f"{accepted} accepted, {len(lines) - accepted} refused")
    if accepted < len(lines):
        return Exit.FAILING
    return Exit.DEGRADED if counts["gap"] else Exit.OK


def decode(arguments: argparse.Namespace) -> Exit:
    """Print what is there; no signature is looked at, and the output says so."""
    shown: list[dict[str, object]] = []
    fault: WireRefusal | None = None
    try:
        for offset, message in split(_read(arguments.file)):
            envelope = cose.open_envelope(message, ContentType.RECORD, MAX_RECORD_BYTES)
            record = decode_record(envelope.payload)
            body = _plain(record.body)
            shown.append(
                {"offset": offset, "kid": envelope.kid.hex(), **_outline(record), "body": body}
            )
    except WireRefusal as refusal:
        fault = refusal
    if arguments.json:
        output.say_json(
            {"schema": "edgewarden-fleet.decoded/1", "verified": False, "messages": shown}
        )
    else:
        output.tell("not verified: signatures were not checked")
        for m in shown:
            output.say(
                f"{m['class']} {m['seq']}  {m['kind']}  {m['device']}  {m['wall_utc']}  {m['body']}"
            )
    if fault is not None:
        raise fault
    return Exit.OK


def _outline(record: Record) -> dict[str, object]:
    return {
        "device": record.device,
        "class": record.record_class.label,
        "seq": record.seq,
        "prev": record.prev.hex(),
        "kind": record.kind,
        "boot_id": record.boot_id.hex(),
        "wall_utc": views.iso(record.time.wall_ns / 1e9),
        "uncertainty_ms": record.time.uncertainty_ms,
        "clock": record.time.state,
    }


def _plain(value: object) -> object:
    """JSON-ready: bytes as hex, keys as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _roots(arguments: argparse.Namespace) -> list[x509.Certificate]:
    if arguments.ca is None:
        return FleetFolder(arguments.dir.absolute()).roots()
    try:
        return x509.load_pem_x509_certificates(arguments.ca.read_bytes())
    except (OSError, ValueError) as fault:
        raise OperatorFault(
            f"{arguments.ca}: {fault}", code="EW-SET-028", next_step="give the fleet's ca/root.pem"
        ) from fault


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
    except OSError as fault:
        raise OperatorFault(
            f"{name}: {fault.strerror}", code="EW-SET-028", next_step="give a file that can be read"
        ) from fault
    if len(data) > MAX_FILE_BYTES:
        raise WireRefusal("too_long", f"more than {MAX_FILE_BYTES} bytes")
    return data
