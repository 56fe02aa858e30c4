"""`edgewarden-fleet reference add|list|end`: what evidence is compared with.

    reference add edgewarden-0.1.0-py3-none-any.whl
    reference add edgewarden-0.2.0-py3-none-any.whl --not-before +2d --least-version 0.2.0
    reference end SET --at +14d --retire +28d
    reference add --device gw-demo --settings edgewarden.toml conf.d/20-site.toml
    reference add --device gw-demo --pcrs pcrs.bin --root-of-trust "UEFI, secure boot, TPM on board"

Each `add` makes one set, signed by the verifier's key and never changed again; several hold at
once, each in its window (appraise/references.py). Added before a release goes out, with
--not-before, a set announces it: a board that comes up early is a warning, not an incident. `end`
signs a successor with the same values and an earlier end.

Settings name their device, so a reference for them mostly belongs to one: --device. Without it a
value holds for every gateway.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from edgewarden.appraise.references import State, standing, state_of
from edgewarden.appraise.values import FIRMWARE_PCRS, firmware_digest
from edgewarden.errors import OperatorFault
from edgewarden.wire.manifest import files_digest
from edgewarden.wire.record import is_identifier
from edgewarden.wire.references import ReferenceSet, set_id
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.moments import moment
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import references, views
from edgewarden_fleet.store.schema import open_store, transaction
from edgewarden_fleet.verify.artefact import read_code
from edgewarden_fleet.verify.references import Loaded, load, sign

_PCR_BYTES = 32
LATE_S = 14 * 86_400
"""From --not-after to retirement when --retire is not given: two weeks to update the stragglers."""


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = command.add_subparsers(dest="verb", metavar="add|list|end", required=True)
    add = verbs.add_parser("add", help="compute reference values and sign them as one set")
    add.add_argument("artefact", type=Path, nargs="?", help="wheel or Debian package of the agent")
    add.add_argument("--settings", type=Path, nargs="+", metavar="FILE", help="in load order")
    add.add_argument("--policy", type=Path, nargs="+", metavar="FILE")
    add.add_argument("--cmdline-file", type=Path, help="a copy of /proc/cmdline")
    add.add_argument(
        "--pcrs", type=Path, help="values of PCR 0 to 9 (SHA-256), one behind the other"
    )
    add.add_argument("--programs", metavar="HEX", help="digest of started programs")
    add.add_argument("--device", default="", help="this one only")
    add.add_argument("--release", default="", help="a name for people")
    add.add_argument("--not-before", default="1970-01-01", metavar="WHEN", help="in force from")
    add.add_argument("--not-after", metavar="WHEN", help="in force until; late from then on")
    add.add_argument("--retire", metavar="WHEN", help="wrong from then on; default 14 days late")
    add.add_argument("--least-version", default="", help="releases below are a rollback")
    add.add_argument(
        "--root-of-trust", default="", metavar="TEXT",
        help="what measures this board's boot from hardware on; with --device and --pcrs",
    )  # fmt: skip
    end = verbs.add_parser("end", help="end a set earlier than it says")
    end.add_argument("set", help="its id, or the first digits")
    end.add_argument("--at", default="now", metavar="WHEN", help="in force until; default: now")
    end.add_argument("--retire", metavar="WHEN", help="wrong from then on; default 14 days later")
    shown = verbs.add_parser("list", help="what is kept")
    for verb, run in ((add, _add), (shown, _list), (end, _end)):
        verb.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
        verb.add_argument("--json", action="store_true")
        verb.set_defaults(run=run)


def _add(arguments: argparse.Namespace) -> Exit:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    if arguments.device and not is_identifier(arguments.device):
        raise _no(f"{arguments.device!r} is not a device id", "see --help")
    version, values, sources = _values(arguments)
    if not values:
        raise _no(
            "nothing to add",
            "give a wheel, --settings, --policy, --cmdline-file, --pcrs or --programs",
        )
    if arguments.root_of_trust and not (arguments.device and "pcrs" in values):
        raise _no("--root-of-trust speaks of one board's PCR values", "give --device and --pcrs")
    now = time.time()
    not_before = moment(arguments.not_before, now)
    not_after, retired = _end_of(arguments.not_after, arguments.retire, now)
    if not_after is not None and not_after <= not_before:
        raise _no("--not-after lies before --not-before", "give a window that has a length")
    reference = ReferenceSet(
        folder.settings().tenant, arguments.release[:128], version, arguments.device, int(now),
        not_before, not_after, retired, arguments.least_version[:128],
        arguments.root_of_trust[:128], {kind: (digest,) for kind, digest in values.items()},
    )  # fmt: skip
    return _keep(folder, reference, sources, arguments.json)


def _end(arguments: argparse.Namespace) -> Exit:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    loaded, sources = _load(folder)
    found = [name for name in standing(loaded.sets) if name.hex().startswith(arguments.set)]
    if len(found) != 1 or not arguments.set:
        raise _no(f"{len(found)} sets in use begin with {arguments.set!r}", "see `reference list`")
    not_after, retired = _end_of(arguments.at, arguments.retire, time.time())
    ended = replace(
        loaded.sets[found[0]],
        issued_utc_s=int(time.time()),
        not_after_utc_s=not_after,
        retired_utc_s=retired,
        replaces=found[0],
    )
    return _keep(folder, ended, sources[found[0]], arguments.json)


def _end_of(not_after: str | None, retire: str | None, now: float) -> tuple[int | None, int | None]:
    """When a set is late, and when it is wrong."""
    if not_after is None:
        if retire is not None:
            raise _no("--retire without --not-after", "say when the set begins to be late")
        return None, None
    late = moment(not_after, now)
    retired = late + LATE_S if retire is None else moment(retire, now)
    if retired < late:
        raise _no("the set would be wrong before it is late", "give --retire a later moment")
    return late, retired


def _keep(
    folder: FleetFolder, reference: ReferenceSet, sources: Mapping[str, str], as_json: bool
) -> Exit:
    data = sign(reference, folder.verifier())
    with closing(open_store(folder.database)) as db, transaction(db):
        references.add(db, data, sources, time.time())
    state = state_of(reference, time.time())
    if as_json:
        rows = _rows(set_id(data), reference, state, sources)
        output.say_json({"schema": "edgewarden-fleet.references/1", "references": rows})
        return Exit.OK
    of = reference.version or reference.device or "every gateway"
    for kind, digests in reference.values.items():
        for digest in digests:
            output.say(f"{kind}  {of}  {digest.hex()}  ({len(sources)} files)")
    output.say(f"set {set_id(data).hex()[:16]}  {state}")
    return Exit.OK


def _values(arguments: argparse.Namespace) -> tuple[str, dict[str, bytes], dict[str, str]]:
    """Version, kind -> digest, and what they were computed from."""
    version, values, sources = "", dict[str, bytes](), dict[str, str]()
    if arguments.artefact:
        code = read_code(arguments.artefact)
        version, values["code"] = code.version, code.digest()
        sources |= {path: digest.hex() for path, digest in sorted(code.files.items())}
    for kind, files in (("settings", arguments.settings), ("policy", arguments.policy)):
        if files:
            contents = [_read(path) for path in files]
            values[kind] = files_digest(contents)
            sources |= _sources(files, contents)
    if arguments.cmdline_file:
        content = _read(arguments.cmdline_file)
        values["cmdline"] = hashlib.sha256(content).digest()
        sources |= _sources([arguments.cmdline_file], [content])
    if arguments.pcrs:
        content = _read(arguments.pcrs)
        if len(content) < _PCR_BYTES * len(FIRMWARE_PCRS) or len(content) % _PCR_BYTES:
            raise _no(f"{arguments.pcrs} is not 32 bytes for each PCR from 0", "see --help")
        values["pcrs"] = firmware_digest(
            {n: content[_PCR_BYTES * n : _PCR_BYTES * (n + 1)] for n in FIRMWARE_PCRS}
        )
        sources |= _sources([arguments.pcrs], [content])
    if arguments.programs:
        try:
            values["programs"] = bytes.fromhex(arguments.programs)
        except ValueError:
            raise _no("--programs is not hexadecimal", "copy it from `show ID --json`") from None
    if any(len(digest) != _PCR_BYTES for digest in values.values()):
        raise _no("--programs is not a SHA-256", "copy it from `show ID --json`")
    return version, values, sources


def _load(folder: FleetFolder) -> tuple[Loaded, dict[bytes, Mapping[str, str]]]:
    with closing(open_store(folder.database, read_only=True)) as db:
        stored = references.every(db)
    key, tenant = folder.verifier().public_key(), folder.settings().tenant
    loaded = load((s.data for s in stored), key, tenant)
    return loaded, {s.set_id: s.sources for s in stored}


def _list(arguments: argparse.Namespace) -> Exit:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    loaded, sources = _load(folder)
    used, now = standing(loaded.sets), time.time()
    rows: list[dict[str, object]] = []
    for name, reference in loaded.sets.items():
        state = state_of(reference, now) if name in used else State.REPLACED
        rows += _rows(name, reference, state, sources[name])
    if arguments.json:
        bad = {name.hex(): why for name, why in loaded.bad.items()}
        again = {name.hex(): same.hex() for name, same in loaded.again.items()}
        output.say_json(
            {
                "schema": "edgewarden-fleet.references/1",
                "references": rows,
                "bad": bad,
                "signed_again": again,
            }
        )
        return Exit.DEGRADED if bad else Exit.OK
    output.table(
        ("set", "state", "kind", "of", "digest", "until"),
        [
            (
                str(r["set"])[:16], r["state"], r["kind"],
                r["version"] or r["device"] or "every gateway", r["digest"],
                r["not_after_utc"] or "",
            )
            for r in rows
        ],
    )  # fmt: skip
    for name, same in loaded.again.items():
        text = f"set {name.hex()[:16]} is of an earlier verifier key, signed again as"
        output.tell(f"{text} {same.hex()[:16]}")
    for name, why in loaded.bad.items():
        output.tell(f"set {name.hex()[:16]} does not count: {why}")
    return Exit.DEGRADED if loaded.bad else Exit.OK


def _rows(
    name: bytes, s: ReferenceSet, state: State, sources: Mapping[str, str]
) -> list[dict[str, object]]:
    def at(moment_s: int | None) -> str | None:
        return None if moment_s is None else views.iso(moment_s)

    return [
        {
            "kind": kind, "version": (s.version if kind == "code" else "") or None,
            "device": s.device or None, "digest": digest.hex(), "sources": dict(sources),
            "set": name.hex(), "release": s.release or None, "state": str(state),
            "not_before_utc": at(s.not_before_utc_s), "not_after_utc": at(s.not_after_utc_s),
            "retired_utc": at(s.retired_utc_s), "least_version": s.least_version or None,
            "root_of_trust": s.root_of_trust or None,
        }
        for kind, digests in s.values.items()
        for digest in digests
    ]  # fmt: skip


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


def _no(why: str, next_step: str) -> OperatorFault:
    return OperatorFault(why, code="EW-SET-024", next_step=next_step)
