"""The enrolment service, over TLS: GET /v1/ca, POST /v1/enroll, POST /v1/enroll/activate, POST
/v1/renew/challenge, POST /v1/renew.

The messages are wire/enrol.py's and wire/renewal.py's; what is made of them is enrolment.py's and
renewal.py's. Open to whoever reaches the port, so everything is bounded before it is read: body
bytes, seconds for a request, requests per source and minute, connections (door.py). Nothing that
others wait for is held before a request is whole. A refusal is JSON
with a name, a line and a next step; the gateway prints the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web

from edgewarden.errors import PeerFault, PeerUnavailable, WireRefusal
from edgewarden.wire import bodies, enrol, enrol_tpm, renewal
from edgewarden.wire.enrol_tpm import CredentialChallenge
from edgewarden.wire.topics import session_name
from edgewarden_fleet.desk.door import source_of
from edgewarden_fleet.desk.enrolment import Enrolment
from edgewarden_fleet.desk.renewal import RenewalDesk
from edgewarden_fleet.desk.tokens import Office
from edgewarden_fleet.store import registry

REQUEST_S = 10.0
"""A request is 2 kB: ten seconds is a modem's time."""
PER_MINUTE = 20
"""Attempts of one source (door.py); a person enrols a few gateways a minute behind one address, a
guesser wants thousands."""
WAIT_S = 10.0
"""For the one thread that enrols; a gateway waits 15 s for its answer."""
MAX_ADDRESSES = 4096
"""Addresses remembered for the rate; the oldest is forgotten first."""

_NEXT = {
    "token_malformed": "copy the whole token, one line beginning with ew1.",
    "token_unknown": "ask the fleet's operator for a new token",
    "token_used": "ask for a new token; if nobody here used this one, report it",
    "token_expired": "ask for a new token",
    "token_foreign_device": "use the token made for this device id",
    "token_foreign_ca": "the token belongs to another fleet: check the URL",
    "csr_invalid": "run `edgewarden enroll` again",
    "device_exists": "a device id keeps its first key: choose another id, or have it replaced",
    "rate_limited": "wait a minute",
    "grade_lowered": "find out why the key would be kept worse than before",
    "ek_untrusted": "have the operator pin the TPM's maker, or list this EK, below tpm/",
    "tpm_keys": "run `edgewarden enroll` again; if it stays so, report it",
    "activation_expired": "run `edgewarden enroll` again with the same token",
    "activation_failed": "this answer did not come from the TPM that was shown: report it",
    "lineage_conflict": "a device keeps its TPM: choose another id, or have it replaced",
    "revoked": "ask the fleet's operator why; a board that is to go on needs `replace`",
    "renewal_unknown": "check the URL; if it is right, enrol with a new token",
    "quarantined": "ask the fleet's operator which board is the true one",
    "renewal_too_late": "ask the fleet's operator for a token: `edgewarden-fleet token new`",
    "evidence_missing": "run it again while `edgewarden run` or edgewarden-link.service runs",
    "evidence_refused": "ask the fleet's operator what is held against this gateway",
    "ca_unavailable": "nothing was lost: try again later, or ask the fleet's operator",
}

log = logging.getLogger("edgewarden_fleet.enroll")


class Said(NamedTuple):
    """What is answered, and what is logged of it.

    Attributes:
        new: the name at the broker (wire/topics.py) of a board that it has to let speak from now
            on; "" for none.
    """

    device: str
    body: bytes
    what: str
    new: str = ""


class RateLimit:
    """Token bucket per address; bounded memory."""

    def __init__(self, per_minute: int = PER_MINUTE) -> None:
        self._per_minute = per_minute
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, address: str, now_mono_s: float) -> bool:
        """Count one attempt; False when the address has used up its minute."""
        left, since = self._seen.pop(address, (float(self._per_minute), now_mono_s))
        left = min(float(self._per_minute), left + (now_mono_s - since) * self._per_minute / 60.0)
        allowed = left >= 1.0
        self._seen[address] = (left - 1.0 if allowed else left, now_mono_s)
        if len(self._seen) > MAX_ADDRESSES:
            self._seen.popitem(last=False)
        return allowed


ADMITTED_S = 2.0
"""The broker's list is changed within a second; a broker that is down must not hold an answer."""
LOOK_S = 0.02


