"""What gate remembers of USB over its own end: what was before enforce, who sat at which port, and
what carried the system while it enforced.

What this decides: the files, their names, and what a damaged one means: no file is believed in
part. What it leaves to others: what is undone (act/usb.py), what another adapter means (look.py).

    memory = PlugMemory(files, boot_id)
    memory.before; memory.save_before()
    memory.remember(path, identity)       # who was there before, or None
    memory.pin(port, identity, "uplink"); memory.pinned(port, identity)
"""

from __future__ import annotations

from edgewarden.act.usb import Before
from edgewarden.errors import EdgewardenError, HardwareFault
from edgewarden.wire.lean import seal, unseal
from edgewarden.wire.peripherals import PIN_REASONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Files(Protocol):
        """Small files of root's that live as long as they must."""

        def load(self, name: str) -> bytes:
            """Raises OSError or EdgewardenError."""

        def save(self, name: str, data: bytes) -> None:
            """Raises OSError or EdgewardenError."""

    Identity = tuple[int, int, str, bytes]
    """Vendor, product, serial number, descriptors."""

BEFORE_NAME, ADAPTERS_NAME, PINS_NAME = "usb.before", "usb.adapters", "usb.pins"
MAGIC, PINS_MAGIC = b"EWUSBAD1", b"EWUSBPN1"
MAX_PINS = 64
"""Disks, uplinks, consoles and the hubs before them; the oldest goes."""
BECAME_NS = 60_000_000_000
"""Who comes to another's place within this may have been that: usb_modeswitch waits 20 s."""
MAX_PLACES = 512
MAX_ADAPTERS = 256
"""Ports with a serial adapter; a rack of them has 64."""
MAX_BYTES = 1 << 17


