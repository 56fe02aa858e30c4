"""doctor's classifiers: what was measured in, a rung of the ladder out. No I/O, no clock.

A rung is one check with its result, one line of evidence, a code and one next step. The ladder is
climbed from the ground: a rung whose ground is broken is ``unchecked`` and says what it waits for,
so that the first broken rung is the one to mend. Probing is probe/'s, the order of climbing
cli/doctor.py's; network rungs stand in doctor_net.py.

    judge_clock(Instant(0, 0, None, "unsynced")).code == "EW-ID-015"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from edgewarden.plain import dataclass
from edgewarden.settings.faults import CREATE, NOT_THERE
from edgewarden.settings.schema import Device

CERTIFICATE_LIFE_S = 30 * 86400
"""What the fleet's CA issues."""
RENEW_BELOW_S = CERTIFICATE_LIFE_S // 4
"""It renews itself in its last third (judge/renewal.py): below a quarter that has failed for days,
and a person still has a week."""
_RENEW = "run `edgewarden identity renew` and read what it says"

# 2026-01-01T00:00:00Z. No certificate of this program is older: a clock before it has not been set.
EARLIEST_S = 1767225600

DISK_RESERVE_BYTES = 64 * 1024 * 1024
"""Four journal rotations of a small Debian; below it other services fail first and blame us."""
FULL_BYTES = 64 * 1024
"""One commit of bulk at its default size: with less link cannot begin."""
MEMORY_RESERVE_BYTES = 32 * 1024 * 1024
"""About the agent's own footprint: with less the kernel's OOM killer is near."""
HOT_MC = 80_000
"""Raspberry Pi firmware begins to throttle at 80 degrees Celsius (raspberrypi.com documentation,
"Frequency management and thermal control"). Unit: thousandths of a degree, as thermal_zone*/temp
gives them."""


class State(StrEnum):
    """How a rung is."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class Rung:
    """One check.

    Attributes:
        name: stable, for scripts: ``tcp``, ``certificate``.
        area: what `doctor AREA` selects.
        state: how it is.
        text: the evidence, one line.
        code, next_step: "" when there is nothing to do.
    """

    name: str
    area: str
    state: State
    text: str
    code: str = ""
    next_step: str = ""


class Instant(Protocol):
    """As ports.Instant, of which a classifier needs three fields."""

    @property
    def wall_ns(self) -> int:
        """CLOCK_REALTIME."""

    @property
    def uncertainty_ms(self) -> int | None:
        """How far off it may be."""

    @property
    def state(self) -> str:
        """unsynced, ntp, gps or signed."""


class Identity(Protocol):
    """As trust.identity.Identity, of which a classifier needs three fields."""

    @property
    def device(self) -> str:
        """The certificate's device id."""

    @property
    def tenant(self) -> str:
        """The certificate's tenant."""

    @property
    def not_after_utc(self) -> str:
        """ISO 8601 with Z."""


def ok(name: str, area: str, text: str) -> Rung:
    """A sound rung."""
    return Rung(name, area, State.OK, text)


def broken(name: str, area: str, text: str, code: str, next_step: str) -> Rung:
    """A rung that holds nobody."""
    step = next_step or f"see `edgewarden explain {code}`"
    return Rung(name, area, State.FAILING, text, code, step)


def weak(name: str, area: str, text: str, code: str, next_step: str) -> Rung:
    """A rung that holds for now."""
    return Rung(name, area, State.DEGRADED, text, code, next_step)


def unchecked(name: str, area: str, why: str) -> Rung:
    """A rung that could not be reached."""
    return Rung(name, area, State.UNCHECKED, why)


def judge_settings(files: int, faults: Sequence[str]) -> Rung:
    """One rung for all files; the first fault is shown, `config check` shows them all."""
    if not faults:
        return ok("settings", "settings", f"{files} file(s), no fault")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    code = faults[0].rpartition("[")[2].rstrip("]")
    step = "run `edgewarden config check FILE` and mend what it names"
    if code == NOT_THERE:
        step = CREATE["config"]
    return broken("settings", "settings", faults[0].rpartition(" [")[0] + more, code, step)


