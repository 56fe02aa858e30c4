"""The verdict of `edgewarden status`: what is wrong, worst first, each with its code and next step.

Pure: a ``Picture`` of the agent at one moment in, reasons out. Failing means that the gateway does
not do what it was told to (data cannot be kept, an armed enforcement does not hold, the certificate
has ended); degraded means that it does, but somebody should look. No reason at all is ``ok``.

    judge(Picture(...)) == ("degraded", [Reason("EW-NET-009", "no session with the broker for 41
    s", "...")])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from edgewarden.judge.doctor import Rung, State
from edgewarden.plain import dataclass, field

BACKLOG_RECORDS = 1000
"""Unsent records before a person is told: over half an hour of bulk at one commit each two
seconds."""
ATTESTATION_OVERDUE = 3
"""Periods without a fresh verdict: one lost challenge is chance, two are bad luck."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing that is not as it should be."""

    code: str
    text: str
    next_step: str
    failing: bool = False


@dataclass(frozen=True, slots=True)
class Picture:
    """The agent at one moment.

    Attributes:
        connected: a broker session is up.
        offline_s: since when it is not, seconds.
        trust_fault: text of the last TrustFault of the uplink, or "".
        uplink_why: code, text and next step of what keeps the uplink from a session, the empty
            ones for what is not known.
        parked: labels of the classes that wait because they are refused again and again.
        parked_by: "broker" or "verifier", whose word it is that does not come.
        attestation: last verdict (``affirming`` ...) or "none".
        attestation_age_s: None before the first verdict.
        attestation_period_s: how often one is due.
        storage_fault: text when the spool refuses writes, or "".
        memory_s: since when records are kept in memory only, seconds; None while they are not.
        unsent: records waiting over all classes.
        evicted: records lost to a full spool or disk, ever. A reason only while it can go on: when
            the backlog has gone nobody can mend it, and the spool's rows and findings still say it.
        cap_setting: the key of [spool] to raise for more room there.
        gate, guard: the processes are there.
        gate_starting: gate was not heard since link's start, which is seconds ago.
        mode, armed: what was asked of exec control, and whether it holds.
        tier: what this kernel was proved to do.
        responds: where nothing can be prevented, programs are killed after their start.
        unheld: area beside programs that is to enforce and does not -> why not.
        sensors: name -> (state, reason).
        doubtful: sensors whose readings are not good: name -> (quality, why).
        missing: required processes that are not there.
        settings_faults: texts of a newer settings file that is not in use.
        tight: the filesystem of the spool is too full for bulk, which is counted and not stored.
        rungs: what doctor says of certificate and clock; said here too, in the same words.
    """

    connected: bool
    offline_s: float
    trust_fault: str
    attestation: str
    attestation_age_s: float | None
    attestation_period_s: float
    storage_fault: str
    unsent: int
    evicted: int
    gate: bool
    gate_starting: bool
    guard: bool
    mode: str
    armed: bool
    tier: str
    watches: bool
    responds: bool = False
    unheld: Mapping[str, str] = field(default_factory=dict)
    sensors: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    doubtful: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    settings_faults: tuple[str, ...] = ()
    rungs: tuple[Rung, ...] = ()
    memory_s: float | None = None
    tight: bool = False
    cap_setting: str = "cap_bytes"
    uplink_why: tuple[str, str, str] = ("", "", "")
    parked: tuple[str, ...] = ()
    parked_by: str = "broker"


def judge(p: Picture) -> tuple[str, list[Reason]]:
    """Return (verdict, reasons), failing reasons first."""
    reasons = sorted(_reasons(p), key=lambda reason: not reason.failing)
    if not reasons:
        return "ok", []
    return ("failing" if reasons[0].failing else "degraded"), reasons


