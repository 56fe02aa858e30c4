"""The two small files gate reads at its start: its configuration and the proved tier.

What this decides: their bytes. ``gate.conf`` (state/policy/) is compiled from the settings by the
policy one-shot, so that gate never parses TOML; ``exec-tier`` (run/) is the canary's word on what
this kernel really refuses. Both are sealed (wire/lean.py) lines of text, ``key value``, each key
exactly as often as stated, in this order. What it leaves to others: that the files belong to root
(gate asks fstat), and whether a mode is possible (gate).

    data = compile_gate_config(["/mnt/apps"], "learn", link_uid=995)
    GateConfig.load(data).filesystems == ("/mnt/apps",)
"""

from __future__ import annotations

from edgewarden.errors import OperatorFault, WireRefusal
from edgewarden.wire.lean import Frozen, seal, unseal
from edgewarden.wire.local_messages import SOURCES
from edgewarden.wire.local_tier import GAPS, TIERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG_MAGIC = b"EWGCONF1"
TIER_MAGIC = b"EWTIER_2"
MAX_FILESYSTEMS = 16
"""As in the settings' schema."""
MAX_FILE_BYTES = 131072 + 2048
"""Twice 16 paths of PATH_MAX bytes and the rest."""
MAX_PATH_BYTES = 4095
"""PATH_MAX without its NUL, <linux/limits.h>."""
MAX_UID = 0xFFFFFFFE
OBSERVE_H, MAX_OBSERVE_H = 24, 8760
"""A day and a night: what timers do. A year."""
MAX_STOP_USERS = 64
"""A quarter of what the BPF program's map holds."""
CONFIGURED_MODES = ("learn", "observe")
"""enforce is a person's word on the host, never a setting."""


class StopConfig(Frozen):
    """Programs may be stopped at their start by BPF, where the kernel cannot refuse one (tier T2).

    Attributes:
        cgroup: below which cgroup programs are stopped, as the cgroup v2 hierarchy names it; "/"
            for all.
        users: who may start programs at all; empty: everybody.
    """

    __slots__ = ("cgroup", "users")
    cgroup: str
    users: tuple[int, ...]


