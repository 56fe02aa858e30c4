"""Records for tests that look at the spool alone: any bytes do."""

from __future__ import annotations

import random

from edgewarden.ports import Spool, Stored


def made(spool: Spool, record_class: int, size: int = 100, *, packs: bool = False) -> Stored:
    """The next record of a class, recognisable by its bytes; packs: they can be made shorter."""
    seq = spool.heads()[record_class][0] + 1
    text = f"{record_class}/{seq}/".encode()
    left = size - len(text)
    return Stored(
        record_class, seq, text + (b"." * left if packs else random.Random(seq).randbytes(left))
    )


def fill(
    spool: Spool, record_class: int, count: int, size: int = 100, *, packs: bool = False
) -> list[Stored]:
    """Put records, each a commit of its own, and return them."""
    records = []
    for _ in range(count):
        record = made(spool, record_class, size, packs=packs)
        spool.put([record])
        records.append(record)
    return records
