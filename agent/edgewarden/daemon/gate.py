"""gate: the process that lets programs run, or not. One loop, nothing opened inside it.

What this decides: only what comes first. Exec events are answered before anything else of a round
is done, and a round takes no longer than one slice of hashing: no program waits until another is
hashed whole, and every heartbeat means that something went on. Nothing in the loop waits for
another process, and after the start nothing is opened, imported or spawned (gate/doors.py closes
the ways). What it leaves to others: what is armed (gate/arming.py), verdicts (exec/responder.py),
who is heard (gate/sockets.py), what a person is answered (gate/requests.py), TOML (the policy
one-shot compiles it), proving the tier (exec/canary.py runs before, in a process of its own).

    python3 -I -S .../daemon/gate.py /var/lib/edgewarden /run/edgewarden

starts without site-packages and settings parser. It makes RUN/gate-facts.sock and RUN/gate.sock,
and connects to guard at RUN/guard.sock.
"""

from __future__ import annotations

import os
import sys
import time
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, POLLIN, poll

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.errors import EdgewardenError, HardwareFault
from edgewarden.exec.quick import READY_AT_ONCE
from edgewarden.exec.responder import ExecGate
from edgewarden.exec.subject import Subjects
from edgewarden.gate.arming import Arming
from edgewarden.gate.doors import Doors, confine
from edgewarden.gate.facts import FactsOut
from edgewarden.gate.modes import Modes
from edgewarden.gate.peripherals import Peripherals, background
from edgewarden.gate.policy import Policy
from edgewarden.gate.processes import Processes
from edgewarden.gate.requests import Requests
from edgewarden.gate.sockets import EARLY_S, Control, GuardLine, beat_after_s, listen
from edgewarden.gate.stopping import Stopping
from edgewarden.gate.waiting import Waiting
from edgewarden.kernel.lease import ignore_lease_breaks
from edgewarden.kernel.mounts import Mounts
from edgewarden.kernel.process import thrifty_heap
from edgewarden.kernel.signals import SIGINT, SIGTERM, signal
from edgewarden.kernel.uevent import open_uevents
from edgewarden.lockout.guards import Clocks, Guards
from edgewarden.network.build import network_area
from edgewarden.wire.local import Alarm, Answer, AreaStats, GateStats, Request

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from edgewarden.gate.modes import Area
STATS_S = 10.0
GUARD_HELLO_S = 1.0
"""How long the start waits for guard's count of trips."""
TRIPS_LIMIT = 3
"""Guard's kills within its window that put exec control into observe."""
MOUNT_EVENTS = EPOLLPRI | EPOLLERR
"""How /proc/self/mountinfo says that the mount table changed, proc(5)."""

EXIT_OK, EXIT_FAILED = 0, 2


