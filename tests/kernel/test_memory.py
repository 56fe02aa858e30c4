"""Memory goes back, and nothing of ours goes with it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from edgewarden.kernel import memory

SMAPS = """\
55d0c0000000-55d0c0003000 r--p 00000000 fe:00 11 /usr/bin/python3.11
Size:                 12 kB
Anonymous:             0 kB
55d0c0003000-55d0c0008000 r-xp 00003000 fe:00 11 /usr/bin/python3.11
Anonymous:             0 kB
55d0c0008000-55d0c0009000 r--p 00008000 fe:00 11 /usr/bin/python3.11
Anonymous:             4 kB
55d0c0009000-55d0c000a000 rw-p 00009000 fe:00 11 /usr/bin/python3.11
Anonymous:             0 kB
55d0c0100000-55d0c0200000 rw-p 00000000 00:00 0 [heap]
Anonymous:             0 kB
7f0000000000-7f0000008000 rw-s 00000000 fe:00 12 /var/lib/edgewarden/spool/alarm/x.seg-shm
Anonymous:             0 kB
7f0000010000-7f0000020000 r--s 00000000 fe:00 13 /usr/lib/gconv-modules.cache
Anonymous:             0 kB
7f0000030000-7f0000040000 r-xp 00000000 00:00 0 [vdso]
Anonymous:             0 kB
"""

HARSH = """
import hashlib, sqlite3, ssl, sys
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import hashes
from edgewarden.kernel import memory

def rss():
    for line in open("/proc/self/smaps_rollup"):
        if line.startswith("Rss:"):
            return int(line.split()[1])

memory.one_arena()
key = ec.generate_private_key(ec.SECP256R1())
ssl.create_default_context()
before = rss()
given = memory.give_back()
after = rss()
for _ in range(3):
    signature = key.sign(b"m", ec.ECDSA(hashes.SHA256()))
    key.public_key().verify(signature, b"m", ec.ECDSA(hashes.SHA256()))
    assert sqlite3.connect(":memory:").execute("select 1").fetchone() == (1,)
    memory.give_back()
print(given > 0, before - after)
"""

LARGE = """
from edgewarden.kernel import memory

memory.one_arena()
bytearray(1 << 20)  # made and freed: without a bound of ours, up to here is the heap's from now on
kept = bytearray(200_000)

def heap():
    for line in open("/proc/self/maps"):
        if "[heap]" in line:
            return [int(end, 16) for end in line.split()[0].split("-")]

start, end = heap()
print(start <= memory.ctypes.addressof(memory.ctypes.c_char.from_buffer(kept)) < end)
"""

TIDIED = """
import gc, sys
from edgewarden.kernel import memory

kinds = [type(f"Kind{n}", (), {})() for n in range(40)]
memory.settle()
frozen = gc.get_freeze_count()
gc.disable()
cycle = []
cycle.append(cycle)
del cycle
kept = [(0, 0, 0, n) for n in range(2000)]
del kept  # its tuples are kept for the next of four
for kind in kinds:
    for n in range(30):
        hasattr(kind, "".join(["no", "such", str(n)]))
full = sys.getallocatedblocks()
memory.tidy()
print(frozen, full - sys.getallocatedblocks(), gc.collect())
"""


def said_by(program: str) -> list[str]:
    """The words that an interpreter of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(Path(memory.__file__).parents[2]), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.split()


def test_only_files_that_hold_no_page_of_ours() -> None:
    start = 0x55D0C0000000
    assert memory.clean_files(SMAPS) == [(start, 0x3000), (start + 0x3000, 0x5000)]


def test_this_process_has_some_and_survives_giving_them_back() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert memory.clean_files(Path("/proc/self/smaps").read_text())
        assert memory.give_back() > 0
    finally:
        stop.set()
        thread.join()


def test_crypto_works_on_and_megabytes_are_free() -> None:
    some, freed_kb = said_by(HARSH)
    assert some == "True"
    assert int(freed_kb) > 2048


def test_what_is_large_is_no_part_of_the_heap() -> None:
    assert said_by(LARGE) == ["False"]


def test_what_the_interpreter_keeps_for_later_goes() -> None:
    frozen, blocks, left = map(int, said_by(TIDIED))
    assert frozen > 1000
    # 2,000 freed tuples and most of 1,200 names.
    assert blocks > 2500
    assert left == 0


def test_nothing_is_given_for_a_process_without_clean_files(tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text("55d0c0009000-55d0c000a000 rw-p 00009000 fe:00 11 /x\nAnonymous: 0 kB\n")
    assert memory.give_back(smaps) == 0
