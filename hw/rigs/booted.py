"""A Debian gateway that really boots: systemd as its PID 1, on a filesystem of its own.

    tree/ (a Debian root folder) -> mkfs.ext4 -d -> image -> loop mount -> systemd-nspawn --boot

    with Booted(tree) as gateway:
        gateway.copy(deb, "/root/edgewarden.deb")
        gateway.run("apt-get", "install", "--yes", "/root/edgewarden.deb")
        gateway.reboot()
        gateway.pull_the_plug()

Why an image and never the folder: a fanotify filesystem mark sits on the superblock. In a folder
of the host it is the host's, and one wrong allowlist in the guest would stop every program of this
machine. ``Booted`` refuses to boot where the image's st_dev is that of ``/``.

What is the guest's own: processes, mounts, names, cgroups (version 2 whatever the host has), the
root filesystem and ``/run``. What it shares: the kernel, the clock and the network, so that a
broker on the host's loopback is one to the guest; the proc connector speaks in that network
namespace only. Nothing of Debian's that would fetch or wait is left in (``MASKED``).

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
from types import TracebackType

IMAGE_BYTES = 1536 * 1024 * 1024
"""A tree of 250 MB, two versions of the package, a spool; the file is sparse."""
BOOT_S = 40.0
"""2 to 4 s on two cores; a machine under load takes its time."""
HALT_S = 45.0
"""Each unit may take its TimeoutStopSec (20 s at most), nspawn its own moment."""
COMMAND_S = 120.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-timesyncd.service",
    "systemd-networkd-wait-online.service",
)
"""What would reach for a network or the host's clock, or run at its own time."""

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class RigError(Exception):
    """The rig cannot do what was asked; the text holds the end of the guest's console."""


