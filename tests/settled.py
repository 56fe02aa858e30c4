"""What a test may not leave behind, after cockpit's habit of asserting it once for all tests.

``look()`` takes a picture of this process and the machine; ``check(before)`` waits a bounded
moment for whatever is still on its way out, then raises with the name of everything that is new.
Orphans count: the test process adopts its grandchildren (PR_SET_CHILD_SUBREAPER), so a daemon that
outlives its parent is seen as a child of ours.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import shutil
import socket
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

SETTLE_S = 10.0
"""How long something may take to go away: guard's trip time (2.5 s), and a margin for
a machine that stands still for a moment. What is still there then does not go by itself."""

PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
CLONE_NEWNS = 0x00020000  # <linux/sched.h>
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000  # <linux/mount.h>
NETNS = Path("/run/netns")


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that must be the same after a test as before it."""

    children: frozenset[str]
    threads: frozenset[str]
    mounts: frozenset[str]
    nft_tables: frozenset[str]
    fanotify_groups: frozenset[str]
    listening: frozenset[str]

    def new_since(self, before: Picture) -> list[str]:
        """Names of what is here and was not before."""
        found = []
        for kind in self.__slots__:
            for name in sorted(getattr(self, kind) - getattr(before, kind)):
                found.append(f"{kind}: {name}")
        return found


def adopt_orphans() -> None:
    """Make this process the parent of every orphan among its descendants."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def isolate_mounts() -> None:
    """Give this process a mount namespace of its own, where it may.

    What others on this machine mount meanwhile is then not taken for a test's leftover, and what
    a killed run has mounted goes with it. Without root there is nothing a test could mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0:
        return
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) != 0:
        raise OSError(ctypes.get_errno(), "mount --make-rprivate /")
    # The first `ip netns add` of a machine mounts this folder on itself for good: no leftover.
    NETNS.mkdir(exist_ok=True)
    where = os.fsencode(NETNS)
    if libc.mount(where, where, None, ctypes.c_ulong(MS_BIND), None) != 0:
        raise OSError(ctypes.get_errno(), f"mount --bind {NETNS}")


def look(*, nft: bool = True) -> Picture:
    """The picture of this moment.

    Args:
        nft: ask for tables too; that starts a program, so only where a test could make one.
    """
    return Picture(
        children=frozenset(_children()),
        threads=frozenset(
            f"{t.name} ({t.native_id})"
            for t in threading.enumerate()
            if t is not threading.current_thread() and t.is_alive()
        ),
        mounts=frozenset(
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        nft_tables=frozenset(_nft_tables() if nft else ()),
        fanotify_groups=frozenset(_fanotify_groups()),
        listening=frozenset(_listening()),
    )


def check(before: Picture, *, nft: bool = True) -> None:
    """Raise AssertionError naming all that is left over after SETTLE_S."""
    latest = look(nft=nft)

    def gone() -> bool:
        nonlocal latest
        latest = look(nft=nft)
        return not latest.new_since(before)

    if not gone():
        with contextlib.suppress(TimeoutError):
            wait_until(gone, timeout_s=SETTLE_S)
    left = latest.new_since(before)
    assert not left, "left behind by the test:\n  " + "\n  ".join(left)


def _children() -> list[str]:
    """Living children as "pid command"; dead ones that nobody waits for are reaped here."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:  # the thread ended while we looked
            continue
        for pid in pids:
            try:
                status = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                continue
            if status.rpartition(")")[2].split()[0] == "Z":
                _reap_orphan(int(pid))
                continue
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            found.append(f"{pid} {command.replace(bytes(1), b' ').decode(errors='replace')[:100]}")
    return found


def _reap_orphan(pid: int) -> None:
    """Collect a dead child, unless a Popen object of this process still wants its status."""
    if any(p.pid == pid for p in _open_popens()):
        return
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _open_popens() -> list[subprocess.Popen[bytes]]:
    everything = gc.get_objects()
    return [o for o in everything if isinstance(o, subprocess.Popen) and o.returncode is None]


def _nft_tables() -> list[str]:
    """Tables of this network namespace; without nft or root no test can have made one."""
    nft = shutil.which("nft")
    if nft is None or os.geteuid() != 0:
        return []
    listed = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False)
    return listed.stdout.splitlines()


def _descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found[name] = os.readlink(f"/proc/self/fd/{name}")
    return found


def _fanotify_groups() -> list[str]:
    return [f"fd {n}" for n, target in _descriptors().items() if "fanotify" in target]


def _listening() -> list[str]:
    """Listening sockets of this process, by asking each one."""
    found = []
    for name, target in _descriptors().items():
        if not target.startswith("socket:"):
            continue
        try:
            ours = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # closed by another thread meanwhile
            continue
        with ours:
            if ours.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                found.append(f"{ours.family.name} {ours.getsockname()} ({target})")
    return found
