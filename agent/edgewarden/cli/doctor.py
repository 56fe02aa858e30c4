"""`edgewarden doctor [AREA]`: climb the ladder, show the first broken rung first.

Read-only: nothing is changed, and nothing is sent that a broker remembers. The MQTT rung is tried
only while link is not running; otherwise link says how its session is, because a second session
under our name would end the first.

The order of climbing stands in ``_climb``; what a measurement means stands in judge/doctor.py and
doctor_net.py.
"""

from __future__ import annotations

import argparse
import textwrap
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewarden.cli.console import WIDTH, Console, Exit, clip
from edgewarden.cli.services import own_keys, settings_option, spool_cap, system_clock
from edgewarden.errors import EdgewardenError, PeerUnavailable
from edgewarden.judge import doctor as judge
from edgewarden.judge import doctor_net as judge_net
from edgewarden.judge.doctor import Rung, State
from edgewarden.judge.health import BACKLOG_RECORDS
from edgewarden.plain import dataclass, field
from edgewarden.ports import Instant
from edgewarden.probe import host
from edgewarden.probe.control import ask_gate, ask_link
from edgewarden.probe.disk import Disk, room
from edgewarden.settings.files import settings_files
from edgewarden.settings.lenient import read_leniently
from edgewarden.settings.schema import Settings
from edgewarden.wire.control import Command
from edgewarden.wire.local import GateStats, Request

if TYPE_CHECKING:
    from edgewarden.ports import Clock
    from edgewarden.trust.identity import Identity

AREAS = (
    "settings",
    "identity",
    "clock",
    "network",
    "agent",
    "exec",
    "sensors",
    "disk",
    "host",
)

_EXIT = {State.FAILING: Exit.FAILING, State.DEGRADED: Exit.DEGRADED}


def configure(noun: str, parser: argparse.ArgumentParser) -> None:
    """All areas, or one."""
    parser.add_argument(
        "area", nargs="?", choices=AREAS, metavar="AREA", help=f"one of {', '.join(AREAS)}"
    )
    parser.add_argument("--json", action="store_true", help="print JSON (edgewarden.doctor/1)")
    settings_option(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, console: Console) -> int:
    """Climb, print, and exit with the worst rung's state (unchecked rungs do not count)."""
    ladder = Ladder(system_clock(), args.area)
    _climb(args.settings, ladder)
    rungs = ladder.rungs
    first = next((r for r in rungs if r.state is State.FAILING), None)
    first = first or next((r for r in rungs if r.state is State.DEGRADED), None)
    if args.json:
        listed = [
            {**asdict(r), "next": r.next_step, "ms": ladder.ms[i]} for i, r in enumerate(rungs)
        ]
        for row in listed:
            del row["next_step"]
        name = first.name if first else None
        console.json("edgewarden.doctor/1", {"first_broken": name, "rungs": listed})
    else:
        _print(rungs, first, console)
    return _EXIT[first.state] if first else Exit.OK


def _print(rungs: list[Rung], first: Rung | None, console: Console) -> None:
    if first is not None:
        code = f" [{first.code}]"
        console.line(clip(f"first: {first.name}: {first.text}", WIDTH - len(code)) + code)
        _wrap(f"next: {first.next_step}", "  ", console)
        console.line()
    for r in rungs:
        console.line(clip(f"{r.state:<10} {r.name:<12} {r.text}"))
        if r.code and r is not first:
            _wrap(f"next: {r.next_step} [{r.code}]", " " * 24, console)


def _wrap(text: str, indent: str, console: Console) -> None:
    for row in textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    ):
        console.line(row)


@dataclass
class Ladder:
    """The rungs so far, with the time each took; keeps only those of the area asked for."""

    clock: Clock
    area: str | None
    rungs: list[Rung] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    mark_ns: int = 0

    def __post_init__(self) -> None:
        self.mark_ns = self.clock.now().boot_ns

    def wants(self, *areas: str) -> bool:
        """Whether a rung of one of these areas would be kept: probes that would not are not run."""
        return self.area is None or self.area in areas

    def step(self, rung: Rung) -> Rung:
        """Add a rung; the time since the last one is its own."""
        now_ns = self.clock.now().boot_ns
        if self.wants(rung.area):
            self.rungs.append(rung)
            self.ms.append(round((now_ns - self.mark_ns) / 1e6, 1))
        self.mark_ns = now_ns
        return rung

    def sound(self, area: str) -> bool:
        """No rung of the area is failing."""
        return not any(r.area == area and r.state is State.FAILING for r in self.rungs)