class Gate:
    """See the module; ``run`` returns when it was told to."""

    def __init__(self, state_dir: str, run_dir: str) -> None:
        """Open everything that is ever opened.

        Raises:
            EdgewardenError: directories or files that are not as they must be.
        """
        self._waiting = Waiting(time.monotonic)
        self.watch, self.forget = self._waiting.watch, self._waiting.forget
        self._next_beat_mono = 0.0
        self._next_stats_mono = 0.0
        self.stopping = False
        self.doors = Doors(state_dir)
        self.mounts = Mounts(self.doors.proc_fd, self.doors.open)
        self.policy = Policy(self.doors, run_dir)
        link_uid = self.policy.config.link_uid
        # First: root's own socket, so the one that tells whether another gate lives.
        own = listen(os.path.join(run_dir, "gate.sock"))
        self.control = Control(own, self._answer)
        facts_listener = listen(os.path.join(run_dir, "gate-facts.sock"), owner_uid=link_uid)
        self.facts = FactsOut(facts_listener, {0, link_uid})
        self.guard = GuardLine(os.path.join(run_dir, "guard.sock"), time.monotonic_ns)
        self.tables = self.mounts.open_table(), self.mounts.open_table()
        clocks = Clocks(time.monotonic, boot_ns() / 1e9, time.time_ns)
        self.lockout = Guards(self.policy, self.doors, self.mounts, self.alarm, clocks)
        self.responder = ExecGate(
            judge=lambda digest, subject: self.policy.table.decide(digest, subject),
            subjects=Subjects(self.doors.proc_text, self._image_of),
            report=self.facts.put,
            proc_link=self.doors.proc_link,
            boot_ns=boot_ns,
            wall_ns=time.time_ns,
            mono_s=time.monotonic,
            program_of=self.doors.program_of,
            tier=self.policy.tier.tier,
            excuse=self.lockout.excuses.excuse,
        )
        self.responder.patience.beat = self._beat
        stopping = Stopping(
            self.doors, self.mounts, self.policy, self.facts.put, self.responder.counters,
            boot_ns=boot_ns, mono_ns=time.monotonic_ns,
        )  # fmt: skip
        self.arming = Arming(
            doors=self.doors,
            mounts=self.mounts,
            policy=self.policy,
            responder=self.responder,
            guard=self.guard,
            stopping=stopping,
            coverage=self.lockout.coverage,
            alarm=self.alarm,
            watch=lambda fd: self._waiting.watch_execs(fd, self._on_execs),
            forget=self.forget,
            fallback=lambda: self.processes.source,
        )
        self.unhindered = self.arming.unhindered
        self.processes = self._processes()
        self.peripherals = self._peripherals()
        self.network = network_area(run_dir, link_uid, self, boot_ns, time.monotonic)
        areas: dict[str, Area] = {"exec": self.arming, "peripherals": self.peripherals}
        areas["network"] = self.network
        self.modes = Modes(areas, files=self.policy, alarm=self.alarm, mono_s=time.monotonic)
        self.requests = self._requests()
        self._pass_on_alarms()

    def _processes(self) -> Processes:
        return Processes(
            doors=self.doors,
            policy=self.policy,
            responder=self.responder,
            watch=self.watch,
            forget=self.forget,
            alarm=self.alarm,
            boot_minus_mono_ns=lambda: boot_ns() - time.monotonic_ns(),
            only_eyes=lambda: self.arming.source == "proc-connector",
            tell=self.facts.put,
        )

    def _peripherals(self) -> Peripherals:
        return Peripherals(
            runner=background(self.doors, boot_ns),
            listen=open_uevents,
            read_table=self.doors.read_policy,
            forward=self.policy.forward,
            watch=self.watch,
            forget=self.forget,
            put=self.facts.put,
            boot_ns=boot_ns,
            mono_s=time.monotonic,
        )

    def _requests(self) -> Requests:
        return Requests(
            modes=self.modes,
            policy=self.policy,
            arming=self.arming,
            responder=self.responder,
            facts=self.facts,
            guard=self.guard,
            processes=self.processes,
            doors=self.doors,
            pass_on_alarms=self._pass_on_alarms,
            reloads=(self.peripherals.reload, self.network.reload),
            lockout=self.lockout,
            quit=self._quit,
            boot_ns=boot_ns,
        )

    def run(self, *, with_parent: bool) -> int:
        parent = os.getppid()
        self._waiting.bell.start()
        self.watch(self.facts.listener.fileno(), self._on_facts_listener)
        self.watch(self.control.listener.fileno(), self._on_control_listener)
        self.watch(self.tables[0], self._on_mounts, MOUNT_EVENTS, self.tables[1])
        for why, firm in self.lockout.begin():  # before guard counts: it waits for the disk
            self.modes.hold_all_down(why, firm=firm)
        self._meet_guard()
        if self.guard.trips >= TRIPS_LIMIT:
            self.modes.hold_down("exec", f"gate was killed {self.guard.trips} times")
        self.modes.start()
        try:
            while not self.stopping:
                self._round()
                if with_parent and os.getppid() != parent:
                    self.stopping = True
        finally:
            self.arming.stop()  # first: whoever waits for a verdict goes on
            self.peripherals.stop(self._beat)
            self.network.stop()
        self.lockout.coverage.save()
        self.facts.flush(time.monotonic(), all_now=True)
        return EXIT_OK

    def _round(self) -> None:
        due_mono = min(self._next_beat_mono, self.peripherals.due_mono)
        for other in (self.responder.due_mono, self.processes.due_mono, self.facts.due_mono):
            if other is not None:
                due_mono = min(due_mono, other)
        group = None if self.arming.armed is None else self.arming.armed.group
        execs, poll = -1 if group is None else group.fd, self._waiting.poll
        if self.responder.busy:
            ready = poll(0.0, READY_AT_ONCE)
        elif group is not None and self.responder.in_passing(group):
            ready = self.responder.quick.serve_until(self._waiting, group, due_mono)
        else:
            ready = poll(max(0.0, due_mono - time.monotonic()), READY_AT_ONCE)
        if len(ready) > 1:
            ready.sort(key=lambda pair: pair[0] != execs)
        for fd, events in ready:
            self._waiting.call(fd, events)
        if self.responder.busy and all(fd != execs for fd, _ in ready):
            self._on_execs(0)
        self._tick()

    # --- what happens -------------------------------------------------------------------------

    def _on_execs(self, _: int) -> None:
        if self.arming.armed is None:
            self.responder.work()
            return
        try:
            self.responder.serve(self.arming.armed.group)
        except HardwareFault as fault:
            self._start_afresh(fault)

    def _start_afresh(self, fault: HardwareFault) -> None:
        """The kernel no longer takes part: close, which allows everybody, and try again."""
        self.arming.disarm()
        self.alarm("EW-EXEC-022", 5, f"exec events failed, marks renewed: {fault.text}")
        self.arming.renew()

    def _on_mounts(self, _: int) -> None:
        self.lockout.excuses.on_mounts()
        self.arming.on_mounts()

    def _on_facts_listener(self, _: int) -> None:
        if self.facts.accept():
            self.watch(self.facts.fileno(), self._on_facts_client)
            self._tell_pictures()

    def _on_facts_client(self, events: int) -> None:
        fd = self.facts.fileno()
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR):
            self.facts.hear()
        self._flush_facts()
        if self.facts.fileno() < 0:
            self.forget(fd)

    def _flush_facts(self) -> None:
        fd = self.facts.fileno()
        self.facts.flush(time.monotonic())
        if fd >= 0 and self.facts.fileno() < 0:
            self.forget(fd)
        elif fd >= 0:
            wanted = EPOLLIN | (EPOLLOUT if self.facts.waiting else 0)
            self.watch(fd, self._on_facts_client, wanted)

    def _on_control_listener(self, _: int) -> None:
        for client in self.control.accept():
            self.watch(client.fileno(), self._control_handler(client))

    def _control_handler(self, client: socket) -> Callable[[int], None]:
        fd = client.fileno()

        def serve(_: int) -> None:
            if not self.control.serve(client):
                self.forget(fd)

        return serve

    def _on_guard(self, _: int) -> None:
        fd = self.guard.fileno()
        if not self.guard.hear():
            self.forget(fd)

    # --- time ---------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = time.monotonic()
        if self.responder.due_mono is not None:
            try:
                self.responder.tick(now)
            except HardwareFault as fault:
                self._start_afresh(fault)
        if now >= self._next_beat_mono - EARLY_S:
            self._next_beat_mono = now + beat_after_s(self.arming.source)
            self.responder.patience.wind()
            self._beat()
            self.modes.look()
            if self.policy.look():
                self.arming.renew()
            self._pass_on_alarms()
            self.arming.look()
            self.lockout.look(link=self.facts.fileno() >= 0, trips=self.guard.trips)
        self.peripherals.tick(now)
        self.network.tick(now)
        if self.processes.has_news:
            batch = self.processes.tick(now)
            if batch is not None:
                self.facts.put(batch)
        if now >= self._next_stats_mono:
            self._next_stats_mono = now + STATS_S
            self._tell_pictures()
            self._flush_facts()  # with what woke this process already
        elif self.facts.due(now):
            self._flush_facts()

    def _beat(self) -> None:
        """A heartbeat, or one try to find guard."""
        fd = self.guard.fileno()
        if fd >= 0:
            if not self.guard.beat():
                self.forget(fd)
        elif self.guard.connect():
            self.watch(self.guard.fileno(), self._on_guard)

    def _meet_guard(self) -> None:
        """Connect and hear how often it had to kill; a guard that is not there yet comes later."""
        self._beat()
        if self.guard.fileno() >= 0:
            once = poll()
            once.register(self.guard.fileno(), POLLIN)
            once.poll(int(GUARD_HELLO_S * 1000))
            self._on_guard(EPOLLIN)

    # --- words --------------------------------------------------------------------------------

    def alarm(self, code: str, severity: int, text: str) -> None:
        self.facts.put(Alarm(code, severity, text, boot_ns()))

    def _image_of(self, pid: int) -> bytes:
        """SHA-256 of the image that called execve, if it was hashed as it is; b"" otherwise."""
        if self.arming.source == "bpf-stop":
            pid = self.doors.parent_of(pid)  # the image that called it is gone by now
        status = self.doors.program_status(pid)
        return b"" if status is None else self.responder.digests.digest_of(status)

    def _answer(self, request: Request, pid: int) -> Answer | GateStats | AreaStats:
        if request.verb not in ("status", "area"):
            self._next_stats_mono = 0.0  # link hears of what changed in this round
        if self.responder.spares:
            self.responder.hear(time.monotonic())  # what has started counts
        return self.requests.answer(request, pid)

    def _tell_pictures(self) -> None:
        self.facts.tell(self.requests.pictures(), time.monotonic())

    def _quit(self) -> None:
        self.stopping = True

    def _pass_on_alarms(self) -> None:
        for code, severity, text in self.policy.alarms:
            self.alarm(code, severity, text)
        self.policy.alarms.clear()


def boot_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def main(state_dir: str, run_dir: str, *, with_parent: bool = False) -> int:
    """Run gate.

    Args:
        state_dir: holds policy/ (exec.table, gate.conf, mode), owned by root.
        run_dir: where the sockets and exec-tier are.
        with_parent: end when the parent ends (under ``edgewarden run``).

    Returns:
        0 after SIGTERM or ``quit``; 2 when it could not start (the reason is on stderr).
    """
    try:
        thrifty_heap()
        gate = Gate(state_dir, run_dir)
    except (EdgewardenError, OSError) as fault:
        sys.stderr.write(f"edgewarden gate: {fault}; {getattr(fault, 'next_step', '')}\n")
        return EXIT_FAILED

    def stop(_signal: int, _frame: object) -> None:
        gate.stopping = True

    for number in (SIGTERM, SIGINT):
        signal(number, stop)
    ignore_lease_breaks()
    confine(gate.doors, gate.alarm)
    return gate.run(with_parent=with_parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], with_parent="--with-parent" in sys.argv[3:]))
