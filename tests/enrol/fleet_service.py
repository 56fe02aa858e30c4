"""The fleet's own enrolment service in this process, over real TLS, with a clock that a test moves.

folder = made_long_ago(tmp_path, 40)          # whose certificates began 40 days ago
with standing_service(folder) as service:
    service.url, service.token("gw-a"), service.enrol(tmp_path / "a"); service.offset_s = -86400
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from edgewarden.enrol.by_token import enroll
from edgewarden.trust.identity import Identity
from edgewarden_fleet.ca.folder import FleetFolder, create
from edgewarden_fleet.ca.rollover import note_handed_out
from edgewarden_fleet.ca.settings import Attestation, Endpoint, FleetSettings
from edgewarden_fleet.desk import server, timing
from edgewarden_fleet.desk.door import Door
from edgewarden_fleet.desk.renewal import RenewalDesk
from edgewarden_fleet.desk.tokens import Office, new_token
from edgewarden_fleet.store.schema import open_store

HOST = "localhost"
DAY_S = 86400.0


def made_ago(path: Path, days: float = 0.0) -> FleetFolder:
    """A fleet folder made some days ago."""
    here = Endpoint(HOST, 1)
    wanted = FleetSettings("main", here, here, here, Attestation(60, 30, ("identity",)))
    return create(path, wanted, time.time() - days * DAY_S)[0]


@dataclass
class FleetService:
    """What stands.

    Attributes:
        offset_s: how far the service's clock is from this machine's.
        asked: paths of the requests that came.
    """

    folder: FleetFolder
    db: sqlite3.Connection
    office: Office
    desk: RenewalDesk
    asked: list[str]
    door: Door
    url: str = ""
    offset_s: float = 0.0

    def now(self) -> float:
        return time.time() + self.offset_s

    def token(
        self, device: str = "gw-test", ttl_s: int = 60, made_utc_s: float | None = None
    ) -> str:
        made = self.now() if made_utc_s is None else made_utc_s
        return str(new_token(self.db, self.office.roots[0], device, made, ttl_s))

    def enrol(self, state: Path, device: str = "gw-test", days_ago: float = 0.0) -> Identity:
        """Enrol a gateway some days ago; the clock is this machine's again afterwards."""
        before, self.offset_s = self.offset_s, -days_ago * DAY_S
        try:
            return enroll(state, self.url, self.token(device))
        finally:
            self.offset_s = before


@contextlib.contextmanager
def standing_service(
    folder: FleetFolder, *, with_time: bool = True, door: Door | None = None,
    per_minute: int = 10_000,
) -> Iterator[FleetService]:  # fmt: skip
    """Serve on a free port until the block ends.

    Args:
        with_time: say what time it is, as `serve` does.
        door: with limits of its own; None for those of `serve`.
    """
    db, office = open_store(folder.database), Office.open(folder)
    note_handed_out(folder, time.time())
    desk = RenewalDesk(db, office, folder.verifier(), folder.continuity_secret())
    door = door or Door(folder.enroll_context())
    made = FleetService(folder, db, office, desk, [], door)
    app = server.application(
        db, office, desk, lambda: made.now(), asked=door.asked, per_minute=per_minute
    )
    if with_time:
        timing.add_time(app, folder.verifier(), "main", lambda: made.now())
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def note(request: web.Request, _: web.StreamResponse) -> None:
        made.asked.append(request.path)

    app.on_response_prepare.append(note)

    async def start() -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await runner.setup()
        assert runner.server is not None
        made.url = f"https://{HOST}:{await door.open(runner.server, '127.0.0.1', 0)}"
        ready.set()
        return runner

    def run() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(door.close())
        loop.run_until_complete(runner.cleanup())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(60)
        yield made
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        db.close()
