"""The only ways by which gate opens a file, and the hook that closes all others.

What this decides: after ``close_all_others`` an ``open``, an import or a new process anywhere in
this interpreter raises, except through a door below. A responder that opens a file on a filesystem
it guards, or starts a program, waits for itself; this makes such a mistake a failed test and a
counted fault instead of a hang. What it leaves to others: which files (daemon/gate.py).

    doors = Doors(state_dir)
    doors.close_all_others()
    doors.proc_text("7/status")      # through the /proc descriptor opened at start
    open("/etc/passwd")              # OurFault

The doors, in order of what they may reach: below /proc by its descriptor; below state/policy and
run/ by theirs; devices below /sys by its descriptor or one of a directory there, to write only what
lets a device in or out (sysfs is never marked); any path with O_PATH, which opens nothing a mark
can see; a process's program and a library, only while no permission mark exists.

Two threads come through: the loop, and the one that waits for USB devices (gate/peripherals.py). An
open door of one is no way for the other.
"""

from __future__ import annotations

import gc
import os
import sys
from _thread import get_ident

from edgewarden.errors import HardwareFault, OperatorFault, OurFault
from edgewarden.gate.sessions import unit_around
from edgewarden.kernel.mounts import AT_FDCWD, is_beneath, known_status
from edgewarden.kernel.process import loader_waits, lock_memory
from edgewarden.wire.local import UNKNOWN_UID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from edgewarden.kernel.mounts import Status

    T = TypeVar("T")

NICE = -15
"""Cheap insurance; no effect could be shown."""
PROC_TEXT_BYTES = 8192
"""/proc/PID/status and smaps_rollup are below 2 KiB."""
FORBIDDEN = frozenset(
    (
        "import", "exec", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
        "os.system", "pty.spawn", "subprocess.Popen", "ctypes.dlopen",
    )
)  # fmt: skip
"""Audit events (docs.python.org/3/library/audit_events.html) that a responder has no use for.
"open" is the other one."""
OTHERS_MAY_WRITE = 0o022
SYS_FOLDERS = ("bus", "class", "dev", "devices", "fs/btrfs")
"""What of /sys is opened: devices; not what is mounted there (cgroups, debugfs, firmware)."""
SYS_WRITABLE = ("authorized", "authorized_default", "bus/usb/drivers_probe")
"""Documentation/ABI/testing/sysfs-bus-usb."""


