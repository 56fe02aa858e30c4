"""The console: one read-only page and its JSON, on loopback.

    GET /                   the page
    GET /v1/gateways        edgewarden-fleet.gateways/1
    GET /v1/gateways/ID     edgewarden-fleet.gateway/1, 404 when unknown

Loopback only and no login, so whoever has an account on this machine can read it; for more, put a
proxy with a login in front. The Host header must name this listener: a page of another site that
resolves its name to 127.0.0.1 gets nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import sqlite3
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca.settings import FleetSettings
from edgewarden_fleet.console.page import CSP, page
from edgewarden_fleet.store import views

MAX_CARDS = 200
"""Gateways on the page; the rest are in the JSON. Paging comes with the fleet engines."""

HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(
    db: sqlite3.Connection, settings: FleetSettings, now_utc_s: Callable[[], float]
) -> web.Application:
    """Return the console; db is a read-only connection used by it alone.

    Raises:
        OperatorFault: EW-SET-026 when the settings want it anywhere but on loopback.
    """
    host, port = settings.console.host, settings.console.port
    check_loopback(host)
    allowed = {f"{name}:{port}" for name in (host, "localhost", "127.0.0.1", "[::1]")}
    one_reader = asyncio.Lock()

    async def read(what: Callable[[], object]) -> object:
        async with one_reader:
            return await asyncio.to_thread(what)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.host not in allowed:
            raise web.HTTPMisdirectedRequest(text="this console answers on its own address only\n")
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ["GET", "HEAD"])
        response = await handler(request)
        response.headers.update(HEADERS)
        return response

    async def get_page(_: web.Request) -> web.Response:
        now = now_utc_s()

        def whole() -> list[views.Json]:
            names = db.execute("SELECT device FROM device ORDER BY device LIMIT ?", (MAX_CARDS,))
            found = [views.gateway(db, row[0], now) for row in names.fetchall()]
            return [g for g in found if g is not None]

        gateways = await read(whole)
        assert isinstance(gateways, list)
        text = page(settings.tenant, gateways, views.iso(now) or "")
        return web.Response(text=text, content_type="text/html")

    async def get_gateways(_: web.Request) -> web.Response:
        return _json(await read(lambda: views.gateways(db, now_utc_s())))

    async def get_gateway(request: web.Request) -> web.Response:
        device = request.match_info["device"]
        body = await read(lambda: views.gateway(db, device, now_utc_s()))
        if body is None:
            return _json({"schema": "edgewarden.refusal/1", "error": "device_unknown"}, 404)
        return _json(body)

    app = web.Application(middlewares=[guard])
    app.router.add_get("/", get_page)
    app.router.add_get("/v1/gateways", get_gateways)
    app.router.add_get("/v1/gateways/{device}", get_gateway)
    return app


def check_loopback(host: str) -> None:
    """Refuse a console that others could reach."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise OperatorFault(
            f"the console has no login and cannot listen on {host}",
            code="EW-SET-026",
            next_step="set console.host to 127.0.0.1 in fleet.toml",
        )


def _json(body: object, status: int = 200) -> web.Response:
    return web.Response(
        text=json.dumps(body, indent=1) + "\n", status=status, content_type="application/json"
    )
