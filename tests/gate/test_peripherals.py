"""The area inside gate's loop: when it looks, what it refuses to do, what a storm costs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from edgewarden.daemon.guard import SILENCE_S
from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.gate.ledger import Ledger
from edgewarden.gate.modes import Modes
from edgewarden.gate.peripherals import (
    GAP_S,
    LOOK_S,
    SLOW_S,
    STOP_S,
    Peripherals,
)
from edgewarden.gate.sessions import NOBODY as SOMEBODY
from edgewarden.judge.peripherals_table import EMPTY, PeripheralTable, compile_table
from edgewarden.kernel.uevent import Uevents
from edgewarden.lockout.forward import Forward
from edgewarden.plugs.background import Background, Order
from edgewarden.plugs.look import Sight
from edgewarden.wire import local
from edgewarden.wire.local import Alarm, AnyMessage, Repeated
from edgewarden.wire.peripherals import PeripheralVerdict
from hw.rigs.usbtree import InjectedUevents, uevent
from tests.plugs.plugged import World, table
from tests.waiting import wait_until

PLUG = uevent("add", "devices/x/usb1/1-1", "usb")


class Inline:
    """Does each look at once, or when ``hold`` is lifted."""

    def __init__(self, look: Callable[[str, PeripheralTable], Sight]) -> None:
        self.look = look
        self.hold = False
        self.orders: list[Order] = []
        self.fault: EdgewardenError | None = None
        self._sights: list[Sight | EdgewardenError] = []
        self._ours, self._its = os.pipe()

    def submit(self, order: Order) -> None:
        self.orders.append(order)
        if not self.hold:
            self.finish()

    def finish(self) -> None:
        order = self.orders[-1]
        self._sights.append(self.fault or self.look(order.mode, order.table))
        os.write(self._its, b"!")

    def take(self) -> list[Sight | EdgewardenError]:
        if self._sights:
            os.read(self._ours, 4096)
        taken, self._sights = self._sights, []
        return taken

    def fileno(self) -> int:
        return self._ours

    def close(self) -> None:
        os.close(self._ours)
        os.close(self._its)


class Loop:
    """What of gate's loop matters here, with a clock of its own."""

    def __init__(self, world: World, *, deaf: bool = False) -> None:
        self.world = world
        self.now_s = 100.0
        self.put: list[AnyMessage] = []
        self.watched: dict[int, Callable[[int], None]] = {}
        self.runner = Inline(world.plugs.look)
        self.kernel = InjectedUevents() if deaf else world.tree.listen()
        self.rules: bytes | None = compile_table(world.table.devices, world.table.ports)
        self.area = Peripherals(
            runner=self.runner,
            listen=self._deaf if deaf else lambda: Uevents(self.kernel),
            read_table=self._read,
            forward=Forward(lambda name: None, lambda name, data: ""),
            watch=lambda fd, handler: self.watched.update({fd: handler}),
            forget=lambda fd: self.watched.pop(fd, None),
            put=self.put.append,
            boot_ns=lambda: int(self.now_s * 1e9),
            mono_s=lambda: self.now_s,
        )

    def _deaf(self) -> Uevents:
        raise HardwareFault("no netlink")

    def _read(self, name: str, most: int) -> bytes:
        if self.rules is None:
            raise FileNotFoundError(name)
        return self.rules[: most + 1]

    def turn(self, seconds: float = 0.0) -> int:
        """Let time pass and do one round; returns the looks that began."""
        self.now_s += seconds
        before = len(self.runner.orders)
        self.area.on_uevents(0)
        self.area.tick(self.now_s)
        self.area.on_sights(0)
        self.world.tree.settle()
        return len(self.runner.orders) - before

    def quiet(self) -> None:
        """Rounds until nothing follows from anything."""
        for _ in range(10):
            if not self.turn(GAP_S):
                return

    def alarms(self) -> list[str]:
        return [m.code for m in self.put if isinstance(m, Alarm)]

    def verdicts(self, place: str) -> list[str]:
        return [
            m.decision for m in self.put if isinstance(m, PeripheralVerdict) and m.place == place
        ]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


@pytest.fixture
def loop(world: World) -> Iterator[Loop]:
    made = Loop(world)
    yield made
    made.runner.close()
    made.kernel.close()


def test_u1_plugged_in_under_enforce_it_is_judged_at_the_kernels_word(loop: Loop) -> None:
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    loop.world.tree.plug("keyboard", "1-1.4")
    loop.world.tree.plug("ftdi", "1-1.2")
    loop.quiet()
    assert loop.world.tree.authorized() == {"1-1": "1", "1-1.4": "0", "1-1.2": "1"}
    assert loop.verdicts("1-1.4") == ["deny"]
    assert loop.verdicts("1-1.2") == ["allow"]
    stats = loop.area.stats()
    assert (stats.mode, stats.armed, stats.denied, stats.why_not) == ("enforce", True, 1, "")
    assert local.parse(local.encode(stats), local.AreaStats) == stats


