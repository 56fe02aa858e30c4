"""From settings and identity to the uplink: link/ does not know settings/, so the words are
translated here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from edgewarden.daemon.timekeeper import Timekeeper
from edgewarden.errors import PeerUnavailable
from edgewarden.kernel import openssl
from edgewarden.link.acknowledged import VerifierKey
from edgewarden.link.dial import Route
from edgewarden.link.telling import EventSink
from edgewarden.link.tunnel import MAX_SECRET_BYTES, Proxy
from edgewarden.link.uplink import StatusBuilder, Uplink, UplinkSettings
from edgewarden.ports import ClassState, Drain, Randomness, Signer
from edgewarden.settings.brokers import PROFILES
from edgewarden.settings.uplink import Uplink as Wanted
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.trust.tls import client_context
from edgewarden.wire import cose
from edgewarden.wire.evidence import Status, encode_status
from edgewarden.wire.record import MEMORY, RecordClass

MAX_CREDENTIALS_BYTES = 2 * MAX_SECRET_BYTES + 2
"""User, colon, password, line end."""

Answers = tuple[StatusBuilder, Callable[[bytes], None], Callable[[bytes], None], EventSink]
"""Who builds a status, and who takes a nonce, a result, the uplink's own events."""


def build_uplink(
    wanted: Wanted,
    who: Identity,
    storage: Drain,
    answers: Answers,
    clock: Timekeeper,
    random: Randomness,
) -> Uplink:
    """The uplink of this gateway; nothing connects before its ``run``."""
    openssl.look_up()
    return Uplink(
        uplink_settings(wanted, who, random.token_bytes),
        storage,
        lambda: client_context(who, clock.verify_at()),
        *answers,
        clock,
        random,
    )


def session_status(
    who: Identity,
    signer: Signer,
    x5chain: tuple[bytes, ...],
    state: Mapping[int, ClassState],
    boot_id: bytes,
    session_ns: int,
    online: bool,
) -> bytes:
    """The signed status of a session, or its last will."""
    kept = {RecordClass(c): s for c, s in state.items() if c != MEMORY}
    message = Status(
        who.tenant,
        who.device,
        boot_id,
        session_ns,
        online,
        {c: s.durable for c, s in kept.items()},
        {c: s.acked for c, s in kept.items()},
    )
    encoded = encode_status(message)
    return cose.seal(encoded, cose.ContentType.STATUS, signer.kid, signer.sign, x5chain)


def uplink_settings(
    wanted: Wanted, who: Identity, token_bytes: Callable[[int], bytes]
) -> UplinkSettings:
    """The same settings in the words of link/."""
    return UplinkSettings(
        host=wanted.host or who.broker_host,
        port=wanted.port or who.broker_port,
        tenant=who.tenant,
        device=who.device,
        session=who.session,
        start_spread_s=wanted.start_spread_s,
        keepalive_s=wanted.keepalive_s,
        window=wanted.window,
        backlog_bytes_s=wanted.backlog_bytes_s,
        reconnect_base_s=wanted.reconnect_base_s,
        reconnect_cap_s=wanted.reconnect_cap_s,
        route=route(wanted, token_bytes),
        protocol=PROFILES[wanted.broker].mqtt,
        verifier=_verifier(wanted, who),
    )


def _verifier(wanted: Wanted, who: Identity) -> VerifierKey | None:
    """The key that enrolment pinned, where the verifier's word is what counts."""
    if wanted.acknowledged_by != "verifier":
        return None
    key = who.verifier_key
    return VerifierKey(key_id(key), verifier_for(key), wanted.acknowledged_within_s)


def route(wanted: Wanted, token_bytes: Callable[[int], bytes]) -> Route:
    """How the broker is reached, from [uplink]."""
    proxy = None
    if wanted.proxy is not None:
        kind, _, where = wanted.proxy.partition("://")
        host, _, port = where.rpartition(":")
        proxy = Proxy(
            "http" if kind == "http" else "socks5",
            host.strip("[]"),
            int(port),
            partial(credentials, Path(wanted.proxy_credentials)),
        )
    return Route(
        proxy,
        "" if wanted.alpn == "none" else wanted.alpn,
        wanted.websocket_path if wanted.transport == "websocket" else "",
        token_bytes,
    )


def credentials(path: Path) -> tuple[str, str] | None:
    """User and password of the proxy; None without a file.

    Raises:
        PeerUnavailable: EW-NET-014, others may read the file, or it is not USER:PASSWORD.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            line = file.read(MAX_CREDENTIALS_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise _unusable(path, f"cannot be read: {fault.strerror}") from fault
    if status.st_mode & 0o007:
        raise _unusable(path, "can be read by everybody; chmod 640 it")
    try:
        user, colon, password = line.decode().removesuffix("\n").partition(":")
    except UnicodeDecodeError as fault:
        raise _unusable(path, "is not one line USER:PASSWORD") from fault
    odd = "\n" in password or "\r" in user + password or len(line) > MAX_CREDENTIALS_BYTES
    if not colon or not user or odd:
        raise _unusable(path, "is not one line USER:PASSWORD")
    return user, password


def _unusable(path: Path, why: str) -> PeerUnavailable:
    return PeerUnavailable(
        f"{path} {why}",
        code="EW-NET-014",
        next_step="write one line USER:PASSWORD into it, readable by the service alone",
    )
