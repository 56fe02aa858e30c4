"""What the kernel says of this boot: secure boot, and the log of the integrity measurement
architecture (IMA) with what it adds up to.

A report by the kernel that is measured. It becomes more only where a TPM quotes PCR 10 and the log
adds up to that value (appraise/appraisal.py). Whether the log is anchored at all shows in its first
entry: on a board without a TPM the kernel says "activating TPM-bypass" and writes a boot aggregate
of zeros.

    facts, digest, pcr10 = BootFacts().take()

The log is read as the kernel writes it (Documentation/security/IMA-templates.rst), in the machine's
byte order: pcr u32, SHA-1 20 bytes, length and name of the template, length and data. The SHA-256
bank is extended with SHA-256 of the data (kernel 5.8); a violation (SHA-1 of zeros), with ones.

Blocks on the disk: executors only. Raises nothing: what cannot be read is "absent" or "unreadable".
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

from edgewarden.plain import dataclass

SECURE_BOOT = "efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""UEFI 2.10 §3.3: four bytes of attributes, then 1 when on."""
IMA_LOG = "kernel/security/ima/binary_runtime_measurements"
MAX_LOG_BYTES = 16 * 1024 * 1024
"""A year of a gateway that measures every program is about 100,000 entries of 100 bytes."""
_PCR = 10
_SHA1_BYTES = 20
_MAX_NAME_BYTES = 255  # TCG_EVENT_NAME_LEN_MAX, security/integrity/ima/ima.h
_ZERO, _ONES = bytes(32), b"\xff" * 32
_ENTRY, _WORD = struct.Struct(f"=I{_SHA1_BYTES}sI"), struct.Struct("=I")


@dataclass(frozen=True, slots=True)
class Log:
    """An IMA log that was read to its end.

    Attributes:
        pcr: what PCR 10 of the SHA-256 bank holds if this log is what was extended into it.
        anchored: its boot aggregate is not zeros.
    """

    pcr: bytes
    anchored: bool
    entries: int


def read_log(data: bytes) -> Log | None:
    """Add up a binary IMA log; None when it is not one."""
    at, pcr, entries, anchored = 0, _ZERO, 0, False
    while at < len(data):
        try:
            number, sha1, size = _ENTRY.unpack_from(data, at)
            at += _ENTRY.size
            if size > _MAX_NAME_BYTES:
                return None
            name = data[at : at + size]
            (length,) = _WORD.unpack_from(data, at + size)
        except struct.error:
            return None
        at += size + 4
        template = data[at : at + length]
        at += length
        if at > len(data) or name == b"ima":  # the oldest template has another layout
            return None
        if entries == 0:
            anchored = not _zero_digest(template)
        entries += 1
        if number == _PCR:
            value = _ONES if not any(sha1) else hashlib.sha256(template).digest()
            pcr = hashlib.sha256(pcr + value).digest()
    return Log(pcr, anchored, entries)


def _zero_digest(template: bytes) -> bool:
    """Is the first field, "algorithm:" NUL digest, a digest of zeros?"""
    if len(template) < 4:
        return True
    (length,) = _WORD.unpack_from(template)
    digest = template[4 : 4 + length].partition(b"\0")[2]
    return not any(digest)


class BootFacts:
    """Reads them anew each time.

    Args:
        sys: /sys, or a recorded tree.
    """

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self._sys = sys

    def take(self) -> tuple[dict[str, str], bytes, bytes]:
        """(facts by name of BOOT_FACTS, SHA-256 of the IMA log, what it adds up to)."""
        state, digest, pcr = self._ima()
        return {"secure_boot": self._secure_boot(), "ima": state}, digest, pcr

    def _secure_boot(self) -> str:
        try:
            value = (self._sys / "firmware" / SECURE_BOOT).read_bytes()
        except OSError:
            return "absent"
        return "on" if value[4:] == b"\x01" else "off"

    def _ima(self) -> tuple[str, bytes, bytes]:
        try:
            with (self._sys / IMA_LOG).open("rb") as file:
                data = file.read(MAX_LOG_BYTES + 1)
        except FileNotFoundError:
            return "absent", b"", b""
        except OSError:
            return "unreadable", b"", b""
        log = read_log(data) if len(data) <= MAX_LOG_BYTES else None
        if log is None or not log.entries:
            return "unreadable", b"", b""
        state = "tpm" if log.anchored else "bypass"
        return state, hashlib.sha256(data).digest(), log.pcr
