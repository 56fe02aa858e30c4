"""POST /v1/time: the fleet's time, signed for a nonce (wire/timing.py).

For gateways whose clock nobody sets: it is the one exchange in which a gateway does not hold the
server's certificate to a date, because the answer proves itself by the verifier's key, which
enrolment pinned, and by the nonce. Open to whoever reaches the port: 32 bytes in, one signature
out, rate-limited per address; it gives nothing away and changes nothing.

The time is this machine's own: the one by which certificates are made and judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from edgewarden.ports import Signer
from edgewarden.wire import cose
from edgewarden.wire.cose import ContentType
from edgewarden.wire.timing import NONCE_BYTES, SignedTime, encode_time
from edgewarden_fleet.desk.door import source_of
from edgewarden_fleet.desk.server import REQUEST_S, RateLimit

PER_MINUTE = 60
"""A site of sixty gateways behind one address that all come back from a power cut in one minute."""


def add_time(
    app: web.Application, signer: Signer, tenant: str, now_utc_s: Callable[[], float]
) -> None:
    """Put the route into the enrolment service."""
    limit = RateLimit(PER_MINUTE)

    async def post_time(request: web.Request) -> web.Response:
        loop = asyncio.get_running_loop()
        if not limit.allow(source_of(request.remote or ""), loop.time()):
            return web.Response(status=429, text="too many requests; wait a minute\n")
        try:
            async with asyncio.timeout(REQUEST_S):
                nonce = await request.content.read(NONCE_BYTES + 1)
        except TimeoutError:
            return web.Response(status=408, text="the request took too long\n")
        if len(nonce) != NONCE_BYTES:
            return web.Response(status=400, text=f"give a nonce of {NONCE_BYTES} bytes\n")
        payload = encode_time(SignedTime(tenant, nonce, round(now_utc_s() * 1000)))
        data = cose.seal(payload, ContentType.TIME, signer.kid, signer.sign)
        return web.Response(body=data, content_type=ContentType.TIME.value)

    app.router.add_post("/v1/time", post_time)