def judge_identity(identity: Identity, device: Device, now: Instant) -> Rung:
    """The certificate's names against the settings, its end against the clock."""
    if device.id not in (None, identity.device) or device.tenant != identity.tenant:
        text = (
            f"the certificate says {identity.tenant}/{identity.device}, the settings say "
            f"{device.tenant}/{device.id or identity.device}"
        )
        step = "remove device.id from the settings, or put the right card into this board"
        return broken("identity", "identity", text, "EW-ID-014", step)
    try:
        left_s = seconds_until(identity.not_after_utc, now)
    except ValueError:
        text = f"identity.json says the certificate ends at {identity.not_after_utc!r:.40}"
        step = "restore state/identity from a backup of this very device, or enrol again"
        return broken("identity", "identity", text, "EW-ID-005", step)
    if left_s <= 0:
        text = f"the certificate of {identity.device} expired at {identity.not_after_utc}"
        step = f"check the clock (`date -u`); if it is right, {_RENEW}"
        return broken("identity", "identity", text, "EW-ID-012", step)
    days = left_s / 86400
    text = f"{identity.device}, certificate until {identity.not_after_utc} ({days:.1f} days)"
    if left_s < RENEW_BELOW_S:
        return weak("identity", "identity", text, "EW-ID-013", _RENEW)
    return ok("identity", "identity", text)


def seconds_until(utc: str, now: Instant) -> float:
    """Seconds from now to an ISO 8601 moment; negative when it is past.

    Raises:
        ValueError: it is no ISO 8601 moment.
    """
    moment = datetime.fromisoformat(utc.replace("Z", "+00:00")).astimezone(UTC)
    return moment.timestamp() - now.wall_ns / 1e9


