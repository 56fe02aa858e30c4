"""What a person is answered at gate's control socket.

What this decides: which part of gate a verb is for; a fault of any part becomes an answer with its
name, never an exception in the loop. What it leaves to others: who may speak (gate/sockets.py),
modes and trials (gate/modes.py), the picture's source (each part).

    requests.answer(Request("mode", "enforce", 600), pid).ok
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError, WireRefusal
from edgewarden.gate.sessions import session_of
from edgewarden.wire.local import Answer, AnyMessage, AreaStats, GateStats, Request
from edgewarden.wire.local_tier import said

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgewarden.exec.responder import ExecGate
    from edgewarden.gate.arming import Arming
    from edgewarden.gate.doors import Doors
    from edgewarden.gate.facts import FactsOut
    from edgewarden.gate.modes import Modes
    from edgewarden.gate.policy import Policy
    from edgewarden.gate.processes import Processes
    from edgewarden.gate.sockets import GuardLine
    from edgewarden.lockout.guards import Guards
    from edgewarden.wire.gate_files import GateConfig


class Requests:
    """See the module.

    Args:
        pass_on_alarms: tells what the policy has to say.
        reloads: each area's own: takes its table anew, an older one too where it is told so; says
            what is in use, raises what is refused.
        quit: ends gate after this round.
        boot_ns: CLOCK_BOOTTIME.
    """

    def __init__(
        self,
        *,
        modes: Modes,
        policy: Policy,
        arming: Arming,
        responder: ExecGate,
        facts: FactsOut,
        guard: GuardLine,
        processes: Processes,
        doors: Doors,
        pass_on_alarms: Callable[[], None],
        reloads: Sequence[Callable[[bool], str]],
        lockout: Guards,
        quit: Callable[[], None],
        boot_ns: Callable[[], int],
    ) -> None:
        self._modes = modes
        self._policy = policy
        self._arming = arming
        self._responder = responder
        self._facts = facts
        self._guard = guard
        self._processes = processes
        self._doors = doors
        self._pass_on_alarms = pass_on_alarms
        self._reloads = reloads
        self._lockout = lockout
        self._quit = quit
        self._boot_ns = boot_ns

    def answer(self, request: Request, pid: int) -> Answer | GateStats | AreaStats:
        """Answer a person, who speaks from process ``pid``; raises nothing."""
        try:
            return self._answer(request, pid)
        except WireRefusal as refusal:
            return Answer(False, refusal.name, refusal.text)
        except EdgewardenError as fault:
            return Answer(False, str(fault.fields.get("name", fault.code)), fault.text)

    def _answer(self, request: Request, pid: int) -> Answer | GateStats | AreaStats:
        verb, area = request.verb, request.area
        if verb == "status":
            return self.stats()
        if verb == "area":
            return self._modes.stats(area)
        if verb == "quit":
            self._quit()
            return Answer(True, "", "stopping; every exec is allowed")
        if verb in ("reload", "reload_older", "reload_contents"):
            older, same_rules = verb == "reload_older", verb == "reload_contents"
            return Answer(True, "", self._reload(older=older, same_rules=same_rules))
        if verb in ("packages", "healthy"):
            unit = self._doors.unit_of(pid)
            return Answer(True, "", self._lockout.hear(verb, request.confirm_s, unit))
        by = session_of(self._doors.proc_text, pid, self._boot_ns())
        if verb == "confirm":
            said = self._modes.confirm(area, by)
        else:
            said = self._modes.ask(area, request.mode, request.confirm_s, by)
        if area == "exec" and self._modes.mode(area) == "enforce" and not self._modes.trial_s(area):
            self._lockout.boots.lifted()  # not by a trial: whoever is locked out pulls the plug
        return Answer(True, "", said)

    def _reload(self, *, older: bool, same_rules: bool) -> str:
        """Take the policy files anew; raises as Policy.reload does."""
        before = self._policy.config
        try:
            text = self._policy.reload(older=older)
        finally:
            self._responder.digests.images = self._policy.images
            self._responder.new_policy()
            self._pass_on_alarms()
        self._lockout.on_reload(same_rules=same_rules)
        if _armed_by(self._policy.config) != _armed_by(before):
            self._arming.renew()
        return "; ".join(
            part for part in (text, *(reload(older) for reload in self._reloads)) if part
        )

    def pictures(self) -> list[AnyMessage]:
        """What link is told on a timer, and first of all."""
        tier = said(self._policy.tier, self._policy.config.stop, self._policy.config.strict)
        return [self.stats(), tier, *self._modes.all_stats()]

    def stats(self) -> GateStats:
        """The picture of this moment."""
        counters, arming, table = self._responder.counters, self._arming, self._policy.table
        return GateStats(
            mode=self._modes.mode("exec"),
            tier=self._policy.tier.tier,
            source=arming.source,
            armed=arming.permission,
            link=self._facts.fileno() >= 0,
            guard=self._guard.present,
            trips=self._guard.trips,
            filesystems=0 if arming.armed is None else len(arming.armed.filesystems),
            rules=table.count,
            generation=table.generation,
            allowed=counters.allowed,
            denied=counters.denied,
            would_deny=counters.would_deny,
            killed=counters.killed,
            learned=counters.learned,
            undecidable=counters.undecidable,
            unreported=self._facts.dropped + counters.unreported,
            hashed=counters.hashed,
            cached=counters.cached,
            proc_events=self._processes.gathered.total,
            proc_lost=self._processes.gathered.losses,
            gate_pss_bytes=self._doors.pss_bytes("self"),
            guard_pss_bytes=self._doors.pss_bytes(str(self._guard.pid)),
            boot_ns=self._boot_ns(),
        )


def _armed_by(config: GateConfig) -> tuple[object, ...]:
    """What marks, and what is done about a start, depend on. Status tells of it by the settings: so
    it must not wait for the next occasion. (BPF waits for its canary.)"""
    return config.filesystems, config.strict, config.kill_after_start
