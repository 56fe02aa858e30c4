"""link: sensors, records, uplink, evidence. One asyncio loop, one storage thread, no privilege.

Put together here and nowhere else, in the order of this file: settings, identity, report key,
storage, then the named tasks, each of which runs until the process ends. A task that fails ends the
process with its fault on stderr; what was durable stays durable, and the supervisor starts it
again.

    sensors ─┐
    host ────┼─▶ facts ─▶ triage ─▶ storage (sign, chain, spool) ─▶ uplink ─▶ broker
    gate ────┘             │                                           │
                      overload ladder                                  │
    verifier's nonce ─▶ attester ─▶ evidence ──────────────────────────┘

TERM ends it (what waits is committed first), HUP looks at the settings again. A renewed identity is
seen within two seconds and starts link anew: certificate, introductions and evidence change at
once.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from edgewarden import __version__
from edgewarden.act.indicator import condition_of, open_indicator
from edgewarden.daemon import config
from edgewarden.daemon.answers import Answers, tell_fault
from edgewarden.daemon.attester import Attester, Who
from edgewarden.daemon.behind import behind_of
from edgewarden.daemon.clock import SystemRandomness, credentials_folder
from edgewarden.daemon.config import Running
from edgewarden.daemon.continuity import Continuity
from edgewarden.daemon.control import serve_control
from edgewarden.daemon.findings import Findings
from edgewarden.daemon.gate_facts import GateFacts
from edgewarden.daemon.lean import hear_signals
from edgewarden.daemon.mirrors import mirrors_of
from edgewarden.daemon.notify import Notifier
from edgewarden.daemon.overload import Overload
from edgewarden.daemon.sensors import build_sensors
from edgewarden.daemon.status import Parts, status
from edgewarden.daemon.steps import STEP_S, SteppedLoop, in_step
from edgewarden.daemon.storage import build_storage, cap_for
from edgewarden.daemon.tidy import Tidy
from edgewarden.daemon.timekeeper import keep_time
from edgewarden.daemon.uplink import build_uplink, session_status
from edgewarden.daemon.written import Written
from edgewarden.enrol.care import Care, Did
from edgewarden.errors import EdgewardenError, HardwareFault, TrustFault
from edgewarden.inventory.look import NAME as LOOK
from edgewarden.inventory.looked import Looks
from edgewarden.inventory.processes import ProcessSettings, ProcessSweep
from edgewarden.inventory.sockets import Sockets
from edgewarden.inventory.watcher import Watcher
from edgewarden.judge.triage import Triage
from edgewarden.kernel import memory
from edgewarden.link.names import NameRefresh, TableFile, resolve
from edgewarden.link.textfile import Textfile
from edgewarden.record.journal import Introduction
from edgewarden.sense.host import HostSensor, HostSettings
from edgewarden.settings.faults import SettingsFaults
from edgewarden.trust import identity as identities
from edgewarden.trust.continuity import TokenFile
from edgewarden.trust.identity import Identity
from edgewarden.trust.keys import FileSigner
from edgewarden.trust.ladder import Keys
from edgewarden.trust.measure import Measurer
from edgewarden.wire import evidence
from edgewarden.wire.facts import OCSF, Event, Plain, Reading, Severity
from edgewarden.wire.network_table import NAMES_NAME
from edgewarden.wire.record import RecordClass

STUCK_STORAGE_S = 30.0
"""One commit on a worn card takes up to a second; half a minute is a disk that hangs."""
EXIT_NOT_ENROLLED = 78
"""EX_CONFIG of <sysexits.h>: nothing to do before a person enrols this gateway."""
EXIT_RESTART = 75
"""EX_TEMPFAIL: start me again, with the new settings or identity."""


class Link:
    """The running process; every method on the loop's thread."""

    def __init__(self, path: str, running: Running, identity: Identity) -> None:
        settings = running.settings
        self.path = path
        self.running = running
        self.faults = running.faults
        self.identity = identity
        state, self.random = Path(settings.paths.state), SystemRandomness()
        self.clock = keep_time(identity, state, self.random, self._uplink_event)
        self.notifier = Notifier()
        self.triage = Triage()
        self.findings = Findings(self.clock)
        self.indicator = open_indicator(settings.indicator.pin)
        self.signer, report_key = identity.signer(), FileSigner.generate()
        self.x5chain = identity.x5chain()
        who = Introduction(self.signer, self.x5chain, __version__)
        self.cap = cap_for(settings)
        kept_by = identity.device, who, report_key, self.clock
        self.storage = build_storage(settings, self.cap, *kept_by)
        self.overload = Overload(settings, self.cap, self.storage, self.clock, STEP_S)
        self.mirrors = mirrors_of(settings, identity.device, self)
        sinks = self.mirrors.take, self.clock, self.random, self.mirrors.take_many
        self.sensors = build_sensors(settings.serial, *sinks)
        self.behind = behind_of(
            settings.downstream, state, self.signer.about, self.take, self.clock, self.random
        )
        health = HostSettings(settings.paths.state, settings.host.period_s)
        # No overload sheds the board's own health.
        sinks_of_health = self.take, self.clock, in_step, self.storage.submit_readings
        self.host = HostSensor(health, *sinks_of_health)
        looks = Looks(f"{settings.paths.run}/{LOOK}")
        self.watcher = Watcher(settings.processes, self.take, self.clock, Sockets(), looks, in_step)
        self.processes = ProcessSweep(
            ProcessSettings(settings.processes.sweep_s),
            self.take,
            self.clock,
            self.watcher.see,
            looks.fresh,
            in_step,
            self._hears_processes,
        )
        self.gate = GateFacts(
            f"{settings.paths.run}/gate-facts.sock",
            self.take,
            self.clock,
            self.processes.hint,
            self.processes.resync,
            self.watcher.batch,
            self.watcher.alert,
        )
        self.names = NameRefresh(
            TableFile(Path(settings.paths.run, NAMES_NAME)).read,
            resolve,
            f"{settings.paths.run}/gate-names.sock",
            self.take,
            self.clock,
            in_step,
        )
        self.uplink = build_uplink(
            settings.uplink,
            identity,
            self.storage,
            (self._session_status, self._on_nonce, self._on_result, self._uplink_event),
            self.clock,
            self.random,
        )
        names = identity.tenant, identity.device
        self.continuity = Continuity(lambda: TokenFile(state, *names), self.random)
        self.attester = self._build_attester(report_key)
        self.care = Care(state, identity.folder.name)
        prom = settings.prometheus
        self.textfile = Textfile(prom.textfile, prom.period_s, self.status, in_step)
        self.written = Written(
            self.clock.mono_ns(),
            collectors=self.storage.wear,
            budget_bytes=settings.spool.day_budget_bytes,
        )
        self.exit_code = 0
        self.stopping = asyncio.Event()

    # --- construction -------------------------------------------------------------------------

    def _build_attester(self, report_key: FileSigner) -> Attester:
        who, settings = self.identity, self.running.settings

        async def keep(message: bytes, heads: evidence.Heads) -> object:
            return await asyncio.wrap_future(self.storage.attest(message, heads))

        return Attester(
            Who(
                who.tenant, who.device, who.grade, __version__,
                report_key.public_key(), self.x5chain, who.verifier_key,
            ),
            self.signer,
            Measurer(
                self.running.files, [Path(settings.exec.policy)],
                wall_ns=lambda: self.clock.now().wall_ns,
            ),
            self.clock,
            self.continuity,
            heads=self.storage.heads,
            control=self._control,
            keep=keep,
            publish=self.uplink.publish_evidence,
            programs=self.gate.programs.digest,
            settled=self.gate.heard.settled,
            submodules=self.behind.submodules,
            quoter=self.signer.quoter(),
        )  # fmt: skip

    def _control(self) -> tuple[str, str]:
        stats = self.gate.stats
        return ("T0", "learn") if stats is None else (stats.tier, stats.mode)

    def _hears_processes(self) -> bool:
        return self.gate.hears_processes()

    # --- facts --------------------------------------------------------------------------------

    def take(self, fact: Event | Reading) -> None:
        """The one sink of every sensor: triage, then, as far as there is no overload, storage."""
        if isinstance(fact, Reading):
            self.overload.reading(fact)
            return
        self.findings.see(fact)
        for event, record_class in self.triage.admit(fact):
            self.overload.event(event, record_class)

    def take_many(self, readings: Sequence[Reading]) -> None:
        """The same for the readings of one read of a port."""
        self.overload.readings(readings)

    # --- the uplink's questions ---------------------------------------------------------------

    def _session_status(self, session_ns: int, online: bool) -> bytes:
        """The signed status of a session, or its last will."""
        session = self.clock.boot_id(), session_ns, online
        who = self.identity, self.signer, self.x5chain
        return session_status(*who, self.storage.state(), *session)

    def _on_nonce(self, message: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self.attester.on_nonce(message))
        task.add_done_callback(tell_fault)

    def _on_result(self, message: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self.attester.on_result(message))
        task.add_done_callback(tell_fault)

    def _uplink_event(self, event: Event, record_class: RecordClass) -> None:
        self.findings.see(event)
        self.storage.submit_event(event, record_class)

    # --- the technician's questions -----------------------------------------------------------

    def status(self) -> dict[str, object]:
        parts = Parts(
            self.identity, self.clock, self.attester, self.gate, self.storage,
            self.sensors, self.processes, self.watcher, self.written,
            self.behind, self.mirrors, self.overload, self.cap,
        )  # fmt: skip
        return status(parts, self.running, self.faults, self.uplink.snapshot())

    # --- running ------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run until TERM; returns the exit code."""
        loop = asyncio.get_running_loop()
        hear_signals(loop, self.stopping.set, self._look_at_settings)
        await loop.run_in_executor(None, self.storage.start)
        socket_path = Path(self.running.settings.paths.run, "link", "link.sock")
        answers = Answers(
            self.identity.device, self.status, self.sensors, self.findings,
            self.gate, self.attester, self.behind.snapshot,
        )  # fmt: skip
        control = await serve_control(socket_path, answers.answer)
        self._tell_start(await loop.run_in_executor(None, self.continuity.look))
        self.notifier.tell("READY=1")
        try:
            async with asyncio.TaskGroup() as group:
                named = {
                    "uplink": self.uplink.run(),
                    "gate": self.gate.run(),
                    "names": self.names.run(),
                    "host": self.host.run(),
                    "processes": self.processes.run(),
                    "listeners": self.watcher.run(),
                    "indicator": self.indicator.run(),
                    "devices": self.behind.run(),
                    "textfile": self.textfile.run(),
                    "mirrors": self.mirrors.run(),
                    "housekeeping": self._housekeeping(),
                    "time": self.clock.run(self.uplink.fails_by_dates),
                    "evidence": self.attester.run(self.storage.keep_evidence),
                    **{f"serial {i}": s.run() for i, s in enumerate(self.sensors)},
                }
                tasks = [group.create_task(work, name=name) for name, work in named.items()]
                await self.stopping.wait()
                self.notifier.tell("STOPPING=1")
                for task in tasks:
                    task.cancel()
        finally:
            control.close()
            self.watcher.finish()
            self.processes.close()
            self.overload.finish()
            for event, record_class in self.triage.due(self.clock.mono_ns(), all_now=True):
                self.storage.submit_event(event, record_class)
            await loop.run_in_executor(None, self.storage.stop)
            self.notifier.close()
        return self.exit_code

    async def _housekeeping(self) -> None:
        tidy = Tidy(self.clock.now().boot_ns)
        while True:
            await in_step(STEP_S)
            now_ns = self.clock.mono_ns()
            for event, record_class in self.triage.due(now_ns):
                self.storage.submit_event(event, record_class)
            self.overload.look()
            if (over := self.written.look(now_ns)) is not None:
                self.take(over)
            self.gate.heard.look()
            denied_ns = self.gate.denied_ns
            denied_s = (now_ns - denied_ns) / 1e9 if denied_ns else None
            shown = condition_of(connected=self.uplink.connected, denied_age_s=denied_s)
            self.indicator.show(shown)
            tidy.look(now_ns)
            busy_ns = self.storage.busy_since_ns()
            if busy_ns is None or now_ns - busy_ns < STUCK_STORAGE_S * 1e9:
                self.notifier.tell("WATCHDOG=1")
            self._care_for_identity()
            if identities.replaced(self.running.settings.paths.state, self.identity):
                self._start_over()

    def _care_for_identity(self) -> None:
        try:
            did = self.care.look(
                connected=self.uplink.connected,
                refused=self.uplink.certificate_refused,
                unknown_verifier=self.attester.refused.get("unknown_key", 0),
            )
        except HardwareFault:  # the storage tells of a disk that refuses; asked again at once
            return
        if did is Did.WENT_BACK:
            now_ns = self.clock.mono_ns()
            detail: dict[str, Plain] = {"title": "the broker refuses the new certificate"}
            self.take(Event(OCSF.DETECTION_FINDING, 1, Severity.HIGH, now_ns, detail, "EW-ID-042"))

    def _look_at_settings(self) -> None:
        restart, self.faults = config.recheck(self.path, self.running)
        if restart:
            self._start_over()

    def _start_over(self) -> None:
        """End in order and be started again: with new settings, or with a renewed certificate."""
        self.exit_code = EXIT_RESTART
        self.stopping.set()

    def _tell_start(self, token_fault: str) -> None:
        """The first facts of a start: what runs, with which settings."""
        now_ns = self.clock.mono_ns()
        detail: dict[str, Plain] = {
            "version": __version__,
            "settings_sha256": self.running.digest,
            "indicator": self.indicator.unavailable or "available",
            "gate": "not heard yet",  # what it says when it is there is told by heard.py
        }
        self.take(Event(OCSF.HEALTH, 3, Severity.INFORMATIONAL, now_ns, detail))
        found = [("EW-ATT-030", Severity.HIGH, f"no continuity token: {token_fault}")]
        told = found if token_fault else []
        for fault in self.faults[:8]:
            told.append(("EW-SET-001", Severity.MEDIUM, f"new settings are not used: {fault}"))
        for code, severity, title in told:
            text: dict[str, Plain] = {"title": title}
            self.take(Event(OCSF.DETECTION_FINDING, 1, severity, now_ns, text, code))


def main(settings_path: str) -> int:
    """Run link; returns its exit code."""
    memory.one_arena()
    try:
        running = config.choose(settings_path)
        keys = Keys(running.settings.identity.tcti, credentials_folder())
        identity = identities.load(Path(running.settings.paths.state), keys)
        with asyncio.Runner(loop_factory=SteppedLoop) as runner:
            return runner.run(_run(settings_path, running, identity))
    except TrustFault as fault:
        _say(fault)
        return EXIT_NOT_ENROLLED
    except SettingsFaults as faults:
        for one in faults.faults:
            print(f"edgewarden link: {one}", file=sys.stderr)
        return 65
    except EdgewardenError as fault:
        _say(fault)
        return 1


async def _run(path: str, running: Running, identity: Identity) -> int:
    return await Link(path, running, identity).run()


def _say(fault: EdgewardenError) -> None:
    print(f"edgewarden link: {fault.text} ({fault.code}); {fault.next_step}", file=sys.stderr)
