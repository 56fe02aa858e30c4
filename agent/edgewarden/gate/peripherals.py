"""The area "peripherals" inside gate's loop: when to look, what a person is answered, what is told.

What this decides: the loop never touches sysfs. Reading a device's strings and letting it in wait
for the device and its drivers, seconds; a driver that asks for firmware or a module starts a
program, which waits for gate's own verdict. So a second thread looks and acts (plugs/background.py,
docs/adr/0012), and the loop only says when and passes on what came of it.

Rules, in order:

1. The kernel's messages are hints: the first starts a look at once, more within GAP_S wait for one
   look together, however many they are. A lost message is a look, too, and so is every LOOK_S
   without any.
2. enforce is refused where it would cut off: usbguard decides here; there is nothing to enforce on;
   nothing is known yet; no rule allows anything and devices would be refused; or what carries the
   system cannot be traced to a device (PPP, no route yet, a root on the network) while devices
   would be refused.
3. A worker that has not answered for SLOW_S is said in ``why_not``: a driver holds a device.
4. enforce that does not hold is an alarm, once per reason. Without any table of rules it is
   observe: a lost file must not take every sensor away.
5. When gate ends, everything is put back, in at most STOP_S, which is more than guard's patience:
   gate beats meanwhile.

What it leaves to others: a look (plugs/look.py), modes and trials (modes.py).
"""

from __future__ import annotations

import os
from select import POLLIN, poll

from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.judge.peripherals_table import (
    EMPTY,
    MAX_TABLE_BYTES,
    TABLE_NAME,
    load_table,
)
from edgewarden.plugs.background import Background, Order
from edgewarden.plugs.look import Plugs
from edgewarden.plugs.memory import MAX_BYTES, PlugMemory
from edgewarden.sense.usb import SysTree
from edgewarden.wire.local import Alarm, AreaStats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from edgewarden.gate.doors import Doors
    from edgewarden.kernel.uevent import Uevent, Uevents
    from edgewarden.lockout.forward import Forward
    from edgewarden.plugs.look import Sight
    from edgewarden.wire.local import AnyMessage

    class Runner(Protocol):
        """Has looks done; no method waits."""

        def submit(self, order: Order) -> None:
            """Do this next; an order not begun is replaced."""

        def take(self) -> list[Sight | EdgewardenError]:
            """What came of orders since the last time."""

        def fileno(self) -> int:
            """Readable when there are sights."""


GAP_S = 0.25
"""Plugging in one hub with a modem behind it says sixty things within this."""
LOOK_S = 60.0
"""Routes, consoles and usbguard change without a message of the kernel's."""
SLOW_S = 10.0
"""Twice the time a control transfer may take (USB_CTRL_GET_TIMEOUT, <linux/usb.h>)."""
STOP_S = 3.0
"""systemd ends gate after 5 s."""
SLICE_MS = 100
"""Of STOP_S, between two looks at the clock."""
NO_TABLE = "there is no table of rules: run `edgewarden policy compile`"
SUBSYSTEMS = frozenset(("usb", "tty", "net", "block"))
"""Whose messages may change a verdict or a pin."""
ON_A_FILE = "devices/virtual/block/loop"
"""Where loop devices are. None leads to hardware (sense/usb_places.py), and whoever attaches one
anywhere on the machine would have the whole of sysfs looked at."""


class PolicyFiles:
    """Files of state/policy, through gate's doors."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors

    def load(self, name: str) -> bytes:
        return self._doors.read_policy(name, MAX_BYTES)

    def save(self, name: str, data: bytes) -> None:
        self._doors.write_policy(name, data)


def background(doors: Doors, boot_ns: Callable[[], int]) -> Background:
    """The second thread, started, which sees sysfs through gate's doors."""
    tree = SysTree(doors.sys_fd, doors.proc_fd, doors.open_device)
    boot_id = doors.proc_text("sys/kernel/random/boot_id").strip()
    state = os.fstat(doors.policy_fd).st_dev
    disks = (f"{os.major(state)}:{os.minor(state)}",)
    memory = PlugMemory(PolicyFiles(doors), boot_id)
    return Background(Plugs(tree, memory, boot_ns, disks).look)


