"""[downstream] put together: settings, pins, TLS, budget and desk become a listener that link runs.

The listener never ends link. What keeps it from listening (files, address, pins, a key that does
not sign here, a fault of ours: EW-DEV-012) is told once, shown by status and doctor, and tried
again each RETRY_S. Its files are read again each REFRESH_S: a renewed certificate and a new list of
revoked ones need no restart; files that do not fit then leave the ones in use. With
another list of revoked ones every session ends, and whoever is not on it comes again. A list that
has ended lets nobody in (EW-DEV-013): a handshake finds it, and it stands until one is let through
or there is another list.

A key that OpenSSL cannot use beside a TPM key in this process (tpm2-openssl 1.1.1, ADR 35) is found
by a handshake, not by a version: EW-DEV-006.
"""

from __future__ import annotations

import asyncio
import ssl
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edgewarden.downstream.budget import Budget, Limits
from edgewarden.downstream.desk import Desk
from edgewarden.downstream.listener import Listener, ListenerSettings
from edgewarden.downstream.registry import Registry
from edgewarden.downstream.shown import DeskSettings, Known
from edgewarden.errors import EdgewardenError, HardwareFault, OurFault, TrustFault
from edgewarden.ports import Clock, FactSink, Randomness
from edgewarden.settings.downstream import Downstream
from edgewarden.trust.keys import cose_key_of_pem, either_form_verified
from edgewarden.trust.tls import DeviceFiles, device_context, prove_server
from edgewarden.wire.facts import OCSF, Event, Plain, Severity

RETRY_S = 30.0
REFRESH_S = 60.0
TICK_S = 1.0
OVERRUN_S = 60.0
"""Refused handshakes are told once in so long; their numbers are in the snapshot."""


class Times(Clock, Protocol):
    """What the listener needs of daemon/timekeeper.py."""

    def verify_at(self) -> int | None:
        """The time to hold certificates to, where the system's clock is not it."""