def test_a_storm_of_messages_is_a_few_looks(loop: Loop) -> None:
    loop.quiet()
    looks = 0
    for _ in range(100):
        for _ in range(50):
            loop.kernel.inject(PLUG)
        looks += loop.turn(0.01)
    assert looks <= 1 / GAP_S + 1
    assert loop.area.events >= 5000
    loop.quiet()
    assert loop.turn(GAP_S) == 0


@pytest.mark.parametrize(
    ("path", "subsystem", "looks"),
    [
        ("devices/system/cpu/cpu0", "cpu", 0),
        ("devices/virtual/block/loop0", "block", 0),
        ("devices/virtual/block/dm-0", "block", 1),
        ("devices/x/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sda", "block", 1),
    ],
)
def test_messages_that_concern_nobody_cause_no_look(
    loop: Loop, path: str, subsystem: str, looks: int
) -> None:
    loop.quiet()
    loop.kernel.inject(uevent("change", path, subsystem))
    assert loop.turn(GAP_S) == looks


def test_a_lost_message_is_a_look(loop: Loop) -> None:
    loop.quiet()
    loop.kernel.drop()
    assert loop.turn(GAP_S) == 1
    assert loop.area.lost == 1


def test_u5_what_was_plugged_in_while_messages_were_lost_is_judged(loop: Loop) -> None:
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    loop.world.tree._listeners.clear()  # from here on the kernel's messages do not arrive
    loop.world.tree.plug("keyboard", "1-1.4")
    assert loop.turn(GAP_S) == 0
    loop.kernel.drop()
    loop.quiet()
    assert loop.verdicts("1-1.4") == ["deny"]


def test_without_messages_there_is_a_look_each_minute(world: World) -> None:
    loop = Loop(world, deaf=True)
    assert loop.alarms() == ["EW-USB-005"]
    loop.turn()
    assert loop.turn(LOOK_S - 1) == 0
    assert loop.turn(1.5) == 1
    loop.runner.close()
    loop.kernel.close()


def test_one_look_at_a_time_and_none_is_forgotten(loop: Loop) -> None:
    loop.quiet()
    loop.runner.hold = True
    loop.kernel.inject(PLUG)
    assert loop.turn(GAP_S) == 1
    loop.kernel.inject(PLUG)
    assert loop.turn(GAP_S) == 0
    loop.runner.finish()
    loop.area.on_sights(0)
    assert loop.turn(GAP_S) == 1


def test_a_driver_that_does_not_answer_is_said(loop: Loop) -> None:
    loop.quiet()
    loop.runner.hold = True
    loop.area.settle("enforce")
    loop.turn()
    loop.turn(SLOW_S + 1)
    stats = loop.area.stats()
    assert not stats.armed
    assert "does not answer" in stats.why_not


def test_a_look_that_fails_is_an_alarm_and_not_the_last(loop: Loop) -> None:
    loop.runner.fault = HardwareFault("the bus is on fire", code="EW-USB-002")
    loop.turn()
    assert loop.alarms() == ["EW-USB-002"]
    loop.runner.fault = None
    loop.kernel.inject(PLUG)
    assert loop.turn(GAP_S) == 1


def name_of(area: Peripherals) -> str:
    with pytest.raises(OperatorFault) as caught:
        area.apply("enforce", 600)
    assert caught.value.code == "EW-USB-007"
    assert caught.value.next_step
    return str(caught.value.fields["name"])


def test_enforce_is_refused_before_the_first_look(loop: Loop) -> None:
    loop.runner.hold = True
    assert name_of(loop.area) == "not_yet"


def test_enforce_is_refused_where_no_rule_allows_anything(loop: Loop) -> None:
    loop.rules = compile_table((), ())
    loop.area.reload()
    loop.quiet()
    assert name_of(loop.area) == "no_rules"
    assert loop.area.stats().mode == "learn"


def test_enforce_is_refused_where_the_uplink_cannot_be_told(loop: Loop) -> None:
    loop.world.tree.network("ppp0", kind=512)
    loop.world.tree.routes("ppp0")
    loop.world.tree.plug("cp210x", "1-1.3")
    loop.quiet()
    assert name_of(loop.area) == "uplink_unknown"
    loop.world.tree.unplug("1-1.3")
    loop.quiet()
    assert loop.area.apply("enforce", 0) == "nothing is refused now"


