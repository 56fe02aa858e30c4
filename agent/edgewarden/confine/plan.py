"""Tier T1 as text: what systemd and sysctls can be made to refuse on this machine, as a plan.

What this decides, item by item, each with its reason, what breaks by it, and whether it is already
so, would change, or is not available here and why:

1. Services: a drop-in each (confine/service.py), for those the settings name and no other.
2. Writable places: noexec. Where systemd has a mount unit, a drop-in adds the option to the unit's
   own; a folder is mounted over itself; an API file system gets other flags, and so does a place
   that was mounted before systemd came (an initramfs, a container). No fstab is touched.
   Folders that programs are run from by the system itself are refused.
3. Sysctls: raised to what is wanted, never lowered; left alone where something running needs them
   as they are, or where this kernel means something else by the value.

What it leaves to others: finding the facts (probe/), putting files in place and taking them away
byte for byte (change/confinement.py), proving that the kernel then really refuses (probe/).

    made = plan(wishes, services, mounts, host)
    made.managed == ("mosquitto.service",); files(made, keep=True)[0].path
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgewarden.confine.facts import (
    File,
    Host,
    Item,
    Mount,
    MountPlan,
    Plan,
    Service,
    State,
    Wish,
)
from edgewarden.confine.service import dropin, plan_service, within
from edgewarden.plain import dataclass

KEPT_UNITS = "/etc/systemd/system"
TRIAL_UNITS = "/run/systemd/system"
"""systemd.unit(5): the second is empty after a boot, and so a boot ends every trial."""
DROPIN = "50-edgewarden.conf"
SYSCTL_FILE = "/etc/sysctl.d/60-edgewarden.conf"
"""After the distribution's, before what an administrator numbers 70 and more (sysctl.d(5))."""
NOEXEC_UNIT = "edgewarden-noexec.service"

_RUNS_PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt", "/boot", "/proc",
                  "/sys", "/var/lib/dpkg", "/var/lib/edgewarden")  # fmt: skip
"""With all below them. /var/lib/dpkg: maintainer scripts; ours: the canary of `verify`."""
_ABOVE_PROGRAMS = ("/", "/var", "/var/lib", "/dev", "/run")
_VFS = ("nosuid", "nodev", "ro", "noatime", "nodiratime", "relatime")
"""Flags of a mount, not of its file system (mount(2), MS_REMOUNT | MS_BIND)."""
_BOUND = "nosuid,nodev"
"""Of a folder that is mounted over itself. A mount that is there already gets noexec and nothing
else: what it had cannot be told from what it has once it is in place, and would not come back."""
_NOEXEC = "what anybody may write does not run"
_BREAKS = {
    "/tmp": "scripts unpacked there: debconf's preview (it asks later), pip and DKMS builds",  # noqa: S108
    "/var/tmp": "the same; mkinitramfs then caches no hook order",  # noqa: S108
    "/dev/shm": "programs that keep machine code in shared memory",  # noqa: S108
}
_MEMFD = "vm.memfd_noexec"


@dataclass(frozen=True, slots=True)
class Knob:
    """One sysctl; ``want`` is the least value that will do, or with ``exact`` the only one."""

    name: str
    want: int
    reason: str
    breaks: str
    exact: bool = False


KNOBS = (
    Knob(_MEMFD, 2, "no program in a memory file", "runc before 1.2, some JITs"),
    Knob("kernel.yama.ptrace_scope", 1, "no process takes over another of its user",
         "strace -p and gdb -p without root"),
    Knob("kernel.io_uring_disabled", 2, "no system calls past every filter",
         "programs built on io_uring: MariaDB and QEMU fall back"),
    Knob("fs.protected_hardlinks", 1, "no hard link to what one may not write", "nothing known"),
    Knob("fs.protected_symlinks", 1, "no link laid in a shared folder", "nothing known"),
    Knob("fs.protected_fifos", 1, "no FIFO laid in a shared folder", "nothing known"),
    Knob("fs.protected_regular", 2, "no file laid in a shared folder",
         "root writing to another user's file in /tmp"),
)  # fmt: skip
_USERNS_CLONE = Knob(
    "kernel.unprivileged_userns_clone", 0, "no user mounts a place of its own without noexec",
    "rootless containers, browser sandboxes", exact=True,
)  # fmt: skip
_USERNS_MAX = Knob(
    "user.max_user_namespaces", 0, _USERNS_CLONE.reason,
    "rootless containers, browser sandboxes, PrivateUsers= in units", exact=True,
)  # fmt: skip

