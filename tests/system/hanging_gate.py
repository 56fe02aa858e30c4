"""A gate that never comes to an end with one content: ``hanging_gate.py STATE RUN``.

STATE/hangs holds its SHA-256 and how it hangs: it ``loops``, or is ``deaf``, where no signal
but SIGKILL reaches it (as a wait in the kernel).
"""

from __future__ import annotations

import _signal
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2] / "agent"))

from edgewarden.daemon.gate import main
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Table

if TYPE_CHECKING:
    from edgewarden.judge.exec_rules import Subject

HANGS, HOW = (Path(sys.argv[1]) / "hangs").read_text().split()
SLEEP_S = 30
sleep = ctypes.PyDLL(None).sleep  # keeps the interpreter, so no handler runs
decided = Table.decide


def decide(table: Table, digest: bytes, subject: Subject) -> Rule | None:
    if digest.hex() == HANGS and HOW == "deaf":
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGALRM])
        sleep(SLEEP_S)
    while digest.hex() == HANGS:
        pass
    return decided(table, digest, subject)


Table.decide = decide  # type: ignore[method-assign]
sys.exit(main(sys.argv[1], sys.argv[2]))
