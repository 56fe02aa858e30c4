"""The messages between gate and its neighbours, as values; wire/local.py is their bytes.

What this decides: which fields each message has, and the words its kinds are made of. Words are
plain text checked against the tuples below, not StrEnum: see wire/lean.py for what an import costs
in gate.
"""

from __future__ import annotations

from edgewarden.wire.lean import Frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from edgewarden.wire.local import AnyMessage

# Order is the wire value; a new word goes to the end.
MODES = ("learn", "observe", "enforce")
SOURCES = ("none", "proc-connector", "fanotify-notify", "fanotify-permission", "bpf-stop")
DECISIONS = ("allow", "deny", "would_deny", "learned", "killed")
REASONS = (
    "listed", "unlisted", "too_large", "undecidable", "not_a_file", "being_written", "crowded_out",
    "ruled_out", "critical", "barred", "out_of_reach", "changeable", "provisional",
)  # fmt: skip
PROC_KINDS = ("fork", "exec", "exit")
VERBS = (
    "status",
    "mode",
    "reload",
    "quit",
    "confirm",
    "area",
    "reload_older",
    "packages",
    "healthy",
    "reload_contents",
)
AREAS = ("exec", "peripherals", "network")

UNKNOWN_UID = 0xFFFFFFFF
"""The process was gone before it could be asked ((uid_t)-1, never a user)."""


class ExecVerdict(Frozen):
    """One exec and what was decided.

    Attributes:
        decision: of DECISIONS; would_deny = observe mode, learned = learn mode, killed = it had
            started, and was ended (tier T0).
        reason: of REASONS.
        mode: of MODES, at the moment of the decision.
        tier: of TIERS, what this kernel was proved to do.
        sha256: of the content, 32 bytes, or b"" when it was not hashed.
        rule: name of the rule that decided, or "".
        path: as the kernel names the open file, at most MAX_PATH_BYTES of its end.
        pid: of the process that called execve; 0 when outside our pid namespace.
        uid: its real uid, or UNKNOWN_UID.
        boot_ns: CLOCK_BOOTTIME.
    """

    __slots__ = (
        "boot_ns",
        "decision",
        "mode",
        "path",
        "pid",
        "reason",
        "rule",
        "sha256",
        "tier",
        "uid",
    )  # fmt: skip
    decision: str
    reason: str
    mode: str
    tier: str
    sha256: bytes
    rule: str
    path: bytes
    pid: int
    uid: int
    boot_ns: int

    def path_text(self) -> str:
        """The path as text; bytes that are not UTF-8 as \\xNN."""
        return self.path.decode("utf-8", "backslashreplace")


class ProcEntry(Frozen):
    """One fork, exec or exit.

    Attributes:
        kind: of PROC_KINDS.
        pid: the process.
        other: the parent (fork), the wait status (exit), 0 (exec).
        boot_ns: CLOCK_BOOTTIME.
    """

    __slots__ = ("boot_ns", "kind", "other", "pid")
    kind: str
    pid: int
    other: int
    boot_ns: int


class ProcBatch(Frozen):
    """Processes since the last batch: counts of all, and the first MAX_BATCH of them.

    Attributes:
        forks, execs, exits: all that happened.
        resync: some were lost, or did not fit: sweep /proc now.
        entries: at most MAX_BATCH, in order.
    """

    __slots__ = ("entries", "execs", "exits", "forks", "resync")
    forks: int
    execs: int
    exits: int
    resync: bool
    entries: tuple[ProcEntry, ...]


