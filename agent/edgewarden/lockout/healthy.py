"""Says to gate that this boot has become healthy: started by systemd after multi-user.target.

That it runs at all is the proof: systemd got through the boot, logins are up, and a program was
started under whatever gate enforces. What it leaves to others: what follows (lockout/boots.py).

    python3 -I -S .../lockout/healthy.py /run/edgewarden

systemd calls gate started when its process is there, which is before it listens: so it is waited
for. Ends with 0 also where no gate runs: then there is nothing to be healthy under.
"""

from __future__ import annotations

import os
import sys
from _socket import AF_UNIX, SOCK_SEQPACKET, socket
from select import poll

if __name__ == "__main__":  # started by path: this file's package is not on the path yet
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from edgewarden.errors import WireRefusal
from edgewarden.wire.local import MAX_MESSAGE_BYTES, Answer, Request, encode, parse

PATIENCE_S = 10.0
TRIES, BETWEEN_MS = 100, 100
"""Ten seconds for a gate that starts: it needs one on a slow board."""


def main(run_dir: str) -> int:
    """0 when gate took it or does not run; 2 when it refused."""
    made = socket(AF_UNIX, SOCK_SEQPACKET)
    made.settimeout(PATIENCE_S)
    try:
        _connect(made, os.path.join(run_dir, "gate.sock"))
        made.send(encode(Request("healthy", "learn")))
        answer = parse(made.recv(MAX_MESSAGE_BYTES), Answer)
    except (FileNotFoundError, ConnectionRefusedError):
        sys.stderr.write("edgewarden healthy: no gate listens, nobody was told (EW-AGT-003)\n")
        return 0
    except (OSError, WireRefusal) as fault:
        sys.stderr.write(f"edgewarden healthy: gate does not answer: {fault} (EW-AGT-006)\n")
        return 2
    finally:
        made.close()
    sys.stderr.write(f"edgewarden healthy: {answer.text}\n")
    return 0 if answer.ok else 2


def _connect(made: socket, path: str) -> None:
    """Connect, also to a gate that listens in a moment."""
    for _ in range(TRIES - 1):
        try:
            return made.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            poll().poll(BETWEEN_MS)
    made.connect(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
