"""`edgewarden enroll` and `edgewarden identity show|selftest|renew`: who this gateway is."""

from __future__ import annotations

import argparse
import base64
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edgewarden.cli.console import Console, Exit
from edgewarden.cli.services import (
    lenient_settings,
    own_keys,
    settings_option,
    system_clock,
    system_randomness,
)
from edgewarden.errors import HardwareFault, OperatorFault, PeerUnavailable, WireRefusal
from edgewarden.probe.disk import Disk
from edgewarden.settings.files import read_settings

if TYPE_CHECKING:
    from edgewarden.trust.identity import Identity
    from edgewarden.trust.ladder import Choice

MAX_TOKEN_BYTES = 4096
"""A token is one line of about 200 characters."""


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """enroll has options, identity has verbs."""
    if noun == "enroll":
        _token_options(parser)
        parser.add_argument(
            "--accept-lower",
            metavar="GRADE",
            choices=("G0", "G0+", "G1"),
            default="",
            help="go on with a key of this grade although a higher one was enrolled here before",
        )
        settings_option(parser)
        parser.set_defaults(run=_enroll)
        return
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    show = verbs.add_parser("show", help="device, tenant, grade, key, certificate")
    show.add_argument("--json", action="store_true", help="print JSON (edgewarden.identity/1)")
    selftest = verbs.add_parser(
        "selftest", help="a real handshake with the key, and does it all fit"
    )
    renew = verbs.add_parser("renew", help="a new certificate for the key that is there")
    renew.add_argument("--ca", metavar="URL", default="", help="default: where it came from")
    renew.add_argument(
        "--token-file", metavar="F", help="only for an identity that may not renew by itself"
    )
    renew.add_argument("--if-due", action="store_true", help="do nothing before its last third")
    for verb, run in ((show, _show), (selftest, _selftest), (renew, _renew)):
        settings_option(verb)
        verb.set_defaults(run=run)


def _token_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ca", metavar="URL", required=True, help="https://host:port")
    parser.add_argument(
        "--token-file", metavar="F", required=True, help="file with the operator's token"
    )


