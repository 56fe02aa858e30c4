"""Report keys: a key signs from its introduction to the next one, in its class and beyond it."""

from __future__ import annotations

import pytest

from edgewarden.judge.report_keys import Introduction, refusal
from edgewarden.wire.record import RecordClass

ALARM, AUDIT, BULK = RecordClass.ALARM, RecordClass.AUDIT, RecordClass.BULK
OLD, NEW = b"old-key.", b"new-key."
BOOT, OTHER = bytes(16), b"x" * 16


def old(c: RecordClass, seq: int, boot_ns: int = 1) -> Introduction:
    return Introduction(OLD, c, seq, BOOT, boot_ns)


def new(c: RecordClass, seq: int, boot_id: bytes = OTHER, boot_ns: int = 0) -> Introduction:
    return Introduction(NEW, c, seq, boot_id, boot_ns)


CASES = {
    "in force": ([old(AUDIT, 1)], OLD, AUDIT, 2, True),
    "in force until the next": ([old(AUDIT, 1), new(AUDIT, 5)], OLD, AUDIT, 4, True),
    "not after the next": ([old(AUDIT, 1), new(AUDIT, 5)], OLD, AUDIT, 6, False),
    "not before its own": ([old(AUDIT, 3)], OLD, AUDIT, 2, False),
    "lost here, known elsewhere": ([old(ALARM, 1)], OLD, BULK, 2, True),
    "lost here, followed elsewhere": ([old(ALARM, 1), new(ALARM, 4)], OLD, BULK, 2, False),
    "lost here, followed here": ([old(ALARM, 1), new(BULK, 4)], OLD, BULK, 5, False),
    "an older key that came late": ([new(ALARM, 4), old(ALARM, 1)], NEW, BULK, 5, True),
    "later in the same boot": (
        [new(BULK, 4, BOOT, boot_ns=2), old(ALARM, 1)], OLD, AUDIT, 5, False,
    ),
    "earlier in the same boot": (
        [old(ALARM, 1, boot_ns=3), new(BULK, 4, BOOT, boot_ns=2)], OLD, AUDIT, 5, True,
    ),
    "nothing in common, came later": ([old(ALARM, 1), new(BULK, 4)], OLD, AUDIT, 5, False),
    "nothing in common, came earlier": ([new(BULK, 4), old(ALARM, 1)], OLD, AUDIT, 5, True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_where_a_key_stands(name: str) -> None:
    known, kid, record_class, seq, stands = CASES[name]
    assert (refusal(kid, record_class, seq, known) == "") is stands
