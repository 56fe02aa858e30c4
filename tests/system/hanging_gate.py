"""A gate that never comes to an end with one content: ``hanging_gate.py STATE RUN``.

STATE/hangs holds its SHA-256 and how it hangs: it ``loops``, begins to ``late``, LATE_S after the
last heartbeat (as each judgement does then), or is ``deaf``, where no signal but SIGKILL reaches it
(as a wait in the kernel).
"""

from __future__ import annotations

import _signal
import ctypes
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2] / "agent"))

from edgewarden.daemon.gate import Gate, main
from edgewarden.exec.judged import Patience
from edgewarden.judge.exec_rules import Rule
from edgewarden.judge.exec_table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgewarden.judge.exec_rules import Subject

HANGS, HOW = (Path(sys.argv[1]) / "hangs").read_text().split()
SLEEP_S = 30
LATE_S = 1.0
"""With a judgement's 1.8 s it is more than guard's 2.5, and less than an idle gate's 1.2."""
sleep = ctypes.PyDLL(None).sleep  # keeps the interpreter, so no handler runs
decided, beaten, judged = Table.decide, Gate._beat, Patience.within
beat_mono = 0.0


def beat(gate: Gate) -> None:
    global beat_mono
    beat_mono = time.monotonic()
    beaten(gate)


def within(patience: Patience, act: Callable[[], object]) -> object:
    time.sleep(max(0.0, beat_mono + LATE_S - time.monotonic()))
    return judged(patience, act)


def decide(table: Table, digest: bytes, subject: Subject) -> Rule | None:
    if digest.hex() == HANGS and HOW == "deaf":
        _signal.pthread_sigmask(_signal.SIG_BLOCK, [_signal.SIGALRM])
        sleep(SLEEP_S)
    while digest.hex() == HANGS:
        pass
    return decided(table, digest, subject)


Table.decide = decide  # type: ignore[method-assign]
if HOW == "late":
    Gate._beat = beat  # type: ignore[method-assign]
    Patience.within = within  # type: ignore[assignment,method-assign]
sys.exit(main(sys.argv[1], sys.argv[2]))
