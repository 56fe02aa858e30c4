"""The message in which gate tells what a process did that a person should hear of.

Part of wire/local.py's bytes; in a file of its own as each area's messages are.

    ProcessAlert("root", 4711, 1000, b"/usr/bin/sudo", 0, b"", 5)
"""

from __future__ import annotations

import struct

from edgewarden.errors import WireRefusal
from edgewarden.wire.lean import Frozen

# Order is the wire value; a new word goes to the end.
ALERTS = ("root", "traced")
MAX_PROGRAM_BYTES = 256
"""Longer paths keep their end, which names the program."""

_LAYOUT = struct.Struct("<BIIIQHH")  # ... program length, tracer's program length


class ProcessAlert(Frozen):
    """A process became root that was not, or was taken hold of by a tracer.

    Attributes:
        kind: of ALERTS.
        pid: the process.
        uid: its real uid (root), or the owner of its /proc entry (traced).
        program: what the kernel says it runs, b"" when it was gone.
        by_pid: the tracer, 0 for root.
        by_program: what the tracer runs, b"" when it was gone or for root.
        boot_ns: CLOCK_BOOTTIME.
    """

    __slots__ = ("boot_ns", "by_pid", "by_program", "kind", "pid", "program", "uid")
    kind: str
    pid: int
    uid: int
    program: bytes
    by_pid: int
    by_program: bytes
    boot_ns: int


def alert_body(m: ProcessAlert) -> bytes:
    """The bytes behind the header."""
    program, by = m.program[-MAX_PROGRAM_BYTES:], m.by_program[-MAX_PROGRAM_BYTES:]
    head = _LAYOUT.pack(
        ALERTS.index(m.kind), m.pid, m.uid, m.by_pid, m.boot_ns, len(program), len(by)
    )
    return head + program + by


def alert_parse(body: bytes) -> ProcessAlert:
    """Read them; refusals as in wire/local.py."""
    if len(body) < _LAYOUT.size:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    kind, pid, uid, by_pid, boot_ns, n_program, n_by = _LAYOUT.unpack_from(body)
    if kind >= len(ALERTS) or max(n_program, n_by) > MAX_PROGRAM_BYTES:
        raise WireRefusal("bad_value", f"kind {kind}, lengths {n_program}, {n_by}")
    if len(body) != _LAYOUT.size + n_program + n_by:
        raise WireRefusal("bad_length", f"body of {len(body)} bytes")
    at = _LAYOUT.size + n_program
    program, by = body[_LAYOUT.size : at], body[at:]
    return ProcessAlert(ALERTS[kind], pid, uid, program, by_pid, by, boot_ns)