USERNS = (_USERNS_CLONE, _USERNS_MAX)
"""Debian's own switch touches ordinary users only; where it is missing, a count of none does."""


def plan(
    wishes: Sequence[Wish],
    services: Mapping[str, Service],
    mounts: Sequence[Mount],
    host: Host,
    *,
    sysctls: bool = True,
    user_namespaces: bool = True,
) -> Plan:
    """See the module. ``sysctls`` and ``user_namespaces``: False keeps them as they are."""
    planned = tuple(plan_service(w, services.get(w.unit, _unknown(w.unit)), host) for w in wishes)
    placed = [_mount(mount) for mount in mounts]
    turned = [_knob(knob, host, sysctls) for knob in KNOBS]
    turned.append(_user_namespaces(host, sysctls and user_namespaces))
    items = [item for service in planned for item in service.items]
    items += [item for _, item in placed] + [item for _, item in turned]
    return Plan(
        services=planned,
        mounts=tuple(done for done, _ in placed if done is not None),
        sysctls=tuple(done for done, _ in turned if done is not None),
        items=tuple(items),
    )


def files(made: Plan, *, keep: bool) -> tuple[File, ...]:
    """What stands on the disk for a plan: for good (``keep``), or until the next boot."""
    units = KEPT_UNITS if keep else TRIAL_UNITS
    found = [
        File(f"{units}/{service.unit}.d/{DROPIN}", dropin(service))
        for service in made.services
        if service.lines
    ]
    found += [
        File(f"{units}/{mount.unit}.d/{DROPIN}", f"[Mount]\nOptions={mount.options}\n")
        for mount in made.mounts
        if mount.method == "dropin"
    ]
    if made.mounts:
        found.append(File(f"{units}/{NOEXEC_UNIT}", _noexec_unit(made.mounts)))
    if keep:
        found += standing(made.sysctls, noexec=bool(made.mounts))
    return tuple(found)


def standing(sysctls: Sequence[tuple[str, str]], *, noexec: bool) -> list[File]:
    """What only a plan for good has: what brings it back at a boot."""
    found = []
    if noexec:
        wants = f"{KEPT_UNITS}/sysinit.target.wants/{NOEXEC_UNIT}"
        found.append(File(wants, link=f"{KEPT_UNITS}/{NOEXEC_UNIT}"))
    if sysctls:
        found.append(File(SYSCTL_FILE, _sysctl_text(sysctls)))
    return found


# --- mounts --------------------------------------------------------------------------------------


def _mount(facts: Mount) -> tuple[MountPlan | None, Item]:
    now = ",".join(facts.options) if facts.mounted else "a folder"
    why = _mount_refusal(facts)
    if why:
        return None, _mount_item(facts, now, State.NOT_HERE, why)
    so = facts.mounted and "noexec" in facts.options
    if so and not facts.method and "noexec" not in facts.unit_options.split(","):
        return None, _mount_item(facts, now, State.ALREADY)
    flags = ",".join(word for word in facts.options if word in _VFS and facts.mounted)
    if facts.unit and facts.method in ("", "dropin"):
        own = [word for word in facts.unit_options.split(",") if word and word != "exec"]
        if "noexec" in own:
            return None, _mount_item(facts, now, State.ALREADY if so else State.CHANGE)
        made = MountPlan(facts.path, "dropin", facts.unit, ",".join([*own, "noexec"]), flags)
    else:
        method = facts.method or ("remount" if facts.mounted else "bind")
        made = MountPlan(facts.path, method, flags=_BOUND if method == "bind" else flags)
    return made, _mount_item(facts, now, State.ALREADY if so else State.CHANGE)


def _mount_refusal(facts: Mount) -> str:
    if not facts.exists:
        return "there is no such folder"
    if facts.path in _ABOVE_PROGRAMS or within(facts.path, _RUNS_PROGRAMS):
        return "the system runs programs from it"
    if within(facts.path, ("/run/user",)):
        return "systemd-logind gives the options"
    if within(facts.path, ("/media",)):
        return "whoever mounts a medium gives them"
    return ""