class GateStats(Frozen):
    """What gate is and has done since its start. Sent on a timer, and as the answer to ``status``.

    Attributes:
        mode: what a person asked for, of MODES.
        tier: of TIERS.
        source: what sees execs now, of SOURCES.
        armed: whether execs really wait for a verdict (mode enforce and nothing stands in its way).
        link: whether a facts client is connected.
        guard: whether guard is connected.
        trips: guard's kills within its window.
        filesystems: how many are marked.
        rules, generation: of the policy table in use.
        allowed, denied, would_deny, killed, learned: verdicts.
        undecidable: execs allowed because they could not be judged (each is an Alarm too).
        unreported: facts dropped because link did not take them.
        hashed, cached: verdicts that needed a hash, and that found one.
        proc_events, proc_lost: events of the proc connector, and resyncs after losses.
        gate_pss_bytes, guard_pss_bytes: 0 when /proc does not say.
        boot_ns: CLOCK_BOOTTIME of this message.
    """

    __slots__ = (
        "allowed",
        "armed",
        "boot_ns",
        "cached",
        "denied",
        "filesystems",
        "gate_pss_bytes",
        "generation",
        "guard",
        "guard_pss_bytes",
        "hashed",
        "killed",
        "learned",
        "link",
        "mode",
        "proc_events",
        "proc_lost",
        "rules",
        "source",
        "tier",
        "trips",
        "undecidable",
        "unreported",
        "would_deny",
    )  # fmt: skip
    mode: str
    tier: str
    source: str
    armed: bool
    link: bool
    guard: bool
    trips: int
    filesystems: int
    rules: int
    generation: int
    allowed: int
    denied: int
    would_deny: int
    killed: int
    learned: int
    undecidable: int
    unreported: int
    hashed: int
    cached: int
    proc_events: int
    proc_lost: int
    gate_pss_bytes: int
    guard_pss_bytes: int
    boot_ns: int


class AreaStats(Frozen):
    """What one area of enforcement is and has done since gate's start.

    Attributes:
        area: of AREAS.
        mode: in force now, of MODES.
        armed: whether it really refuses (mode enforce and nothing stands in its way).
        trial_s: seconds until the mode goes back by itself; 0 when it is not on trial.
        rules, generation: of the table in use.
        allowed, denied, would_deny: verdicts.
        dropped: of those, facts that were counted and not told one by one.
        why_not: why it is not armed, or what holds it down; "" for nothing.
        limits: names of the limits in force now, separated by spaces.
    """

    __slots__ = (
        "allowed", "area", "armed", "denied", "dropped", "generation", "limits", "mode", "rules",
        "trial_s", "why_not", "would_deny",
    )  # fmt: skip
    area: str
    mode: str
    armed: bool
    trial_s: int
    rules: int
    generation: int
    allowed: int
    denied: int
    would_deny: int
    dropped: int
    why_not: str
    limits: str


class Alarm(Frozen):
    """Something a person should know: EW code, OCSF severity 1..5, one line of text."""

    __slots__ = ("boot_ns", "code", "severity", "text")
    code: str
    severity: int
    text: str
    boot_ns: int


class Repeated(Frozen):
    """A fact that was told, and came again; or, with ``others``, facts that found no room.

    Attributes:
        count: how often since it was told last, exactly.
        first_boot_ns, last_boot_ns: CLOCK_BOOTTIME of the first and last of these.
        others: the facts counted are of the same decision or code as ``message``, of which it is
            only the first: gate's ledger was full.
        message: of COUNTED.
    """

    __slots__ = ("count", "first_boot_ns", "last_boot_ns", "message", "others")
    count: int
    first_boot_ns: int
    last_boot_ns: int
    others: bool
    message: AnyMessage


class Heartbeat(Frozen):
    """gate lived at this moment (CLOCK_MONOTONIC): guard need not wake up to know when."""

    __slots__ = ("mono_ns",)
    mono_ns: int


class TripInfo(Frozen):
    """guard's first word to a gate: kills within the window, and its own pid (for its PSS)."""

    __slots__ = ("pid", "trips", "window_s")
    trips: int
    window_s: int
    pid: int


class Request(Frozen):
    """A person's word to gate.

    Attributes:
        verb: of VERBS; "area" asks for AreaStats; "reload_older" takes a table of a lower
            generation as well, "reload_contents" says that the rules are those of the last one;
            "packages" is dpkg's: packages change from now on for at most confirm_s seconds, 0 when
            they have been changed; "healthy": this boot is.
        mode: of MODES where the verb is "mode", else "learn" (not looked at).
        confirm_s: with "mode": go back by itself unless "confirm" comes within so many seconds; 0
            for no such limit.
        area: of AREAS; what "mode", "confirm" and "area" speak of.
    """

    __slots__ = ("area", "confirm_s", "mode", "verb")
    verb: str
    mode: str
    confirm_s: int
    area: str

    def __init__(self, verb: str, mode: str, confirm_s: int = 0, area: str = "exec") -> None:
        super().__init__(verb, mode, confirm_s, area)


class Answer(Frozen):
    """ok, or the name of the refusal with its text and next step in one line."""

    __slots__ = ("name", "ok", "text")
    ok: bool
    name: str
    text: str
