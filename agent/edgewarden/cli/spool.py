"""`edgewarden spool stat|verify|export --state DIR`: durable records, read from disk, also with the
agent dead."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from edgewarden.cli.console import Console, Exit, amount, clip
from edgewarden.cli.services import lenient_settings, settings_option, spool_cap
from edgewarden.errors import EdgewardenError, OperatorFault, TrustFault

if TYPE_CHECKING:
    from edgewarden.record.quota import Cap
    from edgewarden.record.reader import ClassReport
    from edgewarden.wire.cose import Verify

_FIELDS = ("next", "durable", "acked", "bytes", "evicted")


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """stat, verify and export."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    stat = verbs.add_parser("stat", help="counters per class")
    verify = verbs.add_parser("verify", help="check every stored record: chain, sequence, bytes")
    export = verbs.add_parser("export", help="write every stored record to one file, as signed")
    for verb, name, run in (
        (stat, "spool", _stat),
        (verify, "spool-verify", _verify),
        (export, "spool-export", _export),
    ):
        verb.add_argument("--state", metavar="DIR", help="state folder (default: the settings')")
        verb.add_argument("--json", action="store_true", help=f"print JSON (edgewarden.{name}/1)")
        settings_option(verb)
        verb.set_defaults(run=run)
    export.add_argument("--out", metavar="FILE", required=True, help="a file not there yet")
    verify.add_argument("--ca", metavar="FILE", help="root certificate (default: the identity's)")


def _where(args: argparse.Namespace, console: Console) -> tuple[Path, Cap | None]:
    """The state folder, and what its spool may hold; with --state no settings are read: a copied
    folder needs none, and nobody says how much it may hold."""
    if args.state:
        return Path(args.state), None
    settings = lenient_settings(args, console).settings
    return Path(settings.paths.state), spool_cap(settings)


