"""One look at everything that is plugged in: read, judge, act, tell. Slow, so never in gate's loop.

What this decides: how a look goes, and what of it is news. What it leaves to others: when to look
and who waits (gate/peripherals.py), facts (sense/), verdicts (judge/peripherals.py), writing
(act/usb.py), what is remembered (memory.py).

Rules, in order:

1. A look compares with what is there, not with what was said: a lost message of the kernel costs
   nothing but time.
2. What is pinned stays pinned over re-enumeration, resume, and in enforce over gate's end and a
   boot, by its identity at its place: the uplink's adapter that loses contact comes back
   unauthorised, and at a boot it has no route yet; it is let in again. While it carries nothing a
   rule may still deny it.
3. In enforce new devices wait for a verdict (authorized_default); an allowed one is let in, any
   other is kept out or taken away. Where a bus cannot be made to wait, nobody is refused, and on
   the others whoever is allowed is let in. Otherwise everything is as it was before enforce.
4. Where usbguard runs, it decides: nothing is written, everything is told.
5. A verdict is news when the device, or what was decided, is another than before. The same again
   (a loose plug, a resume) is counted; of what is refused each is told, and gate's ledger counts.
6. The adapter behind a serial port is remembered by the port's place, over restarts: another one
   there is an alarm.

    sight = Plugs(tree, ...).look("enforce", table)
"""

from __future__ import annotations

import os

from edgewarden.act.usb import authorize, close_defaults, restore
from edgewarden.errors import HardwareFault
from edgewarden.judge.peripherals import Verdict, judge_device, judge_port, pinned_ports
from edgewarden.plugs.work import Known, Look
from edgewarden.sense.usb import DEVICES, device_names, is_root_hub, read_device
from edgewarden.sense.usb_places import find_pins, serial_ports, usbguard_pid
from edgewarden.wire.lean import Frozen, digest_of
from edgewarden.wire.peripherals import PeripheralVerdict, id_text, interface_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edgewarden.judge.peripherals_table import PeripheralTable
    from edgewarden.plugs.memory import Identity, PlugMemory
    from edgewarden.sense.usb import SysTree
    from edgewarden.wire.peripherals import DeviceFacts, PortFacts


HOLD_NS = 60_000_000_000
"""The same device allowed again within this is not told again, as in gate's ledger."""
MAX_TOLD = 1024
_WORDS = {"learn": "learned", "observe": "would_deny", "enforce": "deny"}


class Sight(Frozen):
    """What one look gave.

    Attributes:
        verdicts: news, in order.
        alarms: (code, severity, text).
        present: devices without root hubs.
        allowed, denied, would_deny, repeated: of this look; repeated ones are not told.
        armed: new devices wait for a verdict on every bus.
        why_not: why nothing can be refused, or "".
        refused: what is not allowed, each a port and a name, whatever the mode.
        unknown: what carries the system perhaps, and could not be found (sense/usb_places.py).
        usbguard: its process, 0 without one.
    """

    __slots__ = (
        "alarms", "allowed", "armed", "denied", "present", "refused", "repeated", "unknown",
        "usbguard", "verdicts", "why_not", "would_deny",
    )  # fmt: skip
    verdicts: tuple[PeripheralVerdict, ...]
    alarms: tuple[tuple[str, int, str], ...]
    present: int
    allowed: int
    denied: int
    would_deny: int
    repeated: int
    armed: bool
    why_not: str
    refused: tuple[str, ...]
    unknown: tuple[str, ...]
    usbguard: int


