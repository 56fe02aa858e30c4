"""`edgewarden-fleet evidence ID` and `appraise FILE`: stored evidence, judged again.

    evidence gw-demo --out gw-demo.ewa           the last evidence, with all its appraisal went by
    appraise gw-demo.ewa                         this fleet again: with today's rules and facets
    appraise gw-demo.ewa --dir other --ca root.pem --verifier-key HEX --own-references

The last line is an auditor's: another folder, another key that signs, its own reference values; of
the first fleet it needs the root certificate and the public key that `evidence` prints. Exit code:
0 affirming, 1 warning or none, 2 contraindicated, 65 when the file does not hold.
"""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from pathlib import Path

from cryptography import x509

from edgewarden.appraise.references import Sets, applying
from edgewarden.errors import OperatorFault
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.evidence import Result, Tier, encode_result
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store import appraised, late, references, submodules, views
from edgewarden_fleet.store.schema import open_store
from edgewarden_fleet.verify import bundle as bundles
from edgewarden_fleet.verify.again import Again, appraise_again
from edgewarden_fleet.verify.bundle import Bundle, decode_facts
from edgewarden_fleet.verify.references import load

_EXITS = {Tier.AFFIRMING: Exit.OK, Tier.CONTRAINDICATED: Exit.FAILING}


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    command.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    command.add_argument("--json", action="store_true")
    if noun == "evidence":
        command.add_argument("device")
        command.add_argument("--out", type=Path, required=True, help="file to write")
        which = command.add_mutually_exclusive_group()
        which.add_argument("--back", type=int, default=0, help="how many before the last one")
        which.add_argument("--late", type=int, metavar="SEQ", help="from this audit record")
        command.set_defaults(run=export)
        return
    command.add_argument("file", type=Path, help="what `edgewarden-fleet evidence` wrote")
    command.add_argument("--ca", type=Path, help="root certificates, PEM; default: this fleet's")
    command.add_argument(
        "--verifier-key", metavar="HEX", help="COSE_Key of who wrote it; default: this fleet's"
    )
    command.add_argument(
        "--own-references", action="store_true", help="go by this folder's, not the file's"
    )
    command.add_argument("--out", type=Path, help="write the signed result there")
    command.set_defaults(run=appraise)


def export(arguments: argparse.Namespace) -> Exit:
    """Write one piece of evidence as a signed bundle."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    signer, tenant, device = folder.verifier(), folder.settings().tenant, arguments.device
    with closing(open_store(folder.database, read_only=True)) as db:
        if arguments.late is not None:
            found = late.at(db, device, arguments.late)
        else:
            found = appraised.newest(db, device, max(0, arguments.back))
        stored = {s.set_id: s.data for s in references.every(db)}
        issuing = appraised.issuing(db, device) or b""
        behind = submodules.of_evidence(db, device, b"" if found is None else found.evidence)
    if found is None:
        raise OperatorFault(
            f"no such evidence of {device!r} is kept",
            code="EW-SET-026",
            next_step="see `edgewarden-fleet show ID`",
        )
    sets = applying(load(stored.values(), signer.public_key(), tenant).sets, device)
    facts = decode_facts(found.facts)
    bundle = Bundle(
        tenant, device, found.evidence, found.result, facts, tuple(stored[n] for n in sets),
        issuing, behind,
    )  # fmt: skip
    _write(arguments.out, bundles.seal(bundle, signer))
    key = signer.public_key().hex()
    if arguments.json:
        output.say_json(
            {"schema": "edgewarden-fleet.evidence/1", "file": str(arguments.out),
             "verifier_key": key, "received_utc": views.iso(facts.received_utc_s)}
        )  # fmt: skip
    else:
        output.say(f"{arguments.out}: evidence of {views.iso(facts.received_utc_s)}")
        output.say(f"verifier key {key}")
    return Exit.OK


def appraise(arguments: argparse.Namespace) -> Exit:
    """Judge a bundle again and sign the verdict."""
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    signer = folder.verifier()
    first_key = signer.public_key()
    if arguments.verifier_key is not None:
        try:
            first_key = bytes.fromhex(arguments.verifier_key)
        except ValueError:
            raise OperatorFault(
                "--verifier-key is not hexadecimal",
                code="EW-SET-024",
                next_step="copy it from what `edgewarden-fleet evidence` printed",
            ) from None
    bundle = bundles.unseal(_read(arguments.file), first_key)
    own = _own(folder, signer.public_key()) if arguments.own_references else None
    required = folder.settings().attestation.required
    again = appraise_again(
        bundle, _roots(folder, arguments.ca), first_key, required, time.time(), own
    )
    payload = encode_result(again.second)
    message = cose.seal(payload, ContentType.RESULT, signer.kid, signer.sign)
    if arguments.out is not None:
        _write(arguments.out, message)
    _tell(bundle, again, message, arguments.json)
    return _EXITS.get(again.second.overall, Exit.DEGRADED)


def _tell(bundle: Bundle, again: Again, message: bytes, as_json: bool) -> None:
    facts = bundle.facts
    if as_json:
        output.say_json(
            {
                "schema": "edgewarden-fleet.appraised/1",
                "tenant": bundle.tenant,
                "device": bundle.device,
                "received_utc": views.iso(facts.received_utc_s),
                "late": facts.late,
                "age_s": facts.age_s,
                "first": _verdict(again.first),
                "second": _verdict(again.second),
                "differs": list(again.differs),
                "bad_sets": {name.hex(): why for name, why in again.bad_sets.items()},
                "result": message.hex(),
            }
        )
        return
    output.say(f"{bundle.device}  received {views.iso(facts.received_utc_s)}")
    output.table(
        ("facet", "then", "now", "why"),
        [
            (
                facet, again.first.facets[facet].label if facet in again.first.facets else "-",
                tier.label, again.second.reasons.get(facet, ""),
            )
            for facet, tier in again.second.facets.items()
        ],
    )  # fmt: skip
    second = again.second
    output.say(f"overall {second.overall.label}, grade {second.grade}, by {second.policy_id}")
    for name, why in again.bad_sets.items():
        output.tell(f"reference set {name.hex()[:16]} does not count: {why}")


def _verdict(r: Result) -> dict[str, object]:
    return {
        "overall": r.overall.label, "grade": r.grade, "policy_id": r.policy_id,
        "policy_hash": r.policy_hash.hex(), "issued_utc": views.iso(r.issued_utc_s),
        "facets": {facet: tier.label for facet, tier in r.facets.items()},
        "reasons": dict(r.reasons),
    }  # fmt: skip


def _own(folder: FleetFolder, key: bytes) -> Sets:
    with closing(open_store(folder.database, read_only=True)) as db:
        stored = references.every(db)
    return load((s.data for s in stored), key, folder.settings().tenant).sets


def _roots(folder: FleetFolder, ca: Path | None) -> list[x509.Certificate]:
    if ca is None:
        return folder.roots()
    try:
        return x509.load_pem_x509_certificates(_read(ca))
    except ValueError as fault:
        raise OperatorFault(
            f"{ca}: {fault}", code="EW-SET-028", next_step="give the fleet's ca/root.pem"
        ) from fault


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(bundles.MAX_BUNDLE_BYTES + 1)
    except OSError as fault:
        raise OperatorFault(
            f"{path}: {fault.strerror}", code="EW-SET-028", next_step="give a file that can be read"
        ) from fault


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as fault:
        raise OperatorFault(
            f"{path}: {fault.strerror}", code="EW-SET-022", next_step="give a path to write to"
        ) from fault
