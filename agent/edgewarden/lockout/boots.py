"""Boots that never became healthy, and the switch on the boot partition.

What this decides, in order:

1. The kill switch: a file ``edgewarden-observe`` in the root of the boot partition (/boot/firmware,
   else /boot), or the word ``edgewarden.observe`` on the kernel's command line. It is looked at
   once, before anything is armed, and holds every area at observe, firmly: whoever holds the SD
   card has the last word, with any card reader. A file that others than root could have put there
   (a boot partition mounted for everybody) is no switch, and an alarm.
2. A boot is healthy when multi-user.target was reached and a program that ran after it said so
   (lockout/healthy.py, edgewarden-healthy.service): systemd got through, logins are up, and
   programs start. Where nobody says so (no systemd), it is healthy after HEALTHY_AFTER_S with
   link connected and no kill by guard.
3. Whether this one will be healthy is not known at its start, so it counts as unhealthy until it
   is: a power cut, a hang and a reset all look the same. UNHEALTHY_LIMIT in a row: every area is
   held at observe, until a person asks for enforce again. That a boot in observe becomes healthy
   says nothing of enforce, so it does not lift it.

What it leaves to others: holding down (gate/modes.py), the bytes (lockout/records.py).

    boots = BootGuard(files, boot_id, mono_s); boots.begin(); boots.unhealthy >= UNHEALTHY_LIMIT
"""

from __future__ import annotations

from edgewarden.errors import EdgewardenError
from edgewarden.lockout.records import Boots

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from edgewarden.lockout.coverage import Files

FILE_NAME = "boots"
UNHEALTHY_LIMIT = 2
"""One may be somebody's hand on the plug."""
HEALTHY_AFTER_S = 900.0
"""Long after any board's boot; a person who is locked out pulls the plug sooner."""
MARKER = b"edgewarden-observe"
PLACES = (b"/boot/firmware", b"/boot")
"""Raspberry Pi OS since bookworm; before, and Debian."""
TOKEN = "edgewarden.observe"  # noqa: S105  # a word, no secret
OTHERS_MAY_WRITE = 0o022


class BootGuard:
    """See the module.

    Args:
        files: keeps the count over boots.
        boot_id: of this boot.
        mono_s: CLOCK_MONOTONIC in seconds.

    Attributes:
        unhealthy: boots in a row before this one that never became healthy.
        healthy: this boot did.
    """

    def __init__(self, files: Files, boot_id: str, mono_s: Callable[[], float]) -> None:
        self._files = files
        self._boot_id = boot_id
        self._mono_s = mono_s
        self._due_mono = mono_s() + HEALTHY_AFTER_S
        last = _recalled(files)
        self.healthy = last.healthy and last.boot_id == boot_id
        self.unhealthy = last.unhealthy
        if last.boot_id not in ("", boot_id) and not last.healthy:
            self.unhealthy = min(last.unhealthy + 1, UNHEALTHY_LIMIT)

    @property
    def holds(self) -> bool:
        """Whether too many were unhealthy."""
        return self.unhealthy >= UNHEALTHY_LIMIT

    def begin(self) -> str:
        """Write down that this boot has begun; returns why not, or ""."""
        return self._save(durable=True)

    def look(self, *, link: bool, trips: int) -> bool:
        """On a timer, where nobody may come to say it: True when it has just become healthy."""
        now_mono = self._mono_s()
        if self.healthy:
            return False
        if trips or not link:
            self._due_mono = now_mono + HEALTHY_AFTER_S
        if now_mono < self._due_mono:
            return False
        self.became_healthy()
        return True

    def became_healthy(self) -> None:
        """Somebody ran after multi-user.target and says so."""
        if not self.healthy:
            self.healthy = True
            self.unhealthy = self.unhealthy if self.holds else 0
            self._save()

    def lifted(self) -> None:
        """A person asked for enforce: what was before counts no more, what follows does."""
        if self.holds:
            self.unhealthy, self.healthy = 0, False
            self._save()

    def _save(self, *, durable: bool = False) -> str:
        record = Boots(self.unhealthy, self._boot_id, self.healthy)
        return self._files.remember(FILE_NAME, record.dump(), durable=durable)


def kill_switch(
    command_line: str,
    status_at: Callable[[bytes], os.stat_result | None],
    alarm: Callable[[str, int, str], None],
) -> str:
    """What holds everything down, in words; "" for nothing.

    Args:
        command_line: the kernel's, of this boot.
        status_at: what a path leads to, None for nowhere.
        alarm: (code, severity, text).
    """
    words = [word.partition("=") for word in command_line.split()]
    if any(name == TOKEN and value not in ("0", "no") for name, _, value in words):
        return f"{TOKEN} stands on the kernel's command line"
    for place in PLACES:
        marker, folder = status_at(place + b"/" + MARKER), status_at(place)
        if marker is None or folder is None:
            continue
        path = f"{place.decode()}/{MARKER.decode()}"
        if marker.st_uid or folder.st_uid or folder.st_mode & OTHERS_MAY_WRITE:
            alarm("EW-EXEC-033", 4, f"{path} is no kill switch: others than root may write there")
            continue
        return f"{path} is there"
    return ""


def _recalled(files: Files) -> Boots:
    data = files.recall(FILE_NAME)
    try:
        return Boots(0, "", False) if data is None else Boots.load(data)
    except EdgewardenError:
        return Boots(0, "", False)
