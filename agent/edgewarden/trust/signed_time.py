"""Asking the fleet what time it is: a nonce out, a signed moment back.

The only exchange in which a certificate's dates wait: a board that stands in 1970 could otherwise
never learn that it does not. Nothing is believed by the connection: the answer is signed by the
verifier's key that enrolment pinned, over our nonce, and is bounded in time by our own clock since
boot. An old answer has another nonce; one held back costs certainty (half the round trip), and more
than MAX_ROUND_TRIP_S of it is refused.

    moment = fetch(identity, host, port, clock, randomness)    Moment(boot_ns, utc_ns, 40)

Raises:
    PeerUnavailable: EW-HOST-022, no answer; try again later.
    WireRefusal: an answer that is refused by name: ``unknown_key``, ``bad_signature``,
        ``bad_time``, ``stale_nonce``, ``wrong_tenant``, ``too_slow``.
"""

from __future__ import annotations

import http.client
import ssl

from edgewarden.errors import PeerUnavailable, WireRefusal
from edgewarden.ports import Clock, Randomness
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import key_id, verifier_for
from edgewarden.trust.tls import untimed_context
from edgewarden.wire import cose
from edgewarden.wire.timing import MAX_TIME_BYTES, NONCE_BYTES, Moment, decode_time

TIMEOUT_S = 10.0
MAX_ROUND_TRIP_S = 20.0
"""A time known to ten seconds still tells which certificates hold; a longer way says nothing."""


def fetch(identity: Identity, host: str, port: int, clock: Clock, randomness: Randomness) -> Moment:
    """One exchange; blocks on the network."""
    nonce = randomness.token_bytes(NONCE_BYTES)
    connection = http.client.HTTPSConnection(
        host, port, timeout=TIMEOUT_S, context=untimed_context(identity.root_pem())
    )
    try:
        connection.connect()
        asked_ns = clock.now().boot_ns
        connection.request("POST", "/v1/time", nonce)
        response = connection.getresponse()
        data = response.read(MAX_TIME_BYTES + 1)
        got_ns = clock.now().boot_ns
    except (OSError, http.client.HTTPException) as fault:  # ssl.SSLError is an OSError
        why = fault.verify_message if isinstance(fault, ssl.SSLCertVerificationError) else fault
        raise PeerUnavailable(
            f"no signed time from {host}:{port}: {why}",
            code="EW-HOST-022",
            next_step="nothing; it is asked for again",
        ) from fault
    finally:
        connection.close()
    if response.status != 200:
        raise PeerUnavailable(
            f"no signed time from {host}:{port}: it answers {response.status}",
            code="EW-HOST-022",
            next_step="nothing; it is asked for again",
        )
    return believe(identity, nonce, data, asked_ns, got_ns)


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
