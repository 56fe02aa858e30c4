"""The network area: our one nftables table, in force as the mode says.

What this decides, in order:

1. Where no policy and no setting speaks of the network, there is no table, and no library is
   loaded.
2. The table is put in force whole, in one transaction; refused, nothing changes and a person is
   told. It is tried once at the start, before execs can wait for us: that loads the kernel's
   modules and opens whatever libnftables opens.
3. What has to be loaded and opened for it waits for nobody (tools.py): the first rules need no
   restart where execs wait for gate, and no memory where there never are any.
4. It stays in the kernel when gate dies, and when gate is stopped while it enforces; in learn and
   observe a stop takes it away. Enforced on trial, the kernel lifts it by itself
   (modes.py).
5. Somebody else deleted it, changed its rules or put another of its name in its place: made again,
   with an alarm, each COUNT_S, and with what is left of a trial.
6. A managed unit is its control group, which systemd makes anew at every start: gate sees it come
   into being (inotify) and names it to the kernel before its program has been loaded; a look each
   LOOK_S finds what was missed. A machine without cgroup2 cannot manage units: a named gap.
7. Where it cannot be known where the ssh server listens, rules about what comes from outside are
   enforced on trial only.

What it leaves to others: what the rules say (peers/rules.py), names (names.py), modes and
trials (gate/modes.py). Without libnftables nothing is enforced and status says why: gate starts no
program to do it.

    network = Network(...); network.settle("enforce"); network.tick(now_mono)
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.network.counters import GONE, WHOLE
from edgewarden.network.force import Force
from edgewarden.network.groups import prefix_of_cgroups
from edgewarden.network.tools import Tools
from edgewarden.peers.modes import login_port
from edgewarden.wire.local import AreaStats, NetworkVerdict
from edgewarden.wire.network_table import EMPTY, MAX_TABLE_BYTES, NAMES_NAME, NetworkTable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.gate.doors import Doors
    from edgewarden.network.names import Names
    from edgewarden.wire.network_table import Counter

    class Forward(Protocol):
        """Tables go forward only (lockout/forward.py); both raise OperatorFault ``older``."""

        def check(self, area: str, generation: int, *, older: bool = False) -> None: ...

        def take(self, area: str, generation: int, *, older: bool = False) -> None: ...


TABLE_NAME = "network.table"
COUNT_S = 5.0
"""Between two looks at the counters: 0.2 ms each."""
LOOK_S = 2.0
_DECISION = {"enforce": "deny", "observe": "would_deny", "learn": "learned"}


class Network:
    """See the module.

    Args:
        names: answers about the policy's DNS names.
        forward: no table goes back.
        put: takes facts.
        alarm: (code, severity, text).
        watch, forget: tell the loop of a descriptor and its end.
        unhindered: does something while no exec waits for gate.
        boot_ns, mono_s: clocks.
    """

    def __init__(
        self,
        *,
        doors: Doors,
        names: Names,
        forward: Forward,
        put: Callable[[NetworkVerdict], None],
        alarm: Callable[[str, int, str], None],
        watch: Callable[[int, Callable[[int], None]], None],
        forget: Callable[[int], None],
        unhindered: Callable[[Callable[[], None]], None],
        boot_ns: Callable[[], int],
        mono_s: Callable[[], float],
    ) -> None:
        self._doors = doors
        self._unhindered = unhindered
        self._names = names
        self._put = put
        self._forward = forward
        self._alarm = alarm
        self._watch = watch
        self._forget = forget
        self._boot_ns = boot_ns
        self._mono_s = mono_s
        self._force = Force(mono_s)
        self._tools = Tools(
            doors, self._force, mono_s, self._mention, watch, self._on_log, self._on_made
        )
        self._told_ports: frozenset[int] = frozenset()
        self._table = EMPTY
        self._by_name: dict[str, Counter] = {}
        self._mode, self._why_not = "learn", ""
        self._totals: dict[tuple[str, str], int] = {}
        """(kind, label) -> packets refused, as last counted."""
        self._counts: dict[str, int] = {}
        """What each counter of the table in force has."""
        self._became = WHOLE
        self._denied = self._would_deny = 0
        self._since = "learned"
        """What became of packets after they were last counted."""
        self._limits: tuple[str, ...] = ()
        self._next_count_mono = self._next_look_mono = 0.0
        self._prepare()

    # --- the start, and a new policy ----------------------------------------------------------

    def _prepare(self) -> None:
        """Read the table; where there is one, load the library and try it on the kernel."""
        self._watch(self._names.listener.fileno(), self._on_names_listener)
        try:
            data = self._doors.read_policy(TABLE_NAME, MAX_TABLE_BYTES)
        except OSError:
            return  # never was one: nothing to do, and nothing of ours in the kernel
        except EdgewardenError as fault:
            self._distrust(fault)
            return
        try:
            table = NetworkTable.load(data)
            self._forward.take("network", table.generation)
            self._use(table)
            self._open()
            self._force.check(self._table)
            self._say_names()
        except EdgewardenError as fault:
            self._distrust(fault)

    def _distrust(self, fault: EdgewardenError) -> None:
        self._why_not = fault.text
        self._alarm("EW-NET-032", 4, f"no network table: {fault.text}")

    def _mention(self, code: str, text: str) -> None:
        """An alarm where there are rules that it concerns."""
        if self._table.body:
            self._alarm(code, 3, text)

    def _open(self) -> None:
        """Everything that this table needs beside the kernel's rules."""
        if self._table.body and self._force.nft is None:
            self._unhindered(self._tools.open)
        self._tools.open_groups(units=bool(self._table.units))

    def _use(self, table: NetworkTable) -> None:
        self._names.move_to(self._table.hosts, table.hosts)
        self._table = table
        self._by_name = {counter.name: counter for counter in table.counters}

    def _say_names(self) -> None:
        """Tell link which names are in use: it reads no table that we may have refused."""
        try:
            names = self._table.names_alone()
            self._doors.write_run(NAMES_NAME, names.dump(), for_all=True)
        except OSError as fault:
            text = f"link does not hear which names to ask for: {fault.strerror}"
            self._alarm("EW-NET-031", 3, text)

    def reload(self, older: bool = False) -> str:
        """Take the policy's table anew, at once and whole.

        Args:
            older: also where it is of a lower generation: a person said so.

        Returns:
            What is in use now, in words; "" where there is nothing about the network.

        Raises:
            EdgewardenError: it is refused; the last one stays in force.
        """
        try:
            data = self._doors.read_policy(TABLE_NAME, MAX_TABLE_BYTES)
        except OSError:
            return ""
        table = NetworkTable.load(data)
        if table == self._table and self._force.mode:
            return f"network: {table.rules} rules, unchanged"
        self._forward.check("network", table.generation, older=older)
        before, known = self._table, self._names.known()
        self._count()
        self._use(table)
        try:
            self._open()
            self._put_again()
        except EdgewardenError:
            self._use(before)
            self._names.back_to(known)
            raise
        self._forward.take("network", table.generation, older=older)
        self._why_not = ""
        self._say_names()
        return f"network: {table.rules} rules, generation {table.generation}"

    # --- an area (gate/modes.py) --------------------------------------------------------------

    def apply(self, mode: str, trial_s: int) -> str:
        """A person's word: all of it, or a refusal with nothing changed.

        Raises:
            OperatorFault: field name ``not_possible``.
            HardwareFault: the kernel refuses.
        """
        if mode == "enforce" and self._why_not:
            raise OperatorFault(
                self._why_not,
                code="EW-NET-031",
                next_step="mend that, then run `edgewarden policy compile`",
                name="not_possible",
            )
        logins = self._force.logins
        if mode == "enforce" and not trial_s and login_port(self._table):
            why_not = "sock_diag is not to be had" if logins is None else logins.why_not
            if why_not:
                raise OperatorFault(
                    f"where the ssh server listens is not known, and it could be cut: {why_not}",
                    code="EW-NET-041",
                    next_step="try it for a time: `policy enforce network --confirm 10m`",
                    name="ssh_unknown",
                )
        self._count()
        self._put_in_force(mode, trial_s)
        self._mode = mode
        return "" if self._table.body else "the policy has no rules about the network"

    def settle(self, mode: str) -> None:
        """At the start, after a trial, under a ceiling; what is missing becomes an alarm."""
        self._count()
        self._mode = mode
        if self._why_not:
            return
        try:
            self._put_in_force(mode, 0)
        except EdgewardenError as fault:
            self._not_in_force(fault)

    def _not_in_force(self, fault: EdgewardenError) -> None:
        if fault.text != self._why_not:
            self._alarm("EW-NET-031", 4, f"the network table is not in force: {fault.text}")
        self._why_not = fault.text

    def stats(self) -> AreaStats:
        """The picture of this moment."""
        table = self._table
        armed = self._force.mode == "enforce" and bool(table.body) and not self._why_not
        lost = 0 if self._tools.log is None else self._tools.log.lost
        return AreaStats(
            "network", self._mode, armed, self._force.trial.left_s(self._mono_s()), table.rules,
            table.generation, 0, self._denied, self._would_deny, lost,
            self._why_not or self._gap(), " ".join(self._limits),
        )  # fmt: skip

    def stop(self) -> None:
        """gate ends in order: what does not enforce is taken away."""
        if self._force.mode and self._force.mode != "enforce":
            try:
                self._force.remove()
            except HardwareFault as fault:
                self._alarm("EW-NET-031", 3, f"the network table stays: {fault.text}")

    def _gap(self) -> str:
        missing = bool(self._table.units) and prefix_of_cgroups() is None
        return "units are not managed: no cgroup2 below /sys/fs/cgroup" if missing else ""

    def _put_in_force(self, mode: str, trial_s: int) -> None:
        self._force.put(self._table, mode, trial_s, self._names.standing())
        self._is_new()

    def _put_again(self) -> None:
        self._force.again(self._table, self._mode, self._names.standing())
        self._is_new()

    def _is_new(self) -> None:
        """The kernel has a table that we have just made."""
        if self._became:
            self._alarm("EW-NET-036", 5, f"somebody {self._became} our network table: made again")
        self._became = WHOLE
        self._counts = {}
        self._since = self._decision()
        if self._tools.counters is not None:
            self._tools.counters.remember()
        self._tell_ports()

    def _tell_ports(self) -> None:
        """Of ssh at another port than the settings name, once."""
        for port in sorted(self._force.ports - self._told_ports - {login_port(self._table)}):
            text = f"the ssh server listens on port {port}, which is let in: [network] ssh_port"
            self._alarm("EW-NET-040", 2, text)
        self._told_ports |= self._force.ports

    # --- managed control groups ---------------------------------------------------------------

    def _on_made(self, _: int) -> None:
        if self._force.groups is not None and self._force.groups.made():
            self._look_around()

    def _look_around(self) -> None:
        try:
            if self._force.look(self._table, self._names.standing()):
                self._is_new()
            self._tell_ports()
        except HardwareFault as fault:
            self._alarm("EW-NET-031", 4, f"the network table lacks what is new: {fault.text}")

    # --- names --------------------------------------------------------------------------------

    def _on_names_listener(self, _: int) -> None:
        if self._names.accept():
            self._watch(self._names.fileno(), self._on_names)

    def _on_names(self, _: int) -> None:
        fd, refused = self._names.fileno(), self._names.refused
        changes = self._names.hear(self._table)
        if self._names.fileno() < 0:
            self._forget(fd)
        if self._names.refused != refused:
            self._alarm("EW-NET-037", 3, f"an answer about a name is refused: {self._names.why}")
        for fault in self._force.allow(changes):
            self._alarm("EW-NET-031", 3, f"an address is not allowed: {fault.text}")

    # --- what was refused ---------------------------------------------------------------------

    def _on_log(self, _: int) -> None:
        if self._tools.log is None:
            return
        for seen in self._tools.log.read():
            counter = self._by_name.get(seen.prefix)
            if counter is None:
                continue
            outward = counter.direction == "egress"
            total = self._totals.get((counter.kind, counter.label), 0) + 1
            self._put(
                NetworkVerdict(
                    self._decision(), counter.direction, self._mode, counter.label,
                    counter.by_name, seen.protocol, seen.destination if outward else seen.source,
                    seen.uid, seen.port, total, self._boot_ns(),
                )
            )  # fmt: skip

    def _decision(self) -> str:
        """Of a packet that met a refusal now; a trial that ended in the kernel refuses nothing."""
        return _DECISION[self._force.trial.again(self._force.mode or "learn", self._mono_s())[0]]

    def tick(self, now_mono: float) -> None:
        """On gate's timer, which is its heartbeat."""
        if not self._force.mode:
            return
        if now_mono >= self._next_look_mono:
            self._next_look_mono = now_mono + LOOK_S
            self._look_around()
        if now_mono >= self._next_count_mono:
            self._next_count_mono = now_mono + COUNT_S
            self._count()
            if self._became:
                try:
                    self._put_again()
                    self._why_not = ""
                except EdgewardenError as fault:
                    self._not_in_force(fault)

    def _count(self) -> None:
        """Read the counters, and what became of our table; who makes it again tells."""
        counters, fresh, self._became = self._tools.counters, None, WHOLE
        if counters is None or not self._force.mode:
            return
        try:
            self._became = counters.state()
            fresh = None if self._became == GONE else counters.read()
        except HardwareFault:
            self._became = GONE
        if fresh is None:
            self._became = GONE if self._by_name else self._became
            return
        before, self._counts = self._counts, fresh
        ours = [n for n in fresh if n in self._by_name]
        moved = [(self._by_name[n], fresh[n] - before.get(n, 0)) for n in ours]
        moved = [(counter, count) for counter, count in moved if count > 0]
        for counter, count in moved:
            key = counter.kind, counter.label
            self._totals[key] = self._totals.get(key, 0) + count
        refused = sum(count for _, count in moved)
        if self._since == "deny":
            self._denied += refused
        elif self._since == "would_deny":
            self._would_deny += refused
        self._since = self._decision()
        self._limits = tuple(counter.label for counter, _ in moved if counter.direction == "limit")