class Doors:
    """See the module. One thread. Nothing here blocks on another process."""

    def __init__(self, state_dir: str) -> None:
        """Open the descriptors that the doors use.

        Raises:
            OperatorFault: no policy directory there, or others than root may write to it.
        """
        self.proc_fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        policy = os.path.join(state_dir, "policy")
        try:
            self.policy_fd = os.open(
                policy, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
            )
        except OSError as fault:
            raise OperatorFault(
                f"{policy}: {os.strerror(fault.errno or 0)}",
                code="EW-EXEC-014",
                next_step="start edgewarden-policy.service first; it writes this directory",
            ) from fault
        check_owned_by_root(self.policy_fd, policy)
        self.run_fd = -1
        self.sys_fd = os.open("/sys", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._sys_device = os.fstat(self.sys_fd).st_dev
        self._inside: set[int] = set()
        self._loading = False
        self.permission_marks = False

    def look_into(self, run_dir: str) -> None:
        """Open the run directory, where the canary writes its word, at the start."""
        self.run_fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, dir_fd: int, name: str, flags: int) -> int:
        """Open below one of our descriptors, or anything with O_PATH.

        Raises:
            OSError: as os.open.
            OurFault: a name that leads elsewhere.
        """
        if dir_fd == AT_FDCWD:
            if not flags & os.O_PATH:
                raise OurFault(f"gate opens no path: {name}")
            return self._open(name, flags, None)
        ours = (self.proc_fd, self.policy_fd, self.run_fd)
        if dir_fd not in ours or name.startswith("/") or ".." in name:
            raise OurFault(f"gate opens nothing at {name}")
        return self._open(name, flags, dir_fd)

    def open_device(self, dir_fd: int, name: str, flags: int) -> int:
        """Open something of a device: below /sys, below a directory there, or below /proc.

        Raises:
            OSError: as os.open.
            OurFault: a name that leads elsewhere, or would write what is not ours.
        """
        if dir_fd == self.proc_fd:
            return self.open(dir_fd, name, flags)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if name.startswith("/") or ".." in name or os.fstat(dir_fd).st_dev != self._sys_device:
            raise OurFault(f"gate opens no device at {name}")
        if dir_fd == self.sys_fd and not any(f"{name}/".startswith(f"{f}/") for f in SYS_FOLDERS):
            raise OurFault(f"gate opens nothing at /sys/{name}")
        if writes and (writes != os.O_WRONLY or name not in SYS_WRITABLE):
            raise OurFault(f"gate does not write {name}")
        return self._open(name, flags, dir_fd)

    def open_program(self, pid: int) -> int:
        """The program a process runs; only where nobody waits for a verdict of ours.

        Raises:
            OSError: the process is gone.
            OurFault: permission marks exist.
        """
        if self.permission_marks:
            raise OurFault("a program is opened while permission marks exist")
        return self._open(f"{pid}/exe", os.O_RDONLY | os.O_CLOEXEC, self.proc_fd)

    def _open(self, name: str, flags: int, dir_fd: int | None) -> int:
        thread = get_ident()
        self._inside.add(thread)
        try:
            return os.open(name, flags | os.O_CLOEXEC, 0o644, dir_fd=dir_fd)
        finally:
            self._inside.discard(thread)

    def load(self, make: Callable[[], T]) -> T:
        """Make something that loads a library; only where nobody waits for a verdict of ours.

        Raises:
            OperatorFault: permission marks exist; field name ``restart``.
        """
        if self.permission_marks:
            raise OperatorFault(
                "a library cannot be loaded while execs wait for gate",
                code="EW-NET-031",
                next_step="restart edgewarden-gate: it loads the library before it enforces",
                name="restart",
            )
        self._loading = True
        try:
            return make()
        finally:
            self._loading = False

    def proc_text(self, name: str) -> str:
        """The first PROC_TEXT_BYTES of a file below /proc; "" when it is gone."""
        return self.proc_data(name).decode("utf-8", "replace")

    def proc_data(self, name: str) -> bytes:
        """As ``proc_text``, undecoded."""
        try:
            fd = self.open(self.proc_fd, name, os.O_RDONLY)
        except OSError:
            return b""
        try:
            return os.read(fd, PROC_TEXT_BYTES)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def loads(self, pid: int) -> bool:
        """Whether it may be the dynamic loader of a process that waits for us."""
        return loader_waits(pid, self.proc_data, self._proc_names)

    def _proc_names(self, name: str) -> list[str]:
        try:
            fd = self.open(self.proc_fd, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return os.listdir(fd)
            finally:
                os.close(fd)
        except OSError:
            return []

    def unit_of(self, pid: int) -> str:
        """The login scope or unit that a process runs in; "" when it has none."""
        return unit_around(self.proc_text, pid)

    def proc_link(self, name: str) -> bytes:
        """What a link below /proc says; b"" when it is gone."""
        try:
            return os.readlink(name.encode(), dir_fd=self.proc_fd)
        except OSError:
            return b""

    def proc_list(self, name: str) -> list[str]:
        """Names in a directory below /proc, "." for /proc itself; none when it is gone."""
        try:
            fd = self.open(self.proc_fd, name, os.O_RDONLY | os.O_DIRECTORY)
            try:
                return os.listdir(fd)
            finally:
                os.close(fd)
        except OSError:
            return []

    def parent_of(self, pid: int) -> int:
        """The process's parent, 0 when it is gone."""
        text = self.proc_text(f"{pid}/status")
        at = text.find("\nPPid:\t")
        return int(text[at + 7 :].split(None, 1)[0]) if at >= 0 else 0

    def owner_of(self, pid: int) -> int:
        """Owner of /proc/PID, its effective uid unless it is undumpable (proc(5))."""
        try:
            return os.stat(str(pid), dir_fd=self.proc_fd).st_uid
        except OSError:
            return UNKNOWN_UID

    def program_of(self, pid: int) -> tuple[int, int] | None:
        """Device and inode of the program a process runs."""
        status = self.program_status(pid)
        return None if status is None else (status.st_dev, status.st_ino)

    def program_status(self, pid: int) -> Status | None:
        """The program a process runs, as the kernel knows it: nothing is opened, and no server of a
        filesystem is asked; None when it is gone."""
        return known_status(self.proc_fd, b"%d/exe" % pid)

    def is_below(self, directories: Sequence[str], path: bytes, inode: tuple[int, int]) -> bool:
        """Whether ``path`` lies below one of our configuration's directories, and leads from there
        to the file (st_dev, st_ino) without crossing a mount or a link."""
        for directory in directories:
            below = directory.rstrip("/").encode("utf-8", "surrogateescape") + b"/"
            if not path.startswith(below):
                continue
            try:
                fd = self.open(AT_FDCWD, directory, os.O_PATH | os.O_DIRECTORY)
            except OSError:
                continue
            try:
                if is_beneath(fd, path[len(below) :], inode):
                    return True
            finally:
                os.close(fd)
        return False

    def status_at(self, path: bytes) -> os.stat_result | None:
        """What a path leads to now, asked by stat; None when it leads nowhere. For paths on local
        filesystems: a server that hangs would hang gate."""
        try:
            return os.stat(path)
        except OSError:
            return None

    def boot_id(self) -> str:
        """Of this boot, as the kernel says it."""
        return self.proc_text("sys/kernel/random/boot_id").strip()

    def system_age_s(self, boot_s: float) -> float:
        """How long PID 1 has run at CLOCK_BOOTTIME ``boot_s``: the time since the boot, of a
        container's own where it has one. Infinite when /proc does not say."""
        fields = self.proc_text("1/stat").rpartition(")")[2].split()  # proc(5): 3rd field and on
        if len(fields) < 20 or not fields[19].isdigit():
            return float("inf")
        return boot_s - int(fields[19]) / os.sysconf("SC_CLK_TCK")

    def pss_bytes(self, process: str) -> int:
        """Proportional set size of a process ("self" or its number); 0 when /proc does not say."""
        text = self.proc_text(f"{process}/smaps_rollup")
        at = text.find("\nPss:")  # proc(5): "Pss:  1234 kB"
        return int(text[at + 5 :].split(None, 1)[0]) * 1024 if at >= 0 else 0

    def read_policy(self, name: str, most: int) -> bytes:
        """A whole file of the policy directory.

        Read, not mapped: a mapped file that somebody truncates kills its reader (SIGBUS).

        Raises:
            OSError: it cannot be read.
            OperatorFault: others than root may write to it.
        """
        fd = self.open(self.policy_fd, name, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            check_owned_by_root(fd, name)
            return read_whole(fd, most)
        finally:
            os.close(fd)

    def write_policy(self, name: str, data: bytes, *, durable: bool = False) -> None:
        """Replace a small file of the policy directory.

        Args:
            durable: wait for the disk, which gate may do at its start only. Else a power cut
                within the kernel's write-back time (30 s) can bring the old one back.

        Raises:
            OSError: the disk refuses.
        """
        self._replace(self.policy_fd, name, data, durable=durable)

    def write_run(self, name: str, data: bytes, *, for_all: bool = False) -> None:
        """Replace a file of the run directory; for one that lies in memory.

        Args:
            for_all: link may read it.

        Raises:
            OSError: there is no room.
        """
        self._replace(self.run_fd, name, data, durable=False, for_all=for_all)

    def _replace(
        self, dir_fd: int, name: str, data: bytes, *, durable: bool, for_all: bool = False
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        fd = self.open(dir_fd, f".{name}.new", flags)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            if for_all:
                os.fchmod(fd, 0o644)  # gate runs with UMask=0077
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(f".{name}.new", name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
        if durable:
            os.fsync(dir_fd)

    def close_all_others(self) -> None:
        """From now on everything but the doors raises, for the life of this process."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[object, ...]) -> None:
        if self._loading and event == "ctypes.dlopen":
            return
        if event in FORBIDDEN or (event == "open" and get_ident() not in self._inside):
            raise OurFault(f"gate does not do this while it answers execs: {event} {args[:1]}")


def confine(doors: Doors, alarm: Callable[[str, int, str], None]) -> None:
    """What makes the loop safe to wait for: locked, first in line, and unable to open or start.

    Args:
        alarm: (code, severity, text), for what is refused and not worth failing for.
    """
    gc.collect()
    try:
        lock_memory()
    except HardwareFault as fault:
        alarm("EW-EXEC-021", 2, f"memory is not locked: {fault.text}")
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError as fault:
        alarm("EW-EXEC-021", 1, f"priority is not raised: {fault.strerror}")
    gc.freeze()
    doors.close_all_others()


def check_owned_by_root(fd: int, name: str) -> None:
    """Refuse what others than root can change.

    Raises:
        OperatorFault: the owner or the mode bits are wrong.
    """
    status = os.fstat(fd)
    if status.st_uid != 0 or status.st_mode & OTHERS_MAY_WRITE:
        raise OperatorFault(
            f"{name} is of uid {status.st_uid}, mode {status.st_mode & 0o7777:o}: not root's alone",
            code="EW-EXEC-015",
            next_step=f"chown root:root and chmod go-w {name}, then look at who changed it",
            name="not_root_owned",
        )


def read_whole(fd: int, most: int) -> bytes:
    """All bytes of a descriptor, one more than ``most`` at the most."""
    parts = []
    left = most + 1
    while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
