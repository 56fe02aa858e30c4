"""U1 to U5 on a recorded Raspberry Pi 4: what is written into its sysfs, what is told, and what is
put back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgewarden.judge.peripherals_table import EMPTY
from edgewarden.plugs.look import HOLD_NS
from edgewarden.plugs.memory import ADAPTERS_NAME, BEFORE_NAME, PlugMemory
from hw.rigs.usbtree import SD_MOUNTS, USB_MOUNTS, records
from tests.plugs.plugged import BOOT, PI, RULES, Kept, World, one, said, table

OPEN = {"usb1": "1", "usb2": "1"}
CLOSED = {"usb1": "2", "usb2": "2"}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.close()


def test_u1_an_unknown_keyboard_is_kept_out(world: World) -> None:
    world.look()
    assert world.tree.defaults() == CLOSED
    world.tree.plug("keyboard", "1-1.4")
    assert world.tree.authorized()["1-1.4"] == "0", "the kernel waits for a verdict"
    sight = world.look()
    assert said(sight, "1-1.4") == [("deny", "", "unlisted")]
    assert one(sight, "1-1.4").effective
    assert world.tree.authorized()["1-1.4"] == "0"
    assert not list((world.tree.sys / "bus/usb/devices").glob("1-1.4:*"))


def test_u1_a_keyboard_that_was_there_before_is_taken_away(world: World) -> None:
    world.tree.plug("keyboard", "1-1.4")
    assert world.tree.authorized()["1-1.4"] == "1"
    sight = world.look()
    assert said(sight, "1-1.4") == [("deny", "", "unlisted")]
    assert world.tree.authorized()["1-1.4"] == "0"


def test_u1_a_known_serial_is_let_in_on_its_port_only(world: World) -> None:
    world.look()
    world.tree.plug("ftdi", "1-1.2")
    assert said(world.look(), "1-1.2") == [("allow", "meter", "rule")]
    assert world.tree.authorized()["1-1.2"] == "1"
    assert (world.tree.sys / "class/tty/ttyUSB0").exists()
    world.tree.unplug("1-1.2")
    world.tree.plug("ftdi", "1-1.3")
    sight = world.look()
    assert said(sight, "1-1.3") == [("deny", "meter", "other_port")]
    assert world.tree.authorized()["1-1.3"] == "0"


def test_u2_the_same_adapter_with_a_keyboard_is_kept_out(world: World) -> None:
    world.look()
    world.tree.plug("badusb", "1-1.2")
    sight = world.look()
    assert said(sight, "1-1.2") == [("deny", "meter", "other_interfaces")]
    assert "03/01/01" in one(sight, "1-1.2").text
    assert world.tree.authorized()["1-1.2"] == "0"


def test_u2_swapped_while_it_is_judged_the_other_one_is_not_let_in(world: World) -> None:
    """The adapter is read, then pulled out and a BadUSB put in its place before the write."""
    world.look()
    world.tree.plug("ftdi", "1-1.2")
    opened = world.view.open
    swapped = False

    def swap(directory: int, name: str, flags: int) -> int:
        nonlocal swapped
        if name == "authorized" and flags & os.O_WRONLY and not swapped:
            swapped = True
            world.tree.unplug("1-1.2")
            world.tree.plug("badusb", "1-1.2")
        return opened(directory, name, flags)

    world.view.open = swap  # type: ignore[method-assign]
    world.plugs.look("enforce", world.table)
    assert swapped
    assert world.tree.authorized()["1-1.2"] == "0"
    world.look()
    assert world.tree.authorized()["1-1.2"] == "0"


def test_u3_boot_disk_uplink_console_and_hubs_are_never_touched(world: World) -> None:
    for name, port in (("disk", "2-1"), ("nic", "2-2"), ("cp210x", "1-1.1"), ("keyboard", "1-1.4")):
        world.tree.plug(name, port)
    world.tree.mounts(USB_MOUNTS)
    world.tree.routes("eth1")
    world.tree.console("tty1", "ttyUSB0")
    world.table = EMPTY  # no rule at all
    before = world.tree.authorized()
    sight = world.look()
    assert before | {"1-1.4": "0"} == world.tree.authorized()
    assert {v.place: (v.decision, v.reason) for v in sight.verdicts if v.kind == "device"} == {
        "2-1": ("allow", "boot_disk"), "2-2": ("allow", "uplink"), "1-1.1": ("allow", "console"),
        "1-1": ("allow", "on_the_way"), "1-1.4": ("deny", "unlisted"),
    }  # fmt: skip
    assert all(world.tree.read(hub, "authorized") == "1" for hub in OPEN)


def test_u3_a_deny_rule_does_not_reach_what_is_pinned(world: World) -> None:
    world.tree.plug("disk", "2-1")
    world.tree.mounts(USB_MOUNTS)
    world.table = table('[[device]]\nname = "no"\naction = "deny"\ninterfaces = ["*/*/*"]\n')
    world.look()
    assert world.tree.authorized() == {"1-1": "0", "2-1": "1"}


def test_u3_the_consoles_port_is_not_taken_away_by_a_port_rule(world: World) -> None:
    world.tree.plug("ublox", "1-1.3")
    world.tree.console("tty1", "ttyACM0")
    world.table = table(RULES + f'[[port]]\nname = "no"\naction = "deny"\npath = "{PI}:1.3:1.0"\n')
    sight = world.look()
    assert (world.tree.sys / "bus/usb/devices/1-1.3:1.0/authorized").read_text() == "1\n"
    assert ("would_deny", "no", "deny_rule") in said(sight, f"{PI}:1.3:1.0")


def test_u4_leaving_enforce_puts_everything_back(world: World) -> None:
    world.tree.plug("keyboard", "1-1.4")
    world.look()
    world.tree.plug("ch340", "1-1.3")
    world.look()
    assert world.tree.authorized() == {"1-1": "1", "1-1.4": "0", "1-1.3": "0"}
    world.look("observe")
    assert world.tree.defaults() == OPEN
    assert world.tree.authorized() == {"1-1": "1", "1-1.4": "1", "1-1.3": "1"}


def test_u4_what_somebody_else_kept_out_stays_out(world: World) -> None:
    world.tree.plug("keyboard", "1-1.4")
    (world.tree.sys / "bus/usb/devices/1-1.4/authorized").write_text("0\n")
    (world.tree.sys / "bus/usb/devices/usb2/authorized_default").write_text("0\n")
    world.tree.settle()
    world.look()
    assert world.tree.defaults() == {"usb1": "2", "usb2": "0"}
    world.look("observe")
    assert world.tree.defaults() == {"usb1": "1", "usb2": "0"}
    assert world.tree.authorized()["1-1.4"] == "0"


def test_u4_a_gate_that_was_killed_leaves_enough_to_put_back(world: World) -> None:
    world.tree.plug("keyboard", "1-1.4")
    world.look()
    world.start()  # killed: nothing was put back
    assert world.tree.defaults() == CLOSED
    world.look()  # enforces on, and takes its own doing for no original
    world.look("observe")
    assert world.tree.defaults() == OPEN
    assert world.tree.authorized()["1-1.4"] == "1"


def test_u4_another_boot_has_nothing_to_put_back(world: World) -> None:
    world.look()
    memory = PlugMemory(world.kept, "another boot")
    assert memory.before.is_empty
    assert not PlugMemory(world.kept, BOOT).before.is_empty


def test_u4_nothing_is_changed_that_cannot_be_remembered(world: World) -> None:
    world.tree.plug("keyboard", "1-1.4")
    world.kept.full = True
    sight = world.look()
    assert not sight.armed
    assert "remembered" in sight.why_not
    assert world.tree.defaults() == OPEN
    assert world.tree.authorized()["1-1.4"] == "1"


def test_u4_a_refused_port_is_let_in_again(world: World) -> None:
    world.table = table(RULES + f'[[port]]\nname = "no"\naction = "deny"\npath = "{PI}:1.3:1.0"\n')
    world.tree.plug("ublox", "1-1.3")
    world.look()
    interface = world.tree.sys / "bus/usb/devices/1-1.3:1.0/authorized"
    assert interface.read_text().strip() == "0"
    assert world.tree.authorized()["1-1.3"] == "1"
    (world.tree.sys / "bus/usb/drivers_probe").write_text("")
    world.look("observe")
    assert interface.read_text().strip() == "1"
    assert (world.tree.sys / "bus/usb/drivers_probe").read_text() == "1-1.3:1.0"


def test_u5_the_same_device_again_has_the_same_verdict_and_is_told_once(world: World) -> None:
    world.look()
    world.tree.plug("ftdi", "1-1.2")
    first = world.look()
    assert said(first, "1-1.2") == [("allow", "meter", "rule")]
    told = []
    for _ in range(20):  # a loose plug
        world.tree.unplug("1-1.2")
        world.tree.plug("ftdi", "1-1.2")
        told += list(world.look().verdicts)
        assert world.tree.authorized()["1-1.2"] == "1"
    devices = [v for v in told if v.kind == "device"]
    assert [v.decision for v in devices].count("allow") == 0
    world.now_ns += HOLD_NS
    world.tree.unplug("1-1.2")
    world.tree.plug("ftdi", "1-1.2")
    assert ("allow", "meter", "rule") in said(world.look(), "1-1.2")


def test_u5_a_resume_that_keeps_the_device_is_no_news(world: World) -> None:
    world.tree.plug("ftdi", "1-1.2")
    world.look()
    assert world.look().verdicts == ()


def test_u5_the_uplink_comes_back_after_it_lost_contact(world: World) -> None:
    """Without a rule: pinned by what it was. The kernel lets nothing in by itself any more."""
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.routes()
    world.look()
    world.tree.plug("nic", "2-2")
    assert world.tree.authorized()["2-2"] == "0"
    world.look()
    assert world.tree.authorized()["2-2"] == "1"


NEXT_BOOT = "1" * 36


@pytest.mark.parametrize("port", ["2-2", "1-2"])  # buses are numbered anew at each boot
def test_u5_the_uplink_is_not_cut_at_a_boot_before_it_has_a_route(world: World, port: str) -> None:
    """gate starts before DHCP has answered: nothing says yet that this is the uplink."""
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    assert world.tree.authorized()["2-2"] == "1"
    world.tree.unplug("2-2")
    for hub in OPEN:  # the kernel begins anew
        (world.tree.sys / f"bus/usb/devices/{hub}/authorized_default").write_text("1\n")
    world.tree.routes()
    world.tree.plug("nic", port)
    real = world.view.link

    def renamed(name: str) -> str:  # another kernel, whose device tree names the controller anew
        return real(name).replace("fd500000.pcie", "1000110000.pcie")

    world.view.link = renamed  # type: ignore[method-assign]
    world.start(NEXT_BOOT)
    sight = world.look()
    assert said(sight, port) == [("allow", "", "uplink")]
    assert world.tree.authorized()[port] == "1"


def test_u5_the_uplink_that_loses_contact_while_gate_is_gone_is_let_in(world: World) -> None:
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.plug("nic", "2-2")
    world.tree.routes()
    assert world.tree.authorized()["2-2"] == "0"
    world.start()
    world.look()
    assert world.tree.authorized()["2-2"] == "1"


@pytest.mark.parametrize(("between_s", "let_in"), [(3, "1"), (90, "0")])
def test_u5_a_modem_that_shows_a_disk_first_is_let_in_as_that_at_the_next_boot(
    world: World, between_s: int, let_in: str
) -> None:
    """usb_modeswitch needs the disk; what left the place long before was something else."""
    world.tree.plug("disk", "2-2")
    world.look("observe")
    world.tree.unplug("2-2")
    world.look("observe")
    world.now_ns += between_s * 1_000_000_000
    world.tree.plug("nic", "2-2")
    world.look("observe")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.routes()
    world.start(NEXT_BOOT)
    world.tree.plug("disk", "2-2")
    world.look()
    assert world.tree.authorized()["2-2"] == let_in


def test_u5_a_modem_that_changes_between_two_looks_is_known_as_both(world: World) -> None:
    world.tree.plug("disk", "2-2")
    world.look("observe")
    world.tree.unplug("2-2")
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.plug("disk", "2-2")
    world.tree.routes()
    world.look()
    assert world.tree.authorized()["2-2"] == "1"


def test_u5_the_uplink_is_known_at_another_speed_but_not_with_a_keyboard(world: World) -> None:
    """A worn cable: the same adapter as USB 2 has other descriptors, and offers the same."""
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.routes()
    record = records()["nic"]
    usb2 = [0x0200, *record["device"][1:]]
    world.tree.plug("nic", "2-2", device=usb2)
    world.look()
    assert world.tree.authorized()["2-2"] == "1"
    world.tree.unplug("2-2")
    first, *others = record["config"]
    keyboard = {**first, "interfaces": [*first["interfaces"], [1, 0, 3, 1, 1, []]]}
    world.tree.plug("nic", "2-2", config=[keyboard, *others])
    world.look()
    assert world.tree.authorized()["2-2"] == "0"


def test_a_bus_that_cannot_be_closed_keeps_nobody_out_of_the_others(world: World) -> None:
    """Not all buses closed: nothing is refused, and what comes to a closed one must be let in."""
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    stuck = world.tree.sys / "bus/usb/devices/usb1/authorized_default"
    stuck.unlink()
    stuck.mkdir()
    (stuck / "x").mkdir()
    world.tree.unplug("2-2")
    world.tree.plug("nic", "2-2")
    world.tree.plug("keyboard", "2-1")
    sight = world.look()
    assert not sight.armed
    assert world.tree.authorized()["2-2"] == "1"
    assert said(sight, "2-1") == [("would_deny", "", "unlisted")]


def test_what_was_pinned_once_and_is_not_now_can_be_denied_by_a_rule(world: World) -> None:
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.routes("eth0")
    world.table = table(RULES + '[[device]]\nname = "no"\naction = "deny"\nport = "2-2"\n', 2)
    assert said(world.look(), "2-2") == [("deny", "no", "deny_rule")]


def test_what_is_pinned_without_enforce_is_forgotten_with_gate(world: World) -> None:
    """Who plugs in a network adapter while everything is let in does not stay the uplink."""
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look("observe")
    world.start()
    world.tree.routes("eth0")
    assert said(world.look(), "2-2") == [("deny", "", "unlisted")]


def test_damaged_pins_are_an_alarm_and_not_believed(world: World) -> None:
    world.kept.files["usb.pins"] = b"EWUSBPN1 and more"
    world.start()
    assert "EW-USB-004" in [code for code, _, _ in world.look().alarms]


def test_the_consoles_adapter_is_known_to_a_port_rule(world: World) -> None:
    """What is pinned has no rule that let it in, and was an alarm: another adapter."""
    world.tree.plug("ftdi", "1-1.2")
    world.tree.console("tty1", "ttyUSB0")
    sight = world.look()
    assert said(sight, "1-1.2") == [("allow", "", "console")]
    assert said(sight, f"{PI}:1.2:1.0-port0") == [("allow", "meter-port", "rule")]
    assert not sight.alarms


def test_u5_another_adapter_at_the_uplinks_port_is_not_the_uplink(world: World) -> None:
    world.tree.plug("nic", "2-2")
    world.tree.routes("eth1")
    world.look()
    world.tree.unplug("2-2")
    world.tree.plug("nic", "2-2", strings=["Realtek", "USB 10/100/1000 LAN", "000001"])
    world.look()
    assert world.tree.authorized()["2-2"] == "0"


def test_u5_what_somebody_let_in_behind_our_back_is_kept_out_again(world: World) -> None:
    world.look()
    world.tree.plug("keyboard", "1-1.4")
    world.look()
    (world.tree.sys / "bus/usb/devices/1-1.4/authorized").write_text("1\n")
    world.tree.settle()
    sight = world.look()
    assert said(sight, "1-1.4") == [("deny", "", "unlisted")]
    assert world.tree.authorized()["1-1.4"] == "0"


@pytest.mark.needs("root")
def test_where_usbguard_runs_nothing_is_written_and_everything_told(world: World) -> None:
    world.tree.process(77, "usbguard-daemon")
    os.chown(world.tree.proc / "77", 0, 0)
    world.tree.plug("keyboard", "1-1.4")
    sight = world.look()
    assert said(sight, "1-1.4") == [("would_deny", "", "unlisted")]
    assert (sight.armed, sight.usbguard) == (False, 77)
    assert "usbguard" in sight.why_not
    assert world.tree.defaults() == OPEN
    assert world.tree.authorized()["1-1.4"] == "1"


@pytest.mark.parametrize(("mode", "word"), [("learn", "learned"), ("observe", "would_deny")])
def test_other_modes_touch_nothing(world: World, mode: str, word: str) -> None:
    world.tree.plug("keyboard", "1-1.4")
    sight = world.look(mode)
    assert said(sight, "1-1.4") == [(word, "", "unlisted")]
    assert world.tree.authorized() == {"1-1": "1", "1-1.4": "1"}
    assert world.tree.defaults() == OPEN
    assert BEFORE_NAME not in world.kept.files
    assert sight.refused == ("1-1.4 (Dell USB Keyboard)",)


def test_another_adapter_at_the_same_port_is_an_alarm_also_over_a_restart(world: World) -> None:
    world.tree.plug("ftdi", "1-1.2")
    assert world.look("observe").alarms == ()
    world.tree.unplug("1-1.2")
    world.start()
    world.tree.plug("cp210x", "1-1.2")
    alarms = world.look("observe").alarms
    assert [code for code, _, _ in alarms] == ["EW-USB-003", "EW-USB-003"]
    assert any("10c4:ea60 serial 0001, was 0403:6001 serial A100Y922" in a[2] for a in alarms)
    assert any("driver cp210x, expected ftdi_sio by rule meter-port" in a[2] for a in alarms)
    assert world.look("observe").alarms == ()


def test_a_clone_with_the_same_serial_shows_by_its_descriptors(world: World) -> None:
    world.tree.plug("ftdi", "1-1.2")
    world.look("observe")
    world.tree.unplug("1-1.2")
    world.tree.plug("ftdi", "1-1.2", device=[0x0110, 0, 0, 0, 8, 0x0600])
    (alarm,) = world.look("observe").alarms
    assert "other descriptors" in alarm[2]


def test_damaged_memory_is_an_alarm_and_not_believed(world: World) -> None:
    kept = Kept()
    kept.files = {BEFORE_NAME: b"EWUSBST1" + b"x" * 60, ADAPTERS_NAME: b"what"}
    memory = PlugMemory(kept, BOOT)
    assert [code for code, _, _ in memory.alarms] == ["EW-USB-002", "EW-USB-004"]
    assert memory.before.is_empty


def test_an_unreadable_device_is_kept_out_and_named(world: World) -> None:
    world.look()
    world.tree.plug("ftdi", "1-1.2", blob=b"\x12\x01 garbage")
    sight = world.look()
    assert said(sight, "1-1.2") == [("deny", "", "unreadable")]
    assert world.tree.authorized()["1-1.2"] == "0"


def test_a_ppp_uplink_is_said_to_be_unknown(world: World) -> None:
    world.tree.network("ppp0", kind=512)
    world.tree.routes("ppp0")
    assert world.look("observe").unknown == ("ppp0",)


def test_a_machine_without_usb(tmp_path: Path) -> None:
    world = World(tmp_path)
    for port in ("usb1", "usb2"):
        world.tree.unplug(port)
    sight = world.look()
    assert (sight.armed, sight.why_not, sight.present) == (False, "this machine has no USB", 0)
    world.close()


def test_a_thousand_pluggings_leave_no_more_memory_than_ten(world: World) -> None:
    world.look()
    for i in range(60):
        serial = ["x", "y", f"serial-{i}"]
        world.tree.plug("cp210x", "1-1.2", strings=serial)
        world.look()
        world.tree.unplug("1-1.2")
    world.look()
    assert len(world.plugs._known) == 3
    assert len(world.plugs._memory.before.devices) == 0
    world.tree.mounts(SD_MOUNTS)
