"""A Debian gateway that really boots: systemd as its PID 1, on a filesystem of its own.

    tree/ (a Debian root folder) -> mkfs.ext4 -d -> image -> loop mount -> systemd-nspawn --boot

    with Booted(tree) as gateway:
        gateway.copy(deb, "/root/edgewarden.deb")
        gateway.run("apt-get", "install", "--yes", "/root/edgewarden.deb")
        gateway.reboot()
        gateway.pull_the_plug()

Whatever ends the guest, it boots again, as a board does while it has power.

Why an image and never the folder: a fanotify filesystem mark sits on the superblock. In a folder
of the host it is the host's, and one wrong allowlist in the guest would stop every program of this
machine. ``Booted`` refuses to boot where the image's st_dev is that of ``/``.

What is the guest's own: processes, mounts, names, cgroups (version 2 whatever the host has), the
root filesystem and ``/run``. What it shares: the kernel, the clock and (unless ``own_network``) the
network, so that a broker on the host's loopback is one to the guest; the proc connector speaks in
that network namespace only. Nothing of Debian's that would fetch or wait is left in (``MASKED``).

Everything is bounded, ended by its pid and unmounted: ``close`` raises when something is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

IMAGE_BYTES = 1536 * 1024 * 1024
"""A tree of 250 MB, two versions of the package, a spool; the file is sparse."""
DISK_BYTES = 64 * 1024 * 1024
BOOT_S = 120.0
"""2 to 4 s on two cores; a machine under load takes its time."""
HALT_S = 90.0
"""Each unit may take its TimeoutStopSec (20 s at most), nspawn its own moment."""
COMMAND_S = 120.0
GONE_S = 60.0
"""For what is on its way out once the guest has ended: a moment, and a machine may stand still."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-timesyncd.service",
    "systemd-networkd-wait-online.service",
    "ssh.service",
)
"""What would reach for a network or the host's clock, listen on the host's network, or run at its
own time."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


_POWER = """off=$1
shift
while [ ! -e "$off" ]; do setpriv --pdeathsig KILL "$@" || :; done
"""
"""What a power supply does: nspawn boots again a guest that asks for it only where it can have a
scope from the host's systemd. One process for the guest's whole life, so one to end."""


class RigError(Exception):
    """The rig cannot do what was asked; the text holds the end of the guest's console."""


