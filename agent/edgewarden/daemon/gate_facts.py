"""Facts from gate: link's end of run/gate-facts.sock.

Turns gate's messages into events and remembers gate's last statistics. Gate never waits for us and
drops what we do not take, with a count; so we read whenever there is something, at most BATCH
messages a wake-up, and reconnect quietly. Anything that is not one of gate's messages ends the
connection: the socket lies in a root-owned folder, garbage there is a broken promise, not a peer's
mood.

    exec verdict   process_activity launch: HIGH denied, MEDIUM would be denied, else informational
    peripheral     peripheral_activity: connect, disconnect, disable where it was refused; as above
    packet refused network_activity refuse: HIGH by a rule, MEDIUM by a limit or where it would be
    alarm          detection_finding
    repeated       the same event with its count; what gate could not keep apart: detection_finding
    process alert  detection_finding: somebody became root, or is traced
    process batch  totals, and hints to the /proc sweep: identity comes from the sweep
    statistics     remembered, of gate and of each area; shown by status

Whether gate is heard at all is told by heard.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

from edgewarden.daemon.heard import Heard
from edgewarden.daemon.observed import Observed
from edgewarden.daemon.programs import Programs
from edgewarden.errors import WireRefusal
from edgewarden.inventory.watcher import alert_event
from edgewarden.peers.events import network_event
from edgewarden.ports import Clock, FactSink
from edgewarden.wire import local
from edgewarden.wire.facts import OCSF, Event, Plain, Severity
from edgewarden.wire.peripherals import PeripheralVerdict, id_text, interface_text

RECONNECT_S = 1.0
"""gate restarts within a second; one connect(2) a second costs nothing."""
START_RECONNECT_S = 0.1
"""While both start: evidence waits for what gate tells first (heard.py)."""
BATCH = 64
NO_CONNECTOR = "EW-EXEC-020"
_LAUNCH, _CREATE = 1, 1
_CONNECT, _DISCONNECT, _DISABLE = 1, 2, 4
"""OCSF 1.8 peripheral_activity."""
_ACTIONS = {
    "allow": "allowed",
    "deny": "denied",
    "would_deny": "would_deny",
    "learned": "learned",
    "killed": "killed after start",
}
_PERIPHERAL_ACTIONS = {**_ACTIONS, "gone": "gone"}
_SEVERITIES = {"deny": Severity.HIGH, "killed": Severity.HIGH, "would_deny": Severity.MEDIUM}


class GateFacts:
    """Connects to gate, keeps connecting. Every method on the loop's thread.

    Args:
        path: run/gate-facts.sock.
        sink: takes the events.
        clock: stamps the events of a gate that is silent or heard again.
        hint: called with the pid of each exec, so that short lives are seen.
        resync: called when gate says that process events were lost.
        totals: called with each process batch.
        alert: makes the event of an alert.
    """

    def __init__(
        self,
        path: str,
        sink: FactSink,
        clock: Clock,
        hint: Callable[[int], None],
        resync: Callable[[], None],
        totals: Callable[[local.ProcBatch], None] = lambda _: None,
        alert: Callable[[local.ProcessAlert], Event] = alert_event,
    ) -> None:
        self._path = path
        self._sink = sink
        self._clock = clock
        self._hint = hint
        self._resync = resync
        self._totals = totals
        self._alert = alert
        self._lost = asyncio.Event()
        self.stats: local.GateStats | None = None
        self.tier: local.TierSaid | None = None
        self.areas: dict[str, local.AreaStats] = {}
        self.observed = Observed()
        self.programs = Programs()
        self.heard = Heard(sink, clock)
        self.connected = False
        self.denied_ns = 0
        self._deaf = False  # gate has lost the proc connector

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            with contextlib.suppress(OSError):
                await self._serve()
            await asyncio.sleep(START_RECONNECT_S if self.heard.starting() else RECONNECT_S)

    def hears_processes(self) -> bool:
        """Whether gate hears of every fork, exec and exit, and is there to tell."""
        return self.stats is not None and self.stats.proc_events > 0 and not self._deaf

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.setblocking(False)
            await loop.sock_connect(sock, self._path)
            self.connected = True
            self._lost.clear()
            loop.add_reader(sock, self._on_readable, sock)
            try:
                await self._lost.wait()
            finally:
                loop.remove_reader(sock)
                self.connected = self._deaf = False
                self.stats = self.tier = None
                self.heard.went()
                self.areas.clear()

    def _on_readable(self, sock: socket.socket) -> None:
        for _ in range(BATCH):
            try:
                data = sock.recv(local.MAX_MESSAGE_BYTES)
                if not data:
                    break
                self._take(data)
            except BlockingIOError:
                return
            except (OSError, WireRefusal):
                break
        else:
            return
        asyncio.get_running_loop().remove_reader(sock)
        self._lost.set()

    def _take(self, data: bytes) -> None:
        message = local.parse(data, *local.FACTS)
        if isinstance(message, local.ExecVerdict):
            if message.decision == "deny":
                self.denied_ns = self._clock.mono_ns()
            self.observed.see(message)
            self.programs.see(message)
            self._sink(verdict_event(message))
        elif isinstance(message, local.NetworkVerdict):
            self._sink(network_event(message))
        elif isinstance(message, local.Alarm):
            self._deaf = self._deaf or message.code == NO_CONNECTOR
            self._sink(alarm_event(message))
        elif isinstance(message, local.ProcessAlert):
            self._sink(self._alert(message))
        elif isinstance(message, local.Repeated):
            if isinstance(message.message, local.ExecVerdict):
                self.observed.see(message.message, message.count, others=message.others)
            if getattr(message.message, "decision", "") == "deny":
                self.denied_ns = self._clock.mono_ns()
            self._sink(repeated_event(message, self._alert))
        elif isinstance(message, local.TierSaid):
            self.tier = message
        elif isinstance(message, local.GateStats):
            self.stats = message
            self.heard.came(message)
        elif isinstance(message, local.AreaStats):
            self.areas[message.area] = message
        elif isinstance(message, PeripheralVerdict):
            self._sink(peripheral_event(message))
        elif isinstance(message, local.ProcBatch):
            self._totals(message)
            if message.resync:
                self._resync()
            for entry in message.entries:
                if entry.kind == "exec":
                    self._hint(entry.pid)


def verdict_event(m: local.ExecVerdict) -> Event:
    """The event of one exec verdict."""
    file: dict[str, Plain] = {"path": m.path_text()}
    if m.sha256:
        file["sha256"] = m.sha256
    process: dict[str, Plain] = {"pid": m.pid}
    if m.uid != local.UNKNOWN_UID:
        process["uid"] = m.uid
    detail: dict[str, Plain] = {
        "action": _ACTIONS[m.decision],
        "reason": m.reason,
        "tier": m.tier,
        "mode": m.mode,
        "rule": m.rule,
        "file": file,
        "process": process,
    }
    severity = _SEVERITIES.get(m.decision, Severity.INFORMATIONAL)
    code = {"deny": "EW-EXEC-002", "would_deny": "EW-EXEC-003", "killed": "EW-EXEC-064"}.get(
        m.decision, ""
    )
    return Event(OCSF.PROCESS_ACTIVITY, _LAUNCH, severity, m.boot_ns, detail, code)


def peripheral_event(m: PeripheralVerdict) -> Event:
    """The event of one USB device or serial port (OCSF peripheral_activity)."""
    device: dict[str, Plain] = {
        "class": "serial port" if m.kind == "port" else "USB device",
        "name": f"{m.product or m.driver or id_text(m.vid, m.pid)} at {m.place}",
        "uid": m.place,
        "vendor_id": f"{m.vid:04x}",
        "product_id": f"{m.pid:04x}",
        "serial_number": m.serial,
        "interfaces": [interface_text(triple) for triple in m.interfaces],
    }
    if m.descriptors:
        device["descriptors_sha256"] = m.descriptors
    if m.driver:
        device["driver"] = m.driver
    detail: dict[str, Plain] = {
        "action": _PERIPHERAL_ACTIONS[m.decision],
        "state": _PERIPHERAL_ACTIONS[m.decision].replace("_", " "),
        "reason": m.reason,
        "mode": m.mode,
        "rule": m.rule,
        "text": m.text,
        "effective": m.effective,
        "peripheral_device": device,
    }
    activity = {"gone": _DISCONNECT, "deny": _DISABLE}.get(m.decision, _CONNECT)
    severity = _SEVERITIES.get(m.decision, Severity.INFORMATIONAL)
    code = {"deny": "EW-USB-008", "would_deny": "EW-USB-009"}.get(m.decision, "")
    return Event(OCSF.PERIPHERAL_ACTIVITY, activity, severity, m.boot_ns, detail, code)


def alarm_event(m: local.Alarm) -> Event:
    """The event of one alarm of gate's own."""
    detail: dict[str, Plain] = {"title": m.text, "source": "gate"}
    return Event(OCSF.DETECTION_FINDING, _CREATE, Severity(m.severity), m.boot_ns, detail, m.code)


