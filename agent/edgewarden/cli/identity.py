"""`edgewarden enroll` and `edgewarden identity show|selftest`: who this gateway is."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgewarden.cli.console import Console, Exit
from edgewarden.cli.services import lenient_settings, settings_option, system_clock
from edgewarden.errors import OperatorFault
from edgewarden.probe.disk import Disk
from edgewarden.settings.files import read_settings

MAX_TOKEN_BYTES = 4096
"""A token is one line of about 200 characters."""


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """enroll has options, identity has verbs."""
    if noun == "enroll":
        parser.add_argument("--ca", metavar="URL", required=True, help="https://host:port")
        parser.add_argument(
            "--token-file", metavar="F", required=True, help="file with the operator's token"
        )
        settings_option(parser)
        parser.set_defaults(run=_enroll)
        return
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="device, tenant, grade, certificate")
    show.add_argument("--json", action="store_true", help="print JSON (edgewarden.identity/1)")
    selftest = verbs.add_parser("selftest", help="sign with the key and check it all fits")
    for verb, run in ((show, _show), (selftest, _selftest)):
        settings_option(verb)
        verb.set_defaults(run=run)


def _enroll(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.trust.enrol import enroll

    settings = read_settings(args.settings, Disk())
    data = Disk().fetch(args.token_file, MAX_TOKEN_BYTES)
    if len(data) > MAX_TOKEN_BYTES or not data.isascii():
        raise OperatorFault(
            f"{args.token_file} holds no token",
            code="EW-ID-017",
            next_step="save the one line that `edgewarden-fleet token new` printed",
        )
    identity = enroll(Path(settings.paths.state), args.ca, data.decode("ascii").strip())
    console.line(f"enrolled {identity.device} of tenant {identity.tenant}, grade {identity.grade}")
    console.line(f"certificate {identity.serial} until {identity.not_after_utc}")
    console.line(f"broker {identity.broker_host}:{identity.broker_port}")
    return Exit.OK


def _show(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.trust import identity as store

    identity = store.load(Path(lenient_settings(args, console).settings.paths.state))
    if args.json:
        console.json(
            "edgewarden.identity/1",
            {
                "device": identity.device,
                "tenant": identity.tenant,
                "grade": identity.grade,
                "certificate": {
                    "serial": identity.serial,
                    "not_after_utc": identity.not_after_utc,
                },
                "broker": {"host": identity.broker_host, "port": identity.broker_port},
            },
        )
        return Exit.OK
    console.line(f"device       {identity.device}")
    console.line(f"tenant       {identity.tenant}")
    console.line(f"grade        {identity.grade}")
    console.line(f"certificate  {identity.serial}")
    console.line(f"valid until  {identity.not_after_utc}")
    console.line(f"broker       {identity.broker_host}:{identity.broker_port}")
    return Exit.OK


def _selftest(args: argparse.Namespace, console: Console) -> int:
    """Load everything, sign, verify, and hold the certificate to key and clock."""
    from edgewarden.judge.doctor import State, judge_identity
    from edgewarden.trust import identity as store
    from edgewarden.trust.keys import verifier_for
    from edgewarden.trust.tls import client_context

    settings = lenient_settings(args, console).settings
    identity = store.load(Path(settings.paths.state))
    signer = identity.signer()
    message = b"edgewarden identity selftest"
    if not verifier_for(signer.public_key())(message, signer.sign(message)):
        raise OperatorFault(
            "the key's own signature does not verify",
            code="EW-ID-003",
            next_step="restore state/identity from a backup of this very device, or enrol again",
        )
    console.line("ok: the key signs and its signature verifies")
    client_context(identity)  # OpenSSL refuses a certificate that is not the key's
    console.line("ok: certificate, chain and root load and belong to the key")
    rung = judge_identity(identity, settings.device, system_clock().now())
    console.line(f"{rung.state}: {rung.text}")
    if rung.state is State.OK:
        return Exit.OK
    console.fault(rung.text, rung.code, rung.next_step)
    return Exit.FAILING if rung.state is State.FAILING else Exit.DEGRADED