def _climb(settings_path: str, ladder: Ladder) -> None:
    """Every rung from the ground up."""
    settings, whole = _settings(settings_path, ladder)
    _folders(settings, ladder)
    told = _told(settings)
    now = as_link_knows(ladder.clock.now(), None if isinstance(told, EdgewardenError) else told)
    identity = _identity(settings, now, ladder)
    ladder.step(judge.judge_clock(now))
    status = _link(settings, told, ladder)
    for rung in judge.judge_devices(status["devices"]) if status and "devices" in status else ():
        ladder.step(rung)
    if status and "storage" in status:
        kept = status["storage"]
        numbers = kept["waiting_in_memory"], kept["lost"]
        ladder.step(judge.judge_storage(kept["mode"], kept["why"], *numbers))
    if status and "written_by" in (status["footprint"] or {}):
        ladder.step(judge.judge_wear(status["footprint"]))
    if status and "overload" in status:
        ladder.step(judge.judge_overload(status["overload"]))
    if ladder.wants("network"):
        _network(settings, identity, status, ladder)
    if ladder.wants("exec"):
        _gate(settings, status, ladder)
    if status is None:
        ladder.step(judge.unchecked("sensors", "sensors", "needs link"))
    else:
        ports = len(settings.serial) if whole else len(status["sensors"])
        for rung in judge.judge_sensors(status["sensors"], ports):
            ladder.step(rung)
    ladder.step(judge.judge_memory(host.available_bytes()))
    ladder.step(judge.judge_heat(host.hottest_mc()))


def _settings(path: str, ladder: Ladder) -> tuple[Settings, bool]:
    """What the settings say, and whether that is all of it."""
    found = read_leniently(path, Disk())
    if found.faults:
        ladder.step(judge.judge_settings(0, [str(fault) for fault in found.faults]))
        return found.settings, False
    ladder.step(judge.judge_settings(len(settings_files(path, Disk())), []))
    return found.settings, True


def _folders(settings: Settings, ladder: Ladder) -> None:
    for name, path in (("state", settings.paths.state), ("run", settings.paths.run)):
        try:
            seen = room(path)
        except EdgewardenError as fault:
            ladder.step(judge.broken(name, "disk", fault.text, fault.code, fault.next_step))
            continue
        ladder.step(
            judge.judge_folder(name, path, seen.exists, seen.read_only, seen.writable_by_others)
        )
        if name == "state" and seen.exists:
            free = judge.judge_space(seen.free_bytes, seen.free_inodes, seen.total_inodes)
            ladder.step(free)
            ladder.step(_spool(settings))


def _spool(settings: Settings) -> Rung:
    state_dir = settings.paths.state
    if not Path(state_dir, "spool").is_dir():
        return judge.unchecked("spool", "disk", "link has not written anything yet")
    from edgewarden.record import reader

    try:
        classes = reader.stat(Path(state_dir)).values()
    except EdgewardenError as fault:
        return judge.broken("spool", "disk", fault.text, fault.code, fault.next_step)
    unsent = sum(c.next - 1 - c.acked for c in classes)
    cap, evicted = spool_cap(settings), sum(c.evicted for c in classes)
    return judge.judge_spool(evicted, unsent, BACKLOG_RECORDS, cap.size_bytes, cap.setting)


def _identity(settings: Settings, now: Instant, ladder: Ladder) -> Identity | None:
    from edgewarden.trust import identity as store

    try:
        keys = own_keys(settings.identity.tcti)
        identity = store.load(Path(settings.paths.state), keys)
        identity.signer()
    except EdgewardenError as fault:
        ladder.step(judge.broken("identity", "identity", fault.text, fault.code, fault.next_step))
        return None
    ladder.step(judge.judge_identity(identity, settings.device, now))
    return identity


def _told(settings: Settings) -> dict[str, Any] | EdgewardenError:
    """The running link's status, or why it does not answer."""
    try:
        return ask_link(settings.paths.run, Command.STATUS)
    except EdgewardenError as fault:
        return fault


