"""Asking the fleet what time it is: a nonce out, a signed moment back.

The only exchange in which a certificate's dates wait: a board that stands in 1970 could otherwise
never learn that it does not. Nothing is believed by the connection: the answer is signed by the
verifier's key that enrolment pinned, over our nonce, and is bounded in time by our own clock since
boot. An old answer has another nonce; one held back costs certainty (half the round trip), and more
than MAX_ROUND_TRIP_S of it is refused.

Of HTTP no more is spoken than this one question needs: the standard library's client keeps a parser
for mail in memory (0.9 MB of link's). Version 1.0, which no server and no proxy answers in chunks
(RFC 9112 §6.1); what the answer is worth does not hang on how it was framed.

    moment = fetch(identity, host, port, clock, randomness)    Moment(boot_ns, utc_ns, 40)

Raises:
    PeerUnavailable: EW-HOST-022, no answer; try again later.
    WireRefusal: an answer that is refused by name: ``unknown_key``, ``bad_signature``,
        ``bad_time``, ``stale_nonce``, ``wrong_tenant``, ``too_slow``.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable

from edgewarden.errors import PeerUnavailable, WireRefusal
from edgewarden.ports import Clock, Randomness
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.trust.tls import untimed_context
from edgewarden.wire import cose
from edgewarden.wire.timing import MAX_TIME_BYTES, NONCE_BYTES, Moment, decode_time

TIMEOUT_S = 10.0
"""Of each word with the fleet; the whole is held to MAX_ROUND_TRIP_S."""
MAX_ROUND_TRIP_S = 20.0
"""A time known to ten seconds still tells which certificates hold; a longer way says nothing."""
_MAX_ANSWER_BYTES = 8192 + MAX_TIME_BYTES + 1
"""What common servers allow for a head, and the body; a longer one than that is refused."""
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength:[ \t]*([0-9]{1,9})[ \t]*\r\n")


def fetch(identity: Identity, host: str, port: int, clock: Clock, randomness: Randomness) -> Moment:
    """One exchange; blocks on the network."""
    nonce = randomness.token_bytes(NONCE_BYTES)
    context = untimed_context(identity.root_pem())
    try:
        plain = socket.create_connection((host, port), TIMEOUT_S)
        with plain, context.wrap_socket(plain, server_hostname=host) as connection:
            asked_ns = clock.now().boot_ns
            until_ns = asked_ns + round(MAX_ROUND_TRIP_S * 1e9)
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            status, data = _ask(connection, where, nonce, lambda: clock.now().boot_ns < until_ns)
            got_ns = clock.now().boot_ns
    except OSError as fault:  # ssl.SSLError is one
        why = fault.verify_message if isinstance(fault, ssl.SSLCertVerificationError) else fault
        raise _no_time(host, port, str(why)) from fault
    if status != 200:
        raise _no_time(host, port, f"it answers {status}" if status else "it speaks no HTTP")
    return believe(identity, nonce, data, asked_ns, got_ns)


def _ask(
    connection: ssl.SSLSocket, where: str, nonce: bytes, goes_on: Callable[[], bool]
) -> tuple[int, bytes]:
    """One POST: (status, body); (0, b"") when it is no HTTP answer. Raises OSError."""
    lines = ["POST /v1/time HTTP/1.0", f"Host: {where}", f"Content-Length: {len(nonce)}", "", ""]
    connection.sendall("\r\n".join(lines).encode("ascii", "replace") + nonce)
    answer = bytearray()
    while len(answer) < _MAX_ANSWER_BYTES and goes_on():
        more = connection.recv(_MAX_ANSWER_BYTES - len(answer))
        answer += more
        head, end, body = bytes(answer).partition(b"\r\n\r\n")
        length = _LENGTH.search(head + end)
        if not more or (end and length and len(body) >= int(length[1])):
            break
    status = _STATUS.match(answer)
    return (int(status[1]), body) if status and end else (0, b"")


def _no_time(host: str, port: int, why: str) -> PeerUnavailable:
    return PeerUnavailable(
        f"no signed time from {host}:{port}: {why}",
        code="EW-HOST-022",
        next_step="nothing; it is asked for again",
    )


def believe(identity: Identity, nonce: bytes, data: bytes, asked_ns: int, got_ns: int) -> Moment:
    """The moment that an answer proves; raises WireRefusal."""
    envelope = cose.open_envelope(data, cose.ContentType.TIME, MAX_TIME_BYTES)
    if envelope.kid != key_id(identity.verifier_key):
        raise WireRefusal("unknown_key", "not signed by the verifier this gateway enrolled with")
    cose.check_signature(envelope, verifier_for(identity.verifier_key))
    time = decode_time(envelope.payload)
    if time.nonce != nonce:
        raise WireRefusal("stale_nonce", "an answer to another question")
    if time.tenant != identity.tenant:
        raise WireRefusal("wrong_tenant", "the time of another fleet")
    if not 0 <= got_ns - asked_ns <= MAX_ROUND_TRIP_S * 1e9:
        raise WireRefusal("too_slow", "the answer was too long on its way")
    half_ns = (got_ns - asked_ns) // 2
    return Moment(asked_ns + half_ns, time.utc_ms * 10**6, half_ns // 10**6 + 1)
