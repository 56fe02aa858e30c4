"""Arming: which filesystems are marked, how, and which are refused.

What this decides, in order, for each path of the configuration:

1. It is a directory that is there; otherwise OperatorFault ``absent``.
2. Its filesystem is of a type that can be read without waiting for somebody else (WATCHABLE).
   Pseudo filesystems hold no programs; a network or fuse server that hangs would hang gate, and
   with it every exec: ``not_watchable``.
3. For enforce: where the caller has something against the filesystem that holds ``/`` (no critical
   set, not observed for long enough), it is not that filesystem, nor a layer of it.

Learn and observe get a notify group: the kernel refuses permission marks on it, so no exec can be
made to wait. A path refused there is reported and the others are watched. Enforce is all or
nothing: one refused path refuses the mode.

What it leaves to others: verdicts (exec/responder.py), and whether a mode is wanted at all
(daemon/gate.py).

    armed = arm(["/mnt/apps"], enforce=True, mounts=Mounts(proc_fd), opener=os_open)
"""

from __future__ import annotations

import errno
import os

from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.kernel.fanotify import (
    FAN_OPEN_EXEC,
    FAN_OPEN_EXEC_PERM,
    FAN_OPEN_PERM,
    Group,
    open_group,
)
from edgewarden.kernel.mounts import AT_FDCWD, Filesystem, Mounts
from edgewarden.kernel.writers import Writers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Opener = Callable[[int, str, int], int]
    """(directory descriptor, name, flags) -> descriptor."""

WATCHABLE = frozenset(
    (
        "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "jfs", "nilfs2", "ubifs",
        "jffs2", "tmpfs", "ramfs", "overlay", "vfat", "exfat", "ntfs3", "squashfs", "erofs",
        "iso9660", "udf",
    )
)  # fmt: skip
"""Local filesystems by the kernel's type name. A list of what is allowed: an unknown type is
refused."""

CACHEABLE = frozenset(["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs"])
"""Where a store through a mapping moves ctime, so that (dev, ino, ctime, mtime, size) names a
content. Not tmpfs: a shared mapping that was read before it is written changes the content with no
trace in any of them, also after the writer is gone (measured, 6.18). Not vfat: its times are
seconds."""