def test_enforce_is_refused_where_a_network_adapter_would_go_that_may_be_the_uplink(
    loop: Loop,
) -> None:
    loop.world.tree.plug("nic", "2-2")
    loop.world.tree.routes()
    loop.quiet()
    assert name_of(loop.area) == "uplink_unknown"
    loop.world.tree.routes("eth1")
    loop.turn(LOOK_S)
    loop.quiet()
    assert loop.area.apply("enforce", 0) == "nothing is refused now"


@pytest.mark.needs("root")
def test_enforce_is_refused_where_usbguard_decides(loop: Loop) -> None:
    loop.world.tree.process(77, "usbguard-daemon")
    loop.quiet()
    assert name_of(loop.area) == "not_possible"


def test_enforce_says_what_it_refuses_now(loop: Loop) -> None:
    loop.world.tree.plug("keyboard", "1-1.4")
    loop.quiet()
    assert loop.area.apply("enforce", 600) == "refused now: 1-1.4 (Dell USB Keyboard)"


def test_new_rules_are_taken_and_bad_ones_refused(loop: Loop) -> None:
    loop.world.tree.plug("keyboard", "1-1.4")
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    assert loop.world.tree.authorized()["1-1.4"] == "0"
    more = table(
        '[[device]]\nname = "hub"\nid = "2109:*"\ninterfaces = ["09/00/*"]\n'
        '[[device]]\nname = "kb"\nid = "413c:2010"\ninterfaces = ["03/*/*"]\n'
    )
    loop.rules = compile_table(more.devices, more.ports, generation=2)
    assert loop.area.reload() == "2 rules about devices, 0 about ports"
    loop.quiet()
    assert loop.world.tree.authorized()["1-1.4"] == "1"
    loop.rules = b"EWPERI_1 and no more"
    with pytest.raises(OperatorFault) as caught:
        loop.area.reload()
    assert caught.value.code == "EW-USB-006"
    assert loop.area.stats().generation == 2


def test_m5_rules_of_a_lower_generation_are_refused_by_name(loop: Loop) -> None:
    loop.rules = compile_table((), (), generation=2)
    loop.area.reload()
    loop.rules = compile_table(loop.world.table.devices, (), generation=1)
    with pytest.raises(OperatorFault) as caught:
        loop.area.reload()
    assert (caught.value.code, caught.value.fields["name"]) == ("EW-EXEC-017", "older")
    assert loop.area.stats().generation == 2
    loop.area.reload(older=True)
    assert loop.area.stats().generation == 1


def test_without_a_table_nothing_is_allowed_and_nothing_said(loop: Loop) -> None:
    loop.rules = None
    assert loop.area.reload() == "no rules about peripherals"
    assert EMPTY.devices == ()


def test_enforce_without_a_table_takes_nothing_away_and_says_so(loop: Loop) -> None:
    """A lost file after a restart must not take every sensor away."""
    loop.rules = None
    again = Loop(loop.world)
    again.rules = None
    again.area._table = EMPTY
    loop.world.tree.plug("keyboard", "1-1.4")
    again.area.settle("enforce")
    again.quiet()
    assert loop.world.tree.authorized()["1-1.4"] == "1"
    assert loop.world.tree.defaults() == {"usb1": "1", "usb2": "1"}
    assert again.alarms() == ["EW-USB-007"]
    assert "no table" in again.area.stats().why_not
    again.runner.close()
    again.kernel.close()


@pytest.mark.needs("root")
def test_enforce_that_no_longer_holds_is_one_alarm(loop: Loop) -> None:
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    assert loop.alarms() == []
    loop.world.tree.process(77, "usbguard-daemon")
    for _ in range(3):
        loop.kernel.inject(PLUG)
        loop.quiet()
    assert loop.alarms() == ["EW-USB-007"]
    stats = loop.area.stats()
    assert (stats.armed, stats.mode) == (False, "enforce")
    assert "usbguard" in stats.why_not


class Spoken:
    """Where a person's word is kept."""

    def asked(self, area: str) -> str:
        return "observe"

    def keep(self, area: str, mode: str) -> str:
        return "kept"


def test_l2_u4_a_trial_that_nobody_confirms_puts_everything_back(loop: Loop) -> None:
    loop.world.tree.plug("keyboard", "1-1.4")
    modes = Modes(
        {"peripherals": loop.area}, files=Spoken(), alarm=lambda *_: None, mono_s=lambda: loop.now_s
    )
    modes.start()
    loop.quiet()
    words = modes.ask("peripherals", "enforce", 600, SOMEBODY)
    assert "refused now: 1-1.4 (Dell USB Keyboard)" in words
    loop.quiet()
    assert loop.world.tree.authorized()["1-1.4"] == "0"
    loop.now_s += 601
    modes.look()
    loop.quiet()
    assert loop.area.stats().mode == "observe"
    assert loop.world.tree.authorized()["1-1.4"] == "1"
    assert loop.world.tree.defaults() == {"usb1": "1", "usb2": "1"}