def repeated_event(
    m: local.Repeated, alert: Callable[[local.ProcessAlert], Event] = alert_event
) -> Event:
    """The event of what came again ``count`` times since gate told it last."""
    message = m.message
    if isinstance(message, local.ExecVerdict):
        event, what = verdict_event(message), f"programs {_ACTIONS[message.decision]}"
    elif isinstance(message, PeripheralVerdict):
        event = peripheral_event(message)
        what = f"peripherals {_PERIPHERAL_ACTIONS[message.decision]}"
    elif isinstance(message, local.ProcessAlert):
        event, what = alert(message), f"processes {message.kind}"
    elif isinstance(message, local.NetworkVerdict):
        event, what = network_event(message), f"connections {_ACTIONS[message.decision]}"
    else:
        assert isinstance(message, local.Alarm)  # of COUNTED: local.parse refuses others
        event, what = alarm_event(message), f"alarms {message.code}"
    counted: dict[str, Plain] = {
        "repeated": m.count,
        "first_seen_mono_ns": m.first_boot_ns,
        "last_seen_mono_ns": m.last_boot_ns,
    }
    if not m.others:
        detail: dict[str, Plain] = {**event.detail, **counted}
        return Event(
            event.class_uid,
            event.activity_id,
            event.severity_id,
            m.last_boot_ns,
            detail,
            event.code,
        )
    example: Plain = dict(event.detail)
    title = f"{what}: more different ones than gate can tell apart, counted only"
    detail = {"title": title, "source": "gate", "example": example, **counted}
    severity = max(event.severity_id, Severity.MEDIUM)
    return Event(OCSF.DETECTION_FINDING, _CREATE, severity, m.last_boot_ns, detail, "EW-AGT-010")
