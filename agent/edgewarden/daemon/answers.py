"""What link answers on its control socket (control.py serves it, wire/control.py is its language).

Nothing that is asked here changes anything. Evidence is made for a challenge that the fleet's
verifier signed and for no other, exactly as for one that came by way of the broker: renewal asks so
when the certificate has ended and the broker lets nobody in.

    answers = Answers("gw-demo", status, findings, gate, attester); answers.answer(request)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import Awaitable, Callable

from edgewarden.daemon.attester import MIN_INTERVAL_S, Attester
from edgewarden.daemon.findings import Findings
from edgewarden.daemon.gate_facts import GateFacts
from edgewarden.daemon.sensors import Sensors
from edgewarden.errors import WireRefusal
from edgewarden.wire.control import Command, Request

Body = dict[str, object]


class Answers:
    """See the module. Every method on the loop's thread."""

    def __init__(
        self,
        device: str,
        status: Callable[[], Body],
        sensors: Sensors,
        findings: Findings,
        gate: GateFacts,
        attester: Attester,
        behind: Callable[[], Body],
    ) -> None:
        self._device = device
        self._status = status
        self._sensors = sensors
        self._findings = findings
        self._gate = gate
        self._attester = attester
        self._behind = behind

    def answer(self, request: Request) -> Body | Awaitable[Body]:
        """Answer one line; raises EdgewardenError."""
        command = request.command
        if command is Command.STATUS:
            return self._status()
        if command is Command.EVIDENCE:
            return self._evidence(request.challenge)
        told: Body = {}
        if command is Command.FINDINGS:
            told = {"findings": self._findings.listed()}
        elif command is Command.OBSERVED:
            seen = self._gate.observed
            told = {"observed": seen.listed(), "others": seen.others}
        elif command is Command.SENSORS:
            told = {"sensors": self._sensors.told()}
        elif command is Command.WATCH:
            told = self._sensors.watched(request.sensor, request.after)
        elif command is Command.DEVICES:
            told = self._behind()
        return {"schema": command.schema, "device": self._device, **told}

    async def _evidence(self, challenge: bytes) -> Body:
        try:
            sealed = await self._attester.answer(challenge)
        except WireRefusal as refusal:
            if refusal.name != "rate_limited":
                raise
            await asyncio.sleep(MIN_INTERVAL_S)  # the broker's own has just been answered
            sealed = await self._attester.answer(challenge)
        made = base64.b64encode(sealed).decode()
        return {"schema": Command.EVIDENCE.schema, "device": self._device, "evidence": made}


def tell_fault(task: asyncio.Task[None]) -> None:
    """A fault of a background answer is told on stderr and ends nothing."""
    with contextlib.suppress(asyncio.CancelledError):
        fault = task.exception()
        if fault is not None:
            print(f"edgewarden link: {fault!r}", file=sys.stderr, flush=True)
