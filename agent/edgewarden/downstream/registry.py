"""Pins on the disk: STATE/link/devices; and an operator's words, STATE/devices.words.

A change is a new file, on the disk before it takes the old one's name: a power cut leaves one or
the other, whole. A generation is written once and never an older one. A file that is there and
cannot be read is never taken for none: with no pins every key would be a first key, so nobody is
let in until a person has looked (EW-DEV-007).

The words are root's: link reads them and cannot write them (tmpfiles.d).
"""

from __future__ import annotations

import os
from pathlib import Path

from edgewarden.downstream.lineage import MAX_FILE_BYTES, Devices, decode, encode
from edgewarden.errors import HardwareFault, OurFault, TrustFault, WireRefusal
from edgewarden.wire.devices import MAX_WORDS_BYTES, WORDS_NAME, Word, parse_words

FOLDER, NAME = "link", "devices"


class Registry:
    """One gateway's pins. ``load`` and ``save`` block on the disk."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FOLDER / NAME
        self._words = state_dir / WORDS_NAME
        self._words_seen = (0, 0)
        self._written = -1

    def load(self) -> Devices:
        """What the disk holds.

        Raises:
            TrustFault: EW-DEV-007, it cannot be believed.
            HardwareFault: EW-DEV-008, it cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                devices = decode(file.read(MAX_FILE_BYTES + 1))
        except FileNotFoundError:
            devices = Devices()
        except OSError as fault:
            raise _refused(fault) from fault
        except WireRefusal as refusal:
            raise TrustFault(
                f"the pinned keys of devices cannot be believed: {refusal}",
                code="EW-DEV-007",
                next_step=f"restore {self._path} from a backup, or remove it: every device's next"
                " key is then pinned anew",
            ) from refusal
        self._written = devices.generation
        return devices

    def save(self, devices: Devices) -> None:
        """Make a generation durable.

        Raises:
            HardwareFault: EW-DEV-008, the disk refuses; the file is as it was.
            OurFault: this generation or a later one is written.
        """
        if devices.generation <= self._written:
            raise OurFault(f"generation {devices.generation} of the pins after {self._written}")
        fresh = self._path.with_name(f".{NAME}")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fresh.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(fresh, flags, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(encode(devices))
                file.flush()
                os.fsync(fd)
            fresh.rename(self._path)
            _sync(self._path.parent)
        except OSError as fault:
            raise _refused(fault) from fault
        self._written = devices.generation

    def new_words(self) -> list[Word]:
        """The words of the file, when it has changed since they were last asked for.

        Raises:
            WireRefusal: ``bad_word``; told once for each state of the file.
            OSError: it cannot be read.
        """
        try:
            seen = self._words.stat()
        except FileNotFoundError:
            return []
        if (seen.st_mtime_ns, seen.st_ino) == self._words_seen:
            return []
        self._words_seen = (seen.st_mtime_ns, seen.st_ino)
        with self._words.open("rb") as file:
            return parse_words(file.read(MAX_WORDS_BYTES + 1))


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _refused(fault: OSError) -> HardwareFault:
    return HardwareFault(
        f"the pinned keys of devices cannot be read or stored: {fault}",
        code="EW-DEV-008",
        next_step="check free space and the disk; no new key is let in meanwhile",
    )