def _enroll(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.enrol.by_token import Wish, enroll
    from edgewarden.enrol.service import host_and_port

    host_and_port(args.ca)  # a wrong URL is named before the token is looked at
    settings = read_settings(args.settings, Disk())
    token = _token(args.token_file)

    def chosen(choice: Choice) -> None:
        for grade, why in choice.passed_over.items():
            console.note(f"edgewarden: not {grade}: {why}")
        console.note(f"edgewarden: {choice.key.grade}: {choice.key.about()}")

    keys, grade = own_keys(settings.identity.tcti), settings.identity.grade
    wish = Wish(keys, grade, args.accept_lower, chosen)
    identity = enroll(Path(settings.paths.state), args.ca, token, wish)
    console.line(f"enrolled {identity.device} of tenant {identity.tenant}, grade {identity.grade}")
    console.line(f"certificate {identity.serial} until {identity.not_after_utc}")
    console.line(f"broker {identity.broker_host}:{identity.broker_port}")
    return Exit.OK


def _renew(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.enrol import folder
    from edgewarden.enrol.by_key import renew
    from edgewarden.enrol.by_token import renew as renew_by_token
    from edgewarden.probe.control import ask_link
    from edgewarden.trust import identity as store
    from edgewarden.wire.control import Command

    settings = lenient_settings(args, console).settings
    state, keys = Path(settings.paths.state), own_keys(settings.identity.tcti)
    with folder.locked(state):
        identity = store.load(state, keys)
        now_utc_s, at_utc_s = _what_time(state, identity, args.ca)
        if args.if_due and (early := _early(state, identity, now_utc_s)):
            console.line(f"{identity.device}: {early}")
            return Exit.OK

        def evidence(challenge: bytes) -> bytes:
            answer = ask_link(settings.paths.run, Command.EVIDENCE, challenge)
            return base64.b64decode(str(answer["evidence"]))

        if args.token_file is None:
            fresh = renew(state, identity, evidence, args.ca, at_utc_s)
        else:
            url = args.ca or identity.service
            fresh = renew_by_token(state, url, _token(args.token_file), keys, at_utc_s)
    console.line(f"renewed {fresh.device}: certificate {fresh.serial}")
    console.line(f"valid until {fresh.not_after_utc}; a running link takes it at once")
    return Exit.OK


def _what_time(state: Path, identity: Identity, url: str) -> tuple[float, int | None]:
    """Seconds since 1970, and the same where certificates are to be held to them.

    Where nothing vouches for this machine's clock the fleet is asked. Where it does not answer, or
    with a key that is not known here yet, the clock has to do, or the floor that link kept.
    """
    from edgewarden.enrol.service import host_and_port
    from edgewarden.trust import time_file
    from edgewarden.trust.signed_time import fetch

    clock = system_clock()
    now = clock.now()
    if now.uncertainty_ms is None and (url or identity.service):
        host, port = host_and_port(url or identity.service)
        with contextlib.suppress(PeerUnavailable, WireRefusal):
            moment = fetch(identity, host, port, clock, system_randomness())
            utc_s = (moment.utc_ns + clock.now().boot_ns - moment.boot_ns) / 1e9
            return utc_s, int(utc_s)
    kept = time_file.read(state) if now.uncertainty_ms is None else None
    if kept is not None and now.wall_ns < kept.floor_ns:
        return kept.floor_ns / 1e9, kept.floor_ns // 10**9
    return now.wall_ns / 1e9, None


def _early(state: Path, identity: Identity, now_utc_s: float) -> str:
    """Why the certificate is not to be renewed now; "" when it is."""
    from edgewarden.enrol.folder import wanted
    from edgewarden.enrol.service import life_of
    from edgewarden.judge.renewal import Life, Why, judge

    life = Life(*life_of(identity))
    verdict = judge(life, identity.device, now_utc_s, wanted=bool(wanted(state)))
    if verdict.due:
        return ""
    if verdict.why is Why.CLOCK:
        return "the clock stands before the certificate's beginning; nothing is done by it"
    at = datetime.fromtimestamp(verdict.at_utc_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"the certificate is due from {at}"


def _token(path: str) -> str:
    """The token of a file as it stands there.

    Raises:
        OperatorFault: EW-ID-017, the file cannot be read or is no text of a token's length.
    """
    step = "save the one line that `edgewarden-fleet token new` printed, and name that file"
    try:
        data = Disk().fetch(path, MAX_TOKEN_BYTES)
    except HardwareFault as fault:
        text = f"the token file {path} {fault.text}"
        raise OperatorFault(text, code="EW-ID-017", next_step=step) from fault
    if len(data) > MAX_TOKEN_BYTES or not data.isascii():
        raise OperatorFault(f"{path} holds no token", code="EW-ID-017", next_step=step)
    return data.decode("ascii").strip()


def _show(args: argparse.Namespace, console: Console) -> int:
    from edgewarden.trust import identity as store

    settings = lenient_settings(args, console).settings
    identity = store.load(Path(settings.paths.state), own_keys(settings.identity.tcti))
    kept = _kept(identity)
    if args.json:
        console.json(
            "edgewarden.identity/1",
            {
                "device": identity.device,
                "tenant": identity.tenant,
                "grade": identity.grade,
                "key": kept,
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
    console.line(f"key          {kept}")
    console.line(f"certificate  {identity.serial}")
    console.line(f"valid until  {identity.not_after_utc}")
    console.line(f"broker       {identity.broker_host}:{identity.broker_port}")
    return Exit.OK


def _kept(identity: Identity) -> str:
    """Where the key is, or why it cannot be had now."""
    from edgewarden.errors import EdgewardenError

    try:
        return identity.signer().about()
    except EdgewardenError as fault:
        return f"not to be had: {fault.text} ({fault.code})"


def _selftest(args: argparse.Namespace, console: Console) -> int:
    """Load everything, prove the key, and hold the certificate to key and clock."""
    from edgewarden.judge.doctor import State, judge_identity
    from edgewarden.trust import identity as store
    from edgewarden.trust.selftest import prove
    from edgewarden.trust.tls import client_context

    settings = lenient_settings(args, console).settings
    identity = store.load(Path(settings.paths.state), own_keys(settings.identity.tcti))
    key = identity.signer()
    console.line(f"ok: grade {key.grade}, {key.about()}")
    prove(key, identity.key_path)
    console.line("ok: the key signs, and carries a mutual handshake of TLS 1.3 and 1.2")
    client_context(identity)  # OpenSSL refuses a certificate that is not the key's
    console.line("ok: certificate, chain and root load and belong to the key")
    rung = judge_identity(identity, settings.device, system_clock().now())
    console.line(f"{rung.state}: {rung.text}")
    if rung.state is State.OK:
        return Exit.OK
    console.fault(rung.text, rung.code, rung.next_step)
    return Exit.FAILING if rung.state is State.FAILING else Exit.DEGRADED