class Steps:
    """What each POST does: a request's body to what is said, in a thread, one at a time."""

    def __init__(
        self,
        db: sqlite3.Connection,
        office: Office,
        renewals: RenewalDesk,
        now_utc_s: Callable[[], float],
    ) -> None:
        self._db = db
        self._enrolment = Enrolment(db, office, office.makers)
        self._renewals = renewals
        self._now = now_utc_s

    def begin(self, body: bytes) -> Said:
        """/v1/enroll"""
        wanted = enrol.parse_request(body)
        return self._enrolled(wanted, self._enrolment.begin(wanted, self._now()))

    def finish(self, body: bytes) -> Said:
        """/v1/enroll/activate"""
        return self._enrolled(
            *self._enrolment.finish(enrol_tpm.parse_activation(body), self._now())
        )

    def challenge(self, body: bytes) -> Said:
        """/v1/renew/challenge"""
        device = renewal.parse_ask(body)
        message = self._renewals.challenge(device, self._now())
        return Said(device, renewal.encode_challenge(message), "challenged for renewal")

    def renew(self, body: bytes) -> Said:
        """/v1/renew"""
        wanted = renewal.parse_renew(body)
        answer = self._renewals.renew(wanted, self._now())
        return Said(wanted.device, enrol.encode_answer(answer), "renewed")

    def _enrolled(
        self, wanted: enrol.EnrolRequest, answer: enrol.EnrolAnswer | CredentialChallenge
    ) -> Said:
        device = wanted.device
        if isinstance(answer, CredentialChallenge):
            return Said(device, enrol_tpm.encode_challenge(answer), "asked for its TPM")
        new = session_name(device, registry.board_of(self._db, device))
        return Said(device, enrol.encode_answer(answer), f"enrolled {wanted.grade}", new)


def application(
    db: sqlite3.Connection,
    office: Office,
    renewals: RenewalDesk,
    now_utc_s: Callable[[], float],
    admitted: Callable[[str], bool] = lambda _: True,
    asked: Callable[[web.Request], None] = lambda _: None,
    per_minute: int = PER_MINUTE,
) -> web.Application:
    """Return the service; db is used by it and by ``renewals`` alone.

    Args:
        admitted: whether the broker lets a board speak by now, by its name there. An enrolment's
            answer waits for it, so that the gateway's first connection is not its first refusal.
        asked: hears of each request that has come whole (door.py).
        per_minute: attempts of one source.
    """
    limit, one_writer = RateLimit(per_minute), asyncio.Lock()
    app = web.Application(client_max_size=bodies.MAX_MESSAGE_BYTES, middlewares=[_one_request])
    steps = Steps(db, office, renewals, now_utc_s)

    async def get_ca(_: web.Request) -> web.Response:
        return web.Response(text=office.roots_pem(), content_type="application/x-pem-file")

    def post(step: Callable[[bytes], Said]) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            address = request.remote or ""
            try:
                if not limit.allow(source_of(address), asyncio.get_running_loop().time()):
                    raise WireRefusal("rate_limited", "too many attempts")
                async with asyncio.timeout(REQUEST_S):
                    body = await request.read()
                asked(request)
                async with asyncio.timeout(WAIT_S):
                    await one_writer.acquire()
                try:
                    said = await asyncio.to_thread(step, body)
                finally:
                    one_writer.release()
            except web.HTTPRequestEntityTooLarge:
                return _refuse(address, WireRefusal("too_long", "the request is too long"), 413)
            except TimeoutError:
                return _refuse(address, WireRefusal("too_slow", "the request took too long"), 408)
            except WireRefusal as refusal:
                return _refuse(address, refusal, 429 if refusal.name == "rate_limited" else 403)
            except (PeerFault, PeerUnavailable) as fault:
                log.error("the CA gave no certificate code=%s why=%r", fault.code, fault.text)
                refused = WireRefusal("ca_unavailable", "the certificate authority gave none")
                return _refuse(address, refused, 503)
            if said.new:
                await _until(lambda: admitted(said.new))
            log.info("granted what=%r device=%s address=%s", said.what, said.device, address)
            return web.Response(body=said.body, content_type="application/json")

        return handle

    app.router.add_get("/v1/ca", get_ca)
    app.router.add_post("/v1/enroll", post(steps.begin))
    app.router.add_post("/v1/enroll/activate", post(steps.finish))
    app.router.add_post("/v1/renew/challenge", post(steps.challenge))
    app.router.add_post("/v1/renew", post(steps.renew))
    return app


@web.middleware
async def _one_request(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """A connection that is kept would be held by whoever asks nothing on it."""
    answer = await handler(request)
    answer.force_close()
    return answer


async def _until(there: Callable[[], bool]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ADMITTED_S):
            while not there():
                await asyncio.sleep(LOOK_S)


def _refuse(address: str, refusal: WireRefusal, status: int) -> web.Response:
    log.warning("request refused reason=%s address=%s", refusal.name, address)
    next_step = _NEXT.get(
        refusal.name, "run the command again; ask the fleet's operator if it stays so"
    )
    body = enrol.encode_refusal(refusal.name, refusal.text, next_step)
    return web.Response(body=body, status=status, content_type="application/json")
