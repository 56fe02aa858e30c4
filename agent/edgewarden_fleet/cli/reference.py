"""`edgewarden-fleet reference add|list`: what evidence is compared with.

    reference add edgewarden-0.1.0-py3-none-any.whl
    reference add --device gw-demo --settings edgewarden.toml conf.d/20-site.toml --policy
    policy.toml reference add --cmdline-file cmdline.txt

Settings name their device, so a reference for them mostly belongs to one: --device. Without it a
value holds for every gateway.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from contextlib import closing
from pathlib import Path

from edgewarden.errors import OperatorFault
from edgewarden.wire.manifest import files_digest
from edgewarden.wire.record import is_identifier
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import attestation
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify.artefact import read_code

Value = tuple[str, str, str, bytes, dict[str, str]]
"""kind, version, device, digest, sources."""


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = command.add_subparsers(dest="verb", metavar="add|list", required=True)
    add = verbs.add_parser("add", help="compute and keep reference values")
    add.add_argument("artefact", type=Path, nargs="?", help="wheel or Debian package of the agent")
    add.add_argument("--settings", type=Path, nargs="+", metavar="FILE", help="in load order")
    add.add_argument("--policy", type=Path, nargs="+", metavar="FILE")
    add.add_argument("--cmdline-file", type=Path, help="a copy of /proc/cmdline")
    add.add_argument("--device", default="", help="settings, policy and cmdline of this one only")
    shown = verbs.add_parser("list", help="what is kept")
    for verb, run in ((add, _add), (shown, _list)):
        verb.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _add(arguments: argparse.Namespace) -> Exit:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    if arguments.device and not is_identifier(arguments.device):
        raise OperatorFault(
            f"{arguments.device!r} is not a device id", code="EW-SET-024", next_step="see --help"
        )
    values = _values(arguments)
    if not values:
        raise OperatorFault(
            "nothing to add",
            code="EW-SET-024",
            next_step="give a wheel, --settings, --policy or --cmdline-file",
        )
    with closing(open_store(folder.database)) as db, transaction(db):
        for value in values:
            attestation.add_reference(db, *value, time.time())
    if arguments.json:
        output.say_json({"schema": "edgewarden-fleet.references/1", "references": [
            {"kind": k, "version": v or None, "device": d or None, "digest": digest.hex(),
             "sources": sources} for k, v, d, digest, sources in values]})  # fmt: skip
        return Exit.OK
    for kind, version, device, digest, sources in values:
        of = version or device or "every gateway"
        output.say(f"{kind}  {of}  {digest.hex()}  ({len(sources)} files)")
    return Exit.OK


def _values(arguments: argparse.Namespace) -> list[Value]:
    values: list[Value] = []
    if arguments.artefact:
        code = read_code(arguments.artefact)
        sources = {path: digest.hex() for path, digest in sorted(code.files.items())}
        values.append(("code", code.version, "", code.digest(), sources))
    for kind, files in (("settings", arguments.settings), ("policy", arguments.policy)):
        if files:
            contents = [_read(path) for path in files]
            values.append(
                (kind, "", arguments.device, files_digest(contents), _sources(files, contents))
            )
    if arguments.cmdline_file:
        content = _read(arguments.cmdline_file)
        values.append(
            (
                "cmdline", "", arguments.device, hashlib.sha256(content).digest(),
                _sources([arguments.cmdline_file], [content]),
            )
        )  # fmt: skip
    return values


def _list(arguments: argparse.Namespace) -> Exit:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    with closing(open_store(folder.database, read_only=True)) as db:
        rows = db.execute("SELECT * FROM reference ORDER BY kind, version, device, id").fetchall()
    body = [
        {
            "kind": row["kind"],
            "version": row["version"] or None,
            "device": row["device"] or None,
            "digest": row["digest"].hex(),
            "sources": json.loads(row["sources"]),
        }
        for row in rows
    ]
    if arguments.json:
        output.say_json({"schema": "edgewarden-fleet.references/1", "references": body})
        return Exit.OK
    output.table(
        ("kind", "of", "digest", "files"),
        [
            (
                b["kind"],
                b["version"] or b["device"] or "every gateway",
                b["digest"],
                len(b["sources"]),
            )
            for b in body
        ],
    )
    return Exit.OK


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise OperatorFault(
            f"{path}: {fault.strerror}", code="EW-SET-028", next_step="give a file that can be read"
        ) from fault


def _sources(files: list[Path], contents: list[bytes]) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(content).hexdigest()
        for path, content in zip(files, contents, strict=True)
    }