def judge_clock(now: Instant) -> Rung:
    """A clock before this program was made cannot be right; one that nobody vouches for may be."""
    said = datetime.fromtimestamp(now.wall_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if now.wall_ns / 1e9 < EARLIEST_S:
        step = "check `timedatectl`; let the site allow NTP, or set the time by hand"
        return broken("clock", "clock", f"it is {said} here", "EW-ID-015", step)
    if now.uncertainty_ms is None:
        text = f"{said}, and nothing vouches for it"
        step = "install or repair a time service (`timedatectl`, `chronyc tracking`)"
        return weak("clock", "clock", text, "EW-ID-016", step)
    return ok("clock", "clock", f"{said}, {now.state}, within {now.uncertainty_ms / 1000:.3g} s")


def judge_gate(
    mode: str, armed: bool, tier: str, guard: bool, filesystems: int, trips: int
) -> Rung:
    """gate as it describes itself: what it was asked for, what it does, who watches it."""
    text = f"mode {mode}, tier {tier}, {filesystems} filesystem(s)"
    if mode == "enforce" and not armed:
        step = "see `edgewarden explain EW-EXEC-001`; nothing is blocked until this is solved"
        return broken("gate", "exec", f"{text}, not armed", "EW-EXEC-001", step)
    if trips:
        step = "look at load and disk (`edgewarden doctor host`)"
        return weak("gate", "exec", f"{text}; ended {trips} time(s)", "EW-EXEC-004", step)
    if not guard:
        step = "start it (`systemctl start edgewarden-guard`)"
        return weak("gate", "exec", f"{text}; guard is not connected", "EW-AGT-004", step)
    if filesystems and tier == "T0":
        step = "boot a kernel with permission events if blocking is needed"
        return weak("gate", "exec", f"{text}: this kernel cannot block", "EW-EXEC-001", step)
    if filesystems and tier == "T1":
        said, step = (
            "managed services are confined by path, others are reported",
            ("see `edgewarden confine show`, and `edgewarden explain EW-EXEC-001`"),
        )
        return weak("gate", "exec", f"{text}: {said}", "EW-EXEC-001", step)
    return ok("gate", "exec", text)


def judge_sensors(sensors: Mapping[str, Mapping[str, object]], configured: int) -> list[Rung]:
    """One rung for each port that needs somebody, or one for all of them."""
    ill = {n: s for n, s in sensors.items() if s["state"] not in ("live", "open")}
    if not ill:
        text = f"{len(sensors)} of {configured} port(s) open" if configured else "none configured"
        return [ok("sensors", "sensors", text)]
    rungs = []
    for name, s in sorted(ill.items()):
        counts = f"{s['readings']} readings, {s['bad_frames']} bad frames"
        text = f"{name} is {s['state']}: {s.get('reason') or counts}"
        code = "EW-SER-002" if s["state"] == "silent" else "EW-SER-001"
        step = f"check plug, power and [[serial]] of {name}; `edgewarden explain {code}`"
        rungs.append(weak(f"sensor {name}", "sensors", text, code, step))
    return rungs


def judge_devices(seen: Mapping[str, Any]) -> list[Rung]:
    """The listener for devices behind the gateway, and those of them that need somebody."""
    listener, devices = seen["listener"], seen["devices"]
    if listener["state"] == "off":
        return []
    if listener["state"] == "refused":
        step = listener.get("next") or f"`edgewarden explain {listener['code']}`"
        why = listener["why"] or "the listener for devices is starting"
        if not listener["code"]:
            return [unchecked("devices", "agent", why)]
        return [broken("devices", "agent", why, listener["code"], step)]
    found = []
    for name, one in sorted(devices.items()):
        if one["tier"] != "contraindicated":
            continue
        code = "EW-DEV-002" if one["state"] == "quarantined" else "EW-DEV-003"
        step = f"`edgewarden devices`; `edgewarden explain {code}`"
        found.append(weak(f"device {name}", "agent", f"device {name} {one['why']}", code, step))
    if listener["code"]:
        step = listener.get("next") or f"`edgewarden explain {listener['code']}`"
        found.append(weak("devices", "agent", listener["why"], listener["code"], step))
    text = f"listening on {listener['address']}, {len(devices)} device(s) known"
    return found[:8] or [ok("devices", "agent", text)]


def judge_overload(seen: Mapping[str, Any]) -> Rung:
    """The degraded mode that link is in, as it describes it itself."""
    shed = {name.replace("_", " "): n for name, n in seen["shed"].items() if n}
    counts = ", ".join(f"{n} {name}" for name, n in shed.items())
    if not seen["level"]:
        return ok("overload", "agent", f"normal; since the start: {counts or 'nothing shed'}")
    text = f"{seen['mode']} for {seen['since_s']:.0f} s: {seen['why']}; {counts or 'nothing yet'}"
    return weak("overload", "agent", text, "EW-AGT-012", seen["next"])


def judge_folder(name: str, path: str, exists: bool, read_only: bool, open_to_all: bool) -> Rung:
    """State or run folder: there, writable, and not for everybody."""
    step = "create it (`systemd-tmpfiles --create`) or mend [paths]"
    if not exists:
        return broken(name, "disk", f"{path} is missing", "EW-HOST-002", step)
    if read_only:
        step = "look at `dmesg`: a card that turns read-only is usually dying"
        return broken(name, "disk", f"{path} is read-only", "EW-HOST-002", step)
    if open_to_all:
        step = f"chmod o-w {path}"
        return broken(name, "disk", f"everybody may write to {path}", "EW-HOST-002", step)
    return ok(name, "disk", path)


def judge_user(name: str, orphaned: bool) -> Rung:
    """link's user, asked for only while link does not run: orphaned when what is link's belongs to
    nobody. A user that never was is none of ours: `edgewarden run` does without."""
    if not orphaned:
        return ok("user", "agent", name)
    step = "`systemd-sysusers && systemd-tmpfiles --create`, then start edgewarden-link"
    return broken("user", "agent", f"the user {name} does not exist", "EW-HOST-010", step)


def judge_space(free_bytes: int, free_inodes: int, total_inodes: int) -> Rung:
    """Room for the spool to go on."""
    text = f"{free_bytes // (1024 * 1024)} MiB free"
    step = "free space, or lower [spool] cap_bytes or cap_percent"
    if free_bytes < FULL_BYTES:
        text = f"the disk is full: {free_bytes // 1024} KiB free"
        return broken("space", "disk", text, "EW-SPL-006", step)
    if free_bytes < DISK_RESERVE_BYTES:
        return weak("space", "disk", text, "EW-HOST-003", step)
    if total_inodes and free_inodes < total_inodes // 100:
        return weak("space", "disk", f"{text}, {free_inodes} inodes", "EW-HOST-003", step)
    return ok("space", "disk", text)


def judge_storage(mode: str, why: str, waiting: int, lost: int) -> Rung:
    """Where link puts records: on the disk, or in memory while that takes nothing."""
    if mode != "memory":
        return ok("storage", "disk", "records are durable")
    text = f"records are kept in memory only ({waiting} wait, {lost} lost): {why}"
    step = "mount it writable; link goes on there by itself"
    return broken("storage", "disk", text, "EW-SPL-010", step)


def most_first(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Names with what was counted, the highest first; equals by name."""
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def judge_wear(seen: Mapping[str, Any]) -> Rung:
    """What link wrote to disks within the last day, as its footprint has it, and for whom."""
    budget, written = seen["budget_bytes_day"], seen["written_bytes_day"]
    by = most_first(seen["written_by"])[:3]
    most = ", ".join(f"{name} {n / 1e6:.1f}" for name, n in by)
    of = f" of {budget / 1e6:.0f}" if budget else ""
    span_s = seen["written_span_s"]
    span = f"{span_s / 3600:.1f} h" if span_s >= 3600 else f"{span_s / 60:.0f} min"
    text = f"{written / 1e6:.1f}{of} MB written in {span}"
    text += f"; records by collector: {most}" if most else ""
    if budget and written > budget:
        step = "longer periods for what writes most, or a higher [spool] day_budget_bytes"
        return weak("wear", "disk", text, "EW-SPL-012", step)
    return ok("wear", "disk", text)


def judge_spool(evicted: int, unsent: int, many: int, cap_bytes: int, cap_setting: str) -> Rung:
    """Records that wait, and those lost to a full spool: a matter to mend while many wait.

    Args:
        cap_bytes, cap_setting: what the spool may hold, and the key of [spool] that says so.
    """
    cap = f"cap {cap_bytes // (1024 * 1024)} MiB"
    if evicted and unsent > many:
        text = f"{evicted} record(s) evicted unsent, {unsent} wait; {cap}"
        step = f"restore the uplink; raise [spool] {cap_setting} if the disk allows"
        return weak("spool", "disk", text, "EW-SPL-003", step)
    if unsent > many:
        step = "run `edgewarden doctor network`"
        return weak("spool", "disk", f"{unsent} record(s) wait; {cap}", "EW-SPL-004", step)
    lost = f"; {evicted} were evicted unsent, signed gap records name them" if evicted else ""
    return ok("spool", "disk", f"{unsent} record(s) wait; {cap}{lost}")


def judge_memory(available_bytes: int | None) -> Rung:
    """What the kernel says may still be used."""
    if available_bytes is None:
        return unchecked("memory", "host", "not available: /proc/meminfo has no MemAvailable")
    text = f"{available_bytes // (1024 * 1024)} MiB available"
    if available_bytes < MEMORY_RESERVE_BYTES:
        step = "see `ps aux --sort=-rss | head`"
        return weak("memory", "host", text, "EW-HOST-004", step)
    return ok("memory", "host", text)


def judge_heat(hottest_mc: int | None) -> Rung:
    """The hottest thermal zone, thousandths of a degree Celsius."""
    if hottest_mc is None:
        return unchecked("heat", "host", "not available: no thermal zone")
    text = f"{hottest_mc / 1000:.1f} degrees Celsius"
    if hottest_mc >= HOT_MC:
        step = "check power supply and cooling"
        return weak("heat", "host", text, "EW-HOST-005", step)
    return ok("heat", "host", text)