def _reasons(p: Picture) -> Iterator[Reason]:
    if p.memory_s is not None:
        text = f"records are kept in memory only, for {p.memory_s:.0f} s: {p.storage_fault}"
        yield Reason("EW-SPL-010", text, "run `edgewarden doctor disk`", failing=True)
    elif p.storage_fault:
        yield Reason("EW-SPL-001", p.storage_fault, "run `edgewarden doctor disk`", failing=True)
    elif p.tight:
        text = "the disk under the spool is nearly full: readings are counted and not stored"
        yield Reason("EW-SPL-006", text, "run `edgewarden doctor disk`", failing=True)
    yield from _uplink(p)
    yield from reasons_of(p.rungs)
    yield from _control(p)
    yield from _areas(p)
    yield from _attestation(p)
    if p.evicted and (not p.connected or p.unsent > BACKLOG_RECORDS):
        text = f"{p.evicted} records were evicted unsent; signed gap records name them"
        yield Reason("EW-SPL-003", text, f"restore the uplink or raise spool.{p.cap_setting}")
    if p.unsent > BACKLOG_RECORDS:
        yield Reason("EW-SPL-004", f"{p.unsent} records wait", "run `edgewarden doctor network`")
    for name, (state, why) in sorted(p.sensors.items()):
        if state not in ("live", "open"):
            text = f"sensor {name} is {state}: {why}" if why else f"sensor {name} is {state}"
            code = "EW-SER-002" if state == "silent" else "EW-SER-001"
            yield Reason(code, text, "run `edgewarden sensors`")
    for name, (quality, why) in sorted(p.doubtful.items()):
        text = f"readings of {name} are {quality}: {why}"
        yield Reason("EW-SER-015", text, f"run `edgewarden sensors watch {name}`")
    for name in p.missing:
        step = "`systemctl status` of its unit says why it ended"
        yield Reason("EW-PROC-008", f"required process {name} is missing", step)
    for text in p.settings_faults:
        yield Reason(
            "EW-SET-013", f"new settings are not used: {text}", "run `edgewarden config check`"
        )


def _uplink(p: Picture) -> Iterator[Reason]:
    """Why records do not leave, in the words of whoever met it: doctor may not try MQTT while link
    does, so that only link knows what the broker said."""
    code, why, step = p.uplink_why
    step = step or "run `edgewarden doctor network`"
    if p.trust_fault:
        yield Reason(code or "EW-NET-006", p.trust_fault, step, failing=True)
    elif not p.connected:
        text = f"no session with the broker for {p.offline_s:.0f} s"
        yield Reason(code or "EW-NET-009", f"{text}: {why}" if why else text, step)
    if p.parked:
        code = "EW-NET-016" if p.parked_by == "verifier" else "EW-NET-010"
        verb = "acknowledge" if p.parked_by == "verifier" else "take"
        text = f"the {p.parked_by} does not {verb} {', '.join(p.parked)}: these records wait"
        yield Reason(code, text, f"run `edgewarden explain {code}`")


def reasons_of(rungs: Iterable[Rung]) -> Iterator[Reason]:
    """The rungs that are not sound, as reasons of status."""
    for rung in rungs:
        if rung.state in (State.DEGRADED, State.FAILING):
            failing = rung.state is State.FAILING
            yield Reason(rung.code, rung.text, rung.next_step, failing=failing)


def _control(p: Picture) -> Iterator[Reason]:
    if not p.gate:
        text = "gate is starting: not heard yet" if p.gate_starting else "gate is not running"
        step = "wait ten seconds" if p.gate_starting else "run `edgewarden doctor agent`"
        yield Reason("EW-AGT-003", text, step)
        return
    if not p.guard:
        yield Reason("EW-AGT-004", "guard is not running", "run `edgewarden doctor agent`")
    if p.mode == "enforce" and not p.armed and p.responds and p.tier in ("T0", "T1"):
        text = f"tier {p.tier} detects and responds: programs are killed after their start"
        yield Reason("EW-EXEC-064", text, "run `edgewarden explain EW-EXEC-064`")
    elif p.mode == "enforce" and not p.armed:
        text = f"enforcement is asked for and does not hold (tier {p.tier})"
        yield Reason("EW-EXEC-001", text, "run `edgewarden doctor exec`", failing=True)
    elif p.watches and p.tier == "T0":
        text = "this kernel cannot block programs: detect and report only"
        yield Reason("EW-EXEC-001", text, "run `edgewarden explain EW-EXEC-001`")
    elif p.watches and p.tier == "T1":
        text = "managed services are confined by path; other programs are only reported"
        yield Reason("EW-EXEC-001", text, "run `edgewarden confine show`")


def _areas(p: Picture) -> Iterator[Reason]:
    """Areas beside programs that are to enforce and do not."""
    for name, why_not in sorted(p.unheld.items()):
        text = f"{name}: enforcement is asked for and does not hold: {why_not}"
        yield Reason("EW-AGT-011", text, "run `edgewarden policy show`", failing=True)


def _attestation(p: Picture) -> Iterator[Reason]:
    if p.attestation_age_s is None:
        if p.connected:
            text = "no attestation result yet"
            yield Reason("EW-ATT-002", text, "wait a minute; then ask the fleet's operator")
    elif p.attestation != "affirming":
        text = f"the verifier's last result is {p.attestation}"
        yield Reason("EW-ATT-001", text, "run `edgewarden explain EW-ATT-001`")
    elif p.attestation_age_s > ATTESTATION_OVERDUE * p.attestation_period_s:
        text = f"the last attestation result is {p.attestation_age_s:.0f} s old"
        yield Reason("EW-ATT-002", text, "run `edgewarden doctor network`")