class Peripherals:
    """See the module; every method on gate's thread.

    Args:
        runner: does the looks.
        listen: subscribes to the kernel's messages; raises HardwareFault where there are none.
        read_table: the bytes of state/policy/peripherals.table, at most so many; raises OSError or
            OperatorFault.
        forward: no table goes back.
        watch, forget: tell the loop of a descriptor, and of its end.
        put: a fact on its way to link.
        boot_ns, mono_s: CLOCK_BOOTTIME in nanoseconds, CLOCK_MONOTONIC in seconds.

    Attributes:
        due_mono: when ``tick`` has something to do.
        uevents: None where the kernel says nothing, or no more.
        events, lost: messages of the kernel, and how often it lost some.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        listen: Callable[[], Uevents],
        read_table: Callable[[str, int], bytes],
        forward: Forward,
        watch: Callable[[int, Callable[[int], None]], None],
        forget: Callable[[int], None],
        put: Callable[[AnyMessage], None],
        boot_ns: Callable[[], int],
        mono_s: Callable[[], float],
    ) -> None:
        self.runner = runner
        self.uevents: Uevents | None = None
        self._read_table = read_table
        self._forward = forward
        self._forget = forget
        self._put = put
        self._boot_ns = boot_ns
        self._mono_s = mono_s
        self._mode = "learn"
        self._table = EMPTY
        self._sight: Sight | None = None
        self._begun_mono: float | None = None
        self._last_mono = 0.0
        self._again = False
        self._submitted = ""
        self._said = ""
        self._counts = {"allowed": 0, "denied": 0, "would_deny": 0, "repeated": 0}
        self.due_mono = 0.0
        self.events = self.lost = 0
        watch(runner.fileno(), self.on_sights)
        try:
            self.uevents = listen()
            watch(self.uevents.fileno(), self.on_uevents)
        except HardwareFault as fault:
            self._alarm("EW-USB-005", 2, f"a look at USB only each {LOOK_S:.0f} s: {fault.text}")
        try:
            self.reload()
        except EdgewardenError as fault:
            self._alarm(fault.code, 4, fault.text)

    def _alarm(self, code: str, severity: int, text: str) -> None:
        self._put(Alarm(code, severity, text, self._boot_ns()))

    # --- the loop -----------------------------------------------------------------------------

    def on_uevents(self, _: int) -> None:
        """The kernel has said something."""
        if self.uevents is None:
            return
        try:
            heard = self.uevents.read()
        except HardwareFault as fault:
            self._alarm("EW-USB-005", 3, f"messages from the kernel ended: {fault.text}")
            self._forget(self.uevents.fileno())
            self.uevents.close()
            self.uevents = None
            return
        self.events += len(heard.events)
        self.lost += heard.lost
        if heard.lost or any(map(_matters, heard.events)):
            self._want()

    def on_sights(self, _: int) -> None:
        """The second thread has looked."""
        for sight in self.runner.take():
            self._begun_mono = None
            if isinstance(sight, EdgewardenError):
                self._alarm(sight.code, 4, sight.text)
                continue
            self._sight = sight
            self._say_what_is_missing(sight)
            for name in self._counts:
                self._counts[name] += getattr(sight, name)
            for alarm in sight.alarms:
                self._alarm(*alarm)
            for verdict in sight.verdicts:
                self._put(verdict)
        if self._again:
            self._again = False
            self._want()

    def _say_what_is_missing(self, sight: Sight) -> None:
        """An alarm when enforce does not hold for another reason than before."""
        why_not = ""
        if self._mode == "enforce" and not self._table.generation:
            why_not = NO_TABLE
        elif self._submitted == "enforce" and not sight.armed:
            why_not = sight.why_not
        if why_not and why_not != self._said:
            self._alarm("EW-USB-007", 5, f"enforce of peripherals does not hold: {why_not}")
        self._said = why_not

    def _want(self) -> None:
        """A look soon: GAP_S after the last one began, at the earliest now."""
        if self._begun_mono is not None:
            self._again = True
        else:
            self.due_mono = min(self.due_mono, max(self._mono_s(), self._last_mono + GAP_S))

    def tick(self, now_mono: float) -> None:
        """Start a look when it is time."""
        if now_mono >= self.due_mono and self._begun_mono is None:
            self._submit(self._mode, now_mono)

    def _submit(self, mode: str, now_mono: float) -> None:
        self._begun_mono = self._last_mono = now_mono
        self.due_mono = now_mono + LOOK_S
        without_rules = mode == "enforce" and not self._table.generation
        self._submitted = "observe" if without_rules else mode
        self.runner.submit(Order(self._submitted, self._table))

    def stop(self, beat: Callable[[], None]) -> None:
        """Put everything back; waits at most STOP_S. After marks are gone: who waits for a verdict
        has gone on.

        Args:
            beat: one heartbeat, called again and again while this waits.
        """
        if self._mode != "enforce":
            return
        self._submit("observe", self._mono_s())
        until_mono = self._mono_s() + STOP_S
        waiting = poll()
        waiting.register(self.runner.fileno(), POLLIN)
        while self._mono_s() < until_mono:
            beat()
            waiting.poll(SLICE_MS)
            if any(not getattr(sight, "armed", True) for sight in self.runner.take()):
                return

    # --- a person -----------------------------------------------------------------------------

    def reload(self, older: bool = False) -> str:
        """Take the rules anew; returns what is in use, in words.

        Args:
            older: also where they are of a lower generation: a person said so.

        Raises:
            EdgewardenError: they are refused; the last ones stay.
        """
        try:
            data = self._read_table(TABLE_NAME, MAX_TABLE_BYTES)
            table = load_table(data)
        except FileNotFoundError:
            return "no rules about peripherals"
        except OSError as fault:
            raise OperatorFault(
                f"policy/{TABLE_NAME}: {os.strerror(fault.errno or 0)}; the last rules stay",
                code="EW-USB-006",
                next_step="run the policy one-shot (edgewarden-policy.service)",
            ) from fault
        except EdgewardenError as fault:
            raise OperatorFault(
                f"new rules about peripherals are refused, the last stay: {fault.text}",
                code="EW-USB-006",
                next_step="run the policy one-shot (edgewarden-policy.service)",
            ) from fault
        self._forward.take("peripherals", table.generation, older=older)
        self._table = table
        self._want()
        devices, ports = len(self._table.devices), len(self._table.ports)
        return f"{devices} rules about devices, {ports} about ports"

    def apply(self, mode: str, trial_s: int) -> str:
        """A person's word; see modes.Area."""
        words = ""
        if mode == "enforce":
            self._refuse_to_cut_off()
            refused = () if self._sight is None else self._sight.refused
            words = f"refused now: {', '.join(refused)}" if refused else "nothing is refused now"
        self._change(mode)
        return words

    def settle(self, mode: str) -> None:
        """See modes.Area."""
        self._change(mode)

    def _change(self, mode: str) -> None:
        self._mode = mode
        self._again = self._begun_mono is not None
        if not self._again:
            self.due_mono = self._mono_s()

    def _refuse_to_cut_off(self) -> None:
        sight = self._sight
        if sight is None:
            raise _no("not_yet", "USB has not been looked at yet", "ask again in a few seconds")
        if sight.usbguard or (not sight.present and sight.why_not):
            step = "stop usbguard first" if sight.usbguard else "nothing to do"
            raise _no("not_possible", sight.why_not, step)
        if sight.refused and not any(r.action == "allow" for r in self._table.devices):
            devices = ", ".join(sight.refused)
            text = f"no rule allows anything, and these would be refused: {devices}"
            step = "`edgewarden policy learn peripherals`, add it to the policy, and ask again"
            raise _no("no_rules", text, step)
        if sight.refused and sight.unknown:
            names, devices = ", ".join(sight.unknown), ", ".join(sight.refused)
            text = f"it cannot be told what carries {names}, and these would be refused: {devices}"
            step = "write rules for these devices, or ask again when the network is up"
            raise _no("uplink_unknown", text, step)

    def stats(self) -> AreaStats:
        """See modes.Area."""
        sight = self._sight
        armed = sight is not None and sight.armed and self._mode == "enforce"
        why_not = "USB has not been looked at yet" if sight is None else sight.why_not
        slow = self._begun_mono is not None and self._mono_s() - self._begun_mono > SLOW_S
        if self._mode == "enforce" and not self._table.generation:
            why_not = NO_TABLE
        if slow:
            why_not = "a device or its driver does not answer; nothing new is judged"
        return AreaStats(
            area="peripherals",
            mode=self._mode,
            armed=armed and not slow,
            trial_s=0,
            rules=len(self._table.devices) + len(self._table.ports),
            generation=self._table.generation,
            allowed=self._counts["allowed"],
            denied=self._counts["denied"],
            would_deny=self._counts["would_deny"],
            dropped=self._counts["repeated"],
            why_not=why_not,
            limits="",
        )


def _matters(event: Uevent) -> bool:
    return event.subsystem in SUBSYSTEMS and not event.path.startswith(ON_A_FILE)


def _no(name: str, text: str, step: str) -> OperatorFault:
    return OperatorFault(text, code="EW-USB-007", next_step=step, name=name)