class PlugMemory:
    """See the module.

    Args:
        boot_id: of this boot; what was before another one is of no use.

    Attributes:
        before: to be saved before a change.
        alarms: (code, severity, text) not yet passed on.
    """

    def __init__(self, files: Files, boot_id: str) -> None:
        self._files = files
        self.alarms: list[tuple[str, int, str]] = []
        self.before = self._load_before(boot_id)
        self._adapters = self._load_adapters()
        self._pins = self._load_pins()
        self._kept = set(self._pins)
        self._left: dict[str, tuple[Identity, int]] = {}
        """Port -> who went from there last, and when."""
        self._was: dict[tuple[str, Identity], Identity] = {}
        """Who is at a port -> what it was before it came back as this."""

    def _load_before(self, boot_id: str) -> Before:
        try:
            return Before.load(self._files.load(BEFORE_NAME), boot_id)
        except FileNotFoundError:
            pass
        except (OSError, EdgewardenError) as fault:
            text = f"what USB was before cannot be read, only later changes are undone: {fault}"
            self.alarms.append(("EW-USB-002", 4, text))
        return Before(boot_id)

    def save_before(self) -> None:
        """Keep ``before``.

        Raises:
            HardwareFault: it is not kept, and nothing may be changed.
        """
        try:
            self._files.save(BEFORE_NAME, self.before.dump())
        except (OSError, EdgewardenError) as fault:
            raise HardwareFault(
                f"what USB is now cannot be remembered: {fault}",
                code="EW-USB-002",
                next_step="free space on the disk of [paths] state",
            ) from fault

    def add_device(self, port: str, devnum: int) -> None:
        """This device was let in, and is about to be kept out; raises as ``save_before``."""
        self.before.devices[port, devnum] = "1"
        try:
            self.save_before()
        except HardwareFault:
            del self.before.devices[port, devnum]
            raise

    def add_interface(self, name: str) -> None:
        """This interface is about to be kept out; raises as ``save_before``."""
        if name in self.before.interfaces:
            return
        self.before.interfaces.add(name)
        try:
            self.save_before()
        except HardwareFault:
            self.before.interfaces.discard(name)
            raise

    def _load_adapters(self) -> dict[str, Identity]:
        found: dict[str, Identity] = {}
        try:
            body = unseal(MAGIC, self._files.load(ADAPTERS_NAME), most=MAX_BYTES)
            for line in body.decode("utf-8").splitlines()[:MAX_ADAPTERS]:
                path, vid, pid, serial, digest = line.split("\t")
                found[path] = (int(vid, 16), int(pid, 16), serial, bytes.fromhex(digest))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EdgewardenError):
            self.alarms.append(("EW-USB-004", 3, "the remembered adapters are damaged; anew"))
            return {}
        return found

    def remember(self, path: str, now: Identity) -> Identity | None:
        """Who was at a port before; from now on it is ``now``. None for a port never seen."""
        last = self._adapters.get(path)
        if last == now or (last is None and len(self._adapters) >= MAX_ADAPTERS):
            return last
        self._adapters[path] = now
        lines = [
            f"{where}\t{vid:04x}\t{pid:04x}\t{serial}\t{digest.hex()}\n"
            for where, (vid, pid, serial, digest) in self._adapters.items()
        ]
        try:
            self._files.save(ADAPTERS_NAME, seal(MAGIC, "".join(lines).encode()))
        except (OSError, EdgewardenError) as fault:
            self.alarms.append(("EW-USB-004", 2, f"adapters are not remembered: {fault}"))
        return last

    # --- what carried the system --------------------------------------------------------------

    def _load_pins(self) -> dict[tuple[str, Identity], str]:
        found: dict[tuple[str, Identity], str] = {}
        try:
            body = unseal(PINS_MAGIC, self._files.load(PINS_NAME), most=MAX_BYTES)
            for line in body.decode("utf-8").splitlines()[:MAX_PINS]:
                place, vid, pid, serial, digest, why = line.split("\t")
                if why not in PIN_REASONS:
                    raise ValueError(why)
                found[place, (int(vid, 16), int(pid, 16), serial, bytes.fromhex(digest))] = why
        except FileNotFoundError:
            pass
        except (OSError, ValueError, EdgewardenError):
            self.alarms.append(("EW-USB-004", 4, "what carried the system is damaged; anew"))
            return {}
        return found

    def pinned(self, port: str, identity: Identity) -> str:
        """Why this device at this port carried the system, of PIN_REASONS; "" for never."""
        return self._pins.get((_place(port), identity), "")

    def gone(self, port: str, identity: Identity, now_ns: int) -> None:
        """It left its port."""
        self._left.pop(port, None)
        self._left[port] = identity, now_ns
        if len(self._left) > MAX_PLACES:
            del self._left[next(iter(self._left))]

    def came(self, port: str, identity: Identity, now_ns: int) -> None:
        """It is there now: a modem that showed a disk and came back as what it is, perhaps."""
        was, left_ns = self._left.pop(port, (identity, 0))
        if was != identity and now_ns - left_ns <= BECAME_NS:
            self._was[port, identity] = was
            if len(self._was) > MAX_PLACES:
                del self._was[next(iter(self._was))]

    def pin(self, port: str, identity: Identity, why: str, *, keep: bool) -> None:
        """It carries the system now, and so does what it was before.

        Args:
            keep: also for the next gate and the next boot.
        """
        was = self._was.get((port, identity))
        for one in (identity,) if was is None else (was, identity):
            self._pin(_place(port), one, why, keep=keep)

    def _pin(self, place: str, identity: Identity, why: str, *, keep: bool) -> None:
        key = place, identity
        kept = key in self._kept
        if self._pins.get(key) == why and (kept or not keep):
            return
        self._pins.pop(key, None)
        self._pins[key] = why
        while len(self._pins) > MAX_PINS:
            self._kept.discard(oldest := next(iter(self._pins)))
            del self._pins[oldest]
        if not keep:
            return
        self._kept.add(key)
        lines = [
            f"{where}\t{vid:04x}\t{pid:04x}\t{serial}\t{digest.hex()}\t{reason}\n"
            for (where, (vid, pid, serial, digest)), reason in self._pins.items()
            if (where, (vid, pid, serial, digest)) in self._kept
        ]
        try:
            self._files.save(PINS_NAME, seal(PINS_MAGIC, "".join(lines).encode()))
        except (OSError, EdgewardenError) as fault:
            self.alarms.append(("EW-USB-004", 4, f"what carries the system is not kept: {fault}"))


def _place(port: str) -> str:
    """The path of ports without the bus: buses are numbered anew at each boot, and another kernel
    may call their controller another name."""
    return port.partition("-")[2]