class Behind:
    """The devices behind this gateway. Every method on the loop's thread.

    Args:
        load_key: makes OpenSSL ready for the identity's own key; blocks.
    """

    def __init__(
        self,
        wanted: Downstream,
        state: Path,
        load_key: Callable[[], object],
        sink: FactSink,
        clock: Times,
        random: Randomness,
    ) -> None:
        self._wanted = wanted
        self._state = state
        self._load_key = load_key
        self._sink = sink
        self._clock = clock
        self._random = random
        self._context: ssl.SSLContext | None = None
        self._desk: Desk | None = None
        self._listener: Listener | None = None
        self._budget: Budget | None = None
        self._listens = False
        self._revoked = b""
        self._overrun_ns: dict[str, int] = {}
        self._fault: EdgewardenError | None = None

    def submodules(self) -> Mapping[str, bytes] | None:
        """Device -> SHA-256 of what is said of it; None while there is no listener."""
        if self._wanted.listen is None:
            return None
        return {} if self._desk is None else self._desk.submodules()

    async def run(self) -> None:
        """Listen, for as long as link runs."""
        if self._wanted.listen is None:
            return
        while True:
            try:
                await self._listen(self._wanted.listen)
            except EdgewardenError as fault:
                self._refuse(fault)
            except OSError as fault:
                self._refuse(_no_address(self._wanted, fault))
            except Exception as fault:  # of a task group they come as an ExceptionGroup
                traceback.print_exception(fault)
                self._refuse(_broken(fault))
            await asyncio.sleep(RETRY_S)

    async def _listen(self, host: str) -> None:
        loop = asyncio.get_running_loop()
        settings = _desk_settings(self._wanted)
        self._revoked = self._list()
        context = await loop.run_in_executor(None, self._first_context)
        desk = Desk(
            settings, Registry(self._state), self._sink, self._clock, self._random,
            either_form_verified, lambda number: listener.end(number),
        )  # fmt: skip
        budget = Budget(_limits(self._wanted))
        listener = Listener(
            ListenerSettings(host, self._wanted.port, self._wanted.uri, self._wanted.handshake_s),
            budget, desk, lambda: self._context or context, self._clock, self._overrun,
            self._listed,
        )  # fmt: skip
        listener.open()  # before the pins are read: who begins says everything anew upstream
        try:
            await desk.begin()
            self._context, self._desk, self._listener, self._budget = (
                context,
                desk,
                listener,
                budget,
            )
            self._listens, self._fault = True, None
            async with asyncio.TaskGroup() as group:
                group.create_task(listener.run())
                group.create_task(self._tick(desk))
                group.create_task(self._refresh(listener))
        finally:
            self._listens = False
            listener.close()
            await desk.finish()

    def _first_context(self) -> ssl.SSLContext:
        self._load_key()
        context = self._new_context()
        prove_server(context)
        return context

    def _new_context(self) -> ssl.SSLContext:
        w = self._wanted
        crl = None if w.crl is None else Path(w.crl)
        files = DeviceFiles(Path(w.ca), Path(w.certificate), Path(w.key), crl, w.tls)
        return device_context(files, self._clock.verify_at())

    async def _tick(self, desk: Desk) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            await desk.tick()

    def _list(self) -> bytes:
        """The list of revoked certificates; read before the context that is made with it."""
        crl = self._wanted.crl
        try:
            return b"" if crl is None else Path(crl).read_bytes()
        except OSError:
            return self._revoked  # the context names it

    async def _refresh(self, listener: Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                revoked = await loop.run_in_executor(None, self._list)
                self._context = await loop.run_in_executor(None, self._new_context)
                if revoked != self._revoked:
                    self._revoked, self._fault = revoked, None
                    listener.end_all()
                elif self._fault is None or self._fault.code != "EW-DEV-013":
                    self._fault = None
            except EdgewardenError as fault:
                self._refuse(fault)

    def _refuse(self, fault: EdgewardenError) -> None:
        if self._fault is None or self._fault.text != fault.text:
            self._find(fault.code, f"devices: {fault.text}", Severity.HIGH)
        self._fault = fault.to_keep()

    def _listed(self, why: str) -> None:
        """A handshake found that the list has ended; "": one was let through."""
        if not why:
            if self._fault is not None and self._fault.code == "EW-DEV-013":
                self._fault = None
            return
        self._refuse(
            TrustFault(
                f"no device is let in: the list of revoked certificates does not hold ({why})",
                code="EW-DEV-013",
                next_step=f"put the devices' CA's newest list at {self._wanted.crl}; if it is the"
                " newest, check this gateway's clock (`edgewarden doctor`)",
            )
        )

    def _overrun(self, refusal: str) -> None:
        now_ns = self._clock.now().boot_ns
        if now_ns < self._overrun_ns.get(refusal, 0):
            return
        self._overrun_ns[refusal] = now_ns + int(OVERRUN_S * 1e9)
        self._find("EW-DEV-004", f"handshakes of devices are refused: {refusal}", Severity.MEDIUM)

    def _find(self, code: str, title: str, severity: Severity) -> None:
        detail: dict[str, Plain] = {"title": title}
        now_ns = self._clock.now().boot_ns
        self._sink(Event(OCSF.DETECTION_FINDING, 1, severity, now_ns, detail, code))

    def snapshot(self) -> dict[str, object]:
        """The listener and its devices, for status and `edgewarden devices`."""
        wanted, fault = self._wanted, self._fault
        state = "off" if wanted.listen is None else "listening" if self._listens else "refused"
        refused: dict[str, int] = {}
        for part in (self._budget, self._desk):
            refused |= {} if part is None else part.refused
        return {
            "listener": {
                "state": state,
                "address": "" if wanted.listen is None else f"{wanted.listen} port {wanted.port}",
                "sessions": 0 if self._budget is None else self._budget.sessions,
                "refused": refused,
                "failed": {} if self._listener is None else dict(self._listener.failed),
                "code": "" if fault is None else fault.code,
                "why": "" if fault is None else fault.text,
                "next": "" if fault is None else fault.next_step,
            },
            "devices": {} if self._desk is None else self._desk.listed(),
        }


def _limits(w: Downstream) -> Limits:
    return Limits(
        sessions=w.sessions,
        handshakes=w.handshakes,
        per_source=w.handshakes_per_source,
        per_minute=w.handshakes_per_minute,
        burst=w.handshakes_burst,
        all_per_s=w.handshakes_per_s,
    )


def _desk_settings(w: Downstream) -> DeskSettings:
    """What is known of devices; raises TrustFault (EW-DEV-005) for a key that is none."""
    known = {
        one.name: Known(
            b"" if one.attestation_key is None else cose_key_of_pem(one.attestation_key),
            frozenset(bytes.fromhex(digest) for digest in one.measurements),
        )
        for one in w.device
    }
    listed = frozenset(known) if w.admit == "listed" else None
    return DeskSettings(listed, known, w.values_per_s, w.evidence_valid_s)


def _no_address(w: Downstream, fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"cannot listen on {w.listen} port {w.port}: {fault.strerror or fault}",
        code="EW-DEV-010",
        next_step="set [downstream] listen to an address of this board and a port nobody has",
    )


def _broken(fault: Exception) -> EdgewardenError:
    """A fault in the midst of listening, by its own name where it has one."""
    while isinstance(fault, ExceptionGroup):
        fault = fault.exceptions[0]
    if isinstance(fault, EdgewardenError):
        return fault
    return OurFault(
        f"the listener ended by a fault of ours: {fault!r}"[:300],
        code="EW-DEV-012",
        next_step=f"it listens again in {RETRY_S:.0f} s; send us what the journal says of it",
    )
