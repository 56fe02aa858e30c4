"""`edgewarden policy learn peripherals`, `put-back`, and what `show` says of areas beside programs.

`learn peripherals` prints rules for what is plugged in now, the strictest that allow exactly it, to
be read and put into the policy file; it writes nothing. Then gate watches (mode learn).
"""

from __future__ import annotations

import argparse

from edgewarden.cli.console import Console, Exit, clip
from edgewarden.cli.services import (
    learned_peripherals,
    lenient_settings,
    put_peripherals_back,
    refused_peripherals,
    remove_network_table,
    settings_option,
)
from edgewarden.errors import EdgewardenError, HardwareFault, OperatorFault
from edgewarden.probe.control import ask_area, ask_gate
from edgewarden.settings.policy import Policy
from edgewarden.wire.local import Answer, AreaStats, Request

MAX_LINES = 50
"""Devices listed; a hub with more is looked at with --json of `policy show`."""


def learn_peripherals(args: argparse.Namespace, console: Console) -> int:
    """Rules on stdout, everything else on stderr."""
    settings = lenient_settings(args, console).settings
    for line in learned_peripherals().splitlines():
        console.line(line)
    console.note("edgewarden: read this, then add it to the policy file and compile it:")
    console.note(f"  {settings.exec.policy}, `edgewarden policy compile`")
    try:
        answer = ask_gate(settings.paths.run, Request("mode", "learn", 0, "peripherals"))
        if isinstance(answer, Answer) and not answer.ok:
            console.note(f"edgewarden: gate refused mode learn: {answer.text}")
    except EdgewardenError as fault:
        console.note(f"edgewarden: gate was not asked for mode learn: {fault.text}")
    return Exit.OK


def configure(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The verb of this file; `learn` is policy.py's."""
    back = verbs.add_parser(
        "put-back", help="undo what a gate that ended has left in USB and nftables (uninstall does)"
    )
    settings_option(back)
    back.set_defaults(run=_put_back)


def _put_back(args: argparse.Namespace, console: Console) -> int:
    paths = lenient_settings(args, console).settings.paths
    if peripherals(paths.run) is not None:
        raise OperatorFault(
            "gate is running, and puts back by itself",
            code="EW-AGT-007",
            next_step="run `edgewarden policy observe peripherals`",
        )
    try:
        failed = put_peripherals_back(paths.state)
    except OSError as fault:
        failed = [f"{fault.filename}: {fault.strerror}"]
    if kept := remove_network_table(paths.state):
        raise HardwareFault(
            f"the network table stays: {kept}",
            code="EW-NET-031",
            next_step="run it again as root, or `nft delete table inet edgewarden`",
        )
    if failed:
        raise HardwareFault(
            f"USB is not as it was: {'; '.join(failed)}",
            code="EW-USB-002",
            next_step="run it again as root; a reboot puts back everything",
        )
    console.line("as it was before gate enforced: USB, nftables")
    return Exit.OK


def show_peripherals(policy: Policy, run_dir: str, console: Console) -> None:
    """The lines of `policy show`; none where the policy says nothing and gate cannot be asked."""
    stats = peripherals(run_dir)
    if policy.device or policy.port:
        console.line(f"devices {len(policy.device)} rule(s), ports {len(policy.port)} rule(s)")
    if stats is not None:
        armed = "armed" if stats.armed else "not armed"
        why = f" ({stats.why_not})" if stats.why_not and stats.mode == "enforce" else ""
        console.line(clip(f"usb     mode {stats.mode}, {armed}, {stats.rules} rule(s) in use{why}"))
    for rule in policy.device:
        words = [
            *([f"id {rule.id}"] if rule.id else []),
            *([f"serial {rule.serial}"] if rule.serial else []),
            *([f"interfaces {' '.join(rule.interfaces)}"] if rule.interfaces else []),
            *([f"port {rule.port}"] if rule.port else []),
            *([f"descriptors {rule.descriptors[:16]}"] if rule.descriptors else []),
        ]
        console.line(clip(f"{rule.action:<7} {rule.name}: {', '.join(words)}"))
    for port in policy.port:
        words = [port.path, *(word for word in (port.driver, port.device) if word)]
        console.line(clip(f"{port.action:<7} {port.name}: {', '.join(words)}"))


def check_peripherals(policy: Policy, console: Console) -> None:
    """What `policy check` says: how many rules, and what they refuse of this machine's devices."""
    console.line(f"{len(policy.device)} about devices, {len(policy.port)} about serial ports")
    for line in refused_peripherals([rule.compiled() for rule in policy.device])[:MAX_LINES]:
        console.line(clip(f"refuses {line}"))


def peripherals_json(policy: Policy, run_dir: str) -> dict[str, object]:
    """The same as JSON: the rules as written, and gate's picture or null."""
    stats = peripherals(run_dir)
    return {
        "device": [_given(rule, "serial", "id", "port", "descriptors") for rule in policy.device],
        "port": [_given(rule, "path", "driver", "device") for rule in policy.port],
        "gate": None
        if stats is None
        else {
            "mode": stats.mode,
            "armed": stats.armed,
            "rules": stats.rules,
            "generation": stats.generation,
            "why_not": stats.why_not,
        },
    }


def peripherals(run_dir: str) -> AreaStats | None:
    """gate's picture of the area; None where it cannot be asked."""
    try:
        stats = ask_area(run_dir, "peripherals")
    except EdgewardenError:
        return None
    return stats if isinstance(stats, AreaStats) else None


def _given(rule: object, *keys: str) -> dict[str, object]:
    """What of a rule was written."""
    found: dict[str, object] = {key: getattr(rule, key) for key in ("name", "action", *keys)}
    found["interfaces"] = list(getattr(rule, "interfaces", ()))
    return {key: value for key, value in found.items() if value}
