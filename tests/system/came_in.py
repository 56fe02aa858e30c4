"""A person who has just come in: a request to gate from below a process that is called login, and
that began now (gate/sessions.py tells a login by that where there is no logind).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ASK = """
import os, socket, sys
def name(word):
    with open("/proc/self/comm", "w") as comm:
        comm.write(word)
name("login")
ours, theirs = os.pipe()
if os.fork() == 0:
    os.setsid()
    name("edgewarden")
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer.connect(sys.argv[1])
    peer.send(bytes.fromhex(sys.argv[2]))
    os.write(theirs, peer.recv(4096))
    os._exit(0)
os.close(theirs)
os.wait()
sys.stdout.write(os.read(ours, 4096).hex())
"""


def ask_from_a_new_login(socket_path: Path, request: bytes) -> bytes:
    """What gate answers somebody who came in anew."""
    line = [sys.executable, "-I", "-S", "-c", _ASK, str(socket_path), request.hex()]
    done = subprocess.run(line, capture_output=True, check=True)
    return bytes.fromhex(done.stdout.decode())