class GateConfig(Frozen):
    """What gate is told at its start.

    Attributes:
        filesystems: absolute paths; the filesystem each lies on is watched.
        mode: of CONFIGURED_MODES, until a person chose one.
        link_uid: the user that may take facts, besides root.
        stop: None: programs are never stopped.
        kill_after_start: where nothing can be prevented, kill what is not allowed after its start.
        observe_h: hours of observe before enforce is kept on the filesystem that holds ``/``.
        strict: what is opened is judged, too (exec/opened.py).
        data: below these, what interpreters open need not be listed.
    """

    __slots__ = (
        "data",
        "filesystems",
        "kill_after_start",
        "link_uid",
        "mode",
        "observe_h",
        "stop",
        "strict",
    )
    filesystems: tuple[str, ...]
    mode: str
    link_uid: int
    stop: StopConfig | None
    kill_after_start: bool
    observe_h: int
    strict: bool
    data: tuple[str, ...]

    def __init__(
        self,
        filesystems: tuple[str, ...],
        mode: str,
        link_uid: int,
        stop: StopConfig | None = None,
        kill_after_start: bool = False,
        observe_h: int = OBSERVE_H,
        strict: bool = False,
        data: tuple[str, ...] = (),
    ) -> None:
        super().__init__(
            filesystems, mode, link_uid, stop, kill_after_start, observe_h, strict, data
        )

    @staticmethod
    def load(data: bytes) -> GateConfig:
        """Read what ``compile_gate_config`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        lines = _lines(unseal(CONFIG_MAGIC, data, most=MAX_FILE_BYTES))
        if len(lines) < 2 or lines[0][0] != "mode" or lines[1][0] != "link_uid":
            raise WireRefusal("bad_value", "gate.conf does not begin with mode and link_uid")
        rest = lines[2:]
        if rest != sorted(rest, key=lambda pair: _ORDER.get(pair[0], -1)) or any(
            key not in _ORDER for key, _ in rest
        ):
            raise WireRefusal("bad_value", "gate.conf holds an unknown key")
        given: dict[str, list[str]] = {key: [] for key in _ORDER}
        for key, value in rest:
            given[key].append(value)
        cgroups, kills = given["stop_cgroup"], given["kill_after_start"]
        if len(cgroups) > 1 or kills not in ([], ["yes"]) or (given["stop_user"] and not cgroups):
            raise WireRefusal("bad_value", "gate.conf: stop_cgroup, stop_user, kill_after_start")
        hours = given["observe_h"] or [str(OBSERVE_H)]
        if len(hours) > 1:
            raise WireRefusal("bad_value", "gate.conf: observe_h twice")
        uid = _number(lines[1][1], "link_uid")
        users = tuple(_number(value, "stop_user") for value in given["stop_user"])
        stop = StopConfig(cgroups[0], users) if cgroups else None
        try:
            return _checked(
                given["filesystem"],
                lines[0][1],
                uid,
                stop,
                bool(kills),
                _number(hours[0], "observe_h"),
                _is_strict(given["strict"]),
                given["data"],
            )
        except OperatorFault as fault:
            raise WireRefusal("bad_value", fault.text) from None


_ORDER = {
    "observe_h": 0, "kill_after_start": 1, "stop_cgroup": 2, "stop_user": 3, "strict": 4, "data": 5,
    "filesystem": 6,
}  # fmt: skip


def _is_strict(values: list[str]) -> bool:
    if values not in ([], ["yes"]):
        raise WireRefusal("bad_value", "gate.conf: strict")
    return bool(values)


def _number(text: str, key: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10):
        raise WireRefusal("bad_value", f"gate.conf: {key} is not a number")
    return int(text)


def compile_gate_config(
    filesystems: Sequence[str],
    mode: str,
    *,
    link_uid: int,
    stop: StopConfig | None = None,
    kill_after_start: bool = False,
    observe_h: int = OBSERVE_H,
    strict: bool = False,
    data: Sequence[str] = (),
) -> bytes:
    """The bytes of state/policy/gate.conf.

    Raises:
        OperatorFault: a value gate would refuse; the text names it.
    """
    config = _checked(filesystems, mode, link_uid, stop, kill_after_start, observe_h, strict, data)
    lines = [f"mode {config.mode}", f"link_uid {config.link_uid}", f"observe_h {observe_h}"]
    if kill_after_start:
        lines.append("kill_after_start yes")
    if stop is not None:
        lines.append(f"stop_cgroup {stop.cgroup}")
        lines += [f"stop_user {uid}" for uid in stop.users]
    if strict:
        lines.append("strict yes")
    lines += [f"data {path}" for path in config.data]
    lines += [f"filesystem {path}" for path in config.filesystems]
    return seal(CONFIG_MAGIC, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def _checked(
    filesystems: Sequence[str],
    mode: str,
    link_uid: int,
    stop: StopConfig | None,
    kill_after_start: bool,
    observe_h: int,
    strict: bool,
    data: Sequence[str],
) -> GateConfig:
    if mode not in CONFIGURED_MODES:
        raise _fault(f"mode {mode!r} is not one of {', '.join(CONFIGURED_MODES)}")
    if not 0 <= link_uid <= MAX_UID:
        raise _fault(f"link_uid {link_uid} is no user id")
    if not 0 <= observe_h <= MAX_OBSERVE_H:
        raise _fault(f"observe_h {observe_h} is not between 0 and {MAX_OBSERVE_H}")
    if not 0 <= observe_h <= MAX_OBSERVE_H:
        raise _fault(f"observe_h {observe_h} is not between 0 and {MAX_OBSERVE_H}")
    _check_paths(filesystems, "filesystem")
    _check_paths(data, "data path")
    if stop is not None:
        _check_stop(stop)
    return GateConfig(
        tuple(filesystems), mode, link_uid, stop, kill_after_start, observe_h, strict, tuple(data)
    )


def _check_paths(paths: Sequence[str], what: str) -> None:
    if len(paths) > MAX_FILESYSTEMS:
        raise _fault(f"{len(paths)} {what}s; {MAX_FILESYSTEMS} are the most")
    for i, path in enumerate(paths):
        try:
            size = len(path.encode("utf-8"))
        except UnicodeEncodeError:
            size = 0
        if not path.startswith("/") or not 1 <= size <= MAX_PATH_BYTES:
            raise _fault(f"{what}s[{i}] is not an absolute path")
        if "\n" in path or "\0" in path:
            raise _fault(f"{what}s[{i}] holds a line break or NUL")
    if len(set(paths)) != len(paths):
        raise _fault(f"a {what} is named twice")


def _check_stop(stop: StopConfig) -> None:
    parts = stop.cgroup.split("/")
    named = stop.cgroup == "/" or (stop.cgroup[:1] == "/" and not {"", ".", ".."} & set(parts[1:]))
    if not named or not stop.cgroup.isprintable() or len(stop.cgroup) > MAX_PATH_BYTES // 4:
        raise _fault(f"bpf_cgroup {stop.cgroup!r} is no cgroup")
    if len(stop.users) > MAX_STOP_USERS:
        raise _fault(f"{len(stop.users)} users may start programs; {MAX_STOP_USERS} are the most")
    if any(not 0 <= uid <= MAX_UID for uid in stop.users):
        raise _fault("bpf_users holds a number that is no user id")


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-EXEC-011", next_step="correct [exec] in the settings and start again"
    )


class ExecTier(Frozen):
    """What the canary proved on this boot.

    Attributes:
        tier: of TIERS, by a program that was really denied ("T3") or stopped and killed ("T2").
        source: best of SOURCES this kernel gives.
        reason: why not more, in one line.
        boot_id: of the boot it was proved on; another boot's word is not taken.
        gaps: what it was seen not to reach, of GAPS.
    """

    __slots__ = ("boot_id", "gaps", "reason", "source", "tier")
    tier: str
    source: str
    reason: str
    boot_id: str
    gaps: tuple[str, ...]

    def __init__(
        self, tier: str, source: str, reason: str, boot_id: str, gaps: tuple[str, ...] = ()
    ) -> None:
        super().__init__(tier, source, reason, boot_id, gaps)

    def dump(self) -> bytes:
        """The bytes of run/exec-tier."""
        lines = (
            f"tier {self.tier}\nsource {self.source}\nboot {self.boot_id}\n"
            f"gaps {' '.join(self.gaps)}\nreason {' '.join(self.reason.split())}\n"
        )
        return seal(TIER_MAGIC, lines.encode("utf-8", "backslashreplace"))

    @staticmethod
    def load(data: bytes) -> ExecTier:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        lines = _lines(unseal(TIER_MAGIC, data, most=MAX_FILE_BYTES))
        if [key for key, _ in lines] != ["tier", "source", "boot", "gaps", "reason"]:
            raise WireRefusal("bad_value", "exec-tier has other keys")
        tier, source, boot_id, words, reason = (value for _, value in lines)
        gaps = tuple(words.split())
        if tier not in TIERS or source not in SOURCES or not set(gaps) <= set(GAPS):
            raise WireRefusal("bad_value", f"tier {tier!r}, source {source!r}, gaps {words!r}")
        return ExecTier(tier, source, reason, boot_id, gaps)


CONFINED_NAME = "confine-tier"
"""In state/policy, written by `edgewarden confine verify`: an ExecTier, T1 where every managed
service refused its canary on that boot (confine/plan.py)."""


def climb(canary: ExecTier, confined: ExecTier | None) -> ExecTier:
    """The highest rung that was proved on this boot: what the kernel denies to every program (T3,
    T2), else what systemd denies to managed services (T1), else nothing (T0).

    ``source`` stays the canary's: T1 sees no exec.
    """
    if canary.tier != "T0" or confined is None or confined.tier != "T1":
        return canary
    if confined.boot_id != canary.boot_id:
        return canary
    reason = f"{confined.reason}; {canary.reason}" if canary.reason else confined.reason
    return ExecTier("T1", canary.source, reason, canary.boot_id, canary.gaps)


def _lines(body: bytes) -> list[tuple[str, str]]:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise WireRefusal("bad_value", "not UTF-8") from None
    if not text.endswith("\n"):
        raise WireRefusal("bad_value", "the last line is cut short")
    pairs = []
    for line in text[:-1].split("\n"):
        key, space, value = line.partition(" ")
        if not space:
            raise WireRefusal("bad_value", "a line without a value")
        pairs.append((key, value))
    return pairs
