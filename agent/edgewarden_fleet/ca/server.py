"""The enrolment service: GET /v1/ca, POST /v1/enroll, POST /v1/enroll/activate, over TLS.

The messages are wire/enrol.py's, what is made of them enrolment.py's. Open to whoever reaches the
port, so everything is bounded before it is read: body bytes, seconds for a request, requests per
address and minute, requests at once. A refusal is JSON with a name, a line and a next step; the
gateway prints the same name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
from collections import OrderedDict
from collections.abc import Callable

from aiohttp import web

from edgewarden.errors import WireRefusal
from edgewarden.wire import bodies, enrol, enrol_tpm
from edgewarden.wire.enrol_tpm import CredentialChallenge
from edgewarden_fleet.ca.enrolment import Enrolment
from edgewarden_fleet.ca.tokens import Office

REQUEST_S = 10.0
"""A request is 2 kB: ten seconds is a modem's time."""
PER_MINUTE = 20
"""Attempts of one address; a person enrols a few gateways a minute behind one address, a guesser
wants thousands."""
AT_ONCE = 16
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
}

log = logging.getLogger("edgewarden_fleet.enroll")

Answer = tuple[enrol.EnrolRequest, enrol.EnrolAnswer | CredentialChallenge]
"""What was asked, and what is said to it."""


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


def application(
    db: sqlite3.Connection,
    office: Office,
    now_utc_s: Callable[[], float],
    admitted: Callable[[str], bool] = lambda _: True,
) -> web.Application:
    """Return the service; db is used by it alone.

    Args:
        admitted: whether the broker lets a gateway speak by now. The answer waits for it, so that
            the gateway's first connection is not its first refusal.
    """
    limit, room, one_writer = RateLimit(), asyncio.Semaphore(AT_ONCE), asyncio.Lock()
    app = web.Application(client_max_size=bodies.MAX_MESSAGE_BYTES)
    desk = Enrolment(db, office, office.makers)

    async def get_ca(_: web.Request) -> web.Response:
        return web.Response(text=office.roots_pem(), content_type="application/x-pem-file")

    def begin(body: bytes) -> Answer:
        wanted = enrol.parse_request(body)
        return wanted, desk.begin(wanted, now_utc_s())

    def finish(body: bytes) -> Answer:
        return desk.finish(enrol_tpm.parse_activation(body), now_utc_s())

    async def answer(request: web.Request, step: Callable[[bytes], Answer]) -> web.Response:
        address = request.remote or ""
        try:
            if not limit.allow(address, asyncio.get_running_loop().time()) or room.locked():
                raise WireRefusal("rate_limited", "too many attempts")
            async with room:
                async with asyncio.timeout(REQUEST_S):
                    body = await request.read()
                async with one_writer:
                    wanted, said = await asyncio.to_thread(step, body)
        except web.HTTPRequestEntityTooLarge:
            return _refuse(address, WireRefusal("too_long", "the request is too long"), 413)
        except TimeoutError:
            return _refuse(address, WireRefusal("too_slow", "the request took too long"), 408)
        except WireRefusal as refusal:
            return _refuse(address, refusal, 429 if refusal.name == "rate_limited" else 403)
        if isinstance(said, CredentialChallenge):
            return _json(enrol_tpm.encode_challenge(said))
        await _until(lambda: admitted(wanted.device))
        log.info(
            "enrolled device=%s tenant=%s grade=%s address=%s",
            wanted.device, said.tenant, wanted.grade, address,
        )  # fmt: skip
        return _json(enrol.encode_answer(said))

    async def post_enroll(request: web.Request) -> web.Response:
        return await answer(request, begin)

    async def post_activate(request: web.Request) -> web.Response:
        return await answer(request, finish)

    app.router.add_get("/v1/ca", get_ca)
    app.router.add_post("/v1/enroll", post_enroll)
    app.router.add_post("/v1/enroll/activate", post_activate)
    return app


async def _until(there: Callable[[], bool]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ADMITTED_S):
            while not there():
                await asyncio.sleep(LOOK_S)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _refuse(address: str, refusal: WireRefusal, status: int) -> web.Response:
    log.warning("enrolment refused reason=%s address=%s", refusal.name, address)
    next_step = _NEXT.get(refusal.name, "run `edgewarden enroll` again with the token as printed")
    body = enrol.encode_refusal(refusal.name, refusal.text, next_step)
    return web.Response(body=body, status=status, content_type="application/json")
