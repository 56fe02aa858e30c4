"""Names of systemd's units and of their control groups.

What this decides, after systemd's own cg_escape() and cg_unescape(): a name that the kernel could
take for a file of a control group's has a ``_`` in front there, also one that begins with ``_``.

    unit_of("/system.slice/_memory.service") == ("system.slice", "memory.service")
"""

from __future__ import annotations

# cgroups(7), systemd's cgroup_controller_to_string(): a group is not called like their files.
_CONTROLLERS = frozenset(
    ("cgroup", "cpu", "cpuacct", "cpuset", "io", "blkio", "memory", "devices", "pids",
     "bpf-firewall", "bpf-devices", "bpf-foreign", "bpf-socket-bind",
     "bpf-restrict-network-interfaces", "bpf-bind-network-interface")
)  # fmt: skip
_FILES = frozenset(("notify_on_release", "release_agent", "tasks"))


def group_name(unit: str) -> str:
    """What the control group of a unit is called."""
    first = unit.partition(".")[0]
    odd = unit.startswith(("_", ".")) or unit in _FILES or first in _CONTROLLERS
    return f"_{unit}" if odd else unit


def unit_of(cgroup: str) -> tuple[str, ...]:
    """The slices of a cgroup path and the first unit below them, outermost first.

    ``/system.slice/nginx.service/evil.service`` is of ``system.slice`` and ``nginx.service``: what
    comes below a unit was named by whoever runs in it.
    """
    names = []
    for part in cgroup.split("/"):
        if not part:
            continue
        names.append(part.removeprefix("_"))
        if not part.endswith(".slice"):
            break
    return tuple(names)
