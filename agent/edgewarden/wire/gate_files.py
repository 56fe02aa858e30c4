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
from edgewarden.wire.local_messages import SOURCES, TIERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

CONFIG_MAGIC = b"EWGCONF1"
TIER_MAGIC = b"EWTIER_1"
MAX_FILESYSTEMS = 16
"""As in the settings' schema."""
MAX_FILE_BYTES = 65536 + 1024
"""16 paths of PATH_MAX bytes and the rest."""
MAX_PATH_BYTES = 4095
"""PATH_MAX without its NUL, <linux/limits.h>."""
MAX_UID = 0xFFFFFFFE
CONFIGURED_MODES = ("learn", "observe")
"""enforce is a person's word on the host, never a setting."""


class GateConfig(Frozen):
    """What gate is told at its start.

    Attributes:
        filesystems: absolute paths; the filesystem each lies on is watched.
        mode: of CONFIGURED_MODES, until a person chose one.
        link_uid: the user that may take facts, besides root.
    """

    __slots__ = ("filesystems", "link_uid", "mode")
    filesystems: tuple[str, ...]
    mode: str
    link_uid: int

    @staticmethod
    def load(data: bytes) -> GateConfig:
        """Read what ``compile_gate_config`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        lines = _lines(unseal(CONFIG_MAGIC, data, most=MAX_FILE_BYTES))
        if len(lines) < 2 or lines[0][0] != "mode" or lines[1][0] != "link_uid":
            raise WireRefusal("bad_value", "gate.conf does not begin with mode and link_uid")
        if any(key != "filesystem" for key, _ in lines[2:]):
            raise WireRefusal("bad_value", "gate.conf holds an unknown key")
        uid = lines[1][1]
        if not (uid.isascii() and uid.isdigit() and len(uid) <= 10):
            raise WireRefusal("bad_value", "gate.conf: link_uid is not a number")
        try:
            return _checked([value for _, value in lines[2:]], lines[0][1], int(uid))
        except OperatorFault as fault:
            raise WireRefusal("bad_value", fault.text) from None


def compile_gate_config(filesystems: Sequence[str], mode: str, *, link_uid: int) -> bytes:
    """The bytes of state/policy/gate.conf.

    Raises:
        OperatorFault: a value gate would refuse; the text names it.
    """
    config = _checked(filesystems, mode, link_uid)
    lines = [f"mode {config.mode}", f"link_uid {config.link_uid}"]
    lines += [f"filesystem {path}" for path in config.filesystems]
    return seal(CONFIG_MAGIC, "".join(f"{line}\n" for line in lines).encode("utf-8"))


def _checked(filesystems: Sequence[str], mode: str, link_uid: int) -> GateConfig:
    if mode not in CONFIGURED_MODES:
        raise _fault(f"mode {mode!r} is not one of {', '.join(CONFIGURED_MODES)}")
    if not 0 <= link_uid <= MAX_UID:
        raise _fault(f"link_uid {link_uid} is no user id")
    if len(filesystems) > MAX_FILESYSTEMS:
        raise _fault(f"{len(filesystems)} filesystems; {MAX_FILESYSTEMS} are the most")
    for i, path in enumerate(filesystems):
        try:
            size = len(path.encode("utf-8"))
        except UnicodeEncodeError:
            size = 0
        if not path.startswith("/") or not 1 <= size <= MAX_PATH_BYTES:
            raise _fault(f"filesystems[{i}] is not an absolute path")
        if "\n" in path or "\0" in path:
            raise _fault(f"filesystems[{i}] holds a line break or NUL")
    if len(set(filesystems)) != len(filesystems):
        raise _fault("a filesystem is named twice")
    return GateConfig(tuple(filesystems), mode, link_uid)


def _fault(text: str) -> OperatorFault:
    return OperatorFault(
        text, code="EW-EXEC-011", next_step="correct [exec] in the settings and start again"
    )


class ExecTier(Frozen):
    """What the canary proved on this boot.

    Attributes:
        tier: "T3" (a denied exec really failed with EPERM) or "T0".
        source: best of SOURCES this kernel gives.
        reason: why not more, in one line; "" for T3.
        boot_id: of the boot it was proved on; another boot's word is not taken.
    """

    __slots__ = ("boot_id", "reason", "source", "tier")
    tier: str
    source: str
    reason: str
    boot_id: str

    def dump(self) -> bytes:
        """The bytes of run/exec-tier."""
        lines = (
            f"tier {self.tier}\nsource {self.source}\nboot {self.boot_id}\n"
            f"reason {' '.join(self.reason.split())}\n"
        )
        return seal(TIER_MAGIC, lines.encode("utf-8", "backslashreplace"))

    @staticmethod
    def load(data: bytes) -> ExecTier:
        """Read what ``dump`` wrote.

        Raises:
            WireRefusal: too_long, too_short, bad_magic, bad_stamp, bad_value.
        """
        lines = _lines(unseal(TIER_MAGIC, data, most=MAX_FILE_BYTES))
        if [key for key, _ in lines] != ["tier", "source", "boot", "reason"]:
            raise WireRefusal("bad_value", "exec-tier has other keys")
        tier, source, boot_id, reason = (value for _, value in lines)
        if tier not in TIERS or source not in SOURCES:
            raise WireRefusal("bad_value", f"tier {tier!r}, source {source!r}")
        return ExecTier(tier, source, reason, boot_id)


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
