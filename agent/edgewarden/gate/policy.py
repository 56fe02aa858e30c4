"""What gate goes by: configuration, table, tier and the mode a person chose, each read from a file
of root's.

What this decides: which of them is believed. A file that is not root's, torn, or of another boot
(the tier) is refused by name; so is a table of a lower generation than was in use, also before this
start, unless a person asks for it: a policy goes forward only (lockout/forward.py). The last good
table stays in use, and without one nothing is on the list. What it leaves to others: what is armed
(daemon/gate.py), the bytes (wire/gate_files.py, judge/exec_table.py).

    policy = Policy(doors, run_dir)
    policy.table.decide(digest, subject); policy.asked("exec"); policy.tier.tier
"""

from __future__ import annotations

import os

from edgewarden.errors import EdgewardenError, OperatorFault
from edgewarden.gate.doors import Doors, check_owned_by_root, read_whole
from edgewarden.judge.exec_table import EMPTY, MAX_TABLE_BYTES, Table
from edgewarden.lockout.forward import Forward
from edgewarden.wire.gate_files import CONFINED_NAME, MAX_FILE_BYTES, ExecTier, GateConfig, climb
from edgewarden.wire.images import IMAGES_NAME, MAX_IMAGES_BYTES, load_images
from edgewarden.wire.local import MODES

TABLE_NAME, CONFIG_NAME, TIER_NAME = "exec.table", "gate.conf", "exec-tier"
MODE_NAMES = {"exec": "mode", "peripherals": "mode-peripherals", "network": "mode-network"}
"""Where a person's word for each area is kept."""
_MODE_FILES = {mode: f"edgewarden mode {mode}\n".encode() for mode in MODES}
"""The whole file; anything else is no word of ours."""