def as_link_knows(now: Instant, status: dict[str, Any] | None) -> Instant:
    """The time that certificates are held to: what the fleet signed, where link goes by that."""
    clock = {} if status is None else status["clock"]
    bound_s, utc = clock.get("uncertainty_s"), clock.get("utc")
    if clock.get("state") != "signed" or bound_s is None or not isinstance(utc, str):
        return now
    try:
        moment = datetime.fromisoformat(utc.replace("Z", "+00:00"))
    except ValueError:
        return now
    return Instant(now.boot_ns, int(moment.timestamp()) * 10**9, round(bound_s * 1000), "signed")


def _link(
    settings: Settings, told: dict[str, Any] | EdgewardenError, ladder: Ladder
) -> dict[str, Any] | None:
    """What link said of itself; None when it is not there or does not answer."""
    if not isinstance(told, EdgewardenError):
        ladder.step(judge.ok("link", "agent", f"running, version {told['version']}"))
        return told
    user = settings.exec.link_user
    if host.is_orphaned(f"{settings.paths.state}/identity"):
        ladder.step(judge.judge_user(user, orphaned=True))
    ladder.step(judge.broken("link", "agent", told.text, told.code, told.next_step))
    return None


def _network(
    settings: Settings, identity: Identity | None, status: dict[str, Any] | None, ladder: Ladder
) -> None:
    """Name, TCP, TLS, then MQTT or link's own word; stops at the first that does not hold."""
    from edgewarden.probe import net
    from edgewarden.trust.tls import client_context

    name = settings.uplink.host or (identity.broker_host if identity else None)
    port = settings.uplink.port or (identity.broker_port if identity else None)
    if name is None or port is None:
        why = "needs an identity, or uplink.host and uplink.port"
        ladder.step(judge.unchecked("name", "network", why))
        return
    proxy = settings.uplink.proxy
    if proxy is not None:
        host, _, at = proxy.partition("://")[2].rpartition(":")
        near, near_port, judged = host.strip("[]"), int(at), judge_net.judge_proxy
    else:
        near, near_port, judged = name, port, judge_net.judge_tcp
    outcome, addresses = net.resolve(near, near_port)
    holds = ladder.step(judge_net.judge_name(near, outcome)).state is State.OK
    if holds:
        address, met = net.reach(addresses, near_port)
        where = f"{address}:{near_port}"
        holds = ladder.step(judged(where, met)).state is State.OK
    if holds and proxy is not None:
        why = "the broker is behind the site's proxy: link's word counts"
        ladder.step(judge.unchecked("tls", "network", why))
    elif holds and identity is None:
        ladder.step(judge.unchecked("tls", "network", "needs an identity"))
    elif holds and identity is not None:
        try:
            context = client_context(identity)
        except EdgewardenError as fault:
            ladder.step(judge.broken("tls", "network", fault.text, fault.code, fault.next_step))
            return
        if settings.uplink.alpn != "none":
            context.set_alpn_protocols([settings.uplink.alpn])
        tls = judge_net.judge_tls(where, net.tls(address, port, name, context))
        holds = ladder.step(tls).state is State.OK
        if holds and status is None and settings.uplink.transport == "mqtt":
            answer = net.mqtt(address, port, name, context, identity.device)
            ladder.step(judge_net.judge_mqtt(answer))
    if status is not None:
        sound = ladder.sound("network")
        ladder.step(judge_net.judge_session(status["uplink"], sound, status["reasons"]))
        attested = status["attestation"]
        ladder.step(judge_net.judge_attestation(attested["result"], attested["age_s"]))


def _gate(settings: Settings, status: dict[str, Any] | None, ladder: Ladder) -> None:
    try:
        stats = ask_gate(settings.paths.run, Request("status", "learn"))
    except PeerUnavailable as fault:
        ladder.step(judge.broken("gate", "exec", fault.text, fault.code, fault.next_step))
        return
    except EdgewardenError as fault:  # not root: gate answers nobody else
        said = status["enforcement"]["exec"] if status else None
        heard = f"; link heard: mode {said['mode']}, tier {said['tier']}" if said else ""
        ladder.step(judge.unchecked("gate", "exec", fault.text + heard))
        return
    if not isinstance(stats, GateStats):
        ladder.step(judge.unchecked("gate", "exec", f"{stats.name}: {stats.text}"))
        return
    s = stats
    ladder.step(judge.judge_gate(s.mode, s.armed, s.tier, s.guard, s.filesystems, s.trips))