def _stat(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.record import reader

    state, cap = _where(args, console)
    classes = {
        record_class.label: {field: int(getattr(counters, field)) for field in _FIELDS}
        for record_class, counters in reader.stat(state).items()
    }
    if args.json:
        more = {} if cap is None else {"cap_bytes": cap.size_bytes}
        console.json("edgewarden.spool/1", {"classes": classes, **more})
        return Exit.OK
    console.line(f"{'class':<8}" + "".join(f"{field:>12}" for field in _FIELDS))
    for name, c in classes.items():
        numbers = "".join(f"{c[field]:>12}" for field in ("next", "durable", "acked"))
        console.line(f"{name:<8}{numbers}{amount(c['bytes']):>12}{c['evicted']:>12}")
    if cap is not None:
        console.line(f"{'cap':<44}{amount(cap.size_bytes):>12}  [spool] {cap.setting}")
    return Exit.OK


def _verify(args: argparse.Namespace, console: Console) -> int:
    """Chain and sequence always; signatures as far as a root certificate is at hand."""
    from edgewarden.record import reader
    from edgewarden.trust.keys import verifier_for

    state, _ = _where(args, console)
    root = Path(args.ca) if args.ca else state / "identity" / "current" / "ca.pem"
    chains = chain_verifier(root) if args.ca or root.exists() else None
    report = reader.verify(state, verifier_for if chains else None, chains)
    problems = [
        f"{record_class.label} {seq}: {text}" if seq else f"{record_class.label}: {text}"
        for record_class, found in report.classes.items()
        for seq, text in [*found.faults, *((0, f"damaged {name}") for name in found.bad_segments)]
    ]
    if args.json:
        classes = {c.label: _as_json(found) for c, found in report.classes.items()}
        body = {"ok": report.ok, "signatures": chains is not None, "problems": problems}
        console.json("edgewarden.spool-verify/1", {**body, "classes": classes})
    else:
        for record_class, c in report.classes.items():
            held = f"{c.signed} signature(s) hold" if chains else "signatures not checked"
            gaps = f", {len(c.gaps)} explained gap(s)" if c.gaps else ""
            span = f" ({c.first} to {c.last})" if c.records else ""
            console.line(f"{record_class.label}: {c.records} record(s){span}, {held}{gaps}")
        for problem in problems:
            console.line(clip(f"problem: {problem}"))
        if chains is None:
            console.note("no root certificate: give the fleet's with --ca FILE")
    if report.ok:
        return Exit.OK
    count = sum(c.fault_count + len(c.bad_segments) for c in report.classes.values())
    text = f"{count} problem(s) in the spool"
    console.fault(text, "EW-SPL-002", "keep a copy of the folder for the operator")
    return Exit.FAILING


def _export(args: argparse.Namespace, console: Console) -> int:
    """A CBOR sequence (RFC 8742) of the signed records, byte for byte: audit, alarm, bulk.

    Audit first, since it explains the others. What a damaged segment does not give is named; the
    rest is written all the same.
    """
    from edgewarden.record import reader
    from edgewarden.wire.record import RecordClass

    (state, _), problems = _where(args, console), list[str]()
    reader.stat_or_nothing(state)  # a wrong --state is said before a file is made
    counts = dict.fromkeys((c.label for c in RecordClass), 0)
    try:
        fd = os.open(args.out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as out:
            for c in (RecordClass.AUDIT, RecordClass.ALARM, RecordClass.BULK):
                for found in reader.salvage(state, c):
                    if isinstance(found, EdgewardenError):
                        problems.append(f"{c.label}: {found.text}")
                    else:
                        out.write(found.data)
                        counts[c.label] += 1
            out.flush()
            os.fsync(fd)
    except OSError as fault:
        raise OperatorFault(
            f"{args.out} cannot be written: {fault.strerror}",
            code="EW-AGT-008",
            next_step="name a file that is not there yet, in a folder with room",
        ) from fault
    if args.json:
        body = {"ok": not problems, "records": counts, "problems": problems}
        console.json("edgewarden.spool-export/1", body)
    else:
        told = ", ".join(f"{number} {label}" for label, number in counts.items())
        console.line(f"records written: {told}")
        for problem in problems:
            console.line(clip(f"problem: {problem}"))
    if not problems:
        return Exit.OK
    text = f"{len(problems)} problem(s): what could not be read is not in the file"
    console.fault(text, "EW-SPL-002", "keep a copy of the folder for the operator")
    return Exit.FAILING


def _as_json(found: ClassReport) -> dict[str, object]:
    return {
        "records": found.records,
        "first": found.first,
        "last": found.last,
        "signed": found.signed,
        "unknown_key": found.unknown_key,
        "gaps": [list(gap) for gap in found.gaps],
        "bad_segments": found.bad_segments,
        "faults": found.fault_count,
    }


def chain_verifier(root_path: Path) -> Callable[[tuple[bytes, ...]], Verify]:
    """A function from an x5chain to its leaf's verify function; the chain must end at this root.

    Time is not judged: a record outlives the certificate that introduced its key.

    Raises:
        TrustFault: EW-ID-005, the root cannot be read.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

    from edgewarden.trust.keys import public_cose_key, verifier_for

    try:
        root = x509.load_pem_x509_certificate(root_path.read_bytes())
    except (OSError, ValueError) as fault:
        why = fault.strerror if isinstance(fault, OSError) else "not a certificate in PEM"
        raise TrustFault(
            f"{root_path} is no root certificate: {why}",
            code="EW-ID-005",
            next_step="give the fleet's ca.pem with --ca FILE",
        ) from fault

    def verify(x5chain: tuple[bytes, ...]) -> Verify:
        try:
            chain = [*(x509.load_der_x509_certificate(der) for der in x5chain), root]
            for child, parent in pairwise(chain):
                child.verify_directly_issued_by(parent)
            key = chain[0].public_key()
        except (ValueError, TypeError, InvalidSignature) as fault:
            raise TrustFault(f"the certificate chain does not hold: {fault}") from fault
        if len(chain) < 2 or not isinstance(key, EllipticCurvePublicKey):
            raise TrustFault("the certificate chain has no P-256 leaf")
        return verifier_for(public_cose_key(key))

    return verify