class Armed:
    """A group with its marks.

    Attributes:
        group: the fanotify group.
        filesystems: paths that are marked.
        refused: (path, fault) of those that are not.
        superblocks: device of each marked superblock.
        mask: what is asked of each mark; 0 where there are none (tier T2).
        opens: openings wait as well, gate's own among them.
        cacheable: st_dev of the marked filesystems of CACHEABLE types.
        devices: st_dev of all of them.
        writers: hears what has been open for writing on the cacheable ones; None: the kernel has no
            such group, and nothing is cacheable.
    """

    __slots__ = (
        "cacheable", "devices", "filesystems", "group", "mask", "opens", "refused", "superblocks",
        "writers",
    )  # fmt: skip

    def __init__(self, group: Group) -> None:
        self.group = group
        self.mask = 0
        self.opens = False
        self.filesystems: list[str] = []
        self.refused: list[tuple[str, EdgewardenError]] = []
        self.superblocks: set[str] = set()
        self.cacheable: set[int] = set()
        self.devices: set[int] = set()
        try:
            self.writers: Writers | None = Writers()
        except HardwareFault:
            self.writers = None

    def again(self) -> Armed:
        """Another set of marks in the same groups, to take the place of this one."""
        other = Armed.__new__(Armed)
        other.group, other.writers, other.opens = self.group, self.writers, False
        other.filesystems, other.refused, other.superblocks = [], [], set()
        other.cacheable, other.devices = set(), set()
        return other

    def leave(self, after: Armed, opener: Opener, mounts: Mounts) -> None:
        """Take away what of these marks is not among those that come ``after``.

        One that cannot be found any more (it was unmounted, or lies below another mount) goes with
        its filesystem; until then what it sees is judged as well.
        """
        for path in self.filesystems:
            try:
                fd = opener(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                kept = after.mask if mounts.of(fd).device in after.superblocks else 0
                if self.mask & ~kept:
                    self.group.unmark(self.mask & ~kept, dir_fd=fd)
            except HardwareFault:
                continue
            finally:
                os.close(fd)

    def mark_again(self, opener: Opener, mounts: Mounts) -> None:
        """Put each mark where it should be, once more: a filesystem that was unmounted and mounted
        again before anybody looked has the same device number, and no mark.

        Nothing is closed: that would allow whoever waits, and users can cause mounts.

        Raises:
            HardwareFault: the kernel refuses.
        """
        for path in self.filesystems if self.mask else ():
            try:
                fd = opener(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:
                continue  # it is gone; the set of superblocks says so
            try:
                if mounts.of(fd).device in self.superblocks:
                    self.group.mark(".", self.mask, dir_fd=fd)
                    if self.writers is not None and os.fstat(fd).st_dev in self.cacheable:
                        self.writers.mark(fd)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Allow what waits, take the marks away; twice is harmless."""
        self.group.close()
        if self.writers is not None:
            self.writers.close()


def arm(
    paths: Sequence[str],
    *,
    enforce: bool,
    mounts: Mounts,
    opener: Opener,
    against_root: OperatorFault | None = None,
    strict: bool = False,
    before: Armed | None = None,
) -> Armed:
    """Mark the filesystems that the paths lie on.

    Args:
        paths: directories, absolute.
        enforce: permission marks; else notify marks.
        mounts: looks at the mount table.
        opener: opens with O_PATH only, which no mark of ours ever sees.
        against_root: (enforce) raised for the filesystem that holds ``/``; None: it may be marked.
        strict: (enforce) openings wait, too.
        before: (enforce) marks that hold, to be replaced in the same groups: closing these would
            allow whoever waits. They stay as they are when it fails, or watch more.

    Raises:
        OperatorFault: (enforce) a path is refused; field ``name`` says why.
        HardwareFault: the kernel has no such group or mark.
    """
    root = root_superblocks(mounts) if enforce and against_root is not None else set()
    armed = Armed(open_group(permission=enforce)) if before is None else before.again()
    mask = FAN_OPEN_EXEC_PERM if enforce else FAN_OPEN_EXEC
    if enforce and strict:
        mask |= FAN_OPEN_PERM
        armed.opens = True
    armed.mask = mask
    try:
        for path in paths:
            try:
                _mark(armed, path, mask, mounts, opener, root, against_root)
            except EdgewardenError as fault:
                if enforce or _lacks_fanotify(fault):
                    raise
                armed.refused.append((path, fault))
        if before is not None:
            before.leave(armed, opener, mounts)
    except BaseException:
        if before is None:
            armed.close()
        raise
    return armed


def arm_stop(
    paths: Sequence[str],
    *,
    mounts: Mounts,
    opener: Opener,
    make: Callable[[set[str]], Group],
    against_root: OperatorFault | None,
) -> Armed:
    """As ``arm`` for enforce, where programs are stopped instead (tier T2): all or nothing.

    Args:
        make: superblocks -> the group; programs are stopped from then on.
        against_root: as there.

    Raises:
        OperatorFault: a path is refused; field ``name`` says why.
        HardwareFault: the kernel refuses.
    """
    root = root_superblocks(mounts) if against_root is not None else set()
    armed = Armed(Group(-1, True, True))
    for path in paths:
        _mark(armed, path, 0, mounts, opener, root, against_root)
    armed.group = make(armed.superblocks)
    return armed


def _mark(
    armed: Armed,
    path: str,
    mask: int,
    mounts: Mounts,
    opener: Opener,
    root: set[str],
    against_root: OperatorFault | None,
) -> None:
    try:
        fd = opener(AT_FDCWD, path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as fault:
        raise _refusal("absent", path, os.strerror(fault.errno or 0)) from fault
    try:
        where = mounts.of(fd)
        check_watchable(path, where)
        if against_root is not None and where.device in root:
            raise against_root
        # Through the descriptor that was just checked: nothing can be mounted over the path in
        # between.
        if mask:
            armed.group.mark(".", mask, dir_fd=fd)
        device = os.fstat(fd).st_dev
        armed.devices.add(device)
        if where.kind in CACHEABLE and _hears_writers(armed, fd):
            armed.cacheable.add(device)
    finally:
        os.close(fd)
    armed.filesystems.append(path)
    armed.superblocks.add(where.device)


def _hears_writers(armed: Armed, fd: int) -> bool:
    try:
        if armed.writers is not None:
            armed.writers.mark(fd)
    except HardwareFault:
        return False
    return armed.writers is not None


def check_watchable(path: str, where: Filesystem) -> None:
    """Refuse what must not be marked.

    Args:
        path: as configured, for the text.
        where: the filesystem it lies on.

    Raises:
        OperatorFault: not_watchable.
    """
    if where.kind not in WATCHABLE:
        raise _refusal("not_watchable", path, f"{where.kind} is not a local filesystem of programs")


def unwatched(armed: Armed, mounts: Mounts) -> frozenset[int]:
    """st_dev of this host's filesystems whose starts are not seen. Not of an overlay: what it shows
    may lie on one that is watched.

    Raises:
        HardwareFault: /proc does not say.
    """
    return frozenset(
        device
        for device, kind in mounts.devices().items()
        if kind != "overlay" and device not in armed.devices
    )


def holds_root(paths: Sequence[str], mounts: Mounts) -> bool:
    """Whether one of the paths lies on a filesystem that programs under ``/`` come from; yes where
    that cannot be told."""
    try:
        root = root_superblocks(mounts)
        return any(mounts.at(path).device in root for path in paths)
    except OperatorFault:
        return True


def root_superblocks(mounts: Mounts) -> set[str]:
    """Devices of the superblocks that programs under ``/`` come from: its own, and an overlay's
    layers.

    Raises:
        OperatorFault: root_layers_unknown, ``/`` is stacked on directories that cannot be seen from
        here.
    """
    root = mounts.at("/")
    found = {root.device}
    if root.kind != "overlay":
        return found
    for option in root.options:
        key, _, value = option.partition("=")
        if key.rstrip("+") not in ("lowerdir", "upperdir", "datadir"):
            continue
        for layer in value.split(":"):
            try:
                found.add(mounts.at(layer).device)
            except OperatorFault as fault:
                text = f"layer {layer!r} is out of sight"
                raise _refusal("root_layers_unknown", "/", text) from fault
    return found


def _lacks_fanotify(fault: EdgewardenError) -> bool:
    """Whether the kernel refuses the mark for every path, not for this one."""
    if not isinstance(fault, HardwareFault):
        return False
    return fault.fields.get("errno") in (errno.ENOSYS, errno.EPERM, errno.EINVAL)


def _refusal(name: str, path: str, text: str) -> OperatorFault:
    return OperatorFault(
        f"{path}: {text}",
        code="EW-EXEC-010",
        next_step="change [exec] filesystems in the settings",
        name=name,
        path=path,
    )