class Plugs:
    """See the module. One thread, which may wait for a device.

    Args:
        tree: sysfs and /proc.
        memory: what was before, the adapters, the pins.
        boot_ns: CLOCK_BOOTTIME.
        disks: major:minor of disks that carry the system wherever they are mounted.
    """

    def __init__(
        self,
        tree: SysTree,
        memory: PlugMemory,
        boot_ns: Callable[[], int],
        disks: Sequence[str] = (),
    ) -> None:
        self._tree = tree
        self._memory = memory
        self._boot_ns = boot_ns
        self._disks = disks
        self._known: dict[str, Known] = {}
        self._ports: dict[str, tuple[object, ...]] = {}
        self._told: dict[tuple[object, ...], int] = {}
        self._judged_by: object = None
        self._alarms = memory.alarms

    # --- one look -----------------------------------------------------------------------------

    def look(self, mode: str, table: PeripheralTable) -> Sight:
        """Look once and act. Raises nothing that a device, the disk or sysfs can cause.

        Args:
            mode: of MODES.
        """
        guard = usbguard_pid(self._tree)
        names = device_names(self._tree)
        hubs = [name for name in names if is_root_hub(name)]
        why_not = f"usbguard (pid {guard}) decides here" if guard else ""
        if not hubs:
            why_not = "this machine has no USB"
        armed = closes = mode == "enforce" and not why_not
        first = not self._memory.before.defaults
        try:
            if armed:
                closed = close_defaults(
                    self._tree, hubs, self._memory.before, self._memory.save_before
                )
                armed = closed == len(hubs)
                why_not = "" if armed else f"{len(hubs) - closed} buses let every device in"
            elif not self._memory.before.is_empty and not guard:
                self._put_back()
        except HardwareFault as fault:
            armed, why_not = False, fault.text
        pins = find_pins(self._tree, self._disks)
        judged_by = (mode, table.generation, armed)
        if judged_by != self._judged_by:  # another policy, or another mode: everything is news
            for known in self._known.values():
                self._left(known)
            self._known.clear()
            self._ports.clear()
            self._told.clear()
            self._judged_by = judged_by
        work = Look(mode, armed, first, table, pinned_ports(pins.ports))
        work.closes = closes
        self._go_away(set(names), work)
        for name in names:
            self._device(name, work)
        self._forget_gone()
        self._serial(work)
        alarms = tuple(self._alarms)
        self._alarms.clear()
        refused = tuple(
            f"{name} ({k.facts.product or id_text(k.facts.vid, k.facts.pid)})"
            for name, k in self._known.items()
            if k.verdict.decision == "deny"
        )
        return Sight(
            tuple(work.verdicts), alarms, len(names) - len(hubs), work.allowed, work.denied,
            work.would_deny, work.repeated, armed, why_not, refused, tuple(pins.unknown), guard,
        )  # fmt: skip

    def _put_back(self) -> None:
        failed = restore(self._tree, self._memory.before)
        if failed:
            self._alarms.append(("EW-USB-002", 4, f"USB is not as it was: {'; '.join(failed)}"))
        self._memory.save_before()

    def _go_away(self, present: set[str], work: Look) -> None:
        for name in [n for n in self._known if n not in present]:
            known = self._known.pop(name)
            self._left(known)
            gone = Verdict("gone", known.verdict.rule, known.verdict.reason, "taken away")
            self._tell_device(known.facts, gone, "gone", True, work)

    def _left(self, known: Known) -> None:
        self._memory.gone(known.facts.port, _lasting(known.facts), self._boot_ns())

    def _forget_gone(self) -> None:
        """Who was pulled out needs nothing put back."""
        here = {(name, known.facts.devnum) for name, known in self._known.items()}
        for entry in [e for e in self._memory.before.devices if e not in here]:
            del self._memory.before.devices[entry]

    # --- devices ------------------------------------------------------------------------------

    def _device(self, name: str, work: Look) -> None:
        try:
            fd = self._tree.directory(f"{DEVICES}/{name}")
        except OSError:
            return
        try:
            inode = os.fstat(fd).st_ino
            known = self._known.get(name)
            if known is not None and known.inode == inode and self._is_as_judged(fd, known, work):
                return
            facts = read_device(self._tree, fd, name)
            if facts is None:
                return
            if known is not None and known.inode != inode:  # another one since the last look
                self._left(known)
            self._memory.came(name, _lasting(facts), self._boot_ns())
            verdict = self._judge(facts, work)
            effective = self._act(fd, facts, verdict, work)
            self._known[name] = Known(facts, inode, verdict, work.pinned.get(name, ""))
        finally:
            os.close(fd)
        if is_root_hub(name):
            return
        word = "allow" if verdict.decision in ("allow", "pinned") else _WORDS[work.mode]
        if word == "deny" and not work.armed:
            word = "would_deny"
        if word == "deny" and not effective:
            self._alarms.append(("EW-USB-002", 5, f"{name} could not be refused: {verdict.text}"))
        elif word == "allow" and not effective:
            self._alarms.append(("EW-USB-002", 4, f"{name} is allowed and could not be let in"))
        self._tell_device(facts, verdict, word, effective, work)

    def _is_as_judged(self, fd: int, known: Known, work: Look) -> bool:
        """Whether it is the same plugging-in, carries what it did, and nobody turned our verdict
        around."""
        port = known.facts.port
        if (self._tree.text(fd, "devnum"), work.pinned.get(port, "")) != (
            str(known.facts.devnum), known.pin,
        ):  # fmt: skip
            return False
        if not work.armed:
            return True
        wanted = "0" if known.verdict.decision == "deny" else "1"
        return self._tree.text(fd, "authorized") == wanted

    def _judge(self, facts: DeviceFacts, work: Look) -> Verdict:
        port, identity = facts.port, _lasting(facts)
        why = work.pinned.get(port, "")
        if why:
            self._memory.pin(port, identity, why, keep=work.armed)
        elif not facts.refusal and not is_root_hub(port):
            why = self._memory.pinned(port, identity)
            verdict = judge_device(work.table.devices, facts, {})
            if not why or verdict.reason == "deny_rule":
                return verdict
        return judge_device(work.table.devices, facts, {port: why} if why else {})

    def _act(self, fd: int, facts: DeviceFacts, verdict: Verdict, work: Look) -> bool:
        """Bring the verdict about; whether the kernel shows it."""
        allow = verdict.decision != "deny"
        if is_root_hub(facts.port) or not (work.armed or (work.closes and allow)):
            return True
        entry = (facts.port, facts.devnum)
        try:
            if not allow and entry not in self._memory.before.devices:
                # Kept out before the first look of enforce: somebody else's doing, left so later.
                hub = f"usb{facts.port.partition('-')[0]}"
                by_us = not work.first and self._memory.before.defaults.get(hub) == "1"
                if facts.authorized or by_us:
                    self._memory.add_device(*entry)
            if facts.authorized != allow:
                return authorize(self._tree, fd, allow)
        except HardwareFault as fault:
            self._alarms.append((fault.code, 4, f"{facts.port}: {fault.text}"))
            return False
        return True

    def _tell_device(
        self, facts: DeviceFacts, verdict: Verdict, word: str, effective: bool, work: Look
    ) -> None:
        news = PeripheralVerdict(
            "device", word, verdict.reason, work.mode, effective, facts.vid, facts.pid,
            facts.devnum, self._boot_ns(), facts.descriptors, facts.interfaces, facts.port,
            verdict.rule, verdict.text, facts.serial, facts.product, "",
        )  # fmt: skip
        self._tell(news, work)

    def _tell(self, news: PeripheralVerdict, work: Look) -> None:
        if news.decision == "deny":
            work.denied += 1
        elif news.decision == "would_deny":
            work.would_deny += 1
        else:
            work.allowed += news.decision == "allow"
            key = (news.place, news.decision, news.rule, news.vid, news.pid, news.serial)
            last = self._told.pop(key, None)
            self._told[key] = news.boot_ns
            if len(self._told) > MAX_TOLD:
                del self._told[next(iter(self._told))]
            if last is not None and news.boot_ns - last < HOLD_NS:
                work.repeated += 1
                return
        work.verdicts.append(news)

    # --- serial ports -------------------------------------------------------------------------

    def _serial(self, work: Look) -> None:
        seen: dict[str, tuple[object, ...]] = {}
        for port in serial_ports(self._tree):
            if not port.path:
                continue
            known = self._known.get(port.device)
            rule = "" if known is None else self._rule_of(known, work)
            verdict = judge_port(work.table.ports, port, rule)
            facts = known.facts if known else None
            self._remember_adapter(port, facts)
            state = (port, facts and facts.identity(), verdict)
            seen[port.path] = state
            if self._ports.get(port.path) == state:
                continue
            pinned = known is not None and known.verdict.decision == "pinned"
            self._tell_port(port, facts, verdict, pinned, work)
        self._ports = seen

    def _rule_of(self, known: Known, work: Look) -> str:
        """The rule that allows an adapter, "" when none does; of a pinned one, that would."""
        verdict = known.verdict
        if verdict.decision == "pinned":
            verdict = judge_device(work.table.devices, known.facts, {})
        return verdict.rule if verdict.decision == "allow" else ""

    def _tell_port(
        self, port: PortFacts, facts: DeviceFacts | None, verdict: Verdict, pinned: bool,
        work: Look,
    ) -> None:  # fmt: skip
        word, effective = "allow", True
        if verdict.decision == "deny":
            word = _WORDS[work.mode] if work.armed else "would_deny"
            if work.mode == "learn":
                word = "learned"
            if pinned or not port.interface:  # the console's, or the board's own: only told
                word = "would_deny" if word == "deny" else word
            elif work.armed:
                effective = self._refuse_interface(port.interface)
        code = {"other_driver": "EW-USB-003", "other_device": "EW-USB-003"}.get(verdict.reason)
        if code:
            text = f"{port.path} ({port.node}): {verdict.text} by rule {verdict.rule}"
            self._alarms.append((code, 4, text))
        news = PeripheralVerdict(
            "port", word, verdict.reason, work.mode, effective, facts.vid if facts else 0,
            facts.pid if facts else 0, facts.devnum if facts else 0, self._boot_ns(),
            facts.descriptors if facts else b"", facts.interfaces if facts else (), port.path,
            verdict.rule, verdict.text, facts.serial if facts else "",
            facts.product if facts else "", f"{port.driver} {port.node}",
        )  # fmt: skip
        self._tell(news, work)

    def _refuse_interface(self, name: str) -> bool:
        try:
            fd = self._tree.directory(f"{DEVICES}/{name}")
        except OSError:
            return False
        try:
            self._memory.add_interface(name)
            return authorize(self._tree, fd, False)
        except HardwareFault as fault:
            self._alarms.append((fault.code, 4, f"{name}: {fault.text}"))
            return False
        finally:
            os.close(fd)

    def _remember_adapter(self, port: PortFacts, facts: DeviceFacts | None) -> None:
        if facts is None or facts.refusal:
            return
        now = facts.identity()
        last = self._memory.remember(port.path, now)
        if last is None or last == now:
            return
        was = f"{id_text(*last[:2])} serial {last[2] or 'none'}"
        here = f"{id_text(*now[:2])} serial {now[2] or 'none'}"
        text = f"{port.path}: another adapter, {here}, was {was}"
        if was == here:
            text = f"{port.path}: {here} shows other descriptors than before"
        self._alarms.append(("EW-USB-003", 4, text))


def _lasting(facts: DeviceFacts) -> Identity:
    """What makes it the same device at another speed or with new firmware, where its descriptors
    are others: what it offers, which a BadUSB in its place would have to add to."""
    offers = " ".join(interface_text(t) for t in (facts.device_class, *facts.interfaces))
    return facts.vid, facts.pid, facts.serial, digest_of(offers.encode())
