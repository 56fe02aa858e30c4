"""What the kernel says of a boot, on recorded trees: secure boot, and IMA logs of every kind."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewarden.trust.boot import IMA_LOG, SECURE_BOOT, BootFacts, read_log
from edgewarden.wire.evidence import BOOT_FACTS


def field(data: bytes) -> bytes:
    return struct.pack("=I", len(data)) + data


def entry(template: bytes, *, pcr: int = 10, sha1: bytes = b"\x01" * 20, name: bytes = b"ima-ng"):  # type: ignore[no-untyped-def]
    return struct.pack("=I", pcr) + sha1 + field(name) + field(template)


def template(digest: bytes, path: str) -> bytes:
    return field(b"sha256:\0" + digest) + field(path.encode() + b"\0")


AGGREGATE = template(b"\x07" * 32, "boot_aggregate")
ZERO_AGGREGATE = template(bytes(32), "boot_aggregate")
SHELL = template(b"\x08" * 32, "/bin/sh")


def extended(*values: bytes) -> bytes:
    """PCR 10, as the chip computes it."""
    pcr = bytes(32)
    for value in values:
        pcr = hashlib.sha256(pcr + value).digest()
    return pcr


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def test_a_log_adds_up_to_what_the_chip_holds() -> None:
    log = read_log(entry(AGGREGATE) + entry(SHELL))
    assert log is not None
    assert log.pcr == extended(sha256(AGGREGATE), sha256(SHELL))
    assert (log.anchored, log.entries) == (True, 2)


def test_a_violation_is_extended_with_ones() -> None:
    log = read_log(entry(AGGREGATE) + entry(template(bytes(32), "/bin/sh"), sha1=bytes(20)))
    assert log is not None
    assert log.pcr == extended(sha256(AGGREGATE), b"\xff" * 32)


def test_entries_of_another_pcr_do_not_count() -> None:
    log = read_log(entry(AGGREGATE) + entry(SHELL, pcr=11))
    assert log is not None
    assert log.pcr == extended(sha256(AGGREGATE))


def test_a_kernel_that_found_no_tpm_says_so() -> None:
    log = read_log(entry(ZERO_AGGREGATE) + entry(SHELL))
    assert log is not None
    assert not log.anchored


@pytest.mark.parametrize("cut", [1, 20, 27, 30, 36, 60, -1])
def test_a_cut_log_is_none(cut: int) -> None:
    assert read_log(entry(AGGREGATE)[:cut]) is None


@given(st.binary(max_size=400))
def test_any_bytes_are_a_log_or_none(data: bytes) -> None:
    read_log(data)
    read_log(entry(AGGREGATE) + data)


def tree(folder: Path, log: bytes | None = None, secure_boot: bytes | None = None) -> BootFacts:
    if log is not None:
        path = folder / IMA_LOG
        path.parent.mkdir(parents=True)
        path.write_bytes(log)
    if secure_boot is not None:
        path = folder / "firmware" / SECURE_BOOT
        path.parent.mkdir(parents=True)
        path.write_bytes(secure_boot)
    return BootFacts(folder)


@pytest.mark.parametrize(
    ("log", "state"),
    [
        (None, "absent"),
        (b"", "unreadable"),
        (b"garbage", "unreadable"),
        (entry(ZERO_AGGREGATE), "bypass"),
        (entry(AGGREGATE), "tpm"),
    ],
)
def test_states_of_ima(tmp_path: Path, log: bytes | None, state: str) -> None:
    facts, digest, pcr = tree(tmp_path, log).take()
    assert facts["ima"] == state
    told = state in ("bypass", "tpm")
    assert digest == (sha256(log) if told and log else b"")
    assert bool(pcr) is told


def test_a_log_that_may_not_be_read(tmp_path: Path) -> None:
    facts = tree(tmp_path, entry(AGGREGATE))
    path = tmp_path / IMA_LOG
    path.unlink()
    path.mkdir()  # reading it fails, for root too
    assert facts.take()[0]["ima"] == "unreadable"


@pytest.mark.parametrize(
    ("variable", "state"),
    [
        (None, "absent"),
        (b"\x06\0\0\0\x01", "on"),
        (b"\x06\0\0\0\0", "off"),
        (b"\x06\0\0\0", "off"),
        (b"", "off"),
    ],
)
def test_secure_boot(tmp_path: Path, variable: bytes | None, state: str) -> None:
    assert tree(tmp_path, secure_boot=variable).take()[0]["secure_boot"] == state


def test_this_machine_has_values_of_the_schema() -> None:
    facts, _, _ = BootFacts().take()
    assert all(facts[name] in values for name, values in BOOT_FACTS.items())
