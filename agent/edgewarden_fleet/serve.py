"""One process of the operator's side: enrolment, ingest, verifier, store, console. The broker runs
by itself.

    open the store, then enrolment and console (their ports answer), then the broker session; report
    ready; wait for a signal

Closed in reverse. A part that dies ends the process with its error: a fleet that looks alive and
verifies nothing is worse than one that is down, because the broker queues for the latter.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from edgewarden.errors import OperatorFault
from edgewarden_fleet.ca.broker import listen_address
from edgewarden_fleet.ca.folder import FleetFolder
from edgewarden_fleet.ca.rollover import note_handed_out
from edgewarden_fleet.ca.settings import FleetSettings
from edgewarden_fleet.console import server as console
from edgewarden_fleet.desk import server as enrolment
from edgewarden_fleet.desk import timing
from edgewarden_fleet.desk.door import Door
from edgewarden_fleet.desk.renewal import RenewalDesk
from edgewarden_fleet.desk.tokens import Office
from edgewarden_fleet.ingest.access_list import AccessList
from edgewarden_fleet.ingest.admission import Admission
from edgewarden_fleet.ingest.session import BrokerSession
from edgewarden_fleet.ingest.worker import Worker
from edgewarden_fleet.store.schema import open_store
from edgewarden_fleet.verify.attest import Appraiser
from edgewarden_fleet.verify.pipeline import Verifier
from edgewarden_fleet.verify.word import Word

WATCH_S = 0.5
"""How often it is looked whether the threads live."""


def ready_line(settings: FleetSettings) -> dict[str, object]:
    """What ``serve`` prints when its ports answer."""
    s = settings
    return {
        "schema": "edgewarden-fleet.ready/1",
        "tenant": s.tenant,
        "enroll": f"https://{s.enroll.host}:{s.enroll.port}",
        "console": f"http://{s.console.host}:{s.console.port}/",
        "broker": {"host": s.broker.host, "port": s.broker.port},
    }


async def serve(path: Path, ready: Callable[[dict[str, object]], None]) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        path: the fleet folder.
        ready: called once, when enrolment and console answer.

    Raises:
        OperatorFault: settings, keys or ports that cannot be used.
        HardwareFault: the store refuses.
    """
    folder = FleetFolder(path.absolute())
    settings = folder.settings()
    office = Office.open(folder)
    now_utc_s = time.time
    note_handed_out(folder, now_utc_s())
    async with AsyncExitStack() as stack:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
            stack.callback(loop.remove_signal_handler, number)

        enrol_db = open_store(folder.database)
        stack.callback(enrol_db.close)
        ingest_db = open_store(folder.database)
        stack.callback(ingest_db.close)
        console_db = open_store(folder.database, read_only=True)
        stack.callback(console_db.close)

        access = AccessList(folder.path / "broker", settings.tenant, settings.broker_reload)
        admission = Admission(settings.tenant, access)
        door = Door(folder.enroll_context())
        app = enrolment.application(
            enrol_db,
            office,
            RenewalDesk(enrol_db, office, folder.verifier(), folder.continuity_secret()),
            now_utc_s,
            admission.admits,
            door.asked,
        )
        timing.add_time(app, folder.verifier(), settings.tenant, now_utc_s)
        await _listen(stack, app, listen_address(settings.enroll.host), settings.enroll.port, door)
        page = console.application(console_db, settings, now_utc_s)
        await _listen(stack, page, settings.console.host, settings.console.port, None)

        verifier = Verifier(ingest_db, office.roots, settings.tenant)
        appraiser = Appraiser(
            verifier, folder.verifier(), settings.attestation, folder.continuity_secret()
        )
        broker = BrokerSession(
            settings.broker,
            folder.client_context(),
            settings.tenant,
            admission,
            settings.broker_profile,
        )
        word = None
        if settings.acknowledges:
            word = Word(ingest_db, folder.verifier(), settings.tenant, appraiser.released)
        worker = Worker(ingest_db, verifier, appraiser, broker.send, now_utc_s, admission, word)
        worker.start()
        broker.start(worker)
        stack.push_async_callback(asyncio.to_thread, broker.stop)
        stack.push_async_callback(asyncio.to_thread, worker.stop)

        ready(ready_line(settings))
        while not stop.is_set() and not (worker.failed or broker.failed):
            try:
                await asyncio.wait_for(stop.wait(), WATCH_S)
            except TimeoutError:
                continue
        for part in (worker, broker):
            if part.failed is not None:
                raise part.failed


async def _listen(
    stack: AsyncExitStack, app: web.Application, host: str | None, port: int,
    door: Door | None,
) -> None:  # fmt: skip
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        if door is None:
            await web.TCPSite(runner, host, port).start()
        else:
            stack.push_async_callback(door.close)
            assert runner.server is not None
            await door.open(runner.server, host, port)
    except OSError as fault:
        raise OperatorFault(
            f"port {port} cannot be opened: {fault.strerror or fault}",
            code="EW-SET-025",
            next_step="stop what uses the port, or change it in fleet.toml",
        ) from fault