class Policy:
    """See the module.

    Attributes:
        config: filesystems, mode of the settings, link's uid.
        table: the last good table.
        images: contents of images that were not seen to start, by key.
        tier: what the canary proved on this boot, or below it what confinement did.
        proved: the best tier that the canary proved since gate's start.
        forward: which generation of each area's table was in use.
        alarms: (code, severity, text) that the owner has not yet passed on.
    """

    def __init__(self, doors: Doors, run_dir: str) -> None:
        """Read everything once.

        Raises:
            OperatorFault: gate.conf is missing or not root's.
            WireRefusal: gate.conf is torn.
        """
        self._doors = doors
        self.alarms: list[tuple[str, int, str]] = []
        self.config = self._read_config()
        self.table = EMPTY
        self.forward = Forward(self.recall, self.remember)
        try:
            table = self._read_table()
            self.forward.take("exec", table.generation)
            self.table = table
        except EdgewardenError as fault:
            self._alarm("EW-EXEC-017", 4, f"no policy table, nothing is on the list: {fault.text}")
        self.images = self._read_images()
        doors.look_into(run_dir)
        self._tier_key: tuple[int, int] | None = None
        self._canary = self._read_tier()
        self.proved = self._canary.tier
        self.tier = climb(self._canary, self._read_confined())

    def look(self) -> bool:
        """On a timer: has the canary written another word? True when enforcing is worth a try.

        A tier that got worse is told and shown. What is armed stays so: marks that hold are not
        taken away because one look at them failed.
        """
        if self._key() == self._tier_key:
            return False
        before = self.tier
        self._canary = self._read_tier()
        self.tier = climb(self._canary, self._read_confined())
        if self.tier.tier < before.tier:
            text = f"tier {self.tier.tier} after {before.tier}: {self.tier.reason}"
            self._alarm("EW-EXEC-063", 5, text)
        better = self._canary.tier > self.proved
        self.proved = max(self.proved, self._canary.tier)
        return better

    def _key(self) -> tuple[int, int] | None:
        try:
            status = os.stat(TIER_NAME, dir_fd=self._doors.run_fd, follow_symlinks=False)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _alarm(self, code: str, severity: int, text: str) -> None:
        self.alarms.append((code, severity, text))

    def reload(self, *, older: bool = False) -> str:
        """Read configuration and table again.

        Args:
            older: take a table of a lower generation too: a person said so.

        Returns:
            What is in use now, in words.

        Raises:
            EdgewardenError: a file is refused; everything stays as it was, and there is an alarm.
        """
        try:
            table, config = self._read_table(), self._read_config()
            self.forward.take("exec", table.generation, older=older)
        except EdgewardenError as fault:
            self._alarm("EW-EXEC-017", 4, f"new policy refused, the last one stays: {fault.text}")
            raise
        self.table, self.config, self.images = table, config, self._read_images()
        self.tier = climb(self._canary, self._read_confined())
        return f"{table.count} rules, generation {table.generation}"

    def devices(self) -> set[int]:
        """st_dev of the configured filesystems that are there."""
        found = set()
        for path in self.config.filesystems:
            try:
                found.add(os.stat(path).st_dev)
            except OSError:
                continue
        return found

    def _read_images(self) -> dict[bytes, bytes]:
        """Without them less is known of who asks, and what cannot be told lets nobody through."""
        try:
            return load_images(self._doors.read_policy(IMAGES_NAME, MAX_IMAGES_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, EdgewardenError) as fault:
            self._alarm("EW-EXEC-017", 3, f"policy/{IMAGES_NAME} is not believed: {fault}")
            return {}

    def _read_table(self) -> Table:
        return Table.load(self._read(TABLE_NAME, MAX_TABLE_BYTES))

    def _read_config(self) -> GateConfig:
        return GateConfig.load(self._read(CONFIG_NAME, MAX_FILE_BYTES))

    def _read(self, name: str, most: int) -> bytes:
        try:
            return self._doors.read_policy(name, most)
        except OSError as fault:
            raise OperatorFault(
                f"policy/{name}: {os.strerror(fault.errno or 0)}",
                code="EW-EXEC-014",
                next_step="run the policy one-shot (edgewarden-policy.service)",
                name="unreadable",
            ) from fault

    def _read_tier(self) -> ExecTier:
        self._tier_key = self._key()
        boot_id = self._doors.boot_id()
        reason = "the canary has not run on this boot"
        try:
            fd = self._doors.open(self._doors.run_fd, TIER_NAME, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                check_owned_by_root(fd, TIER_NAME)
                tier = ExecTier.load(read_whole(fd, MAX_FILE_BYTES))
            finally:
                os.close(fd)
            if tier.boot_id == boot_id:
                return tier
        except OSError:
            pass
        except EdgewardenError as fault:
            reason = fault.text
        return ExecTier("T0", "none", reason, boot_id)

    def _read_confined(self) -> ExecTier | None:
        """What `edgewarden confine verify` proved; None without a word that can be believed."""
        try:
            return ExecTier.load(self._doors.read_policy(CONFINED_NAME, MAX_FILE_BYTES))
        except (OSError, EdgewardenError):
            return None

    def asked(self, area: str) -> str:
        """What a person last said for an area, else the settings' mode."""
        name = MODE_NAMES[area]
        try:
            data = self._doors.read_policy(name, 64)
        except OSError:
            return self.config.mode
        except EdgewardenError as fault:
            self._alarm("EW-EXEC-018", 4, f"the chosen mode is not believed: {fault.text}")
            return self.config.mode
        for mode, text in _MODE_FILES.items():
            if data == text:
                return mode
        self._alarm("EW-EXEC-018", 4, f"policy/{name} is damaged; mode {self.config.mode}")
        return self.config.mode

    def keep(self, area: str, mode: str) -> str:
        """Remember a person's word over a restart; returns what was done, in words."""
        why_not = self.remember(MODE_NAMES[area], _MODE_FILES[mode])
        return f"not kept over a restart: {why_not}" if why_not else "kept over a restart"

    def recall(self, name: str) -> bytes | None:
        """A small file of gate's own; None when it is not there or not root's."""
        try:
            return self._doors.read_policy(name, MAX_FILE_BYTES)
        except FileNotFoundError:
            return None
        except (OSError, EdgewardenError) as fault:
            self._alarm("EW-EXEC-018", 4, f"policy/{name} is not believed: {fault}")
            return None

    def remember(self, name: str, data: bytes, *, durable: bool = False) -> str:
        """Write a small file of gate's own; "" when done, else why not. ``durable`` waits for the
        disk: at the start only."""
        try:
            self._doors.write_policy(name, data, durable=durable)
        except (OSError, EdgewardenError) as fault:
            return str(fault)
        return ""