class Booted:
    """One gateway; a context manager. Not for use by two threads.

    Args:
        tree: a Debian root folder with systemd, which is copied and not changed.
        disks: where in the guest a further filesystem of its own is mounted.
        syscalls_denied: system calls the whole guest is refused (seccomp, EPERM): a kernel that
            lacks them.
        own_network: a network namespace of its own, with loopback alone: for nftables.
    """

    def __init__(
        self,
        tree: Path,
        *,
        disks: Sequence[str] = (),
        syscalls_denied: Sequence[str] = (),
        own_network: bool = False,
    ) -> None:
        self.tree = tree
        self.disks = tuple(disks)
        self.syscalls_denied = tuple(syscalls_denied)
        self.own_network = own_network
        self.folder = Path(tempfile.mkdtemp(prefix="ew-booted-"))
        self.root = self.folder / "root"
        self._power: subprocess.Popen[bytes] | None = None
        self._mounted: list[Path] = []
        self._groups: list[Path] = []

    def __enter__(self) -> Booted:
        try:
            self._make()
            self.switch_on()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    # --- life ------------------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Give the board power: from now on it boots whenever it ended, until ``close``."""
        for where in (self.root, *self._disks().values()):
            _assert_own_filesystem(where)
        self._groups = _own_cgroups(self.folder.name)
        groups = [group / "cgroup.procs" for group in self._groups]

        def child() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            for group in groups:
                group.write_text("0")

        with (self.folder / "console").open("ab") as console:
            self._power = subprocess.Popen(
                ["sh", "-c", _POWER, "power", str(self.folder / "off"), *self._command()],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                preexec_fn=child,
                start_new_session=True,
            )
        self.await_boot(0)

    def await_boot(self, last_pid: int) -> None:
        """Wait until a PID 1 other than last_pid says that its boot is over."""
        self.await_("a finished boot", lambda: self.pid != last_pid and self._is_up(), BOOT_S)

    def _command(self) -> list[str]:
        # Else an nspawn guest may neither mark (fanotify_init: EPERM) nor load a BPF filter.
        calls = ["@privileged @system-service bpf"]
        if self.syscalls_denied:
            calls.append("~" + " ".join(self.syscalls_denied))
        return [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.folder.name.replace('_', 'x')}",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--capability=all",
            *(f"--system-call-filter={listed}" for listed in calls),
            *(["--private-network"] if self.own_network else []),
            *(f"--bind={where}:{inside}" for inside, where in self._disks().items()),
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=read-only",
        ]

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False) if self.pid else ""
        return state.strip() in ("running", "degraded")

    def reboot(self) -> None:
        """Go down in order and boot the same filesystem again."""
        last = self.pid
        self.attempt("systemctl", "reboot")
        self.await_("the end of the guest", lambda: self.pid != last, HALT_S)
        self.await_boot(last)

    def pull_the_plug(self) -> None:
        """End every process of the guest at once, and let it boot again. What reached the page
        cache survives, as the host's kernel goes on: a torn disk is tests/system/test_powercut.py's
        subject."""
        last = self.pid
        if not last:  # 0 would be this process and all its group
            raise RigError("there is no guest to end")
        os.kill(last, signal.SIGKILL)
        self.await_boot(last)

    def close(self) -> None:
        """End the guest, unmount, remove.

        Raises:
            RigError: something is still there.
        """
        if self._power is not None:
            self._switch_off(self._power)
        for where in reversed(self._mounted):
            _unmount(where)
        left = self.left_behind()
        if left:
            raise RigError(f"left behind: {', '.join(left)}")
        shutil.rmtree(self.folder)

    def _switch_off(self, power: subprocess.Popen[bytes]) -> None:
        (self.folder / "off").touch()
        with contextlib.suppress(OSError):
            os.kill(self.pid or power.pid, signal.SIGKILL)
        try:
            power.wait(HALT_S)
        except subprocess.TimeoutExpired:
            power.kill()
            power.wait(GONE_S)
        for group in self._groups:
            _remove_cgroup(group)
        self._power = None

    def left_behind(self) -> list[str]:
        """What of this guest the host still sees.

        A loop device that frees itself (autoclear, as mount makes them) is not counted: somebody
        who made a mount namespace meanwhile holds a copy of our mounts until it ends.
        """
        mounts = Path("/proc/self/mounts").read_text()
        left = [f"mount {where}" for where in self._mounted if f" {where} " in mounts]
        left += [str(group) for group in self._groups if group.exists()]
        loops = subprocess.run(
            ["losetup", "--noheadings", "--list", "--output", "AUTOCLEAR,BACK-FILE"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return left + [
            line.split()[1]
            for line in loops.splitlines()
            if str(self.folder) in line and line.split()[0] == "0"
        ]

    # --- what a test does in it ------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The guest's PID 1 as the host numbers it; 0 while there is none."""
        if self._power is None:
            return 0
        for nspawn in _children(self._power.pid):
            for child in _children(nspawn):
                # nspawn's helpers share its program; PID 1 is what became something else.
                with contextlib.suppress(OSError):
                    if Path(os.readlink(f"/proc/{child}/exe")).name == "systemd":
                        return child
        return 0

    def run(self, *command: str, check: bool = True, limit_s: float = COMMAND_S) -> str:
        """Run a command in the guest as root; returns what it wrote.

        Raises:
            RigError: check, and it ended with another code than 0.
        """
        done = self.attempt(*command, limit_s=limit_s)
        if check and done.returncode != 0:
            raise RigError(
                f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    def attempt(
        self, *command: str, limit_s: float = COMMAND_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the guest as root, whatever becomes of it."""
        enter = ["nsenter", f"--target={self.pid}", "--all", "--root", "--wd"]
        return subprocess.run(
            [*enter, "env", "-i", f"PATH={PATH}", "LC_ALL=C.UTF-8", "TERM=dumb", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def path(self, inside: str) -> Path:
        """A file of the guest, for the host: on its root filesystem or one of its disks."""
        for disk, where in self._disks().items():
            if inside.startswith(f"{disk}/"):
                return where / inside.removeprefix(f"{disk}/")
        return self.root / inside.lstrip("/")

    def copy(self, source: Path, inside: str) -> None:
        """Put a file into the guest."""
        shutil.copy(source, self.path(inside))

    # --- how it is made --------------------------------------------------------------------------

    def _make(self) -> None:
        self._mount("gateway", self.root, IMAGE_BYTES, "-d", str(self.tree))
        for inside, where in self._disks().items():
            self._mount(where.name, where, DISK_BYTES)
            self.path(inside).mkdir(parents=True, exist_ok=True)
        for unit in MASKED:
            mask = self.path(f"/etc/systemd/system/{unit}")
            mask.unlink(missing_ok=True)
            mask.symlink_to("/dev/null")

    def _mount(self, name: str, where: Path, size_bytes: int, *options: str) -> None:
        image = self.folder / f"{name}.ext4"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _tool("mkfs.ext4", "-q", "-F", *options, str(image))
        where.mkdir()
        _tool("mount", "-o", "loop", str(image), str(where))
        self._mounted.append(where)

    def _disks(self) -> dict[str, Path]:
        """Mount point inside -> mount point on the host, of each further disk."""
        return {inside: self.folder / f"disk{n}" for n, inside in enumerate(self.disks)}

    def await_(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        """Poll until ready().

        Raises:
            RigError: not within limit_s, or the guest's power is gone.
        """
        end = time.monotonic() + limit_s
        while not ready():
            if self._power is None or self._power.poll() is not None:
                raise RigError(f"the guest ended before {what}\n{self.console()}")
            if time.monotonic() > end:
                raise RigError(f"no {what} within {limit_s:g} s\n{self.console()}")
            time.sleep(0.1)

    def console(self) -> str:
        """The end of what the guest wrote to its console."""
        return (self.folder / "console").read_text(errors="replace")[-3000:]


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _assert_own_filesystem(where: Path) -> None:
    if where.stat().st_dev == Path("/").stat().st_dev:
        raise RigError(
            f"{where} is on the host's root filesystem: a mark there would be the host's"
        )


def _unmount(where: Path) -> None:
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        done = subprocess.run(["umount", str(where)], capture_output=True, check=False)
        if done.returncode == 0:
            return
        time.sleep(0.25)  # the guest's last namespace is on its way out


def _tool(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode != 0:
        raise RigError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")


def _own_cgroups(name: str) -> list[Path]:
    """A cgroup of the guest's own in the hierarchies nspawn writes to, so that nothing of it stays
    in the host's: the unified one, and systemd's named one where the host is of version 1."""
    groups = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options.split(",")):
            group = Path(where, name)
            group.mkdir(exist_ok=True)
            groups.append(group)
    return groups


def _remove_cgroup(group: Path) -> None:
    """Remove a cgroup and those below it; their last processes may still be going."""
    end = time.monotonic() + GONE_S
    while time.monotonic() < end:
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if not group.exists():
            return
        time.sleep(0.1)