def test_l3_a_ceiling_puts_everything_back(loop: Loop) -> None:
    loop.world.tree.plug("keyboard", "1-1.4")
    modes = Modes(
        {"peripherals": loop.area}, files=Spoken(), alarm=lambda *_: None, mono_s=lambda: loop.now_s
    )
    modes.start()
    loop.quiet()
    modes.ask("peripherals", "enforce", 0, SOMEBODY)
    loop.quiet()
    modes.hold_down("peripherals", "two boots in a row did not become healthy")
    loop.quiet()
    assert loop.world.tree.authorized()["1-1.4"] == "1"
    assert loop.world.tree.defaults() == {"usb1": "1", "usb2": "1"}


def test_u4_stopping_puts_everything_back(loop: Loop) -> None:
    loop.world.tree.plug("keyboard", "1-1.4")
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    assert loop.world.tree.defaults() == {"usb1": "2", "usb2": "2"}
    loop.area.stop(lambda: None)
    assert loop.world.tree.defaults() == {"usb1": "1", "usb2": "1"}
    assert loop.world.tree.authorized()["1-1.4"] == "1"


def test_u4_a_stop_waits_no_longer_than_its_bound_and_beats_meanwhile(loop: Loop) -> None:
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    loop.runner.hold = True
    started = loop.now_s

    class Clock:
        def __call__(self) -> float:
            loop.now_s += 0.5
            return loop.now_s

    loop.area._mono_s = Clock()
    beats_s = [loop.now_s]
    loop.area.stop(lambda: beats_s.append(loop.now_s))
    assert loop.now_s - started <= STOP_S + 2
    beats_s.append(loop.now_s)
    gaps_s = [later - earlier for earlier, later in pairwise(beats_s)]
    assert max(gaps_s) < SILENCE_S, "guard would end gate before everything is back"


def test_refused_again_and_again_is_one_alarm_and_an_exact_count(loop: Loop) -> None:
    """Through the ledger that every fact of gate's goes through."""
    loop.quiet()
    loop.area.apply("enforce", 0)
    loop.quiet()
    for _ in range(30):
        loop.world.tree.plug("keyboard", "1-1.4")
        loop.quiet()
        loop.world.tree.unplug("1-1.4")
        loop.quiet()
    ledger, told = Ledger(), list[AnyMessage]()

    def send(data: bytes) -> bool:
        told.append(local.parse(data, *local.FACTS))
        return True

    for message in loop.put:
        ledger.take(message)
    ledger.tell(send, 0.0, all_now=True)
    denials = [m for m in told if getattr(getattr(m, "message", m), "decision", "") == "deny"]
    assert [type(m) for m in denials] == [PeripheralVerdict, Repeated]
    assert isinstance(denials[1], Repeated)
    assert denials[1].count == 29
    assert loop.area.stats().denied == 30


def test_a_loop_that_ends_while_the_second_thread_looks_is_called_no_more(world: World) -> None:
    begun, ended = threading.Event(), threading.Event()

    def look(mode: str, rules: PeripheralTable) -> Sight:
        begun.set()
        assert ended.wait(10)
        return world.plugs.look(mode, rules)

    background = Background(look)
    background.submit(Order("observe", world.table))
    assert begun.wait(10)
    background.end()
    ended.set()
    wait_until(lambda: not Path(f"/proc/self/fd/{background._its}").exists())


def test_the_second_thread_looks_and_calls_the_loop(world: World) -> None:
    threads = []

    def look(mode: str, rules: PeripheralTable) -> Sight:
        threads.append(threading.get_ident())
        if mode == "learn":
            raise ValueError("a device nobody thought of")
        return world.plugs.look(mode, rules)

    background = Background(look)
    taken: list[Sight | EdgewardenError] = []
    background.submit(Order("learn", world.table))
    wait_until(lambda: taken.extend(background.take()) or len(taken) == 1)
    background.submit(Order("observe", world.table))
    wait_until(lambda: taken.extend(background.take()) or len(taken) == 2)
    assert isinstance(taken[0], HardwareFault)
    assert "a device nobody thought of" in taken[0].text
    assert isinstance(taken[1], Sight)
    assert threading.get_ident() not in threads
    background.end()