class Booted:
    """One gateway; a context manager. Not for use by two threads.

    Args:
        tree: a Debian root folder with systemd, which is copied and not changed.
        syscalls_denied: system calls the whole guest is refused (seccomp, EPERM): a kernel that
            lacks them.
    """

    def __init__(self, tree: Path, *, syscalls_denied: Sequence[str] = ()) -> None:
        self.tree = tree
        self.syscalls_denied = tuple(syscalls_denied)
        self.folder = Path(tempfile.mkdtemp(prefix="ew-booted-"))
        self.root = self.folder / "root"
        self.image = self.folder / "gateway.ext4"
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._mounted = False
        self._groups: list[Path] = []

    def __enter__(self) -> Booted:
        try:
            self._make_image()
            self._mount()
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    # --- life ------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start PID 1 and wait until systemd says that the boot is over."""
        self._assert_own_filesystem()
        self._groups = _own_cgroups(self.folder.name)
        groups = [group / "cgroup.procs" for group in self._groups]

        def child() -> None:
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            for group in groups:
                group.write_text("0")

        with (self.folder / "console").open("ab") as console:
            self._nspawn = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={"PATH": PATH, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                preexec_fn=child,
                start_new_session=True,
            )
        self._await("the end of the boot", self._is_up, BOOT_S)

    def _command(self) -> list[str]:
        # Without these an nspawn guest may neither mark (fanotify_init is EPERM) nor hear the kernel.
        calls = "@privileged @system-service bpf"
        if self.syscalls_denied:
            calls += " ~" + " ~".join(self.syscalls_denied)
        return [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.folder.name.replace('_', '-')}",
            "--boot",
            "--register=no",
            "--keep-unit",
            "--capability=all",
            f"--system-call-filter={calls}",
            "--resolv-conf=off",
            "--timezone=off",
            "--link-journal=no",
            "--console=read-only",
        ]

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False) if self.pid else ""
        return state.strip() in ("running", "degraded")

    def halt(self) -> None:
        """Power off in order."""
        self.run("systemctl", "poweroff", check=False)
        self._ended(HALT_S)

    def reboot(self) -> None:
        """Power off in order and boot the same filesystem again."""
        self.halt()
        self.boot()

    def pull_the_plug(self) -> None:
        """End every process of the guest at once. What reached the page cache survives: the host's
        kernel goes on; a cut of the disk's power is tests/system/test_powercut.py's."""
        assert self._nspawn is not None
        os.kill(self.pid or self._nspawn.pid, signal.SIGKILL)
        self._ended(HALT_S)

    def close(self) -> None:
        """End the guest, unmount, remove.

        Raises:
            RigError: something is still there.
        """
        if self._nspawn is not None:
            with contextlib.suppress(OSError, RigError):
                self.pull_the_plug()
        if self._mounted:
            self._try_unmount()
        left = self.left_behind()
        if left:
            raise RigError(f"left behind: {', '.join(left)}")
        shutil.rmtree(self.folder)

    def left_behind(self) -> list[str]:
        """What of this guest the host still sees."""
        mounts = Path("/proc/self/mounts").read_text()
        left = [f"mount {self.root}"] if f" {self.root} " in mounts else []
        left += [str(group) for group in self._groups if group.exists()]
        loops = subprocess.run(
            ["losetup", "--noheadings", "--associated", str(self.image)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return left + loops.splitlines()

    # --- what a test does in it ------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The guest's PID 1 as the host numbers it; 0 while there is none."""
        if self._nspawn is None:
            return 0
        name = f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children"
        with contextlib.suppress(OSError):
            for child in Path(name).read_text().split():
                # nspawn's helpers share its program; PID 1 is what became something else.
                if Path(f"/proc/{child}/exe").resolve().name == "systemd":
                    return int(child)
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
        """A file of the guest's root filesystem, for the host: not for /run, /tmp or another mount."""
        return self.root / inside.lstrip("/")

    def copy(self, source: Path, inside: str) -> None:
        """Put a file into the guest's root filesystem."""
        shutil.copy(source, self.path(inside))

    def host_pid(self, inside: int) -> int:
        """The host's number of a process that the guest knows as inside."""
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                spaces = [
                    line.split()[1:]
                    for line in status.read_text().splitlines()
                    if line.startswith("NSpid:")
                ]
                same = os.readlink(f"{status.parent}/ns/pid") == os.readlink(
                    f"/proc/{self.pid}/ns/pid"
                )
                if same and spaces and int(spaces[0][-1]) == inside:
                    return int(status.parent.name)
        raise RigError(f"the guest has no process {inside}")

    # --- how it is made --------------------------------------------------------------------------

    def _make_image(self) -> None:
        with self.image.open("wb") as image:
            image.truncate(IMAGE_BYTES)
        _tool("mkfs.ext4", "-q", "-F", "-d", str(self.tree), str(self.image))
        self.root.mkdir()

    def _mount(self) -> None:
        _tool("mount", "-o", "loop", str(self.image), str(self.root))
        self._mounted = True
        for unit in MASKED:
            mask = self.path(f"/etc/systemd/system/{unit}")
            mask.parent.mkdir(parents=True, exist_ok=True)
            mask.unlink(missing_ok=True)
            mask.symlink_to("/dev/null")

    def _assert_own_filesystem(self) -> None:
        if self.root.stat().st_dev == Path("/").stat().st_dev:
            raise RigError(f"{self.root} is on the host's root filesystem: a mark would be its own")

    def _try_unmount(self) -> None:
        for _ in range(20):
            done = subprocess.run(["umount", str(self.root)], capture_output=True, check=False)
            if done.returncode == 0:
                self._mounted = False
                return
            time.sleep(0.25)  # the guest's last namespace is on its way out

    def _ended(self, limit_s: float) -> None:
        assert self._nspawn is not None
        try:
            self._nspawn.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait(5)
            raise RigError(f"the guest did not end in {limit_s:g} s\n{self.console()}") from None
        finally:
            for group in self._groups:
                _remove_cgroup(group)
            self._nspawn = None

    def _await(self, what: str, ready: Callable[[], bool], limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not ready():
            if self._nspawn is None or self._nspawn.poll() is not None:
                raise RigError(f"the guest ended before {what}\n{self.console()}")
            if time.monotonic() > end:
                raise RigError(f"no {what} within {limit_s:g} s\n{self.console()}")
            time.sleep(0.2)

    def console(self) -> str:
        """The end of what the guest wrote to its console."""
        return (self.folder / "console").read_text(errors="replace")[-3000:]


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
    for _ in range(20):
        for folder, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        if not group.exists():
            return
        time.sleep(0.1)
