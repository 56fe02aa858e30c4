"""A gate's view of a recorded tree: looks, and what came of them."""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.judge.peripherals_table import PeripheralTable
from edgewarden.plugs.look import Plugs, Sight
from edgewarden.plugs.memory import PlugMemory
from edgewarden.sense.usb import SysTree, open_tree
from edgewarden.settings.policy import load_policy
from edgewarden.settings.source import SourceFile
from edgewarden.wire.peripherals import PeripheralVerdict
from hw.rigs.usbtree import UsbTree

BOOT = "0" * 36
PI = "platform-fd500000.pcie-pci-0000:01:00.0-usb-0"

RULES = f"""
[[device]]
name = "hub"
id = "2109:3431"
interfaces = ["09/00/00", "09/00/01"]

[[device]]
name = "meter"
id = "0403:6001"
serial = "A100Y922"
interfaces = ["ff/ff/ff"]
port = "1-1.2"

[[device]]
name = "gps"
id = "1546:01a7"
interfaces = ["02/02/01", "0a/00/ff"]

[[port]]
name = "meter-port"
path = "{PI}:1.2:1.0-port0"
driver = "ftdi_sio"
device = "meter"
"""


def table(text: str = RULES, generation: int = 1) -> PeripheralTable:
    policy = load_policy(SourceFile("policy.toml", text))
    devices = tuple(rule.compiled() for rule in policy.device)
    return PeripheralTable(devices, tuple(rule.compiled() for rule in policy.port), generation)


class Kept:
    """Files in memory, as state/policy holds them."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.full = False

    def load(self, name: str) -> bytes:
        if name not in self.files:
            raise FileNotFoundError(name)
        return self.files[name]

    def save(self, name: str, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        self.files[name] = data


class World:
    """A Raspberry Pi 4, and a gate that looks at it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.tree = UsbTree(folder)
        self.kept = Kept()
        self.now_ns = 1_000_000_000
        self.table = table()
        self.view: SysTree = open_tree(str(self.tree.sys), str(self.tree.proc))
        self.plugs = self.start()

    def start(self, boot: str = BOOT) -> Plugs:
        """Another gate: on the same boot, as after a kill, or on another one."""
        self.plugs = Plugs(self.view, PlugMemory(self.kept, boot), lambda: self.now_ns)
        return self.plugs

    def look(self, mode: str = "enforce") -> Sight:
        """Look until the kernel has nothing more to do; verdicts and alarms of all looks."""
        self.now_ns += 1_000_000_000
        sights = []
        for _ in range(5):
            sights.append(self.plugs.look(mode, self.table))
            before = self.tree.authorized()
            self.tree.settle()
            if len(sights) > 1 and not sights[-1].verdicts and self.tree.authorized() == before:
                break
        verdicts = tuple(v for s in sights for v in s.verdicts)
        alarms = tuple(a for s in sights for a in s.alarms)
        last = sights[-1]
        given = {name: getattr(last, name) for name in Sight.__slots__}
        return Sight(**{**given, "verdicts": verdicts, "alarms": alarms})

    def close(self) -> None:
        os.close(self.view.sys_fd)
        os.close(self.view.proc_fd)


def said(sight: Sight, place: str) -> list[tuple[str, str, str]]:
    """(decision, rule, reason) of each verdict on one device or port."""
    return [(v.decision, v.rule, v.reason) for v in sight.verdicts if v.place == place]


def one(sight: Sight, place: str) -> PeripheralVerdict:
    (found,) = [v for v in sight.verdicts if v.place == place]
    return found
