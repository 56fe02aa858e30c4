"""L6, whole: every area enforces, with confinement on top, on a booted Debian. Stopped for good it
holds nobody; removed nothing of it is left: files, units, marks, nftables, sysctls, USB.

The guest has a network of its own for nftables, and gate a recorded sysfs for USB (hw/rigs/
usbtree.py) in place of /sys: this machine's is never written. No fleet is needed for any of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from hw.rigs.booted import Booted
from hw.rigs.usbtree import SD_CARD, UsbTree
from tests.boot import traces
from tests.boot.site import VERSIONS, Built, apt
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("root", "loop-mount", "nspawn", "debian-tree", "nft")

APPS, USB = "/srv/apps", "/opt/usb"
KNOWN, UNKNOWN = f"{APPS}/known", f"{APPS}/unknown"
KEYBOARD = "1-1.4"
SETTINGS = f"""\
[exec]
filesystems = ["{APPS}"]

[[confined]]
name = "plant"
unit = "plant.service"
"""
POLICY = """\
[[program]]
name = "known"
path = "/srv/apps/known"

[[egress]]
name = "broker"
uid = 4242
address = "192.0.2.7"
protocol = "tcp"
port = 8883

[[device]]
name = "gps"
id = "1546:01a7"
"""
PLANT = "[Service]\nType=exec\nExecStart=/usr/bin/sleep infinity\n"
INSTEAD_OF_SYS = f"""\
[Service]
BindPaths={USB}/sys:/sys
ReadWritePaths=/sys
MemoryPressureWatch=off
"""


class World:
    """The guest, and what of it a security agent could hold on to."""

    def __init__(self, guest: Booted) -> None:
        self.guest = guest
        self.usb = UsbTree(guest.path(USB))
        self.usb.plug("keyboard", KEYBOARD)
        device = guest.root.stat().st_dev  # what carries /, which gate must find
        number = f"{os.major(device)}:{os.minor(device)}"
        self.usb.disk("mmcblk9", number, f"{SD_CARD}9", {})

    def edgewarden(self, *words: str) -> str:
        return self.guest.run("edgewarden", *words)

    def starts(self, program: str) -> bool:
        done = self.guest.attempt("sh", "-c", f"{program}; exit $?")
        assert done.returncode in (0, 126), done.stderr
        return done.returncode == 0

    def nft(self) -> str:
        """The tables of the guest's own network namespace."""
        enter = ["nsenter", f"--target={self.guest.pid}", "--net", "nft", "list", "tables"]
        return subprocess.run(enter, capture_output=True, text=True, check=True).stdout

    def fanotify(self) -> list[str]:
        """Descriptors of the guest that hold a fanotify group."""
        line = "grep -l ^fanotify /proc/[0-9]*/fdinfo/* 2>/dev/null || :"
        return self.guest.run("sh", "-c", line).split()

    def sysctls(self) -> dict[str, str]:
        """What the kernel shows the guest of itself, but for counters of the moment."""
        names = ("fs/protected_fifos", "fs/protected_regular", "fs/suid_dumpable",
                 "kernel/io_uring_disabled", "kernel/kexec_load_disabled",
                 "kernel/yama/ptrace_scope", "kernel/unprivileged_bpf_disabled",
                 "kernel/perf_event_paranoid",
                 "kernel/dmesg_restrict", "kernel/kptr_restrict", "kernel/modules_disabled",
                 "user/max_user_namespaces", "vm/memfd_noexec", "vm/unprivileged_userfaultfd",
                 "net/core/bpf_jit_harden", "net/ipv4/tcp_syncookies")  # fmt: skip
        told = (self.guest.attempt("cat", f"/proc/sys/{name}").stdout for name in names)
        return dict(zip(names, told, strict=True))

    def units(self) -> str:
        """What systemd knows under our name, running or not, on the disk or not."""
        listed = ("--all", "--no-legend", "--no-pager", "--plain", "edgewarden*")
        return "".join(
            self.guest.attempt("systemctl", verb, *listed).stdout
            for verb in ("list-units", "list-unit-files")
        )

    def mounts(self) -> list[str]:
        """Each with its options but for a tmpfs's size: nspawn mounts /tmp with another than
        tmp.mount says, and systemd goes by its unit when a drop-in of ours comes and goes."""
        text = self.guest.run("cat", "/proc/1/mounts")
        return sorted(
            re.sub(r",(?:size|nr_inodes)=[0-9k]+", "", line) for line in text.splitlines()
        )

    def left_in_usb(self) -> dict[str, object]:
        return {"devices": self.usb.authorized(), "root hubs": self.usb.defaults()}


