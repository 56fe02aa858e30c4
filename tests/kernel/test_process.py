"""Who waits in a system call: the loader of a program, or the program."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgewarden.kernel.process import LOADER_BYTES, THREADS_AT_MOST, loader_waits
from tests.waiting import wait_until

BASE, VDSO = 0x7F00_0000_0000, 0x7FFF_F7FC_0000


class Told:
    """/proc of one process, as the kernel would tell it."""

    def __init__(self, counter: int, base: int = BASE, form: str = "=QQ") -> None:
        pairs = ((33, VDSO), (16, 0xFFFF_FFFF), (7, base), (0, 0))
        if form == "=II":
            pairs = tuple((key, value & 0xFFFF_FFFF) for key, value in pairs)
        self.files = {
            "7/auxv": b"".join(struct.pack(form, *pair) for pair in pairs),
            "7/task/7/syscall": b"257 0x1 0x2 0x0 0x0 0x0 0x0 0x7ffd00000000 %#x\n" % counter,
        }
        self.threads: Sequence[str] = ("7",)

    def answers(self) -> bool:
        return loader_waits(7, lambda name: self.files.get(name, b""), lambda name: self.threads)


@pytest.mark.parametrize(
    ("counter", "loads"),
    [
        (BASE + 0x20B1D, True),
        (BASE, True),
        (BASE - 0xFCFEF, False),
        (BASE + LOADER_BYTES, False),
        (VDSO + 0x580, True),
    ],
)
def test_the_program_counter_says_who(counter: int, loads: bool) -> None:
    assert Told(counter).answers() is loads


def test_a_32_bit_process() -> None:
    base = 0xF7F0_0000
    assert Told(base + 0x1234, base, "=II").answers()
    assert not Told(base - 0x1234, base, "=II").answers()


def test_a_program_without_a_loader_has_none() -> None:
    assert not Told(0x401000, base=0).answers()


def test_any_of_its_threads() -> None:
    one = Told(BASE - 0x1000)
    one.threads = ("7", "8", "9")
    one.files["7/task/8/syscall"] = b"running\n"
    assert not one.answers()
    one.files["7/task/9/syscall"] = b"257 0x1 0x7ffd00000000 %#x\n" % (BASE + 1)
    assert one.answers()


def test_what_cannot_be_told_may_be_the_loader() -> None:
    one = Told(BASE - 0x1000)
    one.files["7/task/7/syscall"] = b"running\n"
    assert one.answers()
    one = Told(BASE - 0x1000)
    one.threads = ()
    assert one.answers(), "it is gone"
    one.threads = ("7",) * (THREADS_AT_MOST + 1)
    assert one.answers()
    one = Told(BASE - 0x1000)
    for data in (b"", b"\x07", one.files["7/auxv"][:-16]):
        one.files["7/auxv"] = data
        assert one.answers()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("command", "preload", "loads"),
    [(["/bin/true"], True, True), (["/bin/cat", "{fifo}"], False, False)],
)
def test_of_real_ones(fifo: Path, command: list[str], preload: bool, loads: bool) -> None:
    """Both wait until somebody opens the other end."""
    environment = {"LD_PRELOAD": str(fifo)} if preload else {}
    child = subprocess.Popen([word.format(fifo=fifo) for word in command], env=environment)
    proc = Path("/proc")
    try:
        wait_until(lambda: b"0x" in (proc / f"{child.pid}/syscall").read_bytes())
        wait_until(lambda: (proc / f"{child.pid}/wchan").read_text() == "wait_for_partner")

        def data(name: str) -> bytes:
            return (proc / name).read_bytes()

        assert loader_waits(child.pid, data, lambda name: os.listdir(proc / name)) is loads
    finally:
        child.kill()
        child.wait(10)
