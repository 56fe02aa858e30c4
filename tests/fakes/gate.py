"""A stand-in for gate at guard's socket: a process of its own, because guard ends who is silent.

with stand_in(run / "guard.sock") as gate:
    gate.heard          # guard's first word, as bytes; empty where it sent the stand-in away
    gate.process.wait()
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CODE = """
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(60)
s.connect(sys.argv[1])
heard = s.recv(4096)
if sys.argv[2]: s.send(bytes.fromhex(sys.argv[2]))
if sys.argv[3] == "close": s.close()
print(heard.hex(), flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class StandIn:
    process: subprocess.Popen[str]
    heard: bytes


@contextmanager
def stand_in(path: Path, words: bytes = b"", *, ending: str = "keep") -> Iterator[StandIn]:
    """Connect, hear guard, say words, and keep or close the line; lives until the block ends or
    guard ends it."""
    command = [sys.executable, "-I", "-S", "-c", _CODE, str(path), words.hex(), ending]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line.endswith("\n"), f"ended with {process.wait(60)} before guard said a word"
        yield StandIn(process, bytes.fromhex(line.strip()))
        process.stdin.close()