@pytest.fixture(scope="module")
def world(built: Built) -> Iterator[World]:
    with Booted(built.tree, disks=[APPS], own_network=True) as guest:
        for name in (KNOWN, UNKNOWN):
            shutil.copy(guest.path("/usr/bin/true"), guest.path(name))
        with guest.path(UNKNOWN).open("ab") as file:
            file.write(b"another program")
        guest.path("/etc/systemd/system/plant.service").write_text(PLANT)
        guest.path(f"{USB}/sys/fs/cgroup").mkdir(parents=True)  # which systemd protects
        drop_in = guest.path("/etc/systemd/system/edgewarden-gate.service.d")
        drop_in.mkdir()
        (drop_in / "instead-of-sys.conf").write_text(INSTEAD_OF_SYS)
        guest.run("systemctl", "start", "plant")
        yield World(guest)


@pytest.fixture(scope="module")
def before(world: World) -> dict[str, object]:
    """The gateway without us."""
    return picture(world)


def picture(world: World) -> dict[str, object]:
    world.guest.run("systemctl", "daemon-reload")
    world.guest.run("sync")
    return {
        "files": traces.look(world.guest.root),
        "apps": traces.look(world.guest.path(APPS + "/")),
        "units": [line for line in world.units().splitlines() if "instead" not in line],
        "fanotify": world.fanotify(),
        "nft": world.nft(),
        "sysctls": world.sysctls(),
        "mounts": world.mounts(),
        "usb": world.left_in_usb(),
        "confined": world.guest.run("systemctl", "show", "plant", "--property=NoExecPaths"),
    }


@pytest.fixture(scope="module")
def enforcing(world: World, before: dict[str, object], built: Built) -> World:
    """Installed, every area in enforce, confinement in place for good."""
    guest = world.guest
    guest.copy(built.deb("edgewarden", VERSIONS[0]), "/root/edgewarden.deb")
    apt(guest, "install", "/root/edgewarden.deb")
    guest.path("/var/lib/edgewarden/identity/current").mkdir(parents=True)
    guest.path("/etc/edgewarden/conf.d/50-site.toml").write_text(SETTINGS)
    guest.path("/etc/edgewarden/policy.toml").write_text(POLICY)
    world.edgewarden("policy", "learn", "--roots", APPS)
    guest.run("systemctl", "start", "edgewarden-guard.socket", "edgewarden-guard")
    guest.run("systemctl", "start", "edgewarden-gate")
    wait_until(lambda: guest.attempt("edgewarden", "policy", "show").returncode == 0, 120)
    for area in ((), ("peripherals",), ("network",)):
        world.edgewarden("policy", "enforce", *area)
    world.edgewarden("confine", "apply", "--restart")
    assert_enforced(world, before)
    return world


def assert_enforced(world: World, before: dict[str, object]) -> None:
    """Each of the things that must not be left is really there."""
    wait_until(lambda: not world.starts(UNKNOWN), 120)
    assert world.starts(KNOWN)
    wait_until(lambda: world.usb.authorized()[KEYBOARD] == "0", 120)
    wait_until(lambda: "edgewarden" in world.nft(), 120)
    assert world.fanotify() != []
    assert world.units() != ""
    assert world.left_in_usb() != before["usb"]
    confined = world.guest.run("systemctl", "show", "plant", "--property=NoExecPaths")
    assert confined != before["confined"]


def test_l6_stopped_for_good_while_enforcing_it_holds_nobody(
    enforcing: World, before: dict[str, object]
) -> None:
    world = enforcing
    world.guest.run("systemctl", "disable", "--now", "edgewarden.target")
    world.guest.run("systemctl", "stop", "edgewarden-guard.socket")
    assert world.starts(UNKNOWN)
    assert world.fanotify() == []
    assert world.left_in_usb() == before["usb"]
    assert "edgewarden" in world.nft(), "stays while it enforces (docs/policy.md), until put-back"
    world.edgewarden("policy", "put-back")
    assert world.nft() == before["nft"]


def test_l6_and_a_boot_brings_nothing_back(enforcing: World, before: dict[str, object]) -> None:
    world = enforcing
    world.guest.reboot()
    assert world.starts(UNKNOWN)
    assert (world.fanotify(), world.nft()) == ([], before["nft"])
    assert world.left_in_usb() == before["usb"]
    running = world.guest.run("systemctl", "list-units", "--no-legend", "edgewarden-g*.service")
    assert running == ""
    world.guest.run("systemctl", "start", "plant")


def test_l6_removed_while_everything_enforces_nothing_is_left(
    enforcing: World, before: dict[str, object]
) -> None:
    world = enforcing
    world.guest.run("systemctl", "enable", "--now", "edgewarden.target")
    assert_enforced(world, before)
    apt(world.guest, "purge", "edgewarden")
    world.guest.run("systemctl", "restart", "plant")
    after = picture(world)
    for what in ("files", "apps"):
        was, now = before.pop(what), after.pop(what)
        assert isinstance(was, dict)
        assert isinstance(now, dict)
        assert traces.since(was, now) == [], what
    assert {what: (before[what], now) for what, now in after.items() if now != before[what]} == {}
    assert world.starts(UNKNOWN)
