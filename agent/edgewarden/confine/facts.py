"""What confinement is planned from, and what a plan is made of: values only.

Facts come from probe/confinement.py, wishes from the settings; confine/service.py and
confine/plan.py turn them into items and files. ``own`` always means: without what this program
itself wrote, so that a plan is the same before and after it was applied.

    Item("sysctl", "vm.memfd_noexec", "2", now="0", state=State.CHANGE, reason=..., breaks=...)
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from edgewarden.plain import dataclass, field


class State(StrEnum):
    """What stands between an item and the machine."""

    ALREADY = "already so"
    CHANGE = "would change"
    NOT_HERE = "not available here"
    KEPT = "left as it is"


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that confinement would have so.

    Attributes:
        area: service, mount or sysctl.
        subject: the unit, the mount point or the sysctl.
        name: the directive of a unit, or "".
        want, now: as the kernel or systemd writes it; "" for nothing.
        reason: what it is for.
        breaks: what stops working because of it.
        why: for NOT_HERE and KEPT, why.
    """

    area: str
    subject: str
    want: str
    now: str
    state: State
    reason: str
    breaks: str = ""
    name: str = ""
    why: str = ""

    @property
    def is_gap(self) -> bool:
        """Whether something is open because of it."""
        return self.state in (State.NOT_HERE, State.KEPT)


@dataclass(frozen=True, slots=True)
class Wish:
    """One [[confined]] table; see settings/schema.py.

    Attributes:
        peers: addresses of the policy's [[egress]] rules for the unit; None where one of them goes
            by name.
    """

    unit: str
    exec: tuple[str, ...] = ()
    jit: bool = False
    namespaces: bool = False
    devices: tuple[str, ...] = ()
    network: str = "open"
    peers: tuple[str, ...] | None = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One unit as it is.

    Attributes:
        loaded: systemd knows it.
        active: it runs.
        own: directive -> values of its files, later empty ones having reset it; ours left out.
        live: property -> value as systemd has it loaded now.
        programs: what its Exec lines start, with interpreters and loaders behind them, resolved.
        missing: programs of its Exec lines that are not there.
        running: programs its processes were seen in.
        libraries: folders of libraries its processes had mapped.
        loose: of all these, what others than root may write.
        jit: why code is made at run time, "" when nothing says so.
        namespaces: why it makes namespaces, likewise.
        devices: device nodes its processes hold, without the pseudo devices.
    """

    unit: str
    loaded: bool = True
    active: bool = False
    own: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    live: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    jit: str = ""
    namespaces: str = ""
    devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """One place that is to run nothing.

    Attributes:
        exists: the folder is there.
        mounted: it is a mount point; ``options`` are its own then.
        unit: its mount unit, where systemd has a file or an fstab line for it; "" otherwise.
        unit_options: the unit's Options= in its files, ours left out.
        method: how this program did it before (METHODS), "" when it did not.
    """

    path: str
    exists: bool = True
    mounted: bool = False
    options: tuple[str, ...] = ()
    unit: str = ""
    unit_options: str = ""
    method: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """The machine.

    Attributes:
        kernel: (major, minor).
        systemd: its major version.
        bpf: address filters hang on cgroups here (cgroup version 2).
        sysctls: name -> value now; what is missing does not exist on this kernel.
        before: name -> value before this program changed it.
        locked: why /proc/sys cannot be written, or "".
        userns: who uses user namespaces.
        memfd: who executes from memory files (container run times).
        io_uring: who uses io_uring.
    """

    kernel: tuple[int, int]
    systemd: int
    bpf: bool = True
    sysctls: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    locked: str = ""
    userns: tuple[str, ...] = ()
    memfd: tuple[str, ...] = ()
    io_uring: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServicePlan:
    """One drop-in.

    Attributes:
        lines: (directive, value) in the order they are written.
        refused: why nothing is planned for it, or "".
    """

    unit: str
    lines: tuple[tuple[str, str], ...] = ()
    items: tuple[Item, ...] = ()
    refused: str = ""


METHODS = ("dropin", "bind", "remount")
"""dropin: Options= of its mount unit. bind: a folder is mounted over itself. remount: a file system
that is mounted without a unit file (an API file system) gets other flags."""


@dataclass(frozen=True, slots=True)
class MountPlan:
    """One place that will run nothing, and how.

    Attributes:
        unit, options: of the mount unit and its Options=, with method dropin.
        flags: of the mount itself besides noexec (mount(2)).
    """

    path: str
    method: str
    unit: str = ""
    options: str = ""
    flags: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """One file that the plan puts in place; ``link`` is the target of a symbolic link."""

    path: str
    text: str = ""
    link: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything, in the order it is shown."""

    services: tuple[ServicePlan, ...]
    mounts: tuple[MountPlan, ...]
    sysctls: tuple[tuple[str, str], ...]
    items: tuple[Item, ...]

    @property
    def managed(self) -> tuple[str, ...]:
        """The units that get a drop-in."""
        return tuple(s.unit for s in self.services if s.lines)

    def gaps(self) -> tuple[str, ...]:
        """What stays open, in words, refused services first."""
        found = [f"{s.unit} is not confined: {s.refused}" for s in self.services if s.refused]
        for item in self.items:
            if item.is_gap:
                what = " ".join(part for part in (item.subject, item.name) if part)
                found.append(f"{what}: {item.why}")
        return tuple(found)
