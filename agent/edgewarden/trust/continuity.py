"""The continuity token on the disk: state/link/continuity, two slots written by turns.

Decides what of the file is believed. Leaves to order/ratchet.py what a token is, to
daemon/continuity.py when it is written.

* A write goes to the slot that does not hold the present state, in place, and is done when the disk
  has it (fdatasync). A cut leaves the slot torn and the other one whole: the state before the
  write. Nothing was sent then, so that state is the true one.
* The whole slot with the highest generation counts. Both unreadable: the token is gone, and said
  so; the gateway begins at step 0, which its fleet takes for an older state.
* Written in place, so a full disk refuses nothing; and one block a write, with no journal: a
  gateway asked every five minutes writes 2.3 MB a day.
* A file of another gateway (a re-used card) is as good as none.

    slots = TokenFile(Path("/var/lib/edgewarden"), "main", "gw-demo"); slots.held; slots.write(held)
"""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.errors import HardwareFault, WireRefusal
from edgewarden.wire import ratchet
from edgewarden.wire.ratchet import Held

FOLDER, NAME = "link", "continuity"
SLOT_BYTES = 4096
"""A block of every filesystem in use: a torn write of one slot never touches the other."""


class TokenFile:
    """One gateway's token. Blocks on the disk; executor only.

    Raises (opening, writing): HardwareFault EW-ATT-030.

    Attributes:
        held: what the disk holds.
        lost: why a token that was there is not believed, else "".
    """

    def __init__(self, state_dir: Path, tenant: str, device: str) -> None:
        self._names = tenant, device
        self._path = state_dir / FOLDER / NAME
        self._generation = 0
        self.held, self.lost = Held(), ""
        try:
            self._make()
            self._read()
        except OSError as fault:
            raise _refused(fault) from fault

    def write(self, held: Held) -> None:
        """Make a state durable; returns when it survives a power cut."""
        generation = self._generation + 1
        slot = ratchet.encode_slot(*self._names, held, generation)
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                _write_at(fd, slot.ljust(SLOT_BYTES, b"\0"), generation % 2 * SLOT_BYTES)
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as fault:
            raise _refused(fault) from fault
        self.held, self._generation = held, generation

    def _make(self) -> None:
        """Both slots, empty and on the disk, before anything counts on them."""
        if self._path.exists() and self._path.stat().st_size == 2 * SLOT_BYTES:
            return
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        building = self._path.with_name(f".{NAME}")
        building.unlink(missing_ok=True)
        fd = os.open(building, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_at(fd, bytes(2 * SLOT_BYTES), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        building.rename(self._path)
        for folder in (self._path.parent, self._path.parent.parent):
            _sync(folder)

    def _read(self) -> None:
        data, found, faults = self._path.read_bytes(), [], []
        for start in (0, SLOT_BYTES):
            slot = data[start : start + SLOT_BYTES]
            try:
                found.append(ratchet.decode_slot(slot))
            except WireRefusal as refusal:
                if any(slot):
                    faults.append(refusal.text)
        own = [(generation, held) for *names, held, generation in found if (*names,) == self._names]
        self._generation = max((generation for *_, generation in found), default=0)
        if own:
            self.held = max(own, key=lambda slot: slot[0])[1]
        elif faults:
            self.lost = "; ".join(faults)


def _write_at(fd: int, data: bytes, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"the continuity token cannot be stored: {fault}",
        code="EW-ATT-030",
        next_step="repair the state folder; until then this gateway gives no evidence",
    )
