"""What `edgewarden policy show` says of the network: gate's picture, the rules in order, and which
managed units are not there."""

from __future__ import annotations

import os

from edgewarden.cli.console import Console, clip
from edgewarden.errors import EdgewardenError
from edgewarden.probe.control import ask_area
from edgewarden.probe.disk import Disk
from edgewarden.settings.policy import Policy
from edgewarden.settings.policy_peers import Peer
from edgewarden.wire.local import AreaStats
from edgewarden.wire.network_table import MAX_TABLE_BYTES, NetworkTable

TABLE_NAME = "network.table"
CGROUP_ROOT = "/sys/fs/cgroup"
KEYS = ("unit", "uid", "address", "host", "protocol", "port")
MAX_SHOWN = 3
"""Values of one key on a line of 80; all of them are in the JSON."""


def show_network(policy: Policy, run_dir: str, state_dir: str, console: Console) -> None:
    """The lines; none where the policy says nothing and gate cannot be asked."""
    stats = network(run_dir)
    if policy.egress or policy.ingress:
        console.line(f"network {len(policy.egress)} rule(s) out, {len(policy.ingress)} in")
    if stats is not None:
        armed = "armed" if stats.armed else "not armed"
        trial = f", on trial for {stats.trial_s} s" if stats.trial_s else ""
        limits = f", limits active: {stats.limits}" if stats.limits else ""
        why = f" ({stats.why_not})" if stats.why_not else ""
        console.line(
            clip(f"nft     mode {stats.mode}, {armed}{trial}, {stats.rules} rule(s){limits}{why}")
        )
    for direction, rules in (("out", policy.egress), ("in", policy.ingress)):
        for rule in rules:
            console.line(clip(f"{rule.action:<7} {direction} {rule.name}: {words(rule)}"))
    for path, there in managed(state_dir):
        if not there:
            console.line(clip(f"note    not running, or elsewhere than /{path}"))


def managed(state_dir: str, root: str = CGROUP_ROOT) -> list[tuple[str, bool]]:
    """Control groups that the compiled table manages, and whether each is there now."""
    try:
        data = Disk().fetch(os.path.join(state_dir, "policy", TABLE_NAME), MAX_TABLE_BYTES)
        units = NetworkTable.load(data).units
    except (EdgewardenError, OSError):
        return []
    tops = [top for top in (root, f"{root}/unified") if os.path.exists(f"{top}/cgroup.controllers")]
    return [(u.path, any(os.path.isdir(f"{top}/{u.path}") for top in tops)) for u in units]


def words(rule: Peer) -> str:
    """``unit historian.service, address 10.0.0.5, protocol tcp, port 443``."""
    parts = []
    for key in KEYS:
        values = getattr(rule, key, ())
        if values:
            more = f" or {len(values) - MAX_SHOWN} more" if len(values) > MAX_SHOWN else ""
            label = f"{key} (by name)" if key == "host" else key
            parts.append(f"{label} {' or '.join(values[:MAX_SHOWN])}{more}")
    return ", ".join(parts) or "everybody"


def network_json(policy: Policy, run_dir: str, state_dir: str) -> dict[str, object]:
    """The same as JSON: the rules as written, and gate's picture or null."""
    stats = network(run_dir)
    return {
        "egress": [_given(rule) for rule in policy.egress],
        "ingress": [_given(rule) for rule in policy.ingress],
        "units": [{"path": path, "there": there} for path, there in managed(state_dir)],
        "gate": None
        if stats is None
        else {
            "mode": stats.mode,
            "armed": stats.armed,
            "trial_s": stats.trial_s,
            "rules": stats.rules,
            "generation": stats.generation,
            "denied": stats.denied,
            "would_deny": stats.would_deny,
            "limits_active": stats.limits.split(),
            "why_not": stats.why_not,
        },
    }


def network(run_dir: str) -> AreaStats | None:
    """gate's picture of the area; None where it cannot be asked."""
    try:
        stats = ask_area(run_dir, "network")
    except EdgewardenError:
        return None
    return stats if isinstance(stats, AreaStats) else None


def _given(rule: Peer) -> dict[str, object]:
    given = {key: list(getattr(rule, key, ())) for key in KEYS}
    return {"name": rule.name, "action": rule.action, **{k: v for k, v in given.items() if v}}
