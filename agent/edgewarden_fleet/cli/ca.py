"""`edgewarden-fleet ca show` and `ca rotate issuing|servers|verifier|root`: what stands above the
gateways' certificates, and taking turns without visiting one (ca/rollover.py).

Nothing of this is seen before broker and `serve` are restarted: that is said each time.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from contextlib import closing
from pathlib import Path

from cryptography import x509

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca import certificates
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.rollover import Rollover
from edgewarden_fleet.cli import output
from edgewarden_fleet.cli.output import Exit
from edgewarden_fleet.store.schema import open_store
from edgewarden_fleet.store.views import iso

_AGAIN = "restart the broker (a SIGHUP is not enough for roots) and `edgewarden-fleet serve`"


def configure(noun: str, command: argparse.ArgumentParser) -> None:
    """Arguments."""
    verbs = command.add_subparsers(dest="verb", metavar="show|trust|rotate", required=True)
    shown = verbs.add_parser("show", help="roots, issuing certificate, servers, verifier's key")
    shown.add_argument("--json", action="store_true")
    shown.set_defaults(run=show)
    trusted = verbs.add_parser("trust", help="believe another CA's root as well")
    trusted.add_argument("file", type=Path, help="PEM")
    trusted.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")
    trusted.set_defaults(run=_trust)
    rotated = verbs.add_parser("rotate", help="another one of these")
    whats = rotated.add_subparsers(dest="what", metavar="WHAT", required=True)
    issuing = whats.add_parser("issuing", help="another issuing key; needs the root's key")
    issuing.add_argument(
        "--root-key", type=Path, metavar="F", help="default: ca/root-key.pem, if it still is here"
    )
    servers = whats.add_parser("servers", help="other keys for broker, enrolment and our client")
    verifier = whats.add_parser("verifier", help="another key for challenges and results")
    root = whats.add_parser("root", help="another root, in three steps with weeks between")
    root.add_argument("step", choices=("begin", "switch", "finish"))
    root.add_argument("--force", action="store_true", help="cut off gateways that have not renewed")
    for part, run in (
        (issuing, _issuing), (servers, _servers), (verifier, _verifier), (root, _root),
    ):  # fmt: skip
        part.set_defaults(run=run)
    for part in (shown, issuing, servers, verifier, root):
        part.add_argument("--dir", type=Path, default=Path("."), help="the fleet folder")


def show(arguments: argparse.Namespace) -> Exit:
    """What is there, and until when."""
    folder = _folder(arguments)
    rollover = Rollover(folder, time.time())
    with closing(open_store(folder.database, read_only=True)) as db:
        behind, step = rollover.behind(db), rollover.progress()
    single = {
        "issuing": folder.issuing().certificate,
        "broker": _first(folder.path / "broker/server.pem"),
        "enroll": _first(folder.path / "enroll/server.pem"),
    }
    if arguments.json:
        output.say_json(
            {
                "schema": "edgewarden-fleet.ca/1",
                "roots": [_shown(root) for root in folder.roots()],
                **{name: _shown(certificate) for name, certificate in single.items()},
                "verifier": {"kid": folder.verifier().kid.hex()},
                "root_change": {
                    "step": step.step or None,
                    "since_utc": iso(step.since_utc_s or None),
                    "not_renewed": behind if step.step else [],
                },
            }
        )
        return Exit.OK
    parts = [*(("root", root) for root in folder.roots()), *single.items()]
    shown = [(name, _shown(certificate)) for name, certificate in parts]
    rows = [(name, s["name"], s["until_utc"], s["sha256"][:16]) for name, s in shown]
    output.table(("what", "name", "until", "sha256"), rows)
    output.say(f"verifier's key  {folder.verifier().kid.hex()}")
    if step.step:
        output.say(f"change of roots: {step.step} since {iso(step.since_utc_s)}")
        output.say(f"  {len(behind)} gateways have not renewed since: {', '.join(behind[:10])}")
    return Exit.OK


def _trust(arguments: argparse.Namespace) -> Exit:
    try:
        roots = x509.load_pem_x509_certificates(arguments.file.read_bytes())
    except (OSError, ValueError) as fault:
        raise OperatorFault(
            f"{arguments.file}: {fault}", code="EW-SET-028", next_step="give the CA's root as PEM"
        ) from fault
    Rollover(_folder(arguments), time.time()).trust(roots)
    for root in roots:
        output.say(f"believed: {_shown(root)['name']}  {_shown(root)['sha256']}")
    output.tell("gateways learn of it with their next renewal")
    output.tell(_AGAIN)
    return Exit.OK


def _issuing(arguments: argparse.Namespace) -> Exit:
    folder = _folder(arguments)
    key = arguments.root_key or folder.path / "ca/root-key.pem"
    made = Rollover(folder, time.time()).issuing(key)
    output.say(
        f"issuing certificate {made.serial_number:x} until {made.not_valid_after_utc:%Y-%m-%d}"
    )
    output.tell("gateways keep theirs and get the next one under it; the old one is kept aside")
    output.tell("a stolen issuing key is believed until its root goes: `ca rotate root` after this")
    output.tell(_AGAIN)
    return Exit.OK


def _servers(arguments: argparse.Namespace) -> Exit:
    Rollover(_folder(arguments), time.time()).servers()
    output.say("broker, enrolment service and our client have other keys")
    output.tell(_AGAIN)
    return Exit.OK


def _verifier(arguments: argparse.Namespace) -> Exit:
    folder = _folder(arguments)
    with closing(open_store(folder.database)) as db:
        kept, lost = Rollover(folder, time.time()).verifier(db)
    output.say(f"the verifier has another key; {kept} reference sets were signed again")
    if lost:
        output.say(f"{lost} could not be: add them again with `edgewarden-fleet reference add`")
    output.tell("gateways refuse its challenges until they have renewed, which they do within the")
    output.tell("hour; until then their attestation stands as it was and then runs out")
    output.tell(_AGAIN)
    return Exit.OK


def _root(arguments: argparse.Namespace) -> Exit:
    folder = _folder(arguments)
    rollover = Rollover(folder, time.time())
    with closing(open_store(folder.database)) as db:
        if arguments.step == "begin":
            made = rollover.begin()
            output.say(f"another root is believed: {_shown(made)['sha256']}")
            output.tell("next: `ca rotate root switch` when every gateway has renewed (`ca show`)")
        elif arguments.step == "switch":
            rollover.switch(db, force=arguments.force)
            output.say("servers and new certificates show the chain to the new root")
            output.tell("tokens that were made before name the old root: make them again")
            output.tell("next: `ca rotate root finish` when every gateway has renewed (`ca show`)")
            output.tell(f"keep {folder.path / 'ca/root-key.pem'} off this machine")
        else:
            rollover.finish(db, force=arguments.force)
            output.say("the old root is believed no more")
    output.tell(_AGAIN)
    return Exit.OK


def _folder(arguments: argparse.Namespace) -> FleetFolder:
    folder = FleetFolder(arguments.dir.absolute())
    folder.check()
    return folder


def _first(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def _shown(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "name": certificate.subject.rfc4514_string(),
        "serial": certificates.serial_hex(certificate),
        "until_utc": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        "sha256": hashlib.sha256(certificates.der(certificate)).hexdigest(),
    }