def _mount_item(facts: Mount, now: str, state: State, why: str = "") -> Item:
    breaks = _BREAKS.get(facts.path, "programs and scripts that are started from there")
    return Item("mount", facts.path, "noexec", now, state, _NOEXEC, breaks, why=why)


def _noexec_unit(mounts: Sequence[MountPlan]) -> str:
    rows = [
        "# Made by `edgewarden confine apply`; `edgewarden confine revert` takes it away.",
        "[Unit]",
        "Description=edgewarden: what anybody may write does not run",
        "DefaultDependencies=no",
        "After=local-fs.target",
        "Before=sysinit.target systemd-tmpfiles-setup.service",
        "",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
    ]
    for mount in mounts:
        where, flags = mount.path, f"{mount.flags}," if mount.flags else ""
        if mount.method == "bind":
            rows.append(f"ExecStart=mount --bind -o {flags}noexec {where} {where}")
            rows.append(f"ExecStop=umount --lazy {where}")
        else:
            rows.append(f"ExecStart=mount -o remount,bind,{flags}noexec {where}")
            rows.append(f"ExecStop=mount -o remount,bind,{flags}exec {where}")
    return "\n".join([*rows, "", "[Install]", "WantedBy=sysinit.target", ""])


# --- sysctls -------------------------------------------------------------------------------------


def _user_namespaces(host: Host, wanted: bool) -> tuple[tuple[str, str] | None, Item]:
    knob = _USERNS_CLONE if _USERNS_CLONE.name in host.sysctls else _USERNS_MAX
    return _knob(knob, host, wanted)


def _knob(knob: Knob, host: Host, wanted: bool) -> tuple[tuple[str, str] | None, Item]:
    now = host.sysctls.get(knob.name, "")
    why = _absent(knob, host, now)
    if why:
        return None, _knob_item(knob, now, State.NOT_HERE, why)
    before = host.before.get(knob.name, now)
    if _enough(knob, before):
        state = State.ALREADY if _enough(knob, now) else State.KEPT
        return None, _knob_item(knob, now, state, "somebody changed it back" * (now != before))
    why = _needed(knob, host) if wanted else "keep in the settings"
    if why:
        return None, _knob_item(knob, now, State.KEPT, why)
    if host.locked:
        return None, _knob_item(knob, now, State.NOT_HERE, host.locked)
    state = State.ALREADY if _enough(knob, now) else State.CHANGE
    return (knob.name, str(knob.want)), _knob_item(knob, now, state)


def _absent(knob: Knob, host: Host, now: str) -> str:
    version = f"kernel {host.kernel[0]}.{host.kernel[1]}"
    if not now:
        needs = {_MEMFD: " (from 6.3 on)", "kernel.io_uring_disabled": " (from 6.6 on)"}
        return f"{version} has no such sysctl{needs.get(knob.name, '')}"
    if knob.name == _MEMFD and host.kernel < (6, 6):
        return f"{version} refuses every memfd at 2"
    return ""


def _needed(knob: Knob, host: Host) -> str:
    users = {
        _MEMFD: host.memfd,
        "kernel.io_uring_disabled": host.io_uring,
        _USERNS_CLONE.name: host.userns,
        _USERNS_MAX.name: host.userns,
    }.get(knob.name, ())
    return f"used by {', '.join(users[:3])}" if users else ""


def _enough(knob: Knob, value: str) -> bool:
    if not value.lstrip("-").isdecimal():
        return False
    return int(value) == knob.want if knob.exact else int(value) >= knob.want


def _knob_item(knob: Knob, now: str, state: State, why: str = "") -> Item:
    return Item("sysctl", knob.name, str(knob.want), now, state, knob.reason, knob.breaks, why=why)


def _sysctl_text(sysctls: Sequence[tuple[str, str]]) -> str:
    head = "# Made by `edgewarden confine apply`; `edgewarden confine revert` takes it away.\n"
    why = {knob.name: knob.reason for knob in (*KNOBS, *USERNS)}
    return head + "".join(f"# {why[name]}\n{name} = {value}\n" for name, value in sysctls)


def _unknown(unit: str) -> Service:
    return Service(unit, loaded=False)
